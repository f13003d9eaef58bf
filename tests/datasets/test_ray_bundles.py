import json
import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from ray_lidarseg.datasets.catalog import write_catalog
from ray_lidarseg.datasets.layers import (
    Layer,
    layer_folder,
    masks_columns,
)
from ray_lidarseg.datasets.prepared_frames import PreparedFrames
from ray_lidarseg.datasets.ray_bundles import (
    RayReader,
    RayRequest,
    by_segment,
    require_segments,
    segment_layers,
)
from ray_lidarseg.datasets.shards import write_shard
from ray_lidarseg.datasets.splits import LabelSplit
from ray_lidarseg.datasets.stream import TrainSteps
from ray_lidarseg.errors import DataError
from ray_lidarseg.geometry.camera import project
from ray_lidarseg.geometry.rays import LIDAR
from ray_lidarseg.recipe.load import override
from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.sample import PointBatch, SensorSpec
from ray_lidarseg.types import IGNORE, POINT_SEGMENT, RAY_CAMERA, RAY_SEGMENT, RAY_TRUTH
from tests.datasets.walls_with_masks import (
    CAM_SE3_LIDAR,
    HEIGHT,
    INTRINSICS,
    LOCAL,
    WIDTH,
    add_layers,
    keyframe,
    segments,
    with_layers,
    write_layer,
)

SENSOR = SensorSpec(32, math.radians(10.0), math.radians(-30.0), 1.0, 50.0, 1.0)
REQUEST = RayRequest("sam", beams=20, per_image=40, per_segment=10, min_per_segment=2, to_points=8, reach_m=(1.0, 30.0))


def read(frames: PreparedFrames, request: RayRequest = REQUEST, index: int = 0, labelled: bool = True, seed: int = 0):
    reader = RayReader(frames.filesystem, frames.folder, frames.catalog, SENSOR, request)
    frame = frames[index]
    is_usable = np.arange(60) > 0
    scan = PointBatch.of_scan(
        torch.from_numpy(frame.points[1:].copy()), torch.from_numpy(frame.labels[1:].astype(np.int64))
    )
    return reader.with_rays(index, frame, scan if labelled else scan.unlabelled(), is_usable, seed)


def test_a_labelled_scan_has_beams_and_rays_to_points_its_cameras_see(tmp_path):
    scan = read(with_layers(str(tmp_path)))
    rays = scan.rays
    is_beam = rays.extras[RAY_CAMERA] == LIDAR
    assert is_beam.sum() == 20
    assert rays.extras[RAY_CAMERA][~is_beam].tolist() == [1] * 8
    ends = rays.origins + rays.depth_m[:, None] * rays.directions
    distance, nearest = (ends[:, None] - scan.points[:, :3]).norm(dim=2).min(1)
    assert distance.max() < 1e-4
    assert torch.equal(rays.labels, scan.labels[nearest])
    assert set(rays.extras[RAY_SEGMENT][~is_beam].tolist()) <= {(1 << 16) + 3, (1 << 16) + 5}
    assert rays.depth_m.max() < 30.0  # the far point gives none


def test_an_unlabelled_scan_has_beams_and_pixels_of_segments_without_a_label(tmp_path):
    rays = read(with_layers(str(tmp_path)), labelled=False).rays
    is_beam = rays.extras[RAY_CAMERA] == LIDAR
    assert is_beam.sum() == 20
    assert (rays.labels == IGNORE).all()
    pixels = rays.select(~is_beam)
    assert pixels.depth_m.isnan().all()
    for place in (0, 1):
        mine = pixels.select(pixels.extras[RAY_CAMERA] == place)
        ids, counts = mine.extras[RAY_SEGMENT].unique(return_counts=True)
        assert ids.tolist() == [(place << 16) + 3, (place << 16) + 5]
        assert counts.tolist() == [10, 10]  # at most per_segment each
        ahead = mine.origins + 10 * mine.directions
        seen = project(ahead.numpy(), CAM_SE3_LIDAR, INTRINSICS, WIDTH, HEIGHT)
        np.testing.assert_allclose(seen.pixels % 1, 0.5, atol=1e-3)  # through pixel centres
        is_left = seen.pixels[:, 0] < WIDTH // 2
        assert (np.where(is_left, 3, 5) == (mine.extras[RAY_SEGMENT].numpy() & 0xFFFF)).all()


def test_pixels_above_the_topmost_beam_are_not_drawn(tmp_path):
    frames = with_layers(str(tmp_path))
    reader_sensor = replace(SENSOR, fov_up_rad=math.radians(-2.0))
    reader = RayReader(frames.filesystem, frames.folder, frames.catalog, reader_sensor, replace(REQUEST, beams=0))
    scan = PointBatch.of_scan(torch.from_numpy(frames[0].points[1:].copy()))
    rays = reader.with_rays(0, frames[0], scan, np.arange(60) > 0, 0).rays
    assert len(rays) > 20
    assert rays.directions[:, 2].max() <= math.sin(math.radians(-2.0)) + 1e-6


