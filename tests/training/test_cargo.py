"""What is stowed comes out as it was, in one buffer a type, and shares what was shared."""

import pickle

import torch

from ray_lidarseg.sparse.geometry import HALVING, VoxelGeometry
from ray_lidarseg.sparse.torch_backend import convolve
from ray_lidarseg.training.cargo import stowed


def test_nested_objects_come_back():
    shared = torch.arange(6).view(2, 3)
    content = {"a": [shared, (torch.ones(2), 7, "word")], "b": shared, "none": torch.zeros(0, 4), "wide": 1 << 40}
    cargo = stowed(content)
    assert {dtype: len(buffer) for dtype, buffer in cargo.buffers.items()} == {torch.int64: 6, torch.float32: 2}
    assert cargo.num_bytes == 6 * 8 + 2 * 4
    back = pickle.loads(pickle.dumps(cargo)).opened()
    assert torch.equal(back["a"][0], shared)
    assert torch.equal(back["a"][1][0], torch.ones(2))
    assert back["a"][1][1:] == (7, "word")
    assert back["none"].shape == (0, 4)
    assert back["wide"] == 1 << 40
    assert back["b"].data_ptr() == back["a"][0].data_ptr()


def test_a_geometry_brings_its_levels_and_maps_and_searches_nothing(monkeypatch):
    coords = torch.tensor(sorted({*map(tuple, torch.randint(0, 6, (60, 4)).tolist()), (5, 5, 5, 5)}))
    geometry = VoxelGeometry.of_coords(coords, (HALVING,))
    geometry.prepare([("submanifold", 0, (3, 3, 3)), ("up", 0, (2, 2, 2))])
    back = stowed(geometry).opened()
    monkeypatch.setattr(VoxelGeometry, "_search", None)
    assert (back.shape, back.coarsenings) == (geometry.shape, geometry.coarsenings)
    assert torch.equal(back.level_keys(1), geometry.level_keys(1))
    assert torch.equal(back.parents(0), geometry.parents(0))
    x, weight = torch.randn(back.num_voxels(1), 3), torch.randn(8, 3, 2)
    found, expected = (convolve(x, weight, each.up(0)) for each in (back, geometry))
    assert torch.equal(found, expected)
