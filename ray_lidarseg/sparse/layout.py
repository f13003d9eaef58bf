"""Weight layouts of other libraries. Checkpoints always hold the canonical one; adapters convert, files never.

Canonical: ``[K, C_in, C_out]``, offsets x-major, z fastest, cross-correlation (see ``kernel_map``).
"""

import math

from jaxtyping import Float
from torch import Tensor

from ray_lidarseg.sparse.kernel_map import Kernel


def to_torchsparse(weight: Float[Tensor, "K C_in C_out"], kernel: Kernel) -> Float[Tensor, "..."]:
    """For torchsparse and MinkowskiEngine: x fastest where all sizes are odd; [C_in, C_out] for K = 1."""
    if math.prod(kernel) == 1:
        return weight[0]
    if any(size % 2 == 0 for size in kernel):
        return weight
    return weight.unflatten(0, kernel).permute(2, 1, 0, 3, 4).flatten(0, 2)


def from_torchsparse(weight: Float[Tensor, "..."], kernel: Kernel) -> Float[Tensor, "K C_in C_out"]:
    """The inverse of ``to_torchsparse``."""
    if math.prod(kernel) == 1:
        return weight.unsqueeze(0)
    if any(size % 2 == 0 for size in kernel):
        return weight
    return weight.unflatten(0, kernel[::-1]).permute(2, 1, 0, 3, 4).flatten(0, 2)


def to_spconv(weight: Float[Tensor, "K C_in C_out"], kernel: Kernel) -> Float[Tensor, "C_out kx ky kz C_in"]:
    """For spconv 2: [C_out, kx, ky, kz, C_in], for indices (scan, x, y, z)."""
    return weight.unflatten(0, kernel).permute(4, 0, 1, 2, 3)


def from_spconv(weight: Float[Tensor, "C_out kx ky kz C_in"]) -> Float[Tensor, "K C_in C_out"]:
    """The inverse of ``to_spconv``."""
    return weight.permute(1, 2, 3, 4, 0).flatten(0, 2)
