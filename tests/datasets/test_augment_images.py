import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_lidarseg.datasets import image_scans as images
from ray_lidarseg.datasets.augment_images import augment_image
from ray_lidarseg.datasets.sensor import resolve_sensor
from ray_lidarseg.recipe.schema import Data, ImageAugment
from ray_lidarseg.sample import PointBatch
from ray_lidarseg.types import COLOURS

CAMERA = resolve_sensor(Data(dataset="world-images", image_size=(2, 3)))
NOTHING = {"flip_ratio": 0.0, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0}


def image(colours: list[list[float]] | None = None) -> PointBatch:
    """Six pixels, labelled by their number."""
    values = torch.rand(6, 3, generator=torch.Generator().manual_seed(1)) if colours is None else torch.tensor(colours)
    points = torch.cat([images.directions(CAMERA), images.luma(values)[:, None]], 1)
    return PointBatch.of_scan(points, torch.arange(6), {COLOURS: values, "weight": torch.arange(6) * 10})


def augmented(scan: PointBatch, seed: int = 0, **changes: float) -> PointBatch:
    return augment_image(scan, ImageAugment(**{**NOTHING, **changes}), CAMERA, torch.Generator().manual_seed(seed))


def test_a_mirror_image_moves_labels_and_extras_with_their_pixels_and_no_direction():
    scan = image()
    mirrored = augmented(scan, flip_ratio=1.0)
    order = [2, 1, 0, 5, 4, 3]
    assert mirrored.labels.tolist() == order
    assert mirrored.extras["weight"].tolist() == [10 * number for number in order]
    assert torch.equal(mirrored.extras[COLOURS], scan.extras[COLOURS][order])
    assert torch.equal(mirrored.points[:, :3], scan.points[:, :3])
    assert torch.allclose(mirrored.points[:, 3], scan.points[order, 3])
    assert torch.equal(augmented(mirrored, flip_ratio=1.0).extras[COLOURS], scan.extras[COLOURS])


def test_no_strength_changes_nothing():
    scan = image()
    torch.testing.assert_close(augmented(scan).extras[COLOURS], scan.extras[COLOURS], rtol=0, atol=1e-6)
    assert torch.equal(augmented(scan).labels, scan.labels)


def test_jitter_by_hand():
    """The factors are the draws of the generator; each part alone."""
    draws = torch.rand(4, generator=torch.Generator().manual_seed(0))
    brightness, contrast, saturation = (1 + (2 * draws[1:] - 1) * 0.5).tolist()
    grey = image([[0.2] * 3, [0.4] * 3] * 3)
    darker = augmented(grey, brightness=0.5).extras[COLOURS]
    torch.testing.assert_close(darker, grey.extras[COLOURS] * brightness)
    flatter = augmented(grey, contrast=0.5).extras[COLOURS]
    torch.testing.assert_close(flatter, 0.3 + contrast * (grey.extras[COLOURS] - 0.3))
    torch.testing.assert_close(augmented(grey, saturation=0.5).extras[COLOURS], grey.extras[COLOURS])
    red = augmented(image([[0.5, 0.0, 0.0]] * 6), saturation=0.5).extras[COLOURS][0]
    expected = 0.1495 + saturation * (torch.tensor([0.5, 0.0, 0.0]) - 0.1495)
    torch.testing.assert_close(red, expected.clamp(0, 1), rtol=1e-4, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_colours_stay_colours_and_the_luma_follows_them(seed):
    scan = augmented(image(), seed, flip_ratio=0.5, brightness=1.0, contrast=1.0, saturation=1.0)
    colours = scan.extras[COLOURS]
    assert bool(((colours >= 0) & (colours <= 1)).all())
    torch.testing.assert_close(scan.points[:, 3], images.luma(colours))


def test_settings_do_not_move_the_generator():
    after = []
    for changes in ({}, {"flip_ratio": 1.0, "brightness": 0.3, "saturation": 0.9}):
        generator = torch.Generator().manual_seed(3)
        augment_image(image(), ImageAugment(**{**NOTHING, **changes}), CAMERA, generator)
        after.append(torch.rand(1, generator=generator))
    assert torch.equal(*after)
