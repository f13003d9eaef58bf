"""What every sparse-convolution backend offers."""

from collections.abc import Iterable
from typing import Literal, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from ray_lidarseg.sparse.geometry import Request, VoxelGeometry
from ray_lidarseg.sparse.kernel_map import Kernel

Kind = Literal["submanifold", "down", "up"]
"""Same level; to the next coarser level; from the next coarser level back, the adjoint of down."""


@runtime_checkable
class SparseBackend(Protocol):
    """Convolves features on a ``VoxelGeometry`` with weights in the canonical layout ``[K, C_in, C_out]``.

    Attributes:
        name: What recipes call it.
    """

    name: str

    def prepare(self, geometry: VoxelGeometry, wanted: Iterable[Request]) -> None:
        """Builds what convolutions of these kinds, levels and kernels will need, all at once."""
        ...

    def conv(
        self,
        x: Float[Tensor, "V_in C_in"],
        weight: Float[Tensor, "K C_in C_out"],
        geometry: VoxelGeometry,
        kind: Kind,
        kernel: Kernel,
        level: int,
    ) -> Float[Tensor, "V_out C_out"]:
        """The convolution, differentiable in ``x`` and ``weight``; ``level`` is the finer one for down and up."""
        ...
