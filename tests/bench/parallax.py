"""Rendered or projected? Segment pseudo-labels against the camera's hidden truth: ``python -m tests.bench.parallax``.

The paper's argument for rendering (arXiv 2411.02969) is parallax: camera and LiDAR look from other places at other
times, so that points projected into an image label what hides them. It never tests that. Here it is, without training:
scans of the synthetic world, a model of fixed quality (the true class of a point at probability 0.97, or, in a share
of the cubes of 2 m, another one; a cell says the mean of its points), SLIC segments, and the classes the renderer of
the world found in every pixel.

``rendered``   scores of opaque cells rendered into the pixels of each segment, as method nerf does, on the grid of
               240 x 180 x 20 cells;
``fine``       the same on 480 x 360 x 32 cells;
``projected``  scores of the points whose projection falls on a segment, hidden points left out as ``prepare`` does;
``naive``      the same without the test for hidden points, as the published pipelines project.

All are judged on the same pixels. Kept share: segments that got a label; precision: right among the labelled
pixels; recall: rightly labelled among all of known class. The interval is 95 % over scenes (t), and of each comparison
over the same scenes. Rows are kept scene by scene, so a stopped run goes on: ``--json FILE``. Nothing learns from these
seeds.

Densities are given here, not learned: space is opaque where more than half of the trilinear weights have a cell, the
best of several such rules on three frames. So the table is about geometry and coverage; what a network learns to take
for solid may do better or worse.
"""

import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial

import cv2
import numpy as np
import torch
from scipy import stats

from ray_lidarseg.batches import RayBatch
from ray_lidarseg.datasets.entries import dataset_named
from ray_lidarseg.datasets.nuscenes import CLASSES as NUSCENES
from ray_lidarseg.datasets.points import usable
from ray_lidarseg.datasets.ray_bundles import by_segment
from ray_lidarseg.foundation.pairing import pair_points
from ray_lidarseg.foundation.settings import PairSettings, SlicMasks
from ray_lidarseg.foundation.slic import Slic
from ray_lidarseg.foundation.teachers import as_objects
from ray_lidarseg.geometry.camera import chain, pixel_centres
from ray_lidarseg.geometry.rays import joined, pixel_rays, segment_id
from ray_lidarseg.geometry.rendering import Rendered, render_packed
from ray_lidarseg.geometry.spherical import inclinations
from ray_lidarseg.geometry.voxelize import CylinderGrid, find_voxels
from ray_lidarseg.methods.nerf import LONGEST_STEP_M
from ray_lidarseg.methods.segment_labels import segment_labels
from ray_lidarseg.recipe.schema import NeRF
from ray_lidarseg.sample import CameraImage
from ray_lidarseg.sparse.volume import Volume, blend
from ray_lidarseg.synthetic.cameras import RIG, Picture, exposure_s, intrinsics, picture, stated_ego_SE3_camera
from ray_lidarseg.synthetic.lidar import ego_SE3_lidar, scan
from ray_lidarseg.synthetic.options import with_options
from ray_lidarseg.synthetic.presets import PRESETS, Preset
from ray_lidarseg.synthetic.scene import Scene
from ray_lidarseg.synthetic.shading import Light
from ray_lidarseg.types import IGNORE, RAY_SEGMENT
from tests.bench.ledger import Ledger, Row, parser, print_table

GRIDS = {
    "rendered": CylinderGrid(50.0, (-5.0, 3.0), (240, 180, 20)),
    "fine": CylinderGrid(50.0, (-5.0, 3.0), (480, 360, 32)),
}
SENSOR = dataset_named("nuscenes").sensor
RECIPE = NeRF()
NUM_CLASSES = NUSCENES.num_classes
DENSITY = 1000.0  # 1/m: a cell lets nothing through
SURE = math.log(0.97 / (0.03 / (NUM_CLASSES - 1)))  # score of a class at probability 0.97, the others at 0
BLOCK_M = 2.0  # networks are wrong on whole things, not cell by cell
RAYS_PER_IMAGE = 512
FRAMES = tuple(range(1, 20, 2))
SEEDS = tuple(range(9800, 9820))
SWEEPS: dict[str, tuple[float, ...]] = {
    "calibration_error_deg": (0.5, 1.0, 2.0),
    "camera_time_error_ms": (50.0, 100.0, 200.0),
    "lidar_raise_m": (0.5, 1.0, 2.0),
    "lidar_forward_m": (-2.0, -1.0, 1.0),
}
QUALITIES = (1.0, 0.8)
TARGETS = ("rendered", "fine", "projected", "naive")
COUNTS = ("segments", "kept", "labelled", "right", "known")


