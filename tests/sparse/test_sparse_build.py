import copy
import importlib.util

import pytest

from ray_lidarseg.errors import ResourceError
from ray_lidarseg.sparse.backend import SparseBackend
from ray_lidarseg.sparse.build import load_backend


def test_the_embedded_backend_is_there_and_travels_with_a_copied_model():
    backend = load_backend("torch")
    assert isinstance(backend, SparseBackend)
    assert copy.deepcopy(backend).name == "torch"


def test_an_unknown_backend_is_named():
    with pytest.raises(ResourceError, match="no sparse backend 'spconv'"):
        load_backend("spconv")


@pytest.mark.skipif(importlib.util.find_spec("torchsparse") is not None, reason="torchsparse is installed")
def test_a_missing_torchsparse_says_how_to_get_it():
    with pytest.raises(ResourceError, match="pip install --no-build-isolation"):
        load_backend("torchsparse")
