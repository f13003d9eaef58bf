import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from ray_lidarseg.sparse import products, tiles, torch_backend
from ray_lidarseg.sparse.geometry import Coarsening, VoxelGeometry
from ray_lidarseg.sparse.torch_backend import TorchBackend, convolve

CASES = [
    ("submanifold", (3, 3, 3)),
    ("submanifold", (3, 1, 3)),
    ("submanifold", (1, 3, 3)),
    ("submanifold", (1, 1, 3)),
    ("submanifold", (1, 1, 1)),
    ("submanifold", (5, 3, 1)),
    ("down", (2, 2, 2)),
    ("down", (3, 3, 3)),
    ("up", (2, 2, 2)),
    ("up", (3, 3, 3)),
]
FORMS = ["blocked", "gathered", "unfolded"]


def _geometry(num_voxels: int, shape: tuple[int, int, int], seed: int = 0) -> VoxelGeometry:
    generator = torch.Generator().manual_seed(seed)
    columns = [torch.randint(0, size, (num_voxels,), generator=generator) for size in (2, *shape)]
    corner = [[0, *(size - 1 for size in shape)], [1, *(size - 1 for size in shape)], [0, 0, 0, 0]]
    rows = torch.cat([torch.stack(columns, 1), torch.tensor(corner)])
    return VoxelGeometry.of_coords(torch.tensor(sorted(set(map(tuple, rows.tolist())))))


def _operands(geometry, kind, kernel, level, widths=(5, 3), dtype=torch.float64):
    torch.manual_seed(1)
    num_in = geometry.num_voxels(level + (kind == "up"))
    num_offsets = kernel[0] * kernel[1] * kernel[2]
    x = torch.randn(num_in, widths[0], dtype=dtype, requires_grad=True)
    return x, torch.randn(num_offsets, *widths, dtype=dtype, requires_grad=True)


