"""Two scans exchange points; every point of both survives, in one of two mixed scans. LaserMix exchanges laser bands.

Labels and all extras follow their point: image features, language logits and masks of a mixed scan are those its points
got from the cameras of their own scan. That is multi-modal mixing of pooled image features; mixing strips of pixels as
well would change nothing that training reads, because it reads no pixels.

Source: LaserMix (CVPR 2023), section 3.2 and the authors' code, which concatenates band by band; the order of the
points inside a mixed scan (first those of ``a``, then those of ``b``) is ours.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ray_lidarseg.geometry.partition import areas, band_edges, draw_num_areas
from ray_lidarseg.sample import PointBatch, SensorSpec


def mix(
    a: PointBatch, b: PointBatch, edges_rad: Float[Tensor, "E"], num_sectors: int = 1
) -> tuple[PointBatch, PointBatch]:
    """Mixes two scans; labels and every extra follow their point.

    Args:
        a: One scan.
        b: One scan with the same extras.
        edges_rad: [n + 1] descending band edges, radians, from ``partition.band_edges``.
        num_sectors: Azimuth sectors crossed with the bands; 1 is LaserMix as published.

    Returns:
        The even areas of ``a`` with the odd areas of ``b`` (area 0 is the top band), and the complement.

    Raises:
        ValueError: ``a`` or ``b`` is not one scan, or their extras differ.
    """
    mixed = mix_scans(a, b, [edges_rad], num_sectors)
    return mixed.scan(0), mixed.scan(1)


def mix_pairs(
    a: PointBatch, b: PointBatch, sensor: SensorSpec, num_areas: Sequence[int], generator: torch.Generator
) -> PointBatch:
    """Mixes scan i of ``a`` with scan i of ``b`` for all i, with one random number of bands per pair.

    Args:
        a: B scans.
        b: B scans with the same extras.
        sensor: Gives the field of view the bands divide.
        num_areas: Numbers of bands to draw from.
        generator: CPU generator of the draws.

    Returns:
        2B scans: pair i gives scans 2i (even bands of ``a``, odd bands of ``b``) and 2i + 1 (the complement).

    Raises:
        ValueError: Different numbers of scans, or extras that differ.
    """
    edges = [band_edges(draw_num_areas(num_areas, generator), sensor) for _ in range(a.num_scans)]
    return mix_scans(a, b, edges)


def mix_scans(
    a: PointBatch, b: PointBatch, edges_rad: Sequence[Float[Tensor, "_"]], num_sectors: int = 1
) -> PointBatch:
    """Mixes scan i of ``a`` with scan i of ``b`` along the band edges ``edges_rad[i]``; see ``mix_pairs``.

    Raises:
        ValueError: Not one set of edges per pair, or extras that differ.
    """
    if not a.num_scans == b.num_scans == len(edges_rad):
        raise ValueError(
            "mix: expected as many scans in a as in b, and band edges for each pair, "
            f"got {a.num_scans}, {b.num_scans} and {len(edges_rad)}"
        )
    return exchange(a, b, ~_is_even(a, edges_rad, num_sectors), ~_is_even(b, edges_rad, num_sectors))


def exchange(a: PointBatch, b: PointBatch, leaves_a: Bool[Tensor, "P"], leaves_b: Bool[Tensor, "Q"]) -> PointBatch:
    """Scan i of ``a`` and scan i of ``b`` give each other the points that leave.

    Args:
        a: B scans.
        b: B scans with the same extras.
        leaves_a: [P] whether a point of ``a`` goes over to ``b``.
        leaves_b: [Q] whether a point of ``b`` goes over to ``a``.

    Returns:
        2B scans: pair i gives scans 2i (what stays of ``a``, then what leaves ``b``) and 2i + 1 (what leaves ``a``,
        then what stays of ``b``). They have no rays: no camera saw what they show.

    Raises:
        ValueError: Different numbers of scans, or extras that differ.
    """
    if a.num_scans != b.num_scans:
        raise ValueError(f"exchange: expected as many scans in a as in b, got {a.num_scans} and {b.num_scans}")
    both = PointBatch.pack([replace(a, rays=None), replace(b, rays=None)])
    target_scan = torch.cat([2 * a.scan_idx + leaves_a, 2 * b.scan_idx + ~leaves_b])
    scan_idx, order = torch.sort(target_scan, stable=True)
    return replace(both.select(order), scan_idx=scan_idx, num_scans=2 * a.num_scans)


def _is_even(batch: PointBatch, edges_rad: Sequence[Float[Tensor, "_"]], num_sectors: int) -> Bool[Tensor, "P"]:
    return areas(batch.points, batch.scan_idx, edges_rad, num_sectors) % 2 == 0
