"""Views of a wall 10 m ahead whose class is 1 on the left and 2 on the right, through a field that is right."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from pyarrow import fs

from ray_lidarseg.datasets.catalog import write_catalog
from ray_lidarseg.datasets.prepared_frames import PreparedFrames
from ray_lidarseg.datasets.sensor import resolve_sensor
from ray_lidarseg.datasets.shards import write_shard
from ray_lidarseg.errors import DataError, RecipeError, RunError
from ray_lidarseg.geometry.pose import inverse
from ray_lidarseg.methods.build import build_method
from ray_lidarseg.models.radiance import RadianceHead
from ray_lidarseg.recipe.load import override
from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.training.rendered_views import ViewRenderer, pack_views, unpack_views
from ray_lidarseg.types import IGNORE
from tests.datasets.walls_with_masks import CAM_SE3_LIDAR, HEIGHT, INTRINSICS, WIDTH, keyframe, segments, with_layers

MODEL = {"name": "cylinder3d", "grid": [24, 24, 8], "width_factor": 0.125}
LEFT, RIGHT = 1, 2
COLUMNS = 16


class Wall:
    """Opaque from x = 10 m on, from z = -2 m up."""

    def touches(self, points, scan_idx):
        return (points[:, 0] >= 10.0) & (points[:, 2] > -2.0)

    def __call__(self, points, scan_idx):
        scores = torch.zeros(len(points), 16)
        scores[torch.arange(len(points)), torch.where(points[:, 1] > 0, LEFT, RIGHT)] = 12.0
        return 1000.0 * self.touches(points, scan_idx), scores


@pytest.fixture(autouse=True)
def wall(monkeypatch):
    monkeypatch.setattr(RadianceHead, "field", lambda head, output: Wall())


def renderer(frames: PreparedFrames, **settings) -> ViewRenderer:
    changes = {f"method.{name}": value for name, value in settings.items()}
    recipe = override(Recipe(), {"model": MODEL, "method.name": "nerf", "method.step_m": 0.05, **changes})
    torch.manual_seed(0)
    method = build_method(recipe, resolve_sensor(recipe.data), 16).eval()
    return ViewRenderer(method, recipe, frames.folder, frames.catalog)


def test_a_view_is_what_a_person_would_draw(tmp_path):
    root = tmp_path / "world"
    (root / "label_images" / "CAM").mkdir(parents=True)
    (root / "samples" / "CAM").mkdir(parents=True)
    fine = np.where(segments() == 3, 17, 24).astype(np.uint8)  # nuScenes' fine car and drivable surface
    cv2.imwrite(str(root / "label_images" / "CAM" / "a.png"), fine)
    cv2.imwrite(str(root / "samples" / "CAM" / "a.png"), np.full((HEIGHT, WIDTH, 3), (10, 20, 30), np.uint8))
    frames = with_layers(str(tmp_path / "p"), uri=f"{root}/samples/CAM/a.png")
    view = renderer(frames)(0, COLUMNS)
    assert (view.frame_id, view.camera) == ("f0", "CAM_A")  # none is called CAM_FRONT: the first
    assert (view.photo == (30, 20, 10)).all()  # OpenCV writes blue first
    step = WIDTH // COLUMNS
    np.testing.assert_array_equal(view.segments, segments()[step // 2 :: step, step // 2 :: step])
    assert view.truth[0].tolist() == [3] * 8 + [10] * 8
    # what each ray meets at x = 10 m, from calibration alone
    lidar_SE3_cam = inverse(CAM_SE3_LIDAR)
    v, u = np.mgrid[step // 2 : HEIGHT : step, step // 2 : WIDTH : step] + 0.5
    seen = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(INTRINSICS).T @ lidar_SE3_cam[:3, :3].T
    origin = lidar_SE3_cam[:3, 3]
    scale = (10.0 - origin[0]) / seen[..., 0]
    at_wall = origin + scale[..., None] * seen
    hits = at_wall[..., 2] > -2.0
    depth_m = scale * np.linalg.norm(seen, axis=-1)
    inner = hits & (np.abs(at_wall[..., 2] + 2) > 0.2) & (np.abs(at_wall[..., 1]) > 0.2)
    np.testing.assert_array_equal(view.classes[inner], np.where(at_wall[..., 1] > 0, LEFT, RIGHT)[inner])
    np.testing.assert_allclose(view.depth_m[inner], depth_m[inner], atol=0.06)
    assert view.entropy[inner].max() < 0.01
    inside = inner & (view.segments > 0)
    assert inside.sum() > 50
    np.testing.assert_array_equal(view.taught[inside], np.where(view.segments == 3, LEFT, RIGHT)[inside])
    assert (view.taught[view.segments == 0] == IGNORE).all()


def test_a_ray_that_meets_nothing_is_no_class_and_no_label(tmp_path, monkeypatch):
    monkeypatch.setattr(Wall, "touches", lambda self, points, scan_idx: torch.zeros(len(points), dtype=torch.bool))
    view = renderer(with_layers(str(tmp_path)))(0, COLUMNS)
    assert (view.classes == IGNORE).all()
    assert (view.taught == IGNORE).all()
    assert view.depth_m.min() == 50.0
    assert view.entropy.min() > 0.999
    assert (view.photo == 128).all()  # its image is gone
    assert view.truth.size == 0


def test_projected_segments_are_taught_what_their_points_say(tmp_path, monkeypatch):
    frames = with_layers(str(tmp_path))
    sees = renderer(frames, target="projected", entropy_threshold=1.0, cameras=["CAM_B"])  # points are paired with B
    view = sees(0, COLUMNS)
    assert view.camera == "CAM_B"
    for segment in (3, 5):
        assert len(np.unique(view.taught[view.segments == segment])) == 1
        assert view.taught[view.segments == segment].max() < 16
    other = renderer(frames, target="projected", entropy_threshold=1.0, cameras=["CAM_A"])(0, COLUMNS)
    assert (other.taught == IGNORE).all()


def test_without_masks_pixels_stand_alone_and_a_frame_without_cameras_has_no_view(tmp_path):
    bare = replace(keyframe(1), cameras=())
    write_shard(fs.LocalFileSystem(), str(tmp_path), [keyframe(0), bare])
    frames = PreparedFrames(fs.LocalFileSystem(), str(tmp_path), write_catalog(fs.LocalFileSystem(), str(tmp_path)))
    sees = renderer(frames, masks="none")
    assert {LEFT, RIGHT} <= set(sees(0, COLUMNS).taught.ravel().tolist())
    assert sees(1, COLUMNS) is None


def test_runs_that_render_nothing_say_so(tmp_path):
    frames = with_layers(str(tmp_path))
    with pytest.raises(RecipeError, match=r"no head that renders: train it with method\.target=rendered"):
        renderer(frames, target="projected", rendered_weight=0.0, depth_weight=0.0)(0, COLUMNS)
    recipe = override(Recipe(), {"model": MODEL, "method.name": "supervised"})
    method = build_method(recipe, resolve_sensor(recipe.data), 16)
    with pytest.raises(RecipeError, match="method supervised renders nothing"):
        ViewRenderer(method, recipe, frames.folder, frames.catalog)
    with pytest.raises(DataError, match="has no layer of segments 'slic'"):
        renderer(frames, masks="slic")


def test_views_come_back_from_a_file_as_they_were_and_damage_is_said(tmp_path):
    sees = renderer(with_layers(str(tmp_path)))
    views = [sees(index, COLUMNS) for index in (0, 1)]
    content = pack_views(views, 7)
    back, step = unpack_views(content, "x.npz")
    assert step == 7
    for one, other in zip(views, back, strict=True):
        assert (one.frame_id, one.camera) == (other.frame_id, other.camera)
        for name in ("photo", "segments", "classes", "depth_m", "entropy", "taught", "truth"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert unpack_views(pack_views([], 3), "x.npz") == ([], 3)
    short = replace(views[0], taught=views[0].taught[:-1])
    for damaged in (content[:200], b"", b"no zip at all", pack_views([short], 7)):
        with pytest.raises(RunError, match=r"x\.npz holds no rendered views .*run `ray-lidarseg evaluate` again"):
            unpack_views(damaged, "x.npz")