@dataclass(frozen=True)
class View:
    """One frame as one of its cameras sees it: segments, hidden classes, and metres along the optical axis."""

    segments: np.ndarray
    truth: np.ndarray
    depth_m: np.ndarray


@dataclass(frozen=True)
class Look:
    """One frame as all its cameras look at it.

    Attributes:
        points: float32 [P, 4] the usable ones.
        probability: [P, C] what the model of fixed quality says of them.
        cameras: As the tables state them.
        views: What they see.
        rays: Through the drawn pixels of all cameras.
        known: [R] hidden class of each pixel.
        depth_m: [R] hidden distance along each ray; inf: the sky.
    """

    points: np.ndarray
    probability: torch.Tensor
    cameras: list[CameraImage]
    views: list[View]
    rays: RayBatch
    known: torch.Tensor
    depth_m: torch.Tensor


def main() -> int:
    """Measures, prints, writes; 1 where a count is impossible."""
    flags = parser(__doc__.splitlines()[0])
    flags.add_argument("--show", action="store_true", help="print the settings the file has scenes of, measure nothing")
    args = flags.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    seeds, frames = (SEEDS[:2], FRAMES[:1]) if args.quick else (SEEDS, FRAMES)
    sweeps = {"lidar_raise_m": (1.0,)} if args.quick else SWEEPS
    ledger = Ledger(args.json)
    settings = [("as mounted", 0.0), *((name, value) for name, values in sweeps.items() for value in values)]
    lines = []
    for quality in QUALITIES:
        for name, value in settings:
            rows = []
            for seed in seeds:
                key = {"setting": name, "value": value, "quality": quality, "seed": seed, "frames": len(frames)}
                work = partial(of_scene, name, value, quality, seed, frames)
                row = ledger.find(key) if args.show else ledger.measure(key, work)
                rows += [row] if row else []
            if len(rows) > 1:
                lines.append([f"{name} {value:g}" if value else name, f"{quality:.0%}", str(len(rows)), *cells(rows)])
    header = [f"{target}: {figure}" for target in TARGETS for figure in ("kept", "precision", "recall")]
    print_table(["setting", "quality", "scenes", *header, "precision gained", "recall gained"], lines)
    print(f"Scenes of {len(frames)} frames; ± is a 95 % interval over scenes; gained: rendered - projected")
    wrong = [row for row in ledger.rows if any(row[f"{t}_right"] > row[f"{t}_labelled"] for t in TARGETS)]
    return int(bool(wrong))


def of_scene(name: str, value: float, quality: float, seed: int, frames: tuple[int, ...]) -> Row:
    """Counts of one scene."""
    preset = PRESETS["demo"] if name == "as mounted" else with_options(PRESETS["demo"], {name: value})
    scene = scene_of(preset, seed)
    total: dict[str, int] = {f"{target}_{count}": 0 for target in TARGETS for count in COUNTS}
    for frame in frames:
        for key, count in of_frame(scene, seed, frame, quality).items():
            total[key] += count
    return total


def scene_of(preset: Preset, seed: int) -> Scene:
    """The scene of a seed, one of the first three of its world."""
    return Scene(preset, seed, seed % 3)


