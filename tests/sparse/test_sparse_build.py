import copy
import importlib.util

import pytest
import torch

from ray_lidarseg.errors import ResourceError
from ray_lidarseg.sparse import build
from ray_lidarseg.sparse.backend import SparseBackend
from ray_lidarseg.sparse.build import load_backend


def test_the_embedded_backend_is_there_and_travels_with_a_copied_model():
    backend = load_backend("torch")
    assert isinstance(backend, SparseBackend)
    assert copy.deepcopy(backend).name == "torch"


def test_an_unknown_backend_is_named():
    with pytest.raises(ResourceError, match=r"no sparse backend 'minkowski': sparse\.backend is torch, spconv"):
        load_backend("minkowski")


@pytest.fixture
def present(monkeypatch):
    """A machine with a GPU, and the packages named."""
    there = set()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(build, "_is_present", lambda name: name == "torch" or name in there)
    build.fastest.cache_clear()
    yield there
    build.fastest.cache_clear()


@pytest.mark.parametrize(
    ("packages", "chosen"), [((), "torch"), (("spconv",), "spconv"), (("spconv", "spconv-triton"), "spconv-triton")]
)
def test_auto_is_the_fastest_present_and_says_so_once(packages, chosen, present, capsys):
    present.update(packages)
    assert [build.fastest(), build.fastest()] == [chosen, chosen]
    assert capsys.readouterr().out == f"sparse.backend=auto: {chosen}\n"
    assert build.computes_bfloat16("auto") == (chosen == "torch")


def test_auto_is_torch_without_a_gpu_whatever_is_installed(present, monkeypatch):
    present.add("spconv")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert load_backend("auto").name == "torch"


@pytest.mark.skipif(importlib.util.find_spec("torchsparse") is not None, reason="torchsparse is installed")
def test_a_missing_torchsparse_says_how_to_get_it():
    with pytest.raises(ResourceError, match="pip install --no-build-isolation"):
        load_backend("torchsparse")
