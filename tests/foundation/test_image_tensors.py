from contextlib import nullcontext

import numpy as np
import pytest
import torch
from PIL import Image

from ray_lidarseg.errors import DataError
from ray_lidarseg.foundation.image_tensors import Preprocess, image_tensor, precision_of

PLAIN = Preprocess(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
CPU = torch.device("cpu")


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize(
    ("name", "filter_"), [("bicubic", Image.Resampling.BICUBIC), ("bilinear", Image.Resampling.BILINEAR)]
)
def test_resizing_meets_pillow_within_a_grey_level(name, filter_):
    image = picture(90, 160)
    preprocess = Preprocess(PLAIN.mean, PLAIN.std, name)
    found = image_tensor([image], (32, 48), preprocess, CPU)[0].permute(1, 2, 0).numpy() * 255
    expected = np.asarray(Image.fromarray(image).resize((48, 32), filter_))
    assert np.abs(found - expected).max() < 1.01


def test_mean_and_std_of_each_channel():
    image = np.full((4, 4, 3), (0, 255, 51), np.uint8)
    found = image_tensor([image], (2, 2), Preprocess((0.5, 0.5, 0.0), (0.5, 0.25, 0.1)), CPU)
    np.testing.assert_allclose(found[0, :, 0, 0], [-1, 2, 2], atol=1e-6)


def test_images_of_several_sizes_make_one_batch_and_stay_as_they_are():
    images = [picture(9, 16), picture(30, 20)]
    images[0].flags.writeable = False  # as NumPy views of Arrow are
    before = images[1].copy()
    assert image_tensor(images, (8, 8), PLAIN, CPU).shape == (2, 3, 8, 8)
    np.testing.assert_array_equal(images[1], before)


def test_resizing_nobody_knows_is_bicubic():
    image = picture(9, 16)
    found = image_tensor([image], (4, 4), Preprocess(PLAIN.mean, PLAIN.std, "random"), CPU)
    assert torch.equal(found, image_tensor([image], (4, 4), PLAIN, CPU))


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 4), (0, 4, 3)])
def test_what_is_no_rgb_image(shape):
    with pytest.raises(DataError, match=r"expected an RGB image, uint8 \[H, W, 3\], got uint8"):
        image_tensor([np.zeros(shape, np.uint8)], (4, 4), PLAIN, CPU)
    with pytest.raises(DataError, match="got float64"):
        image_tensor([np.zeros((4, 4, 3))], (4, 4), PLAIN, CPU)


def test_bfloat16_only_where_wanted():
    assert isinstance(precision_of("auto", CPU), nullcontext)
    assert isinstance(precision_of("float32", torch.device("cuda")), nullcontext)
    with precision_of("bf16", CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