def look_at(scene: Scene, seed: int, frame: int, quality: float) -> Look:
    """A frame, its pixels drawn."""
    sweep = scan(scene, frame)
    labels = NUSCENES.to_train(sweep.labels)
    is_used = usable(sweep.points[:, :4], SENSOR)
    points, labels = sweep.points[is_used, :4].astype(np.float32), labels[is_used]
    cameras = [_camera(scene, frame, place) for place in range(len(RIG))]
    views = [view_of(seed, frame, place, scene.preset.camera_time_error_ms) for place in range(len(RIG))]
    bundles, known, depths = [], [], []
    for place, (camera, view) in enumerate(zip(cameras, views, strict=True)):
        column, row = _draw(camera, view, seed + frame).T
        pixels, reach_m = pixel_centres(np.stack([column, row], axis=1)), (RECIPE.near_m, RECIPE.far_m)
        ids = segment_id(place, view.segments[row, column])
        bundles.append(pixel_rays(pixels, camera.intrinsics, camera.cam_SE3_lidar, reach_m, place, ids))
        known.append(view.truth[row, column])
        # along the ray, which the optical axis is shorter than by the length of K⁻¹ (u, v, 1)
        in_camera = np.linalg.solve(camera.intrinsics, np.vstack([pixels.T, np.ones(len(pixels))]))
        depths.append(view.depth_m[row, column].astype(np.float32) * np.linalg.norm(in_camera, axis=0))
    truth, xyz = torch.from_numpy(np.concatenate(known).astype(np.int64)), torch.from_numpy(points)
    probability = class_scores(torch.from_numpy(labels.astype(np.int64)), xyz, quality, seed + frame).softmax(1)
    depth_m = torch.from_numpy(np.concatenate(depths).astype(np.float32))
    return Look(points, probability, cameras, views, joined(bundles), truth, depth_m)


def rendered(look: Look, grid: CylinderGrid) -> Rendered:
    """What the rays of a look see in opaque cells of a grid."""
    xyz = torch.from_numpy(look.points)
    voxels = find_voxels(grid.cells(xyz), torch.zeros(len(xyz), dtype=torch.int64))
    scores = voxels.mean(look.probability).clamp_min(1e-6).log()
    return render_packed(look.rays, Opaque(Volume(voxels.keys, grid, 1), scores), LONGEST_STEP_M)


def of_frame(scene: Scene, seed: int, frame: int, quality: float) -> dict[str, int]:
    """Counts of one frame, all cameras."""
    look = look_at(scene, seed, frame, quality)
    groups, known, said = look.rays.extras[RAY_SEGMENT], look.known, {}
    thresholds = (RECIPE.entropy_threshold, RECIPE.pixel_entropy_threshold)
    for target, grid in GRIDS.items():
        seen = rendered(look, grid)
        is_opaque = seen.opacity >= RECIPE.min_opacity
        said[target] = segment_labels(seen.semantics.softmax(1), groups, is_opaque, *thresholds, RECIPE.min_pixels)
    for target, occlusion in (("projected", True), ("naive", False)):
        pairs = pair_points(look.points, look.cameras, PairSettings(occlusion=occlusion))
        ids = segment_id(pairs.camera, pairs.segments([view.segments for view in look.views]))
        of_points = torch.from_numpy(ids)
        said[target] = segment_labels(look.probability, of_points, of_points > 0, *thresholds, RECIPE.min_points)
    counts = {}
    num_segments = int((groups.unique() > 0).sum())
    for target, segments in said.items():
        label = segments.of(groups)
        has_label, is_known = label != IGNORE, known != IGNORE
        counts[f"{target}_segments"] = num_segments
        counts[f"{target}_kept"] = len(groups[has_label].unique())
        counts[f"{target}_labelled"] = int((has_label & is_known).sum())
        counts[f"{target}_right"] = int((has_label & is_known & (label == known)).sum())
        counts[f"{target}_known"] = int(is_known.sum())
    return counts