def _dense(x, weight, geometry, kind, kernel, level):
    """The oracle: the same convolution with torch.conv3d on a dense grid."""
    padding = [(size - 1) // 2 for size in kernel]
    weight = weight.unflatten(0, kernel)
    if kind == "up":
        grid = _scatter(x, geometry, level + 1)
        weight = weight.permute(3, 4, 0, 1, 2)
        out = functional.conv_transpose3d(grid, weight, stride=2, padding=padding, output_padding=1)
    else:
        grid = functional.pad(_scatter(x, geometry, level), [0, 3] * 3)
        stride = 2 if kind == "down" else 1
        out = functional.conv3d(grid, weight.permute(4, 3, 0, 1, 2), stride=stride, padding=padding)
    scan, cx, cy, cz = geometry.coords(level + (kind == "down")).long().unbind(1)
    return out[scan, :, cx, cy, cz]


def _scatter(x, geometry, level):
    scan, cx, cy, cz = geometry.coords(level).long().unbind(1)
    grid = x.new_zeros(int(scan.max()) + 1, *geometry.level_shape(level), x.shape[1])
    return grid.index_put((scan, cx, cy, cz), x).permute(0, 4, 1, 2, 3)


def _results(out, x, weight):
    torch.manual_seed(2)
    return (out, *torch.autograd.grad(out, (x, weight), torch.randn_like(out)))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize(("kind", "kernel"), CASES)
def test_equals_dense_convolution(kind, kernel, level, form):
    geometry = _geometry(120, (7, 5, 9))
    x, weight = _operands(geometry, kind, kernel, level)
    ours = _results(TorchBackend(form).conv(x, weight, geometry, kind, kernel, level), x, weight)
    oracle = _results(_dense(x, weight, geometry, kind, kernel, level), x, weight)
    for value, expected in zip(ours, oracle, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-11, atol=1e-11)


CYLINDER = (Coarsening((2, 2, 2), (3, 3, 3)), Coarsening((2, 2, 1), (3, 3, 3)), Coarsening((1, 2, 1), (1, 3, 5)))


def _dense_strided(x, weight, geometry, kind, step, level):
    """torch.conv3d over the whole grid, nothing selected; ``up`` is its transpose."""
    padding = [(size - 1) // 2 for size in step.kernel]
    weight = weight.unflatten(0, step.kernel)
    if kind == "down":
        grid = _scatter(x, geometry, level)
        return functional.conv3d(grid, weight.permute(4, 3, 0, 1, 2), stride=step.stride, padding=padding)
    grid = _scatter(x, geometry, level + 1)
    sizes = zip(geometry.level_shape(level), grid.shape[2:], step.stride, strict=True)
    lacking = [fine - (coarse - 1) * stride - 1 for fine, coarse, stride in sizes]
    weight = weight.permute(3, 4, 0, 1, 2)
    return functional.conv_transpose3d(grid, weight, stride=step.stride, padding=padding, output_padding=lacking)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [(7, 5, 9), (8, 6, 4), (1, 1, 1)])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_strided_convolution_is_the_dense_one_in_every_cell(level, shape, form):
    rows = _geometry(12, shape).coords(0)
    geometry = VoxelGeometry(VoxelGeometry.of_coords(rows).keys, shape, CYLINDER)
    step = CYLINDER[level]
    x, weight = _operands(geometry, "down", step.kernel, level)
    dense = _dense_strided(x, weight, geometry, "down", step, level)
    out = TorchBackend(form).conv(x, weight, geometry, "down", step.kernel, level)
    ours = _results(_scatter(out, geometry, level + 1).contiguous(), x, weight)
    for value, expected in zip(ours, _results(dense.contiguous(), x, weight), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [(7, 5, 9), (8, 6, 4)])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_inverse_convolution_is_the_transposed_dense_one_at_the_finer_voxels(level, shape, form):
    rows = _geometry(12, shape).coords(0)
    geometry = VoxelGeometry(VoxelGeometry.of_coords(rows).keys, shape, CYLINDER)
    step = CYLINDER[level]
    x, weight = _operands(geometry, "up", step.kernel, level)
    scan, cx, cy, cz = geometry.coords(level).long().unbind(1)
    dense = _dense_strided(x, weight, geometry, "up", step, level)[scan, :, cx, cy, cz]
    ours = TorchBackend(form).conv(x, weight, geometry, "up", step.kernel, level)
    for value, expected in zip(_results(ours, x, weight), _results(dense, x, weight), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("kind", "kernel"), CASES)
def test_a_single_voxel_equals_dense_convolution(kind, kernel, form):
    geometry = VoxelGeometry.of_coords(torch.tensor([[0, 2, 1, 3]]))
    x, weight = _operands(geometry, kind, kernel, 0)
    ours = _results(TorchBackend(form).conv(x, weight, geometry, kind, kernel, 0), x, weight)
    oracle = _results(_dense(x, weight, geometry, kind, kernel, 0), x, weight)
    for value, expected in zip(ours, oracle, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", [*FORMS, "grouped"])
@pytest.mark.parametrize(("kind", "kernel"), CASES)
def test_no_voxels_give_no_rows_and_zero_gradients(kind, kernel, form):
    geometry = VoxelGeometry.of_coords(torch.zeros(0, 4, dtype=torch.int32))
    x, weight = _operands(geometry, kind, kernel, 0, dtype=torch.float32)
    out, grad_x, grad_weight = _results(TorchBackend(form).conv(x, weight, geometry, kind, kernel, 0), x, weight)
    assert out.shape == (0, 3)
    assert grad_x.shape == (0, 5)
    assert not grad_weight.any()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("kind", "kernel"), [CASES[0], CASES[1], CASES[6], CASES[8]])
def test_gradcheck(kind, kernel, form):
    geometry = _geometry(12, (3, 3, 3))
    x, weight = _operands(geometry, kind, kernel, 0, widths=(2, 2))
    conv = TorchBackend(form).conv
    assert torch.autograd.gradcheck(lambda *operands: conv(*operands, geometry, kind, kernel, 0), (x, weight))


@pytest.mark.parametrize(("kind", "kernel"), CASES)
@pytest.mark.parametrize("widths", [(4, 16), (16, 5)])
def test_grouped_form_equals_gathered_form(kind, kernel, widths):
    geometry = _geometry(120, (7, 5, 9))
    x, weight = _operands(geometry, kind, kernel, 0, widths, torch.float32)
    gathered, grouped = (
        _results(TorchBackend(form).conv(x, weight, geometry, kind, kernel, 0), x, weight)
        for form in ("gathered", "grouped")
    )
    for value, expected in zip(grouped, gathered, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)


def test_grouped_form_in_bfloat16_is_near_float32():
    geometry = _geometry(200, (7, 5, 9))
    x, weight = _operands(geometry, "submanifold", (3, 3, 3), 0, (4, 8), torch.float32)
    exact = TorchBackend("blocked").conv(x, weight, geometry, "submanifold", (3, 3, 3), 0)
    half = TorchBackend("grouped").conv(x.bfloat16(), weight.bfloat16(), geometry, "submanifold", (3, 3, 3), 0)
    assert half.dtype == torch.bfloat16
    assert (half.float() - exact).norm() / exact.norm() < 1e-2


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), case=st.sampled_from([CASES[6], CASES[7]]))
def test_up_is_the_adjoint_of_down(seed, case):
    _, kernel = case
    geometry = _geometry(40, (5, 6, 7), seed)
    x, weight = _operands(geometry, "down", kernel, 0)
    y = torch.randn(geometry.num_voxels(1), 3, dtype=torch.float64)
    conv = TorchBackend().conv
    left = (conv(x, weight, geometry, "down", kernel, 0) * y).sum()
    right = (x * conv(y, weight.mT, geometry, "up", kernel, 0)).sum()
    torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-10)


