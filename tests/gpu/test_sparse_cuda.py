import pytest
import torch

from ray_lidarseg.geometry.voxelize import find_voxels
from ray_lidarseg.sparse.geometry import VoxelGeometry
from ray_lidarseg.sparse.torch_backend import TorchBackend

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
CASES = [("submanifold", (3, 3, 3)), ("submanifold", (1, 3, 3)), ("down", (2, 2, 2)), ("up", (2, 2, 2))]


def _geometry(device: str) -> VoxelGeometry:
    cells = torch.randint(0, 24, (4000, 3), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    scan_idx = torch.arange(4000) // 2000
    return VoxelGeometry(find_voxels(cells.to(device), scan_idx.to(device)).keys, (24, 24, 24))


def _results(device: str, kind, kernel, dtype, width_in: int):
    geometry = _geometry(device)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(geometry.num_voxels(int(kind == "up")), width_in, generator=generator)
    weight = torch.randn(kernel[0] * kernel[1] * kernel[2], width_in, 24, generator=generator)
    operands = [operand.to(device, dtype).requires_grad_() for operand in (x, weight)]
    out = TorchBackend().conv(*operands, geometry, kind, kernel, 0)
    grad = torch.randn(out.shape, generator=generator).to(device, dtype)
    return (out.detach(), *torch.autograd.grad(out, operands, grad))


@pytest.mark.parametrize("width_in", [4, 16])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)]
)
@pytest.mark.parametrize(("kind", "kernel"), CASES)
def test_a_gpu_says_what_the_cpu_says(kind, kernel, dtype, tolerance, width_in):
    exact = _results("cpu", kind, kernel, torch.float64, width_in)
    for value, expected in zip(_results("cuda", kind, kernel, dtype, width_in), exact, strict=True):
        assert value.dtype == dtype
        assert (value.cpu().double() - expected).norm() / expected.norm() < tolerance


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gpu_repeats_itself_bit_for_bit(dtype):
    runs = [_results("cuda", "submanifold", (3, 3, 3), dtype, 16) for _ in range(2)]
    assert all(torch.equal(first, second) for first, second in zip(*runs, strict=True))
