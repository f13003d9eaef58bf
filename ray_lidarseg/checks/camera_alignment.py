"""Whether LiDAR and images fit: do depth edges of the scan fall on edges of the picture?

Score of a rotation: mean sharpness of the image where the scan's depth edges project. The score is computed on a grid
of rotations around the stated calibration; added over frames and cameras, its peak is where the calibration should be.

Source: the objective follows Levinson & Thrun 2013, "Automatic Online Calibration of Cameras and Lasers" (square root
of the depth jump times image edge strength). Ours: jumps between rings too, level and upright edges compared apart,
edges relative to their surroundings, the grid. Measured: at the stated calibration the summed score is the highest of
2197 rotations on the real six-camera nuScenes key-frame (5.5 standard deviations above the mean), on 6 frames of the
synthetic world (6.6) and on its 96 x 54 pixel version (4.3); turned by 3 to 5 degrees about any LiDAR axis, the peak
moves there to within a degree. Drawn 100 times, one to three of 16 frames of the world never gave a false alarm, and
a turn of 3 degrees was found in every single frame (6 images of 224 x 126 pixels; of 96 x 54: in 60 % of single frames
and in every four).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from PIL import Image
from scipy import ndimage
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from ray_lidarseg.datasets.image_files import read_picture
from ray_lidarseg.geometry.camera import project
from ray_lidarseg.geometry.occlusion import is_visible
from ray_lidarseg.geometry.pose import transform
from ray_lidarseg.sample import CameraImage, SensorSpec

_STEPS_DEG = np.arange(-6.0, 7.0)
_GRID_DEG = np.stack(np.meshgrid(_STEPS_DEG, _STEPS_DEG, _STEPS_DEG, indexing="ij"), axis=-1)
_TURNS = Rotation.from_rotvec(np.radians(_GRID_DEG.reshape(-1, 3))).as_matrix()
_GIVEN = (len(_STEPS_DEG) // 2,) * 3

_NEIGHBOURS = 9
_NEIGHBOUR_STEPS = 1.6  # of the scan's angular pattern: the eight around a point
_MIN_JUMP_M, _MIN_JUMP_RATIO, _MAX_JUMP_M = 0.5, 0.1, 9.0
_MAX_RANGE_M, _ABOVE_GROUND_M = 60.0, 0.4  # rings on the ground jump in range without any edge
_MAX_EDGES, _MIN_EDGES = 400, 30  # of one image
_WIDTH_PX, _GRADIENT_PX = 480, 0.8  # images are reduced to at most this width
_REACH_DEG, _SURROUNDINGS_DEG = 0.5, 4.0  # how far an edge is felt; what its strength is compared with
_NOISE = 0.004  # of gradients, in grey levels of 0 … 1 a pixel
_STRONGEST = 3.0

_REARRANGED = {
    "y were negated (mirrored)": np.diag([1.0, -1.0, 1.0]),
    "x were negated (mirrored)": np.diag([-1.0, 1.0, 1.0]),
    "x and y were swapped (mirrored)": np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]),
    "x and y were swapped and negated (mirrored)": np.array([[0.0, -1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]),
    "they were turned by 90 deg about z": np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]),
    "they were turned by 180 deg about z": np.diag([-1.0, -1.0, 1.0]),
    "they were turned by -90 deg about z": np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]),
}
REARRANGEMENTS = tuple(_REARRANGED)
"""What may have happened to the axes of scans whose z is up; the inverse of each is its transpose."""


@dataclass(frozen=True)
class DepthEdges:
    """Where a scan jumps from a near surface to a far one.

    Attributes:
        near_idx: [E] index of the point on the near side.
        points: [E, 3] on the line of sight between the two, at the near range, metres.
        is_level: [E] whether the two lie one above the other, so that the edge in the image is level.
        weights: [E] square root of the jump.
    """

    near_idx: np.ndarray
    points: np.ndarray
    is_level: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True)
class Misfit:
    """The peak of scores added over images.

    Attributes:
        rotation_deg: [3] rotation vector in LiDAR axes by which the stated calibration is off; 0 where it is best.
        peak: Peak above the mean of all rotations, in their standard deviations.
        given: The stated calibration above the mean, likewise.
        given_rank_ratio: Share of the rotations that fit less than the stated one.
        t: Mean gain of the peak over the stated calibration, in its standard errors over the images; 0 for one.
        num_images: Images added up.
    """

    rotation_deg: np.ndarray
    peak: float
    given: float
    given_rank_ratio: float
    t: float
    num_images: int

    @property
    def angle_deg(self) -> float:
        """How far the calibration is off."""
        return float(np.linalg.norm(self.rotation_deg))


def depth_edges(points: Float[np.ndarray, "P 4"], sensor: SensorSpec) -> DepthEdges:
    """Pairs of neighbouring returns with a jump in range, above the ground.

    Args:
        points: [P, 4] usable points, sensor frame with z up.
        sensor: Gives the spacing of the beams.
    """
    xyz = points[:, :3].astype(np.float64)
    range_m = np.linalg.norm(xyz, axis=1)
    steps = _in_steps(xyz, range_m, sensor)
    near, far = _jumps(steps, range_m, _is_above_ground(xyz, range_m))
    apart = np.abs(steps[near] - steps[far])
    is_level = apart[:, 1] > 0.5
    keep = ~is_level | (apart[:, 0] < 0.7)  # a diagonal pair says nothing the straight ones do not
    near, far, is_level = near[keep], far[keep], is_level[keep]
    between = xyz[near] / range_m[near, None] + xyz[far] / range_m[far, None]
    between *= (range_m[near] / np.maximum(np.linalg.norm(between, axis=1), 1e-9))[:, None]
    return DepthEdges(near, between, is_level, np.sqrt(np.minimum(range_m[far] - range_m[near], _MAX_JUMP_M)))


def _in_steps(xyz: np.ndarray, range_m: np.ndarray, sensor: SensorSpec) -> np.ndarray:
    """Azimuth and inclination in units of the scan's own spacing, so that all neighbours are one apart."""
    azimuth = np.arctan2(xyz[:, 1], xyz[:, 0])
    inclination = np.arcsin(np.clip(xyz[:, 2] / np.maximum(range_m, 1e-9), -1.0, 1.0))
    vertical = (sensor.fov_up_rad - sensor.fov_down_rad) / max(sensor.num_beams - 1, 1)
    covered_ratio = len(np.unique(np.floor(np.degrees(azimuth)))) / 360
    horizontal = min(2 * np.pi * covered_ratio * sensor.num_beams / max(len(xyz), 1), 2 * vertical)
    return np.column_stack([azimuth / max(horizontal, 1e-6), inclination / vertical])


