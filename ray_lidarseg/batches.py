"""Batches of tensors that methods step on: packed scans, and the rays that travel with them; use them from ``sample``.

A file of their own, as torch takes seconds to import and half of the verbs do without it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from ray_lidarseg.types import IGNORE, IMAGE_SEGMENT


@dataclass(frozen=True)
class RayBatch:
    """Half-lines in the sensor frames of B scans, which geometric augmentation moves together with the scans' points.

    Attributes:
        origins: [R, 3] metres: where each ray starts, the optical centre of a camera or of the LiDAR.
        directions: [R, 3] unit vectors.
        scan_idx: [R] int64, the scan whose frame a ray lives in; ascending.
        near_m: [R] where along the ray one may begin to look.
        far_m: [R] where one stops.
        num_scans: B; a scan may have no ray.
        depth_m: [R] distance along the ray to the LiDAR return that ends it, NaN where none is known.
        labels: [R] int64 class of what ends the ray, IGNORE where unknown.
        extras: Per-ray tensors [R, …] (``types.RAY_CAMERA``, ``RAY_SEGMENT``, …) that every operation carries along.
    """

    origins: Float[Tensor, "R 3"]
    directions: Float[Tensor, "R 3"]
    scan_idx: Int[Tensor, "R"]
    near_m: Float[Tensor, "R"]
    far_m: Float[Tensor, "R"]
    num_scans: int
    depth_m: Float[Tensor, "R"]
    labels: Int[Tensor, "R"]
    extras: dict[str, Shaped[Tensor, "R ..."]] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of rays R."""
        return len(self.origins)

    def to(self, device: torch.device | str) -> "RayBatch":
        """The same rays on another device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def select(self, chosen: Bool[Tensor, "R"] | Int[Tensor, "Q"]) -> "RayBatch":
        """The rays of a mask, or of ascending indices; the number of scans stays."""
        return self._each(lambda tensor: tensor[chosen])

    def scan(self, index: int) -> "RayBatch":
        """The rays of scan ``index`` alone, as a batch of one scan."""
        own = self.select(self.scan_idx == index)
        return replace(own, scan_idx=torch.zeros_like(own.scan_idx), num_scans=1)

    def unlabelled(self) -> "RayBatch":
        """The same rays, every label IGNORE; what the LiDAR measured (``depth_m``) stays."""
        return replace(self, labels=torch.full_like(self.labels, IGNORE))

    def moved(self, linear: Float[Tensor, "B 3 3"], shift_m: Float[Tensor, "B 3"]) -> "RayBatch":
        """Each scan's rays under ``x' = A x + t``, where A turns, mirrors and scales alike in all directions.

        A point at distance s along a ray lies at distance ``|A d| s`` along the moved one, so near, far and depth are
        scaled, too.

        Args:
            linear: [B, 3, 3] A of each scan.
            shift_m: [B, 3] t of each scan.
        """
        linear, shift_m = linear[self.scan_idx], shift_m[self.scan_idx]
        turned = torch.einsum("rij,rj->ri", linear, self.directions)
        scale = torch.linalg.vector_norm(turned, dim=1)
        return replace(
            self,
            origins=torch.einsum("rij,rj->ri", linear, self.origins) + shift_m,
            directions=turned / scale[:, None],
            near_m=self.near_m * scale,
            far_m=self.far_m * scale,
            depth_m=self.depth_m * scale,
        )

    @staticmethod
    def none(num_scans: int, extras: Mapping[str, Shaped[Tensor, "0 ..."]] | None = None) -> "RayBatch":
        """No rays at all, with the (empty) extras that other batches bring."""
        rows, flat, integers = torch.zeros(0, 3), torch.zeros(0), torch.zeros(0, dtype=torch.int64)
        return RayBatch(rows, rows, integers, flat, flat, num_scans, flat, integers, dict(extras or {}))

    @staticmethod
    def pack(batches: Sequence["RayBatch"]) -> "RayBatch":
        """Batches one after the other; extras must have the same names everywhere.

        Raises:
            ValueError: No batch was given, or the extras differ.
        """
        names = _same_extras("RayBatch", [batch.extras for batch in batches])
        columns = {
            name: torch.cat([getattr(batch, name) for batch in batches])
            for name in ("origins", "directions", "near_m", "far_m", "depth_m", "labels")
        }
        scan_idx = _joined_scans(batches)
        extras = {name: join([batch.extras[name] for batch in batches]) for name in names}
        return RayBatch(scan_idx=scan_idx, num_scans=sum(b.num_scans for b in batches), extras=extras, **columns)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "RayBatch":
        return RayBatch(
            change(self.origins),
            change(self.directions),
            change(self.scan_idx),
            change(self.near_m),
            change(self.far_m),
            self.num_scans,
            change(self.depth_m),
            change(self.labels),
            {name: change(value) for name, value in self.extras.items()},
        )


@dataclass(frozen=True)
class PointBatch:
    """B scans packed one after the other; the points of scan b are contiguous and scans come in order.

    Attributes:
        points: [P, 4]: x, y, z in metres in the sensor frame, intensity in [0, 1].
        scan_idx: [P] int64, the scan of each point, ascending.
        labels: [P] int64 class ids, IGNORE where unknown.
        num_scans: B; a scan may be empty, so this is not ``scan_idx.max() + 1``.
        extras: Per-point tensors [P, …] (image segments, colours, masks) that every operation carries along.
        segments: What is known of image segments, by name: tensors [N, …], whose row 0 belongs to no segment. A point
            has the row ``extras[IMAGE_SEGMENT]``, so that a value of many points exists once; see ``of_segments``.
        rays: Rays in the frames of the same scans, where a method asks for them (``Method.rays``). What moves the
            points moves them; a choice of points leaves them as they are; a scan mixed of two has none.
    """

    points: Float[Tensor, "P 4"]
    scan_idx: Int[Tensor, "P"]
    labels: Int[Tensor, "P"]
    num_scans: int
    extras: dict[str, Shaped[Tensor, "P ..."]] = field(default_factory=dict)
    rays: RayBatch | None = None
    segments: dict[str, Shaped[Tensor, "N ..."]] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """The device all tensors of the batch are on."""
        return self.points.device

    def __len__(self) -> int:
        """Number of points P."""
        return len(self.points)

    def to(self, device: torch.device | str) -> "PointBatch":
        """The same batch on another device."""
        move = lambda tensor: tensor.to(device, non_blocking=True)  # noqa: E731
        extras, segments = ({name: move(value) for name, value in of.items()} for of in (self.extras, self.segments))
        rays = None if self.rays is None else self.rays.to(device)
        points, scan_idx, labels = map(move, (self.points, self.scan_idx, self.labels))
        return PointBatch(points, scan_idx, labels, self.num_scans, extras, rays, segments)

    def select(self, chosen: Bool[Tensor, "P"] | Int[Tensor, "Q"]) -> "PointBatch":
        """The points of a mask, or of ascending indices; the number of scans stays."""
        extras = {name: value[chosen] for name, value in self.extras.items()}
        points, scan_idx, labels = self.points[chosen], self.scan_idx[chosen], self.labels[chosen]
        return PointBatch(points, scan_idx, labels, self.num_scans, extras, self.rays, self.segments)

    def of_segments(self, name: str) -> Shaped[Tensor, "P ..."]:
        """What ``segments[name]`` says of each point's segment; of a point on no segment row 0."""
        return self.segments[name].index_select(0, self.extras[IMAGE_SEGMENT])

    def with_labels(self, labels: Int[Tensor, "P"]) -> "PointBatch":
        """The same points with other labels."""
        return replace(self, labels=labels)

    def unlabelled(self) -> "PointBatch":
        """The same points and rays, every label IGNORE: what a method may see of the unlabelled stream."""
        rays = None if self.rays is None else self.rays.unlabelled()
        return replace(self, labels=torch.full_like(self.labels, IGNORE), rays=rays)

    def scan(self, index: int) -> "PointBatch":
        """Scan ``index`` alone, as a batch of one."""
        own = self.select(self.scan_idx == index)
        rays = None if self.rays is None else self.rays.scan(index)
        return replace(own, scan_idx=torch.zeros_like(own.scan_idx), num_scans=1, rays=rays)

    def scans(self) -> list["PointBatch"]:
        """Every scan as a batch of one, in order."""
        return [self.scan(index) for index in range(self.num_scans)]

    @staticmethod
    def of_scan(
        points: Float[Tensor, "P 4"],
        labels: Int[Tensor, "P"] | None = None,
        extras: dict[str, Shaped[Tensor, "P ..."]] | None = None,
    ) -> "PointBatch":
        """One scan as a batch of one; without labels every point is IGNORE."""
        scan_idx = torch.zeros(len(points), dtype=torch.int64, device=points.device)
        labels = torch.full_like(scan_idx, IGNORE) if labels is None else labels
        return PointBatch(points, scan_idx, labels, 1, extras or {})

    @staticmethod
    def pack(batches: Sequence["PointBatch"]) -> "PointBatch":
        """Batches one after the other; extras must have the same names everywhere, and rays be there in all or none.

        Segments get new numbers, so that those of different batches stay different.

        Raises:
            ValueError: No batch was given, the extras or names of ``segments`` differ, or only some have rays.
        """
        names = _same_extras("PointBatch", [batch.extras for batch in batches])
        batches, segments = _joined_segments(batches)
        rays = [batch.rays for batch in batches if batch.rays is not None]
        if len(rays) not in (0, len(batches)):
            raise ValueError(f"PointBatch.pack: {len(rays)} of {len(batches)} batches have rays: give all of them some")
        points = torch.cat([batch.points for batch in batches])
        labels = torch.cat([batch.labels for batch in batches])
        extras = {name: join([batch.extras[name] for batch in batches]) for name in names}
        num_scans = sum(batch.num_scans for batch in batches)
        packed_rays = RayBatch.pack(rays) if rays else None
        return PointBatch(points, _joined_scans(batches), labels, num_scans, extras, packed_rays, segments)