def test_draws_depend_on_the_seed_alone(tmp_path):
    frames = with_layers(str(tmp_path))
    once, again, other = (read(frames, labelled=False, seed=seed).rays for seed in (5, 5, 6))
    assert torch.equal(once.directions, again.directions)
    assert not torch.equal(once.directions, other.directions)


def test_without_masks_single_pixels_are_drawn_and_no_layer_is_read(tmp_path):
    write_shard(LOCAL, str(tmp_path), [keyframe(0)])
    frames = PreparedFrames(LOCAL, str(tmp_path), write_catalog(LOCAL, str(tmp_path)))
    rays = read(frames, replace(REQUEST, masks="none"), labelled=False).rays
    camera = rays.extras[RAY_CAMERA]
    assert [(camera == place).sum().item() for place in (LIDAR, 0, 1)] == [20, 40, 40]
    assert not rays.extras[RAY_SEGMENT].any()
    assert (read(frames, replace(REQUEST, masks="none")).rays.extras[RAY_CAMERA] == LIDAR).all()


def test_a_frame_the_mask_teacher_failed_on_has_beams_alone(tmp_path):
    frames = with_layers(str(tmp_path))
    for labelled in (True, False):
        assert (read(frames, index=2, labelled=labelled).rays.extras[RAY_CAMERA] == LIDAR).all()


def test_points_bring_their_segments_where_asked(tmp_path):
    scan = read(with_layers(str(tmp_path)), replace(REQUEST, point_segments=True), labelled=False)
    ids = scan.extras[POINT_SEGMENT]
    assert len(ids) == 59
    found = project(scan.points.numpy(), CAM_SE3_LIDAR, INTRINSICS, WIDTH, HEIGHT)
    is_left = found.pixels[:, 0] < WIDTH // 2
    expected = np.where(found.is_inside, np.where(is_left, (1 << 16) + 3, (1 << 16) + 5), 0)
    assert ids.tolist() == expected.tolist()


def test_half_of_the_beams_go_to_labelled_points(tmp_path):
    frames = with_layers(str(tmp_path))
    reader = RayReader(frames.filesystem, frames.folder, frames.catalog, SENSOR, REQUEST)
    labels = torch.full((59,), IGNORE)
    labels[10:14] = 1  # as of scribbles: 4 of 59
    scan = PointBatch.of_scan(torch.from_numpy(frames[0].points[1:].copy()), labels)
    rays = reader.with_rays(0, frames[0], scan, np.arange(60) > 0, 0).rays
    beams = rays.select(rays.extras[RAY_CAMERA] == LIDAR)
    assert len(beams) == 20
    assert (beams.labels == 1).sum() >= 4


def test_cameras_that_are_left_out_give_no_rays_and_no_segments(tmp_path):
    frames = with_layers(str(tmp_path))
    request = replace(REQUEST, point_segments=True)
    for camera, place, seen in (("CAM_A", 0, False), ("CAM_B", 1, True)):  # the second sees all points
        only = replace(request, cameras=(camera,))
        pixels = read(frames, only, labelled=False).rays.extras[RAY_CAMERA]
        assert set(pixels.tolist()) == {LIDAR, place}
        scan = read(frames, only)
        assert (scan.rays.extras[RAY_CAMERA] == place).any() == seen
        assert bool(scan.extras[POINT_SEGMENT].any()) == seen
    both = read(frames, replace(request, cameras=("CAM_A", "CAM_B")), labelled=False)
    assert torch.equal(both.rays.directions, read(frames, request, labelled=False).rays.directions)
    assert torch.equal(both.extras[POINT_SEGMENT], read(frames, request, labelled=False).extras[POINT_SEGMENT])


def test_hidden_truth_is_that_of_the_pixels(tmp_path):
    root = tmp_path / "world"
    (root / "label_images" / "CAM").mkdir(parents=True)
    fine = np.where(segments() == 3, 17, 24).astype(np.uint8)  # nuScenes' fine car and drivable surface
    cv2.imwrite(str(root / "label_images" / "CAM" / "a.png"), fine)
    frames = with_layers(str(tmp_path / "p"), uri=f"{root}/samples/CAM/a.jpg")
    rays = read(frames, replace(REQUEST, truth=True), labelled=False).rays
    is_pixel = rays.extras[RAY_CAMERA] != LIDAR
    is_car = (rays.extras[RAY_SEGMENT] & 0xFFFF) == 3
    truth = rays.extras[RAY_TRUTH]
    assert (truth[~is_pixel] == IGNORE).all()
    assert truth[is_pixel & is_car].unique().tolist() == [3]
    assert truth[is_pixel & ~is_car].unique().tolist() == [10]
    with pytest.raises(DataError, match=r"has no label image .*set method\.log_truth=false, or make the world with"):
        read(with_layers(str(tmp_path / "q")), replace(REQUEST, truth=True), labelled=False)


