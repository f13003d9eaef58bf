import pytest
import torch
from torch import nn

from ray_lidarseg.recipe.load import override
from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.sparse.modules import SparseConv3d
from ray_lidarseg.sparse.torch_backend import TorchBackend
from ray_lidarseg.training import precision as module
from ray_lidarseg.training.precision import precision, slowness, usual_channels

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
WIDE, NARROW = nn.Linear(64, 64), nn.Linear(16, 16)


def _recipe(amp="auto", model="fidnet"):
    dataset = "cityscapes" if model == "image_unet" else "nuscenes"
    return override(Recipe(), {"data.dataset": dataset, "model.name": model, "train.amp": amp})


@pytest.fixture(autouse=True)
def gain(monkeypatch):
    gains = {"now": 2.0}
    monkeypatch.setattr(module, "bf16_gain", lambda channels: gains["now"])
    return gains


def test_a_word_of_the_recipe_decides_on_any_device():
    assert precision(_recipe("off"), CUDA, WIDE) is None
    assert precision(_recipe("off"), CPU, WIDE) is None
    assert precision(_recipe("bf16"), CPU, NARROW) == precision(_recipe("bf16"), CUDA, NARROW) == torch.bfloat16


@pytest.mark.parametrize(
    ("model", "backend", "has_bf16", "chosen"),
    [
        ("minkunet", "torch", True, torch.bfloat16),
        ("minkunet", "torch", False, torch.float16),
        ("minkunet", "spconv", True, torch.float16),
        ("cylinder3d", "spconv-triton", True, torch.float16),
        ("fidnet", "spconv", True, torch.bfloat16),  # has no sparse convolution
    ],
)
def test_a_gpu_computes_in_what_it_and_the_backend_have(model, backend, has_bf16, chosen, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16)
    recipe = override(_recipe(model=model), {"sparse.backend": backend})
    assert precision(recipe, CUDA, WIDE) == chosen


def test_a_cpu_computes_in_bf16_where_that_is_clearly_faster_and_as_accurate(gain):
    assert precision(_recipe(), CPU, WIDE) == torch.bfloat16
    assert precision(_recipe(model="image_unet"), CPU, WIDE) is None
    assert precision(_recipe(), CPU, NARROW) is None
    gain["now"] = 1.2
    assert precision(_recipe(), CPU, WIDE) is None


def test_the_usual_width_is_that_of_most_weights():
    sparse = SparseConv3d(32, 64, (3, 3, 3), "submanifold", 0, TorchBackend())
    assert usual_channels(sparse) == 32
    assert usual_channels(nn.Conv2d(128, 96, 3)) == 96
    assert usual_channels(nn.Linear(512, 1024)) == 128  # what is measured at most
    both = nn.Sequential(nn.Linear(64, 64), nn.Linear(16, 16))  # (4096 * 64 + 256 * 16) / 4352 = 61.2
    assert usual_channels(both) == 64
    assert usual_channels(nn.BatchNorm1d(4)) == 0


@pytest.mark.parametrize("is_native", [False, True])
def test_a_processor_that_imitates_bf16_is_warned_of(is_native, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: is_native)
    cpu = torch.device("cpu")
    assert bool(slowness(torch.bfloat16, cpu)) is not is_native
    assert "train.amp=auto" in slowness(torch.bfloat16, cpu) or is_native
    assert slowness(None, cpu) == slowness(torch.bfloat16, torch.device("cuda")) == ""
