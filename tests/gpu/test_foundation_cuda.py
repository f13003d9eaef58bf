"""Feature teachers on a CUDA device: float32 as on a CPU, bfloat16 near it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ray_lidarseg.foundation.clip import Clip
from ray_lidarseg.foundation.settings import ClipFeatures
from ray_lidarseg.foundation.teachers import as_objects
from tests.foundation.clip_models import write_clip

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 0.02), ("auto", 0.1)])
def test_features_are_those_of_a_cpu(tmp_path: Path, precision: str, tolerance: float) -> None:
    """Images of two sizes; resizing on the device may round a pixel to the neighbouring grey level."""
    write_clip(tmp_path)
    rng = np.random.default_rng(0)
    batch = {"image": as_objects([rng.integers(0, 256, (*size, 3), np.uint8) for size in ((90, 160), (60, 60))])}
    settings = ClipFeatures(checkpoint=f"local-dir:{tmp_path}", precision=precision)
    for found, expected in zip(
        Clip(settings, "cuda")(batch)["features"], Clip(settings, "cpu")(batch)["features"], strict=True
    ):
        assert np.abs(found - expected).max() < tolerance * np.abs(expected).max()


def test_words_are_those_of_a_cpu(tmp_path: Path) -> None:
    write_clip(tmp_path)
    settings = ClipFeatures(checkpoint=f"local-dir:{tmp_path}")
    prompts = [["a car.", "a photo of a car."], ["a tree."]]
    np.testing.assert_allclose(
        Clip(settings, "cuda").embed_text(prompts), Clip(settings, "cpu").embed_text(prompts), atol=1e-3
    )
