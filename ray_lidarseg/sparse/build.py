"""From a name to a sparse-convolution backend: the one place that knows which there are."""

from ray_lidarseg.errors import ResourceError
from ray_lidarseg.sparse.backend import SparseBackend


def load_backend(name: str) -> SparseBackend:
    """The backend of that name.

    Raises:
        ResourceError: There is none of that name, or it cannot run here.
    """
    if name == "torch":
        from ray_lidarseg.sparse.torch_backend import TorchBackend

        return TorchBackend()
    if name == "torchsparse":
        from ray_lidarseg.sparse.torchsparse_backend import TorchsparseBackend

        return TorchsparseBackend()
    raise ResourceError(f"no sparse backend {name!r}: sparse.backend is 'torch' or 'torchsparse'")