def _is_above_ground(xyz: np.ndarray, range_m: np.ndarray) -> np.ndarray:
    around = xyz[range_m < 20.0, 2]
    ground_m = np.percentile(around, 5) if len(around) else -np.inf
    return (xyz[:, 2] > ground_m + _ABOVE_GROUND_M) & (range_m < _MAX_RANGE_M)


def _jumps(steps: np.ndarray, range_m: np.ndarray, is_candidate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    candidates = np.flatnonzero(is_candidate)
    if not len(candidates):
        return candidates, candidates
    _, neighbours = cKDTree(steps).query(steps[candidates], k=_NEIGHBOURS, distance_upper_bound=_NEIGHBOUR_STEPS)
    near, far = np.repeat(candidates, _NEIGHBOURS), neighbours.reshape(-1)
    found = far < len(range_m)
    near, far = near[found], far[found]
    is_jump = range_m[far] - range_m[near] > np.maximum(_MIN_JUMP_M, _MIN_JUMP_RATIO * range_m[near])
    return near[is_jump], far[is_jump]


def edge_maps(image: Image.Image, focal_px: float) -> tuple[Float[np.ndarray, "2 H W"], float]:
    """Upright and level edges of an image relative to their surroundings, and by how much it was reduced.

    ``blur(|gradient|, 0.5°) / blur(|gradient|, 4°) - 1``, about 0 on average everywhere, so that neither texture nor
    contrast draws the score.
    """
    scale = min(1.0, _WIDTH_PX / image.width)
    size = (round(image.width * scale), round(image.height * scale))
    grey = np.asarray(image.convert("L").resize(size, Image.Resampling.BOX), np.float32) / 255
    px_per_deg = focal_px * scale * np.pi / 180
    maps = []
    for order in ((0, 1), (1, 0)):
        gradient = np.abs(ndimage.gaussian_filter(grey, _GRADIENT_PX, order=order))
        sharp = ndimage.gaussian_filter(gradient, max(_REACH_DEG * px_per_deg, 0.6))
        around = ndimage.gaussian_filter(gradient, _SURROUNDINGS_DEG * px_per_deg)
        maps.append(np.clip(sharp / (around + _NOISE) - 1, -1.0, _STRONGEST))
    return np.stack(maps), scale


def scores(
    points: Float[np.ndarray, "P 4"], edges: DepthEdges, camera: CameraImage, image: Image.Image | None = None
) -> Float[np.ndarray, "13 13 13"] | None:
    """The score of every rotation of the grid (LiDAR axes, about the camera's centre); index 6, 6, 6 is as stated.

    Args:
        points: [P, 4] the usable points that the edges refer to.
        edges: Their depth edges.
        camera: Calibration, and the encoded image.
        image: The decoded image, where the caller has it.

    Returns:
        float32, or None where too few edges are in the picture.
    """
    chosen = _visible_edges(points, edges, camera)
    if len(chosen) < _MIN_EDGES:
        return None
    maps = edge_maps(image or read_picture(camera.image, camera.name), float(camera.intrinsics[0, 0]))
    return _total(maps, _TURNS, edges, chosen, camera).reshape(_GRID_DEG.shape[:3])


def rearranged_scores(
    points: Float[np.ndarray, "P 4"], edges: DepthEdges, camera: CameraImage, image: Image.Image | None = None
) -> Float[np.ndarray, "A"]:
    """The score of the stated calibration if the scan's axes were mirrored, swapped or turned, as ``REARRANGEMENTS``.

    Arguments as of ``scores``; 0, the average, where too few edges would be in the picture.
    """
    maps = edge_maps(image or read_picture(camera.image, camera.name), float(camera.intrinsics[0, 0]))
    found = np.zeros(len(_REARRANGED), np.float32)
    for which, change in enumerate(_REARRANGED.values()):
        restored = np.eye(4)
        restored[:3, :3] = change.T
        other = replace(camera, cam_SE3_lidar=camera.cam_SE3_lidar @ restored)
        chosen = _visible_edges(points, edges, other)
        if len(chosen) >= _MIN_EDGES:
            found[which] = _total(maps, np.eye(3)[None], edges, chosen, other)[0]
    return found


def _visible_edges(points: np.ndarray, edges: DepthEdges, camera: CameraImage) -> np.ndarray:
    """At most so many of the edges that the camera sees, as positions."""
    seen = project(points, camera.cam_SE3_lidar, camera.intrinsics, camera.width_px, camera.height_px)
    chosen = np.flatnonzero(is_visible(seen, camera.width_px)[edges.near_idx])
    if len(chosen) > _MAX_EDGES:
        chosen = np.sort(np.random.default_rng(0).choice(chosen, _MAX_EDGES, replace=False))
    return chosen


def _total(
    maps: tuple[np.ndarray, float], lidar_turns: np.ndarray, edges: DepthEdges, chosen: np.ndarray, camera: CameraImage
) -> np.ndarray:
    """float32 [rotations]: the weighted mean over edges, and more where there are more edges."""
    images, scale = maps
    rotation = camera.cam_SE3_lidar[:3, :3]
    turns = (rotation @ lidar_turns @ rotation.T).astype(np.float32)
    in_camera = transform(camera.cam_SE3_lidar, edges.points[chosen]).astype(np.float32)
    values = _look_up(images, turns, in_camera, camera.intrinsics * scale, edges.is_level[chosen])
    weights = _balanced(edges.weights[chosen], edges.is_level[chosen])
    return (values @ weights * np.sqrt(len(chosen) / _MAX_EDGES)).astype(np.float32)


def _look_up(
    maps: np.ndarray, turns: np.ndarray, in_camera: np.ndarray, intrinsics: np.ndarray, is_level: np.ndarray
) -> np.ndarray:
    """[rotations, E] values of the maps; 0, their average, outside the image."""
    turned = np.einsum("gij,pj->gpi", turns, in_camera, optimize=True)
    depth = np.maximum(turned[..., 2], 0.1)
    height, width = maps.shape[1:]
    column = np.floor(intrinsics[0, 0] * turned[..., 0] / depth + intrinsics[0, 2]).astype(np.int32)
    row = np.floor(intrinsics[1, 1] * turned[..., 1] / depth + intrinsics[1, 2]).astype(np.int32)
    inside = (turned[..., 2] > 0.5) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    values = maps[is_level.astype(np.int64)[None], np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)]
    return np.where(inside, values, 0.0)


def _balanced(weights: np.ndarray, is_level: np.ndarray) -> np.ndarray:
    """Upright edges fix yaw, level ones pitch: each kind counts as much as the other."""
    balanced = weights.copy()
    for kind in (is_level, ~is_level):
        balanced[kind] /= max(float(weights[kind].sum()), 1e-9)
    return balanced


def misfit(grids: Sequence[Float[np.ndarray, "13 13 13"]]) -> Misfit:
    """Adds the scores of images that share a calibration error, and says where the peak is."""
    total = np.sum(grids, axis=0)
    best = np.unravel_index(int(total.argmax()), total.shape)
    gains = np.array([grid[best] - grid[_GIVEN] for grid in grids])
    error = gains.std(ddof=1) / np.sqrt(len(gains)) if len(gains) > 1 else np.inf
    spread = max(float(total.std()), 1e-9)
    return Misfit(
        rotation_deg=-_GRID_DEG[best],
        peak=float(total.max() - total.mean()) / spread,
        given=float(total[_GIVEN] - total.mean()) / spread,
        given_rank_ratio=float((total < total[_GIVEN]).mean()),
        t=float(gains.mean() / max(error, 1e-9)),
        num_images=len(grids),
    )