def _same_extras(kind: str, extras: Sequence[Mapping[str, Tensor]]) -> set[str]:
    if not extras:
        raise ValueError(f"{kind}.pack needs at least one batch")
    if any(set(other) != set(extras[0]) for other in extras):
        raise ValueError(f"{kind}.pack: extras differ: {[sorted(other) for other in extras]}")
    return set(extras[0])


def _joined_segments(batches: Sequence[PointBatch]) -> tuple[Sequence[PointBatch], dict[str, Tensor]]:
    """The batches with their numbers in the joined tables, and these: row 0 once, then the segments of each batch."""
    names = _same_extras("PointBatch", [batch.segments for batch in batches])
    if not names:
        return batches, {}
    counts = [len(next(iter(batch.segments.values()))) - 1 for batch in batches]
    starts = np.cumsum([0, *counts[:-1]]).tolist()
    segments = {
        name: join([batches[0].segments[name][:1], *(batch.segments[name][1:] for batch in batches)]) for name in names
    }
    return [_renumbered(batch, start) for batch, start in zip(batches, starts, strict=True)], segments


def _renumbered(batch: PointBatch, start: int) -> PointBatch:
    number = batch.extras[IMAGE_SEGMENT]
    return replace(batch, extras={**batch.extras, IMAGE_SEGMENT: torch.where(number > 0, number + start, 0)})


def _joined_scans(batches: Sequence[PointBatch] | Sequence[RayBatch]) -> Tensor:
    starts = np.cumsum([0, *(batch.num_scans for batch in batches)])
    return torch.cat([batches[index].scan_idx + int(start) for index, start in enumerate(starts[:-1])])


def join(tensors: Sequence[Tensor]) -> Tensor:
    """``torch.cat`` along the rows, also of float16 under bf16 autocast, which torch refuses."""
    with torch.autocast(tensors[0].device.type, enabled=False):
        return torch.cat(list(tensors))
