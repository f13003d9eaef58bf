import pytest
import torch

from ray_lidarseg.sparse.build import load_backend
from ray_lidarseg.sparse.geometry import VoxelGeometry
from ray_lidarseg.sparse.modules import SparseConv3d, VoxelNorm


def test_convolution_keeps_the_variance_of_a_full_neighbourhood():
    torch.manual_seed(0)
    side = torch.arange(8)
    coords = torch.cartesian_prod(torch.zeros(1, dtype=torch.int64), side, side, side)
    geometry = VoxelGeometry.of_coords(coords)
    conv = SparseConv3d(16, 64, (3, 3, 3), "submanifold", 0, load_backend("torch"))
    inside = ((coords[:, 1:] > 0) & (coords[:, 1:] < 7)).all(1)
    out = conv(torch.randn(512, 16), geometry)[inside]
    assert out.var().item() == pytest.approx(2.0, rel=0.1)  # He: ReLU halves the second moment


def test_down_then_up_returns_to_the_level():
    geometry = VoxelGeometry.of_coords(torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1], [0, 6, 6, 6]]))
    backend = load_backend("torch")
    down = SparseConv3d(2, 5, (2, 2, 2), "down", 0, backend)
    up = SparseConv3d(5, 3, (2, 2, 2), "up", 0, backend)
    coarse = down(torch.randn(3, 2), geometry)
    assert coarse.shape == (2, 5)
    assert up(coarse, geometry).shape == (3, 3)
    assert "kernel=(2, 2, 2), down, level=0" in repr(down)


def test_bias_is_added_to_every_voxel_and_learns():
    geometry = VoxelGeometry.of_coords(torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1], [0, 6, 6, 6]]))
    conv = SparseConv3d(2, 3, (3, 3, 3), "submanifold", 0, load_backend("torch"), bias=True)
    x = torch.randn(3, 2)
    before = conv(x, geometry)
    conv.bias.data += torch.tensor([1.0, 2.0, 3.0])
    torch.testing.assert_close(conv(x, geometry) - before, torch.tensor([[1.0, 2.0, 3.0]]).expand(3, 3))
    conv(x, geometry).sum().backward()
    assert conv.bias.grad.tolist() == [3.0, 3.0, 3.0]


@pytest.mark.parametrize("num_voxels", [0, 1])
def test_norm_of_too_few_voxels_uses_the_running_statistics(num_voxels):
    norm = VoxelNorm(3)
    x = torch.full((num_voxels, 3), 2.0, requires_grad=True)
    out = norm(x)
    out.sum().backward()
    torch.testing.assert_close(out, x / (1 + norm.eps) ** 0.5)
    assert norm.weight.grad is not None
    assert torch.equal(norm.running_mean, torch.zeros(3))


def test_norm_of_many_voxels_is_batch_norm():
    x = torch.randn(50, 3) * 4 + 1
    out = VoxelNorm(3)(x)
    torch.testing.assert_close(out.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.var(0, correction=0), torch.ones(3), atol=1e-4, rtol=0)