class Opaque:
    """Cells that let nothing through, with given scores: a ``geometry.rendering.Field``."""

    def __init__(self, volume: Volume, scores: torch.Tensor) -> None:
        self.volume, self.scores = volume, scores

    def touches(self, points: torch.Tensor, scan_idx: torch.Tensor) -> torch.Tensor:
        return self.volume.touches(points, scan_idx)

    def __call__(self, points: torch.Tensor, scan_idx: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        corners = self.volume.corners(points, scan_idx)
        coverage = corners.weights.sum(1)
        # scores of the cells there are, so that a ray's rendered scores are as sure as a cell's
        return DENSITY * (2 * coverage - 1).clamp_min(0), blend(self.scores, corners) / coverage.clamp_min(1e-6)[
            :, None
        ]


def class_scores(labels: torch.Tensor, points: torch.Tensor, quality: float, seed: int) -> torch.Tensor:
    """[P, C] scores: the true class, in 1 - quality of the blocks the next one; no idea where no class is known."""
    generator = torch.Generator().manual_seed(seed)
    _, block = torch.unique((points[:, :3] / BLOCK_M).floor(), dim=0, return_inverse=True)
    is_wrong = (torch.rand(len(labels), generator=generator) >= quality)[block]
    said = torch.where(is_wrong, (labels + 1) % NUM_CLASSES, labels).clamp_max(NUM_CLASSES - 1)
    scores = SURE * torch.nn.functional.one_hot(said, NUM_CLASSES).float()
    return scores * (labels != IGNORE)[:, None]


@cache
def view_of(seed: int, frame: int, place: int, time_error_ms: float) -> View:
    """Segments and truth of one image; neither the LiDAR's mounting nor a stated calibration changes them."""
    scene, light = _lit(seed, time_error_ms)
    lighting = light.at(frame * scene.preset.frame_interval_s)
    seen: Picture = picture(scene, light, frame, RIG[place], lighting)
    said = Slic(SlicMasks())({"image": as_objects([seen.colour])})
    segments, truth = said["segments"][0].astype(np.uint16), NUSCENES.to_train(seen.labels)
    return View(segments, truth, seen.depth.astype(np.float16))  # to centimetres up close: all settings keep these


@cache
def _lit(seed: int, time_error_ms: float) -> tuple[Scene, Light]:
    preset = with_options(PRESETS["demo"], {"camera_time_error_ms": time_error_ms} if time_error_ms else {})
    scene = scene_of(preset, seed)
    return scene, Light(scene)


def _camera(scene: Scene, frame: int, place: int) -> CameraImage:
    """The camera as the tables state it."""
    preset, mounting = scene.preset, RIG[place]
    cam_SE3_lidar = chain(
        ego_SE3_lidar(scene),
        scene.ego_pose(frame * preset.frame_interval_s),
        scene.ego_pose(exposure_s(scene, frame, mounting)),
        stated_ego_SE3_camera(scene, mounting),
    )
    return CameraImage(
        mounting.channel, "", intrinsics(mounting, preset.image_size), cam_SE3_lidar, 0, *preset.image_size
    )


def _draw(camera: CameraImage, view: View, seed: int) -> np.ndarray:
    """[R, 2] pixels by segments, below the highest beam, the same for every setting of one calibration."""
    rng = np.random.default_rng(seed)
    flat = rng.permutation(view.segments.size)[: 16 * RAYS_PER_IMAGE]
    pixels = np.stack([flat % view.segments.shape[1], flat // view.segments.shape[1]], axis=1)
    rays = pixel_rays(pixel_centres(pixels), camera.intrinsics, camera.cam_SE3_lidar, (1.0, 2.0))
    pixels = pixels[(inclinations(rays.directions) <= SENSOR.fov_up_rad).numpy()]
    ids = view.segments[pixels[:, 1], pixels[:, 0]]
    chosen = by_segment(ids, rng.permutation(1 << 16), RAYS_PER_IMAGE, RECIPE.pixels_per_segment, RECIPE.min_pixels)
    return pixels[chosen]


def ratios(row: Mapping[str, int], target: str) -> tuple[float, float, float]:
    """Kept share, precision and recall of one scene."""
    kept, labelled, right = (row[f"{target}_{count}"] for count in ("kept", "labelled", "right"))
    return kept / max(1, row[f"{target}_segments"]), right / max(1, labelled), right / max(1, row[f"{target}_known"])


def cells(rows: list[Row]) -> Iterator[str]:
    """Means over scenes with their intervals, target by target, then rendered against projected."""
    by_target = {target: np.array([ratios(row, target) for row in rows]) for target in TARGETS}
    for values in by_target.values():
        for column in values.T:
            yield interval(column)
    gained = by_target["rendered"] - by_target["projected"]
    yield interval(gained[:, 1], signed=True)
    yield interval(gained[:, 2], signed=True)


def interval(values: np.ndarray, signed: bool = False) -> str:
    """``mean ± half width``, percent, of 95 % by Student's t over scenes."""
    mean, count = 100 * values.mean(), len(values)
    half = 100 * stats.t.ppf(0.975, count - 1) * values.std(ddof=1) / math.sqrt(count) if count > 1 else math.inf
    return f"{mean:+.1f} ± {half:.1f}" if signed else f"{mean:.1f} ± {half:.1f}"


if __name__ == "__main__":
    sys.exit(main())