def test_the_stream_moves_rays_with_their_scans_and_draws_the_same_augmentation_as_without(tmp_path):
    frames = with_layers(str(tmp_path))
    changes = {"workers.num_workers": 1, "train.labelled_per_step": 2, "train.unlabelled_per_step": 2}
    recipe, split = override(Recipe(), changes), LabelSplit("list", 0.5, 0, ("f0",), ("f1", "f2"), "x")
    with_rays = TrainSteps(frames, split, recipe, SENSOR, rays=REQUEST)[3][0]
    without = TrainSteps(frames, split, recipe, SENSOR)[3][0]
    for batch, plain in zip(with_rays, without, strict=True):
        assert torch.equal(batch.points, plain.points)
        beams = batch.rays.select(batch.rays.extras[RAY_CAMERA] == LIDAR)
        ends = beams.origins + beams.depth_m[:, None] * beams.directions
        for scan in range(2):
            mine = ends[beams.scan_idx == scan]
            assert len(mine) == 20
            distance = (mine[:, None] - batch.points[batch.scan_idx == scan, :3]).norm(dim=2)
            assert distance.min(1).values.max() < 1e-3
    assert (with_rays[1].rays.labels == IGNORE).all()


def test_a_stream_that_is_not_read_has_no_rays_yet_the_same_extras(tmp_path):
    frames = with_layers(str(tmp_path))
    recipe, split = override(Recipe(), {"workers.num_workers": 1}), LabelSplit("list", 0.5, 0, ("f0",), ("f1",), "x")
    request = replace(REQUEST, point_segments=True, truth=False)
    labelled, nothing = TrainSteps(frames, split, recipe, SENSOR, with_unlabelled=False, rays=request)[0][0]
    assert len(nothing.rays) == nothing.num_scans == 0
    assert set(nothing.rays.extras) == set(labelled.rays.extras)
    assert set(nothing.extras) == set(labelled.extras) == {POINT_SEGMENT}


def test_whole_segments_are_taken_in_a_random_order_until_there_are_enough():
    ids = np.array([4, 7, 4, 0, 9, 7, 4, 4, 9, 2], np.uint16)
    order = np.arange(1 << 16)
    assert ids[by_segment(ids, order, 10, 3, 2)].tolist() == [4, 4, 4, 7, 7, 9, 9]  # 2 is alone, 0 is none
    assert ids[by_segment(ids, order[::-1], 3, 3, 2)].tolist() == [9, 9, 7]
    assert by_segment(ids, order, 10, 3, 2)[:3].tolist() == [0, 2, 6]  # the first three of segment 4
    assert len(by_segment(ids[:0], order, 10, 3, 2)) == 0


# what may be wrong with a layer


def test_the_layer_is_found_by_its_teacher_or_its_name(tmp_path):
    folder = str(tmp_path)
    frames = with_layers(folder)
    add_layers(folder, [frames[0]], {"CAM_A": segments()}, "slic")
    sam, slic = (segment_layers(LOCAL, folder, name) for name in ("sam", "slic"))
    assert sam != slic
    assert segment_layers(LOCAL, folder, sam) == segment_layers(LOCAL, folder, sam.split("/")[0]) == sam


def test_a_missing_layer_says_how_to_make_it(tmp_path):
    folder = str(tmp_path)
    with_layers(folder)
    with pytest.raises(DataError, match=r"has no layer of segments 'slic'.*prepare INDEX --out .* --masks slic"):
        segment_layers(LOCAL, folder, "slic")


def test_two_layers_of_a_teacher_ask_which(tmp_path):
    folder = str(tmp_path)
    with_layers(folder)
    write_layer(
        folder, Layer("masks", {"name": "sam", "points_per_side": 8}), [{"frame_id": "f0", **masks_columns({})}]
    )
    with pytest.raises(
        DataError, match=r"2 layers of segments 'sam', say which.*method.masks=masks-.* or method.masks"
    ):
        segment_layers(LOCAL, folder, "sam")


