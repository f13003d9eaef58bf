import dataclasses

import pytest
import torch
from torch import nn

from ray_lidarseg.sparse import products
from ray_lidarseg.sparse.products import RowLinear, fast, linear, measured, padded_rows

FAST = products.Products("oneDNN", mkl_gflops=80.0, onednn_gflops=160.0, onednn_error=1e-7, bf16_gflops=320.0)


def _switch() -> str:
    return torch.backends.mkldnn.matmul.fp32_precision


@pytest.fixture
def chosen(monkeypatch):
    def choose(library):
        monkeypatch.setattr(products, "measured", lambda: dataclasses.replace(FAST, float32=library))

    return choose


def _remeasured(monkeypatch, mkl, onednn, error):
    monkeypatch.setattr(products, "_gflops", lambda dtype: onednn if _switch() == "bf16" else mkl)
    monkeypatch.setattr(products, "_error", lambda: error)
    return measured.__wrapped__().float32


def test_the_library_is_chosen_by_the_processor_and_the_error_and_never_by_a_clock(monkeypatch):
    """A worker that replaces another one on a loaded machine computes the same bits."""
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(products, "is_intel", lambda: False)
    assert [_remeasured(monkeypatch, 80.0, onednn, 3e-7) for onednn in (160.0, 81.0, 40.0)] == ["oneDNN"] * 3
    assert _remeasured(monkeypatch, 80.0, 160.0, 2e-3) == "MKL"  # it rounds inside, as with AMX
    monkeypatch.setattr(products.mkl_switch, "is_on", True)
    assert _remeasured(monkeypatch, 80.0, 160.0, 3e-7) == "MKL"
    monkeypatch.setattr(products.mkl_switch, "is_on", False)
    monkeypatch.setattr(products, "is_intel", lambda: True)
    assert _remeasured(monkeypatch, 80.0, 160.0, 3e-7) == "MKL"


def test_speeds_are_of_the_library_taken():
    assert FAST.float32_gflops == 160.0
    assert dataclasses.replace(FAST, float32="MKL").float32_gflops == 80.0


def test_the_gain_of_bfloat16_is_over_the_library_taken(monkeypatch, chosen):
    chosen("oneDNN")
    speeds = {torch.bfloat16: 300.0, torch.float32: 150.0}
    monkeypatch.setattr(products, "_gflops", lambda dtype, channels: speeds[dtype] + (_switch() != "bf16") + channels)
    assert products.bf16_gain.__wrapped__(50) == 350 / 200


def test_this_machine_is_measured_once_and_the_library_it_takes_is_exact():
    found = measured()
    assert measured() is found
    assert min(found.mkl_gflops, found.bf16_gflops) > 0
    x, weight = torch.randn(300, 48), torch.randn(48, 32)
    with fast():
        product = x @ weight
    torch.testing.assert_close(product.double(), x.double() @ weight.double(), rtol=1e-5, atol=1e-4)


def test_the_switch_is_on_inside_only_and_as_often_as_it_is_nested(chosen):
    before = _switch()
    chosen("oneDNN")
    with fast():
        with fast():
            assert _switch() == "bf16"
        assert _switch() == "bf16"
    assert _switch() == before
    with pytest.raises(ValueError, match="inside"), fast():
        raise ValueError("inside")
    assert _switch() == before
    chosen("MKL")
    with fast():
        assert _switch() == before


def test_blocks_have_few_sizes():
    assert [padded_rows(count) for count in (1, 64, 65, 256, 257, 512, 4095, 4096)] == [
        *(64, 64, 128, 256),
        *(512, 512, 4096, 4096),
    ]
    assert len({padded_rows(count) for count in range(1, products.BLOCK_ROWS + 1)}) == 19


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("rows", [0, 1, 300, 4096, 9000])
def test_a_linear_layer_of_rows_is_torchs(rows, has_bias):
    torch.manual_seed(0)
    plain = nn.Linear(5, 3, has_bias, dtype=torch.float64)
    ours = RowLinear(5, 3, has_bias, dtype=torch.float64)
    ours.load_state_dict(plain.state_dict())
    x = torch.randn(rows, 5, dtype=torch.float64)
    upstream = torch.randn(rows, 3, dtype=torch.float64)
    results = []
    for layer in (plain, ours):
        seen = x.clone().requires_grad_()
        out = layer(seen)
        gradients = torch.autograd.grad(out, (seen, *layer.parameters()), upstream)
        results.append((out.detach(), *gradients))
    for value, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-11, atol=1e-11)


def test_what_is_left_in_scratch_reaches_no_row():
    layer, x = RowLinear(7, 6), torch.randn(100, 7)
    first = layer(x)
    first.sum().backward()
    gradient = layer.weight.grad.clone()
    for buffer in products._thread.buffers.values():
        buffer.fill_(torch.nan)
    layer.zero_grad()
    again = layer(x)
    again.sum().backward()
    assert torch.equal(first, again)
    assert torch.equal(layer.weight.grad, gradient)


def test_rows_are_multiplied_in_autocasts_type():
    x, weight = torch.randn(40, 8), torch.randn(6, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = linear(x, weight)
    out.sum().backward()
    assert out.dtype == torch.bfloat16
    assert weight.grad.dtype == torch.float32
    assert (out.float() - x @ weight.T).norm() / out.float().norm() < 1e-2
