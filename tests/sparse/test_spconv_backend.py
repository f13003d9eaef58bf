"""The real spconv on a CPU, forward; on a GPU (``tests.gpu.acceptance``) and for spconv-triton the same adapter."""

import sys

import pytest
import torch

from ray_lidarseg.errors import ResourceError
from ray_lidarseg.models.asymmetric_unet import COARSENINGS
from ray_lidarseg.models.build import build_segmentor
from ray_lidarseg.recipe.load import override
from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.sample import PointBatch, SensorSpec
from ray_lidarseg.sparse import spconv_backend
from ray_lidarseg.sparse.geometry import Coarsening, VoxelGeometry
from ray_lidarseg.sparse.spconv_backend import SpconvBackend
from ray_lidarseg.sparse.torch_backend import TorchBackend

spconv = pytest.importorskip("spconv", reason="spconv is not installed (pip install spconv)")
CASES = [
    ("submanifold", (3, 3, 3), 0),
    ("submanifold", (3, 1, 3), 0),
    ("submanifold", (1, 3, 3), 0),
    ("submanifold", (1, 1, 1), 0),
    ("down", (2, 2, 2), 0),
    ("submanifold", (3, 3, 3), 1),
    ("down", (2, 2, 2), 1),
    ("up", (2, 2, 2), 1),
    ("up", (2, 2, 2), 0),
]


def _rows(extent: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(0, extent, (200, 4), generator=generator)
    rows[:, 0] %= 2
    return torch.tensor(sorted({*map(tuple, rows.tolist()), (1, extent - 1, extent - 1, extent - 1)}))


@torch.no_grad()
def _differences(geometry, cases):
    torch.manual_seed(0)
    for kind, kernel, level in cases:
        x = torch.randn(geometry.num_voxels(level + (kind == "up")), 5)
        weight = torch.randn(kernel[0] * kernel[1] * kernel[2], 5, 3)
        ours, theirs = (
            backend.conv(x, weight, geometry, kind, kernel, level) for backend in (TorchBackend(), SpconvBackend())
        )
        torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4, msg=lambda text, k=kind: f"{k}: {text}")


@pytest.mark.parametrize("extent", [11, 12, 2])
def test_layers_agree_also_where_an_extent_is_odd(extent):
    _differences(VoxelGeometry.of_coords(_rows(extent)), CASES)


def test_levels_that_a_wide_kernel_makes_agree():
    geometry = VoxelGeometry(VoxelGeometry.of_coords(_rows(13)).keys, (13, 13, 13), COARSENINGS)
    levels = range(len(COARSENINGS))
    cases = [(kind, (3, 3, 3), level) for level in levels for kind in ("submanifold", "down", "up")]
    _differences(geometry, [*cases, ("submanifold", (3, 1, 3), 2), ("submanifold", (1, 3, 3), 2)])


@pytest.mark.parametrize("model", ["minkunet", "spvcnn", "cylinder3d"])
def test_one_checkpoint_scores_alike_with_either_backend(model):
    sizes = {"minkunet": {"depth": 14, "voxel_size_m": 0.5}, "spvcnn": {"depth": 14, "voxel_size_m": 0.5}}
    settings = {"model.name": model, "model.width_factor": 0.25}
    settings |= {f"model.{name}": size for name, size in sizes.get(model, {"grid": [48, 36, 16]}).items()}
    models = {}
    for backend in ("torch", "spconv"):
        recipe = override(Recipe(), {**settings, "sparse.backend": backend})
        models[backend] = build_segmentor(recipe, SensorSpec(32, 0.2, -0.5, 1.0, 50.0, 1.0), 4).eval()
    models["spconv"].load_state_dict(models["torch"].state_dict())
    generator = torch.Generator().manual_seed(0)
    points = (torch.rand(3000, 4, generator=generator) - 0.5) * torch.tensor([60.0, 60.0, 6.0, 1.0])
    batch = PointBatch.pack([PointBatch.of_scan(points), PointBatch.of_scan(points.flip(1).contiguous())])
    with torch.no_grad():
        ours, theirs = (models[name](batch).point_logits for name in ("torch", "spconv"))
    assert ours.std() > 0.01
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4)


def test_pairs_are_searched_once_a_batch_and_never_for_two_shapes(monkeypatch):
    calls = []
    ops = spconv_backend._package("spconv").ops
    search = ops.get_indice_pairs
    monkeypatch.setattr(ops, "get_indice_pairs", lambda *args: calls.append(args[4]) or search(*args))
    geometry = VoxelGeometry.of_coords(_rows(9))
    for _ in range(2):
        _differences(geometry, [CASES[1], CASES[2], CASES[4], CASES[8]])
    assert calls == [[3, 1, 3], [1, 3, 3], [2, 2, 2]]


def test_training_on_a_cpu_is_refused_and_no_voxels_give_no_rows():
    geometry = VoxelGeometry.of_coords(_rows(5))
    operands = torch.randn(geometry.num_voxels(0), 2), torch.randn(27, 2, 3, requires_grad=True)
    with pytest.raises(ResourceError, match=r"no backward pass on a CPU: train with sparse\.backend=torch"):
        SpconvBackend().conv(*operands, geometry, "submanifold", (3, 3, 3), 0)
    empty = VoxelGeometry.of_coords(torch.zeros(0, 4, dtype=torch.int32))
    with torch.no_grad():
        out = SpconvBackend().conv(torch.zeros(0, 2), operands[1], empty, "submanifold", (3, 3, 3), 0)
    assert out.shape == (0, 3)


def test_types_it_cannot_compute_are_refused():
    geometry = VoxelGeometry.of_coords(_rows(5))
    x, weight = torch.randn(geometry.num_voxels(0), 2), torch.randn(27, 2, 3)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), pytest.raises(ResourceError, match=r"bfloat16 on cpu"):
        SpconvBackend().conv(x, weight, geometry, "submanifold", (3, 3, 3), 0)


def test_other_voxels_than_ours_are_noticed():
    rows = _rows(9)
    geometry = VoxelGeometry(VoxelGeometry.of_coords(rows).keys, (9, 9, 9), (Coarsening((2, 2, 2), (1, 1, 1)),))
    with torch.no_grad(), pytest.raises(ResourceError, match="keeps other voxels than ours"):
        SpconvBackend().conv(torch.randn(len(rows), 2), torch.randn(8, 2, 2), geometry, "down", (2, 2, 2), 0)


def test_a_missing_package_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "spconv_triton.pytorch", None)
    with pytest.raises(ResourceError, match=r"pip install spconv-triton.*or set sparse\.backend=torch"):
        SpconvBackend("spconv-triton")