def test_a_layer_of_other_frames_is_refused(tmp_path):
    folder = str(tmp_path / "a")
    with_layers(folder)
    others = str(tmp_path / "b")
    write_shard(LOCAL, others, [keyframe(7)])
    catalog = write_catalog(LOCAL, others)
    with pytest.raises(DataError, match=r"holds none of the 1 training frames of .*run `ray-lidarseg prepare` again"):
        require_segments(LOCAL, folder, catalog, segment_layers(LOCAL, folder, "sam"))


def test_a_layer_of_some_of_the_frames_says_so(tmp_path, capsys):
    folder = str(tmp_path)
    with_layers(folder)
    write_shard(LOCAL, folder, [keyframe(7)])
    layers = segment_layers(LOCAL, folder, "sam")
    require_segments(LOCAL, folder, write_catalog(LOCAL, folder), layers)
    said = capsys.readouterr().out
    assert all(f"{name}: 2 of 4 training frames are not in it" in said for name in layers.split("/"))


def test_segments_of_other_cameras_do_not_count(tmp_path):
    folder = str(tmp_path)
    frames = with_layers(folder, maps={"CAM_A": np.zeros((HEIGHT, WIDTH), np.uint16)})
    with pytest.raises(DataError, match="holds not one segment in 2 frames of CAM_A"):
        require_segments(LOCAL, folder, frames.catalog, segment_layers(LOCAL, folder, "sam"), ["CAM_A"])


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"intrinsics": np.zeros((3, 3))}, "intrinsics"),
        ({"cam_SE3_lidar": np.zeros((4, 4))}, "cam_SE3_lidar is not a rigid transform"),
        ({"cam_SE3_lidar": np.full((4, 4), np.nan)}, "it holds NaN"),
        ({"width_px": 0, "height_px": 0}, "an image of 0 x 0 pixels"),
    ],
)
def test_a_camera_without_calibration_is_named(tmp_path, change, what):
    frames = with_layers(str(tmp_path))
    first, *others = frames[0].cameras
    frame = replace(frames[0], cameras=(replace(first, **change), *others))
    reader = RayReader(frames.filesystem, frames.folder, frames.catalog, SENSOR, replace(REQUEST, masks="none"))
    scan = PointBatch.of_scan(torch.from_numpy(frame.points[1:].copy()))
    with pytest.raises(DataError, match=rf"{frame.frame_id}: {first.name} has no calibration \(.*{what}"):
        reader.with_rays(0, frame, scan, np.arange(60) > 0, 0)


def test_a_layer_without_one_segment_is_refused(tmp_path):
    folder = str(tmp_path)
    frames = with_layers(folder, maps={"CAM_A": np.zeros((HEIGHT, WIDTH), np.uint16)})
    with pytest.raises(DataError, match=r"not one segment in 2 frames: .*set method\.masks=none"):
        require_segments(LOCAL, folder, frames.catalog, segment_layers(LOCAL, folder, "sam"))
    rays = read(frames, labelled=False).rays  # of one image without segments there simply are no pixels
    assert (rays.extras[RAY_CAMERA] == LIDAR).all()


def test_a_map_of_another_size_is_refused(tmp_path):
    frames = with_layers(str(tmp_path), maps={"CAM_A": segments()[:, :-2]})
    with pytest.raises(DataError, match=r"frame f0, CAM_A: the image is 64 x 32 pixels, its segments .* are 62 x 32"):
        read(frames, labelled=False)


def test_a_camera_without_calibration_is_refused(tmp_path):
    frames = with_layers(str(tmp_path))
    reader = RayReader(frames.filesystem, frames.folder, frames.catalog, SENSOR, REQUEST)
    blind = replace(frames[0], cameras=tuple(replace(c, intrinsics=np.zeros((3, 3))) for c in frames[0].cameras))
    scan = PointBatch.of_scan(torch.from_numpy(blind.points[1:].copy()))
    with pytest.raises(DataError, match=r"frame f0: CAM_A has no calibration"):
        reader.with_rays(0, blind, scan, np.arange(60) > 0, 0)


def test_pairs_of_another_number_of_points_are_refused(tmp_path):
    frames = with_layers(str(tmp_path))
    reader = RayReader(frames.filesystem, frames.folder, frames.catalog, SENSOR, REQUEST)
    scan = PointBatch.of_scan(torch.from_numpy(frames[0].points[2:].copy()))
    with pytest.raises(DataError, match=r"frame f0 has 58 points, pairs-.* pairs 60 of them"):
        reader.with_rays(0, frames[0], scan, np.ones(58, bool), 0)


def test_layers_say_what_they_are_made_of(tmp_path):
    folder = str(tmp_path)
    with_layers(folder)
    masks, pairs = segment_layers(LOCAL, folder, "sam").split("/")
    assert json.loads((Path(layer_folder(folder, pairs)) / "layer.json").read_text())["reads"] == [masks]