def test_the_order_of_scans_does_not_matter():
    geometry = _geometry(80, (5, 5, 5))
    coords = geometry.coords(0).long()
    order = ((1 - coords[:, 0]) * len(coords) + torch.arange(len(coords))).argsort()
    swapped = VoxelGeometry.of_coords(torch.cat([1 - coords[order, :1], coords[order, 1:]], 1))
    x, weight = _operands(geometry, "submanifold", (3, 3, 3), 0)
    here = TorchBackend().conv(x, weight, geometry, "submanifold", (3, 3, 3), 0)
    there = TorchBackend().conv(x[order], weight, swapped, "submanifold", (3, 3, 3), 0)
    torch.testing.assert_close(here[order], there, rtol=0, atol=1e-12)


def test_blocks_do_not_change_the_sum(monkeypatch):
    geometry = _geometry(500, (9, 9, 9))
    x, weight = _operands(geometry, "submanifold", (3, 3, 3), 0)
    whole = _results(convolve(x, weight, geometry.submanifold(0)), x, weight)
    monkeypatch.setattr(tiles, "BLOCK_ROWS", 64)  # a size blocks have
    pairs = VoxelGeometry(geometry.keys, geometry.shape).submanifold(0)
    assert max(len(block.far) for block in pairs.tiles("out")[0].blocks) == 64
    for value, expected in zip(_results(convolve(x, weight, pairs), x, weight), whole, strict=True):
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("kind", "kernel"), CASES)
def test_tiles_do_not_change_the_sum(kind, kernel, monkeypatch):
    geometry = _geometry(300, (9, 9, 9))
    x, weight = _operands(geometry, kind, kernel, 0)
    whole = _results(TorchBackend().conv(x, weight, geometry, kind, kernel, 0), x, weight)
    monkeypatch.setattr(torch_backend, "TILE_BYTES", 2000)
    pairs = getattr(geometry, kind)(0, kernel)
    if len(pairs.src):
        assert len(torch_backend._tiles(pairs, "out", x, 5)) > 1
    for value, expected in zip(
        _results(TorchBackend().conv(x, weight, geometry, kind, kernel, 0), x, weight), whole, strict=True
    ):
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-12)


