import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from ray_lidarseg.errors import ResourceError
from ray_lidarseg.sparse import torchsparse_backend
from ray_lidarseg.sparse.geometry import HALVING, Coarsening, VoxelGeometry
from ray_lidarseg.sparse.layout import from_torchsparse
from ray_lidarseg.sparse.torch_backend import TorchBackend
from ray_lidarseg.sparse.torchsparse_backend import TorchsparseBackend


class _SparseTensor:
    def __init__(self, coords, feats, stride, spatial_range):
        assert (coords >= 0).all()
        assert (coords.amax(0) < torch.tensor(spatial_range)).all()
        self.coords, self.feats, self.stride, self.spatial_range = coords, feats, (stride,) * 3, spatial_range
        self._caches = SimpleNamespace(cmaps={})


def _conv3d(source, weight, kernel_size, stride, padding, transposed, training):
    """What torchsparse 2.1 documents, on top of our own convolution: says nothing about torchsparse itself."""
    assert padding == tuple((size - 1) // 2 for size in kernel_size)
    assert all(size % 2 == 0 for size in source.spatial_range[1:])
    canonical = from_torchsparse(weight, kernel_size)
    if transposed:
        coords = source._caches.cmaps[tuple(step // 2 for step in source.stride)][0]
        kind = "up"
    else:
        coords, kind = source.coords, "submanifold" if stride == 1 else "down"
    geometry = VoxelGeometry.of_coords(coords)
    feats = TorchBackend().conv(source.feats, canonical, geometry, kind, kernel_size, 0)
    return SimpleNamespace(feats=feats, coords=geometry.coords(1) if kind == "down" else coords)


@pytest.fixture
def stand_in(monkeypatch):
    module, layers, functional = (ModuleType(f"torchsparse{name}") for name in ("", ".nn", ".nn.functional"))
    module.__version__, module.SparseTensor, module.nn = "2.1.0", _SparseTensor, layers
    layers.functional = functional
    functional.conv3d, functional.set_conv_mode = _conv3d, lambda mode: None
    for part in (module, layers, functional):
        monkeypatch.setitem(sys.modules, part.__name__, part)
    monkeypatch.setattr(torchsparse_backend, "_check_supported", lambda *_: None)
    return module


def _geometry():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(0, 9, (200, 4), generator=generator) + torch.tensor([0, 1000, 200, 131])
    rows[:, 0] %= 2
    return VoxelGeometry.of_coords(torch.tensor(sorted(set(map(tuple, rows.tolist())))))


def test_layers_agree_with_ours_through_the_adapter(stand_in):
    geometry, adapter, ours = _geometry(), TorchsparseBackend(), TorchBackend()
    torch.manual_seed(0)
    x = torch.randn(geometry.num_voxels(0), 4)
    cases = [("submanifold", (3, 3, 3), 0), ("submanifold", (3, 1, 3), 0), ("down", (2, 2, 2), 0)]
    cases += [("submanifold", (3, 3, 3), 1), ("up", (2, 2, 2), 0), ("submanifold", (1, 1, 1), 0)]
    for kind, kernel, level in cases:
        weight = torch.randn(kernel[0] * kernel[1] * kernel[2], 4, 4)
        expected = ours.conv(x, weight, geometry, kind, kernel, level)
        torch.testing.assert_close(adapter.conv(x, weight, geometry, kind, kernel, level), expected)
        x = expected


def test_another_order_of_voxels_is_noticed(stand_in, monkeypatch):
    def shuffled(*args, **kwargs):
        out = _conv3d(*args, **kwargs)
        return SimpleNamespace(feats=out.feats, coords=out.coords.flip(0))

    monkeypatch.setattr(stand_in.nn.functional, "conv3d", shuffled)
    geometry = _geometry()
    x, weight = torch.randn(geometry.num_voxels(0), 2), torch.randn(8, 2, 2)
    with pytest.raises(ResourceError, match="orders or selects voxels differently"):
        TorchsparseBackend().conv(x, weight, geometry, "down", (2, 2, 2), 0)


def test_another_version_is_refused(stand_in):
    stand_in.__version__ = "1.4.0"
    with pytest.raises(ResourceError, match=r"needs version 2\.1, found 1\.4\.0"):
        TorchsparseBackend()


def test_a_grid_beyond_32_bits_is_refused(stand_in):
    geometry = VoxelGeometry.of_coords(torch.tensor([[0, 0, 0, 0], [0, 9000, 9000, 9000]]))
    with pytest.raises(ResourceError, match="too large for torchsparse"):
        TorchsparseBackend().conv(torch.randn(2, 2), torch.randn(27, 2, 2), geometry, "submanifold", (3, 3, 3), 0)


def test_levels_that_do_not_halve_are_refused_at_any_layer(stand_in):
    rows = torch.tensor([[0, 0, 0, 0], [0, 5, 6, 7]])
    operands = torch.randn(2, 2), torch.randn(27, 2, 2)
    halving, cylinder = (VoxelGeometry.of_coords(rows, (HALVING, step)) for step in (HALVING, Coarsening((2, 2, 1))))
    assert TorchsparseBackend().conv(*operands, halving, "submanifold", (3, 3, 3), 0).shape == (2, 2)
    with pytest.raises(ResourceError, match=r"Cylinder3D.*set sparse\.backend=torch"):
        TorchsparseBackend().conv(*operands, cylinder, "submanifold", (3, 3, 3), 0)


@pytest.mark.parametrize(
    ("x", "kind", "kernel", "message"),
    [
        (torch.zeros(1, 2), "submanifold", (3, 3, 3), "float16 and float32 on CUDA, got torch.float32 on cpu"),
        (torch.zeros(1, 2, dtype=torch.bfloat16), "down", (2, 2, 2), "got torch.bfloat16"),
    ],
)
def test_what_it_cannot_compute_is_said(x, kind, kernel, message):
    with pytest.raises(ResourceError, match=message):
        torchsparse_backend._check_supported(x, kind, kernel)
