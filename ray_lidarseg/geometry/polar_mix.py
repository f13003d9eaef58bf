"""Mixing by direction: sectors of azimuth exchanged, instances pasted at other azimuths, rectangles of directions cut.

Source: PolarMix (Xiao et al., NeurIPS 2022) for sectors and instances. The rectangle in (azimuth, inclination) is ours:
what CutMix's rectangle of an image is on a LiDAR.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ray_lidarseg.geometry.mixing import exchange
from ray_lidarseg.geometry.spherical import azimuths, inclinations
from ray_lidarseg.sample import PointBatch, SensorSpec

_TURN_RAD = 2 * math.pi


def in_sector(batch: PointBatch, start_rad: Float[Tensor, "B"], width_rad: Float[Tensor, "B"]) -> Bool[Tensor, "P"]:
    """Which points lie in their scan's sector of azimuth: ``(azimuth - start) mod 2π < width``.

    Args:
        batch: B scans.
        start_rad: [B] where each sector begins, radians, any turn.
        width_rad: [B] how far it goes counter-clockwise; 0 holds no point, 2π or more every point.
    """
    start, width = start_rad.to(batch.points)[batch.scan_idx], width_rad.to(batch.points)[batch.scan_idx]
    return ((azimuths(batch.points) - start).remainder(_TURN_RAD) < width) | (width >= _TURN_RAD)


def in_rectangle(
    batch: PointBatch,
    start_rad: Float[Tensor, "B"],
    width_rad: Float[Tensor, "B"],
    top_rad: Float[Tensor, "B"],
    bottom_rad: Float[Tensor, "B"],
) -> Bool[Tensor, "P"]:
    """Which points lie in their scan's sector and between two inclinations: ``bottom < φ <= top``; see ``in_sector``.

    ``top_rad`` of ``inf`` and ``bottom_rad`` of ``-inf`` take in what lies outside the field of view.
    """
    top, bottom = top_rad.to(batch.points)[batch.scan_idx], bottom_rad.to(batch.points)[batch.scan_idx]
    inclination = inclinations(batch.points)
    return in_sector(batch, start_rad, width_rad) & (bottom < inclination) & (inclination <= top)


def paste(
    scans: PointBatch, donors: PointBatch, classes: Sequence[int], angles_rad: Float[Tensor, "B K"]
) -> PointBatch:
    """Scan i with the points of scan i of ``donors`` whose label is in ``classes``, once for each of its K angles.

    A copy is turned about z by its angle; intensity, label and extras are those of the point it is a copy of. IGNORE is
    no class. The points of scan i come first, then copy by copy. The result has no rays.

    Args:
        scans: B scans.
        donors: B scans with the same extras.
        classes: Class ids of instances.
        angles_rad: [B, K] radians; NaN leaves that copy out.

    Raises:
        ValueError: Different numbers of scans, or extras that differ.
    """
    if not scans.num_scans == donors.num_scans == len(angles_rad):
        raise ValueError(
            "paste: expected as many scans as donors and rows of angles, "
            f"got {scans.num_scans}, {donors.num_scans} and {len(angles_rad)}"
        )
    instances = donors.select(torch.isin(donors.labels, torch.tensor(classes, dtype=torch.int64, device=donors.device)))
    copies = [_turned(instances, angle_rad) for angle_rad in angles_rad.unbind(1)]
    everything = PointBatch.pack([replace(part, rays=None) for part in (scans, *copies)])
    # packed one after the other, scan b and its copies have numbers that are b modulo B
    scan_idx, order = torch.sort(everything.scan_idx % max(scans.num_scans, 1), stable=True)
    return replace(everything.select(order), scan_idx=scan_idx, num_scans=scans.num_scans)


def _turned(batch: PointBatch, angle_rad: Float[Tensor, "B"]) -> PointBatch:
    """Each scan turned about z by its angle; a scan whose angle is NaN loses its points."""
    angle = angle_rad.to(batch.points)[batch.scan_idx]
    cos, sin = angle.cos(), angle.sin()
    x, y = batch.points[:, 0], batch.points[:, 1]
    points = torch.cat([torch.stack([cos * x - sin * y, sin * x + cos * y], dim=1), batch.points[:, 2:]], dim=1)
    return replace(batch, points=points).select(~angle.isnan())


def polar_mix(
    a: PointBatch,
    b: PointBatch,
    classes: Sequence[int],
    sector_rad: float,
    swap_ratio: float,
    paste_ratio: float,
    generator: torch.Generator,
) -> PointBatch:
    """PolarMix of scan i of ``a`` with scan i of ``b``, for all i.

    A share of the pairs exchanges a sector that begins at a random azimuth. Then, in a share of the pairs, each of the
    two results gets the instances of the scan that gave it the sector three times: as they stand, turned by an angle in
    [0, 2π/3), and by one in [2π/3, 4π/3). Both results share their draws; every pair consumes five of them. An instance
    that came with the sector is there twice, as in the authors' code.

    Args:
        a: B scans.
        b: B scans with the same extras.
        classes: Class ids of what is pasted.
        sector_rad: Width of the sector, radians in (0, 2π].
        swap_ratio: Share of the pairs that exchange the sector.
        paste_ratio: Share of the pairs whose instances are pasted.
        generator: CPU generator of the draws.

    Returns:
        2B scans: pair i gives scans 2i (``a`` outside the sector) and 2i + 1 (``b`` outside the sector).

    Raises:
        ValueError: Different numbers of scans, or extras that differ.

    Source: PolarMix; one result a pair there, its complement as well here (ours, as LaserMix).
    """
    # five draws a pair whatever is decided, so that one pair's luck never moves the next one's
    uniform = torch.rand(a.num_scans, 5, generator=generator)
    width = torch.where(uniform[:, 0] < swap_ratio, sector_rad, 0.0)
    start = _TURN_RAD * uniform[:, 1] - math.pi
    mixed = exchange(a, b, in_sector(a, start, width), in_sector(b, start, width))
    # 0 and one angle from each of the first two thirds of a turn; NaN pastes nothing
    angles = torch.stack([torch.zeros(a.num_scans), *((uniform[:, 3:] + torch.tensor([0, 1])) * _TURN_RAD / 3).T], 1)
    angles[uniform[:, 2] >= paste_ratio] = math.nan
    return paste(mixed, _alternating(b, a), classes, angles.repeat_interleave(2, dim=0))


def _alternating(first: PointBatch, second: PointBatch) -> PointBatch:
    """Scan 0 of ``first``, scan 0 of ``second``, scan 1 of ``first`` and so on."""
    nothing = [torch.zeros(len(batch), dtype=torch.bool, device=batch.device) for batch in (first, second)]
    return exchange(first, second, *nothing)


def cut_mix(
    a: PointBatch, b: PointBatch, sensor: SensorSpec, area_ratio: float, generator: torch.Generator
) -> PointBatch:
    """Scan i of ``a`` with the points of scan i of ``b`` in a random rectangle of directions, for all i.

    The rectangle covers ``area_ratio`` of the turn times the field of view; its share of the turn is drawn so that its
    logarithm is uniform, in [``area_ratio``, 1], and its share of the field of view follows. What lies above or below
    the field of view belongs to a rectangle that touches that edge. Every pair consumes three draws.

    Args:
        a: B scans.
        b: B scans with the same extras.
        sensor: Its field of view is the height of the image.
        area_ratio: Share of directions exchanged, in (0, 1].
        generator: CPU generator of the draws.

    Returns:
        B scans; their complements are dropped, as in CutMix.

    Raises:
        ValueError: Different numbers of scans, or extras that differ.

    Source: CutMix-Seg (French et al., BMVC 2020): log-uniform aspect, half the area; directions for pixels are ours.
    """
    uniform = torch.rand(a.num_scans, 3, generator=generator)
    share_of_turn = area_ratio ** uniform[:, 0]
    share_of_height = area_ratio / share_of_turn
    start = _TURN_RAD * uniform[:, 1] - math.pi
    above = (1 - share_of_height) * uniform[:, 2]
    height_rad = sensor.fov_up_rad - sensor.fov_down_rad
    top, bottom = (sensor.fov_up_rad - height_rad * share for share in (above, above + share_of_height))
    top[above <= 0] = math.inf
    bottom[above + share_of_height >= 1] = -math.inf
    sides = (start, _TURN_RAD * share_of_turn, top, bottom)
    mixed = exchange(a, b, in_rectangle(a, *sides), in_rectangle(b, *sides))
    chosen = mixed.select(mixed.scan_idx % 2 == 0)
    return replace(chosen, scan_idx=chosen.scan_idx // 2, num_scans=a.num_scans)