def test_what_is_left_in_scratch_reaches_no_sum(monkeypatch):
    geometry = _geometry(150, (7, 7, 7))
    x, weight = _operands(geometry, "submanifold", (3, 3, 3), 0)
    clean = _results(convolve(x, weight, geometry.submanifold(0)), x, weight)
    for buffer in products._thread.buffers.values():
        buffer.fill_(torch.nan)
    again = _results(convolve(x, weight, geometry.submanifold(0)), x, weight)
    assert all(torch.equal(value, expected) for value, expected in zip(again, clean, strict=True))


def test_scratch_never_reaches_a_result():
    geometry = _geometry(150, (7, 7, 7))
    pairs = geometry.submanifold(0)
    x, weight = _operands(geometry, "submanifold", (3, 3, 3), 0, widths=(4, 4))
    alone = _results(convolve(x, weight, pairs), x, weight)

    first = convolve(x, weight, pairs)
    kept = first.detach().clone()
    other = convolve(torch.randn(pairs.num_in, 4, dtype=torch.float64, requires_grad=True), weight * 3, pairs)
    assert torch.equal(first, kept)
    other.sum().backward()
    for value, expected in zip(_results(first, x, weight), alone, strict=True):
        assert torch.equal(value, expected)

    chained = convolve(convolve(x, weight, pairs), weight, pairs)
    oracle = _dense(_dense(x, weight, *(conv := (geometry, "submanifold", (3, 3, 3), 0))), weight, *conv)
    for value, expected in zip(_results(chained, x, weight), _results(oracle, x, weight), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-9)


def test_training_after_inference_mode(monkeypatch):
    monkeypatch.setattr(products, "_thread", threading.local())
    geometry = _geometry(30, (4, 4, 4))
    x, weight = _operands(geometry, "submanifold", (3, 3, 3), 0)
    with torch.inference_mode():
        convolve(x, weight, geometry.submanifold(0))
    convolve(x, weight, geometry.submanifold(0)).sum().backward()
    assert weight.grad is not None


def test_only_the_wanted_gradient_is_computed():
    geometry = _geometry(30, (4, 4, 4))
    for form in FORMS:
        x, weight = _operands(geometry, "submanifold", (3, 3, 3), 0)
        convolve(x.detach(), weight, geometry.submanifold(0), form).sum().backward()
        assert x.grad is None
        assert weight.grad is not None
        x, weight = _operands(geometry, "submanifold", (3, 3, 3), 0)
        convolve(x, weight.detach(), geometry.submanifold(0), form).sum().backward()
        assert x.grad is not None


def test_repeats_bit_for_bit():
    geometry = _geometry(300, (9, 9, 9))
    x, weight = _operands(geometry, "submanifold", (3, 3, 3), 0, (16, 16), torch.float32)
    for form in [*FORMS, "grouped"]:
        runs = [_results(convolve(x, weight, geometry.submanifold(0), form), x, weight) for _ in range(2)]
        assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_autocast_reaches_the_product():
    geometry = _geometry(30, (4, 4, 4))
    x, weight = _operands(geometry, "submanifold", (3, 3, 3), 0, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = TorchBackend().conv(x, weight, geometry, "submanifold", (3, 3, 3), 0)
    out.sum().backward()
    assert out.dtype == torch.bfloat16
    assert weight.grad.dtype == torch.float32


def test_features_of_another_level_are_refused():
    geometry = _geometry(30, (4, 4, 4))
    x, weight = _operands(geometry, "submanifold", (3, 3, 3), 1)
    with pytest.raises(ValueError, match="another level"):
        convolve(x, weight, geometry.submanifold(0))
