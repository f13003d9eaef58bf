import math

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_lidarseg.datasets import image_scans as images
from ray_lidarseg.datasets import world_images
from ray_lidarseg.datasets.points import to_batch
from ray_lidarseg.datasets.sensor import resolve_sensor
from ray_lidarseg.errors import DataError
from ray_lidarseg.geometry.mixing import mix_pairs
from ray_lidarseg.geometry.range_image import project
from ray_lidarseg.geometry.spherical import azimuths, inclinations
from ray_lidarseg.recipe.schema import Data
from ray_lidarseg.sample import ImageSensor, Keyframe, PointBatch
from ray_lidarseg.types import COLOURS, IGNORE

SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40))


def camera(rows: int, columns: int) -> ImageSensor:
    return images.pseudo_camera(rows, columns)


def frame_of(pixels: np.ndarray, labels: np.ndarray | None = None) -> Keyframe:
    image = cv2.imencode(".png", pixels[..., ::-1])[1].tobytes()
    truth = b"" if labels is None else cv2.imencode(".png", labels)[1].tobytes()
    row = images.keyframe("f", "world-images", "s", "train", 0, ("f.png", "" if labels is None else "l.png"))
    return images.decode_bytes(row, image, truth, world_images.CLASSES)


def numbered(rows: int, columns: int, owner: float) -> PointBatch:
    """An image whose pixels know their number and their image."""
    number = torch.arange(rows * columns, dtype=torch.float32)
    colours = torch.stack([number, torch.full_like(number, owner), torch.zeros_like(number)], 1)
    points = torch.cat([images.directions(camera(rows, columns)), torch.zeros(len(number), 1)], 1)
    return PointBatch.of_scan(points, number.long(), {COLOURS: colours})


def test_directions_of_a_two_by_four_image_by_hand():
    directions = images.directions(camera(2, 4))
    assert directions.norm(dim=1).tolist() == pytest.approx([1.0] * 8)
    turn = [135.0, 45.0, -45.0, -135.0]
    assert azimuths(directions).rad2deg().tolist() == pytest.approx(turn * 2, abs=1e-3)
    below = 45 / 1024  # degrees
    assert inclinations(directions).rad2deg().tolist() == pytest.approx(
        [22.5 - below] * 4 + [-22.5 - below] * 4, abs=1e-3
    )


@settings(max_examples=40, deadline=None)
@given(size=SIZES, seed=st.integers(0, 1000))
def test_every_pixel_finds_its_place_again_whatever_the_order(size, seed):
    sensor, scan = camera(*size), numbered(*size, 0)
    shuffled = scan.select(torch.randperm(len(scan), generator=torch.Generator().manual_seed(seed)))
    found = project(shuffled, sensor, *size)
    assert torch.equal(found.pixel, torch.arange(len(scan)))
    assert torch.equal(shuffled.labels[found.nearest], torch.arange(len(scan)))


@settings(max_examples=60, deadline=None)
@given(size=SIZES, num_areas=st.integers(1, 9))
def test_mixed_images_are_whole_and_made_of_horizontal_strips(size, num_areas):
    """Each pixel is in both mixed images exactly once, from one image in the first, from the other in the second."""
    rows, columns = size
    sensor = camera(rows, columns)
    a, b = numbered(rows, columns, 0), numbered(rows, columns, 1)
    mixed = mix_pairs(a, b, sensor, [num_areas], torch.Generator())
    owners = []
    for scan in mixed.scans():
        found = project(scan, sensor, rows, columns)
        assert len(scan) == len(found.pixel) == rows * columns
        number, owner = scan.extras[COLOURS][found.nearest, :2].unbind(1)
        assert torch.equal(number, torch.arange(rows * columns).float())
        assert torch.equal(number.long(), scan.labels[found.nearest])
        owners.append(owner.view(rows, columns))
    assert torch.equal(owners[0], 1 - owners[1])
    assert torch.equal(owners[0], owners[0][:, :1].expand(rows, columns))
    middle = torch.arange(rows) + 0.5 + 1 / 1024
    strips = (middle * num_areas / rows).floor().long()
    assert torch.equal(owners[0][:, 0].long(), strips % 2)


def test_an_image_becomes_one_scan_of_its_pixels():
    pixels = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], np.uint8)
    frame = frame_of(pixels, np.array([[24, 9], [17, 0]], np.uint8))
    scan, is_in_file = to_batch(frame, camera(2, 2))
    assert is_in_file.tolist() == [True] * 4
    assert scan.extras[COLOURS].tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]]
    assert scan.points[:, 3].tolist() == pytest.approx([0.299, 0.587, 0.114, 1.0])
    assert scan.labels.tolist() == [10, 0, 3, IGNORE]
    assert torch.equal(scan.points[:, :3], images.directions(camera(2, 2)))
    unlabelled, _ = to_batch(frame_of(pixels), camera(2, 2))
    assert set(unlabelled.labels.tolist()) == {IGNORE}


def test_resizing_averages_colours_and_never_labels():
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[:, ::2] = 200
    labels = np.repeat(np.array([[24, 30], [17, 0]], np.uint8), 2, 0).repeat(2, 1)
    scan, _ = to_batch(frame_of(pixels, labels), camera(2, 2))
    assert scan.extras[COLOURS].flatten().tolist() == pytest.approx([100 / 255] * 12)
    assert scan.labels.tolist() == [10, 15, 3, IGNORE]


def test_labels_of_the_grid_go_back_to_the_stored_pixels():
    frame = frame_of(np.zeros((4, 6, 3), np.uint8))
    stored = images.at_stored_size(np.array([1, 2, 3, 4], np.uint8), frame, camera(2, 2))
    assert stored.reshape(4, 6).tolist() == [[1, 1, 1, 2, 2, 2]] * 2 + [[3, 3, 3, 4, 4, 4]] * 2
    assert stored.dtype == np.uint8
    confidence = images.at_stored_size(np.array([0.1, 0.2, 0.3, 0.4], np.float32), frame, camera(2, 2))
    assert confidence.reshape(4, 6)[3].tolist() == pytest.approx([0.3] * 3 + [0.4] * 3)


def test_a_frame_without_an_image_is_named():
    with pytest.raises(DataError, match="f is empty or no image"):
        to_batch(images.keyframe("f", "cityscapes", "s", "train", 0, ("f.png", "")), camera(2, 2))


def test_a_row_without_its_camera_is_decoded_all_the_same():
    row = Keyframe("f", "world-images", "", "", 0, "f.png")
    image = frame_of(np.zeros((4, 6, 3), np.uint8)).cameras[0].image
    found = images.decode_bytes(row, image, b"", world_images.CLASSES)
    assert (found.cameras[0].uri, found.cameras[0].height_px, found.cameras[0].width_px) == ("f.png", 4, 6)
    assert len(found.labels) == 0


def test_a_recipe_sets_the_size_of_the_grid():
    assert resolve_sensor(Data(dataset="cityscapes")).width_px == 1024
    sensor = resolve_sensor(Data(dataset="cityscapes", image_size=(64, 128)))
    assert (sensor.height_px, sensor.width_px) == (64, 128)
    assert sensor.fov_up_rad - sensor.fov_down_rad == pytest.approx(math.pi / 2)
