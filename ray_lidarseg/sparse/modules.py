"""Layers on voxel features; a level's features are a plain [V, C] tensor, so ReLU, Linear and cat stay torch's own."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ray_lidarseg.sparse.backend import Kind, SparseBackend
from ray_lidarseg.sparse.geometry import VoxelGeometry
from ray_lidarseg.sparse.kernel_map import Kernel


class SparseConv3d(nn.Module):
    """A sparse convolution; without bias where a normalisation follows.

    Attributes:
        weight: [K, C_in, C_out], canonical layout, drawn from N(0, 2 / (K C_in)) (He et al. 2015; fan in).
        bias: [C_out] from zero, or None.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: Kernel,
        kind: Kind,
        level: int,
        backend: SparseBackend,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.kernel, self.kind, self.level, self.backend = kernel, kind, level, backend
        fan_in = math.prod(kernel) * channels_in
        if kind == "up":
            fan_in = math.ceil(fan_in / 8)  # at stride 2 one offset in eight meets an input: with kernel 2 exactly one
        self.weight = nn.Parameter(torch.randn(math.prod(kernel), channels_in, channels_out) * math.sqrt(2 / fan_in))
        self.bias = nn.Parameter(torch.zeros(channels_out)) if bias else None

    def forward(self, x: Float[Tensor, "V_in C_in"], geometry: VoxelGeometry) -> Float[Tensor, "V_out C_out"]:
        """Convolves; for down and up ``level`` is the finer of the two levels."""
        out = self.backend.conv(x, self.weight, geometry, self.kind, self.kernel, self.level)
        return out if self.bias is None else out + self.bias.to(out.dtype)

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        _, channels_in, channels_out = self.weight.shape
        return f"{channels_in}, {channels_out}, kernel={self.kernel}, {self.kind}, level={self.level}"


def prepare(network: nn.Module, geometry: VoxelGeometry) -> None:
    """Builds, all at once, what the sparse convolutions of a network will need on these voxels."""
    layers = [module for module in network.modules() if isinstance(module, SparseConv3d)]
    wanted = dict.fromkeys((layer.kind, layer.level, layer.kernel) for layer in layers)
    layers[0].backend.prepare(geometry, wanted)


class VoxelNorm(nn.BatchNorm1d):
    """Batch normalisation over voxels; fewer than two voxels have no variance and take the running one."""

    def forward(self, input: Float[Tensor, "V C"]) -> Float[Tensor, "V C"]:
        """Normalises each channel."""
        if self.training and len(input) < 2:
            return nn.functional.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        return super().forward(input)
