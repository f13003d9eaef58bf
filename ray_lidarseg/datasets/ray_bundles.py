"""The rays of a training scan: a LiDAR's beams, and a camera's pixels drawn segment by segment from a masks layer.

Images are never read: a ray needs calibration and an index map. Rays are made in the frame of the sweep, before any
augmentation, which then moves them with the points.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Int64, UInt8, UInt16
from pyarrow import fs

from ray_lidarseg import storage
from ray_lidarseg.datasets.catalog import Catalog
from ray_lidarseg.datasets.image_files import read_ids
from ray_lidarseg.datasets.layers import LayerRows, layer_names, read_layer, segments_of
from ray_lidarseg.datasets.prepared_frames import OpenShards
from ray_lidarseg.datasets.world_images import CLASSES, label_file
from ray_lidarseg.errors import DataError
from ray_lidarseg.geometry.camera import pixel_centres
from ray_lidarseg.geometry.pose import require_rigid
from ray_lidarseg.geometry.rays import joined, lidar_rays, no_rays, pixel_rays, rays_to_points, segment_id
from ray_lidarseg.geometry.spherical import inclinations
from ray_lidarseg.sample import CameraImage, Keyframe, PointBatch, RayBatch, SensorSpec
from ray_lidarseg.types import IGNORE, POINT_SEGMENT, RAY_TRUTH

NO_MASKS: Literal["none"] = "none"
_CAMERA = ".cam_SE3_lidar"  # column of a camera in a shard
_DRAWS_PER_RAY = 16  # pixels looked at for each ray wanted, so that small segments fill up, too (ours)


@dataclass(frozen=True)
class RayRequest:
    """Which rays a method wants of each scan.

    Attributes:
        masks: Whose segments: ``sam``, ``slic`` or ``files`` (the only masks layer of that teacher), a layer's name,
            with the name of its pairs behind a slash where there are several, or ``none``: single pixels.
        beams: Beams of the LiDAR that returned; of a labelled scan half of them from labelled points.
        per_image: Pixels of each image of an unlabelled scan.
        per_segment: At most so many of them in one segment.
        min_per_segment: A segment with fewer among those drawn is left out.
        to_points: Rays from each camera of a labelled scan to labelled points that it sees.
        reach_m: Where along the rays to begin and to stop looking; returns elsewhere are left out.
        point_segments: Also the extra ``POINT_SEGMENT`` of the points.
        cameras: The only ones looked through, by name; empty: all.
        truth: Also the extra ``RAY_TRUTH``: the class of each pixel in a synthetic world with label images.
    """

    masks: str
    beams: int
    per_image: int
    per_segment: int
    min_per_segment: int
    to_points: int
    reach_m: tuple[float, float]
    point_segments: bool = False
    cameras: tuple[str, ...] = ()
    truth: bool = False


def segment_layers(filesystem: fs.FileSystem, folder: str, masks: str) -> str:
    """The full name, ``masks-…/pairs-…``, of the segments that ``RayRequest.masks`` means.

    Raises:
        DataError: No such layer, or several fit; the message names them and what to do.
    """
    wanted, _, wanted_pairs = masks.partition("/")
    names = layer_names(filesystem, folder)
    of_kind = {name: read_layer(filesystem, folder, name) for name in names if name.startswith(("masks-", "pairs-"))}
    fitting = [
        name
        for name, layer in of_kind.items()
        if layer.kind == "masks" and wanted in (name, layer.identity.get("name", ""))
    ]
    found = _only(fitting, wanted, folder, "")
    pairs = [
        name
        for name, layer in of_kind.items()
        if layer.kind == "pairs" and found in layer.reads and wanted_pairs in ("", name)
    ]
    return f"{found}/{_only(pairs, wanted_pairs or 'pairs', folder, f'{found}/')}"


def _only(names: list[str], wanted: str, folder: str, prefix: str) -> str:
    if not names:
        kind = wanted if wanted in ("sam", "slic") else "sam"
        raise DataError(
            f"{folder} has no layer of segments {wanted!r}: write one with `ray-lidarseg prepare INDEX --out {folder} "
            f"--masks {kind}`, or set method.masks=none"
        )
    if len(names) > 1:
        choices = " or ".join(f"method.masks={prefix}{name}" for name in names)
        raise DataError(f"{folder} has {len(names)} layers of segments {wanted!r}, say which to read: {choices}")
    return names[0]


class RayReader:
    """Rays of the frames of a catalog; may be pickled and used in forked and in spawned DataLoader workers.

    Images of frames on which the mask teacher failed give no rays.

    Args:
        filesystem: Where the prepared folder lies.
        folder: The prepared folder.
        catalog: Its frames.
        sensor: The LiDAR; pixels above its topmost beam show what it never measures and are not drawn.
        request: Which rays.

    Raises:
        DataError: There is no such layer, or several fit.
    """

    def __init__(
        self, filesystem: fs.FileSystem, folder: str, catalog: Catalog, sensor: SensorSpec, request: RayRequest
    ):
        self.catalog, self.sensor, self.request = catalog, sensor, request
        self._masks: LayerRows | None = None
        self._pairs: LayerRows | None = None
        if request.masks != NO_MASKS:
            layers = segment_layers(filesystem, folder, request.masks)
            self._masks, self._pairs = (LayerRows(filesystem, folder, name) for name in layers.split("/"))

    def with_rays(
        self, index: int, frame: Keyframe, scan: PointBatch, is_usable: Bool[np.ndarray, "P"], seed: int
    ) -> PointBatch:
        """The scan with rays, and with segments of its points where they are asked for.

        Args:
            index: The frame's entry in the catalog.
            frame: Its cameras.
            scan: Its usable points with labels, not augmented; without one known label it counts as unlabelled.
            is_usable: [P] which points of the file those are.
            seed: Of all draws.

        Raises:
            DataError: A camera has no calibration, or a segment map another size than its image.
        """
        generator = torch.Generator().manual_seed(seed)
        points, labels = scan.points.numpy(), scan.labels.numpy()
        camera, segment = self._pairing(index, frame, is_usable)
        bundles = [self._beams(points, labels, generator)]
        if (labels != IGNORE).any():
            bundles += self._to_points(frame, points, labels, camera, segment, generator)
        else:
            bundles += self._pixels(index, frame, generator)
        extras = scan.extras
        if self.request.point_segments:
            extras = {**extras, POINT_SEGMENT: torch.from_numpy(segment_id(camera, segment))}
        return replace(scan, rays=joined(bundles), extras=extras)

    def with_image(
        self, index: int, frame: Keyframe, scan: PointBatch, is_usable: Bool[np.ndarray, "P"], place: int, columns: int
    ) -> tuple[PointBatch, Int64[np.ndarray, "R 2"]]:
        """The scan with the rays of one whole image on a regular grid, row by row; for pictures, in no training.

        Args:
            index: The frame's entry in the catalog.
            frame: Its cameras.
            scan: Its usable points.
            is_usable: [P] which points of the file those are.
            place: Which of its cameras.
            columns: Width of the grid, no more than that of the image, which gives the height.

        Returns:
            The scan, and column and row in the image of each ray.

        Raises:
            DataError: As for ``with_rays``.
        """
        image = frame.cameras[place]
        _require_calibration(frame, image)
        columns = min(columns, image.width_px)
        rows = max(1, round(image.height_px * columns / image.width_px))
        u, v = (
            ((np.arange(count) + 0.5) * size / count).astype(np.int64)
            for count, size in ((columns, image.width_px), (rows, image.height_px))
        )
        pixels = np.stack(np.meshgrid(u, v), axis=-1).reshape(-1, 2)
        rays = self._through(image, place, pixels, self._maps(index, frame).get(image.name))
        extras = scan.extras
        if self.request.point_segments:
            extras = {**extras, POINT_SEGMENT: torch.from_numpy(segment_id(*self._pairing(index, frame, is_usable)))}
        return replace(scan, rays=rays, extras=extras), pixels

    def none(self, scan: PointBatch) -> PointBatch:
        """A batch without scans, with the rays and extras the others have."""
        rays = no_rays(scan.num_scans)
        nothing = torch.zeros(0, dtype=torch.int64)
        if self.request.truth:
            rays = replace(rays, extras={**rays.extras, RAY_TRUTH: nothing})
        extras = {**scan.extras, POINT_SEGMENT: nothing} if self.request.point_segments else scan.extras
        return replace(scan, rays=rays, extras=extras)

    def _used(self, frame: Keyframe) -> list[tuple[int, CameraImage]]:
        """Place and image of the cameras that are looked through."""
        wanted = self.request.cameras
        return [(place, image) for place, image in enumerate(frame.cameras) if not wanted or image.name in wanted]

    def _beams(self, points: np.ndarray, labels: np.ndarray, generator: torch.Generator) -> RayBatch:
        range_m = np.linalg.norm(points[:, :3], axis=1)
        in_reach = (range_m > self.request.reach_m[0]) & (range_m < self.request.reach_m[1])
        known = np.flatnonzero(in_reach & (labels != IGNORE))
        labelled = known[_choose(len(known), self.request.beams // 2, generator)]
        every = np.flatnonzero(in_reach)
        others = every[_choose(len(every), self.request.beams - len(labelled), generator)]
        chosen = np.concatenate([labelled, others])
        return self._with_truth(lidar_rays(points[chosen], self.request.reach_m, labels[chosen]))

    def _to_points(
        self,
        frame: Keyframe,
        points: np.ndarray,
        labels: np.ndarray,
        camera: np.ndarray,
        segment: np.ndarray,
        generator: torch.Generator,
    ) -> Iterator[RayBatch]:
        for place, image in self._used(frame):
            seen = np.flatnonzero((camera == place) & (labels != IGNORE))
            seen = seen[_choose(len(seen), self.request.to_points, generator)]
            if len(seen):
                _require_calibration(frame, image)
                ids = segment_id(place, segment[seen])
                reach_m = self.request.reach_m
                rays = rays_to_points(points[seen], image.cam_SE3_lidar, reach_m, place, labels[seen], ids)
                yield self._with_truth(rays.select((rays.depth_m > reach_m[0]) & (rays.depth_m < reach_m[1])))

    def _pixels(self, index: int, frame: Keyframe, generator: torch.Generator) -> Iterator[RayBatch]:
        maps = self._maps(index, frame)
        for place, image in self._used(frame):
            _require_calibration(frame, image)
            segments = maps.get(image.name)
            if self._masks is not None and segments is None:
                continue  # the mask teacher failed on this frame or image
            pixels = self._draw(image, segments, generator)
            yield self._with_truth(self._through(image, place, pixels, segments), image, pixels)

    def _through(
        self,
        image: CameraImage,
        place: int,
        pixels: Int64[np.ndarray, "R 2"],
        segments: UInt16[np.ndarray, "H W"] | None,
    ) -> RayBatch:
        ids = None if segments is None else segment_id(place, segments[pixels[:, 1], pixels[:, 0]])
        centres = pixel_centres(pixels)
        return pixel_rays(centres, image.intrinsics, image.cam_SE3_lidar, self.request.reach_m, place, ids)

    def _draw(
        self, image: CameraImage, segments: UInt16[np.ndarray, "H W"] | None, generator: torch.Generator
    ) -> Int64[np.ndarray, "R 2"]:
        """[R, 2] column and row of the pixels to look through."""
        count = self.request.per_image
        flat = torch.randint(image.width_px * image.height_px, (_DRAWS_PER_RAY * count,), generator=generator).numpy()
        pixels = np.stack([flat % image.width_px, flat // image.width_px], axis=1)
        rays = pixel_rays(pixel_centres(pixels), image.intrinsics, image.cam_SE3_lidar, self.request.reach_m)
        pixels = pixels[(inclinations(rays.directions) <= self.sensor.fov_up_rad).numpy()]
        if segments is None:
            return pixels[:count]
        ids = segments[pixels[:, 1], pixels[:, 0]]
        order = torch.randperm(1 << 16, generator=generator).numpy()  # of the segments
        chosen = by_segment(ids, order, count, self.request.per_segment, self.request.min_per_segment)
        return pixels[chosen]

    def _maps(self, index: int, frame: Keyframe) -> dict[str, UInt16[np.ndarray, "H W"]]:
        frame_id = self.catalog.frame_id[index]
        if self._masks is None or frame_id not in self._masks:
            return {}
        row = self._masks.row(frame_id, ("segments", "num_segments"))
        maps = {}
        for image in frame.cameras:
            if row.get(f"{image.name}.num_segments", -1) < 0:
                continue
            maps[image.name] = segments = segments_of(row, image.name)
            if segments.shape != (image.height_px, image.width_px):
                raise DataError(
                    f"frame {frame_id}, {image.name}: the image is {image.width_px} x {image.height_px} pixels, its "
                    f"segments in {self._masks.layer.name} are {segments.shape[1]} x {segments.shape[0]}: delete that "
                    "layer and run `ray-lidarseg prepare` again, or name another one in method.masks"
                )
        return maps

    def _pairing(self, index: int, frame: Keyframe, is_usable: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """[P] camera (-1 none) and segment (0 none) of the usable points, as far as cameras are used."""
        frame_id, num_usable = self.catalog.frame_id[index], int(is_usable.sum())
        if self._pairs is None or frame_id not in self._pairs:
            return np.full(num_usable, -1, np.int8), np.zeros(num_usable, np.uint16)
        row = self._pairs.row(frame_id, ("point_camera", "point_segment"))
        camera = np.frombuffer(row["point_camera"], np.int8)
        segment = np.frombuffer(row["point_segment"], np.uint16)
        if not len(camera) == len(segment) == len(is_usable):
            raise DataError(
                f"frame {frame_id} has {len(is_usable)} points, {self._pairs.layer.name} pairs {len(camera)} of them: "
                "delete that layer and run `ray-lidarseg prepare` again"
            )
        is_seen = np.isin(camera[is_usable], [place for place, _ in self._used(frame)])
        return np.where(is_seen, camera[is_usable], -1), np.where(is_seen, segment[is_usable], 0)

    def _with_truth(
        self, rays: RayBatch, image: CameraImage | None = None, pixels: Int64[np.ndarray, "R 2"] | None = None
    ) -> RayBatch:
        if not self.request.truth:
            return rays
        truth = torch.full_like(rays.labels, IGNORE)
        if image is not None and pixels is not None:
            truth = torch.from_numpy(true_classes(image)[pixels[:, 1], pixels[:, 0]].astype(np.int64))
        return replace(rays, extras={**rays.extras, RAY_TRUTH: truth})


def require_segments(
    filesystem: fs.FileSystem, folder: str, catalog: Catalog, layers: str, cameras: Sequence[str] = ()
) -> None:
    """Refuses layers of segments that have nothing to say of the frames, and says how many frames they lack.

    Args:
        filesystem: Where the prepared folder lies.
        folder: The prepared folder.
        catalog: Frames that are trained on.
        layers: A full name from ``segment_layers``.
        cameras: The only ones looked through; empty: all.

    Raises:
        DataError: A layer holds none of the frames, or there is not one segment in the images.
    """
    there: list[str] = []
    for name in reversed(layers.split("/")):  # the masks last
        rows = LayerRows(filesystem, folder, name)
        there = [frame_id for frame_id in catalog.frame_id if frame_id in rows]
        if not there:
            raise DataError(
                f"{name} holds none of the {len(catalog)} training frames of {folder}: run `ray-lidarseg prepare` "
                "again, with their split in --image-splits"
            )
        if missing := len(catalog) - len(there):
            print(
                f"{name}: {missing} of {len(catalog)} training frames are not in it; they have no segments", flush=True
            )
    wanted = {f"{camera}.num_segments" for camera in cameras}
    counts = (rows.row(frame_id, ("num_segments",)) for frame_id in there)
    if not any(count > 0 for row in counts for name, count in row.items() if not wanted or name in wanted):
        raise DataError(
            f"{name} holds not one segment in {len(there)} frames{' of ' + ', '.join(cameras) if cameras else ''}: "
            "lower the thresholds of the mask teacher and prepare again, or set method.masks=none"
        )


def require_cameras(filesystem: fs.FileSystem, folder: str, catalog: Catalog, cameras: Sequence[str]) -> None:
    """Refuses a camera that no frame has.

    Args:
        filesystem: Where the prepared folder lies.
        folder: The prepared folder.
        catalog: Its frames.
        cameras: Names, as in ``RayRequest.cameras``.

    Raises:
        DataError: There is no such camera; those there are are named.
    """
    shards, known = OpenShards(filesystem, folder), set[str]()
    for shard in sorted(set(catalog.shard)):
        if known.issuperset(cameras):
            return
        known |= {name.removesuffix(_CAMERA) for name in shards.columns(shard) if name.endswith(_CAMERA)}
    if unknown := sorted(set(cameras) - known):
        there = ", ".join(sorted(known)) or "none"
        raise DataError(f"method.cameras names {', '.join(unknown)}, the frames of {folder} have the cameras: {there}")


def by_segment(
    ids: UInt16[np.ndarray, "N"], order: Int64[np.ndarray, "K"], count: int, per_segment: int, min_per_segment: int
) -> Int64[np.ndarray, "R"]:
    """Which pixels to keep: whole segments in a random order until ``count`` pixels are together.

    Args:
        ids: [N] segment of each pixel, 0 none; pixels come in a random order.
        order: [65536] a permutation: place of each segment id in the queue.
        count: At most so many pixels.
        per_segment: The first so many pixels of each segment.
        min_per_segment: A segment with fewer pixels is passed over.
    """
    queue = np.where(ids > 0, order[ids], len(order))
    by_place = np.argsort(queue, kind="stable")
    sorted_queue = queue[by_place]
    starts = np.flatnonzero(np.diff(sorted_queue, prepend=-1))
    sizes = np.diff(np.append(starts, len(queue)))
    rank = np.arange(len(queue)) - np.repeat(starts, sizes)
    kept = (sorted_queue < len(order)) & (rank < per_segment) & (np.repeat(sizes, sizes) >= min_per_segment)
    return by_place[kept][:count]


def true_classes(image: CameraImage) -> UInt8[np.ndarray, "H W"]:
    """The class of each pixel of a synthetic world's image, IGNORE where it has none: hidden truth, for studies only.

    Raises:
        DataError: There is no label image beside it.
    """
    root, _, _ = image.uri.rpartition("/samples/")
    uri = f"{root}/{label_file(image.uri)}"
    if not root or not storage.exists(uri):
        raise DataError(
            f"{image.uri} has no label image ({uri}): set method.log_truth=false, or make the world with "
            "`ray-lidarseg world --set label_images=yes`"
        )
    return CLASSES.to_train(read_ids(storage.read_bytes(uri), uri))


def _choose(size: int, count: int, generator: torch.Generator) -> Int64[np.ndarray, "_"]:
    """At most ``count`` of ``size`` rows, ascending."""
    return torch.randperm(size, generator=generator)[: max(0, count)].sort().values.numpy()


def _require_calibration(frame: Keyframe, image: CameraImage) -> None:
    focal, problem = image.intrinsics[[0, 1], [0, 1]], ""
    if not ((focal > 0).all() and np.isfinite(image.intrinsics).all()):
        problem = f"intrinsics {image.intrinsics.tolist()}"
    elif not (image.width_px > 0 and image.height_px > 0):
        problem = f"an image of {image.width_px} x {image.height_px} pixels"
    else:
        try:
            require_rigid(image.cam_SE3_lidar, "cam_SE3_lidar")
        except DataError as error:
            problem = str(error)
    if problem:
        raise DataError(
            f"frame {frame.frame_id}: {image.name} has no calibration ({problem}), and method nerf looks through its "
            "pixels: state it in the index, or name only other cameras in method.cameras"
        )
