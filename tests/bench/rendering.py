"""What skipping empty space saves: ``python -m tests.bench.rendering [--quick] [--json FILE]``.

Camera rays through the cells of one scan, rendered forward and backward by ``render_packed`` and by its dense twin,
with the head of method nerf at its default size: samples, time (interleaved, medians), memory kept for the backward
pass, and how much a process grew at its peak. Scans are cast at a flat street with boxes; features are random numbers,
as neither time nor memory depends on them. Exit code 1 where the two disagree, or where packed needs more than 1/15 of
the samples or 1/5 of the time on the published grid, at either data set's size.
"""

import math
import multiprocessing
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from ray_lidarseg.geometry.camera import pixel_centres
from ray_lidarseg.geometry.pose import from_matrix, inverse
from ray_lidarseg.geometry.rays import joined, pixel_rays
from ray_lidarseg.geometry.rendering import Rendered, render_dense, render_packed
from ray_lidarseg.geometry.voxelize import CartesianGrid, CylinderGrid, find_voxels
from ray_lidarseg.methods.nerf import LONGEST_STEP_M
from ray_lidarseg.models.radiance import RadianceField, RadianceHead
from ray_lidarseg.recipe.schema import NeRF
from ray_lidarseg.sample import RayBatch
from ray_lidarseg.sparse.volume import Volume
from tests.bench.ledger import Ledger, Row, parser, print_table
from tests.bench.sparse_conv import cast_scan, interleaved

TOLERANCE = 1e-4
FEWER_SAMPLES, FASTER = 15, 5
RECIPE = NeRF()
NUM_CLASSES = 16
HIGHEST_BEAM = math.sin(math.radians(5))
RENDERERS: dict[str, Callable[..., Rendered]] = {"packed": render_packed, "dense": render_dense}
FINE, COARSE = (480, 360, 32), (240, 180, 20)


@dataclass(frozen=True)
class Case:
    """A sensor, its cameras and a grid.

    Attributes:
        beams: Rings and firings of the LiDAR.
        cameras: Images around the vehicle.
        rays: Pixels of each.
        focal_px: Of each, at 1600 x 900.
        grid: Where cells lie.
        is_published: Whether the aims are for it.
    """

    beams: tuple[int, int]
    cameras: int
    rays: int
    focal_px: float
    grid: CylinderGrid | CartesianGrid
    is_published: bool


def cylinder(low_m: float, high_m: float, shape: tuple[int, int, int]) -> CylinderGrid:
    return CylinderGrid(50.0, (low_m, high_m), shape)


CASES = {
    "nuScenes, 480 x 360 x 32": Case((32, 1084), 6, 1024, 1266.0, cylinder(-5.0, 3.0, FINE), True),
    "KITTI, 480 x 360 x 32": Case((64, 2000), 1, 4096, 954.0, cylinder(-4.0, 2.0, FINE), True),
    "nuScenes, 240 x 180 x 20": Case((32, 1084), 6, 1024, 1266.0, cylinder(-5.0, 3.0, COARSE), False),
    "KITTI, 240 x 180 x 20": Case((64, 2000), 1, 4096, 954.0, cylinder(-4.0, 2.0, COARSE), False),
    "nuScenes, 0.1 m cubes": Case((32, 1084), 6, 1024, 1266.0, CartesianGrid.centred(50.0, 0.1, 16), False),
}


class Scene:
    """Rays and a field, and one step of learning from them."""

    def __init__(self, case: Case, share: float) -> None:
        torch.manual_seed(0)
        points = cast_scan(*case.beams)
        keys = find_voxels(case.grid.cells(points), torch.zeros(len(points), dtype=torch.int64)).keys
        self.rays = camera_rays(case.cameras, int(case.rays * share), case.focal_px)
        self.volume = Volume(keys, case.grid, 1)
        self.head = RadianceHead(RECIPE.reduced_dim, NUM_CLASSES, RECIPE.reduced_dim, RECIPE.hidden_dims, -1.0)
        self.features = torch.randn(len(keys), RECIPE.reduced_dim, requires_grad=True)

    def render(self, name: str) -> Rendered:
        """Forward."""
        field = RadianceField(self.head, self.volume, self.head.reduce(self.features))
        return RENDERERS[name](self.rays, field, LONGEST_STEP_M)

    def step(self, name: str) -> Rendered:
        """Forward and backward."""
        found = self.render(name)
        (found.semantics.logsumexp(1).mean() + found.depth_m.mean()).backward()
        return found


def camera_rays(num_cameras: int, num_rays: int, focal_px: float) -> RayBatch:
    """Random pixels of cameras that look around evenly, none above the highest beam."""
    generator = np.random.default_rng(0)
    bundles = []
    for place in range(num_cameras):
        yaw = 2 * math.pi * place / num_cameras
        axes = np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]], np.float64)
        turn = np.array([[math.cos(yaw), -math.sin(yaw), 0], [math.sin(yaw), math.cos(yaw), 0], [0, 0, 1]])
        lidar_SE3_cam = np.eye(4)
        lidar_SE3_cam[:3, :3], lidar_SE3_cam[:3, 3] = turn @ axes, turn @ [0.7, 0.0, -0.3]
        pixels = np.stack([generator.integers(0, 1600, 4 * num_rays), generator.integers(0, 900, 4 * num_rays)], 1)
        intrinsics = np.array([[focal_px, 0, 800], [0, focal_px, 450], [0, 0, 1]])
        pose = inverse(from_matrix(lidar_SE3_cam))
        rays = pixel_rays(pixel_centres(pixels), intrinsics, pose, (RECIPE.near_m, RECIPE.far_m), place)
        below = (rays.directions[:, 2] <= HIGHEST_BEAM).nonzero().flatten()[:num_rays]
        bundles.append(rays.select(below))
    return joined(bundles)


def kept_mib(scene: Scene, name: str) -> float:
    """What autograd keeps for the backward pass, each storage once."""
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        found = scene.render(name)
        total = sum(kept.values()) / 2**20
    del found
    return total


def peak_mib(scene: Scene, name: str) -> float:
    """How much a process grows that takes one step, measured in a child of its own."""
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()

    def work() -> None:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        scene.step(name)
        results.put((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10)

    child = context.Process(target=work)
    child.start()
    grown = results.get()
    child.join()
    return grown


def measure(case: Case, quick: bool) -> Row:
    """Everything of one case."""
    scene = Scene(case, 0.25 if quick else 1.0)
    found = {name: scene.step(name) for name in RENDERERS}
    error = max(
        float((getattr(found["packed"], part) - getattr(found["dense"], part)).detach().abs().max())
        for part in ("semantics", "depth_m", "opacity")
    )
    row: Row = {"rays": len(scene.rays), "cells": len(scene.volume.keys), "error": float(f"{error:.1e}")}
    timing = interleaved({name: lambda n=name: scene.step(n) for name in RENDERERS}, 2 if quick else 5)
    for name in RENDERERS:
        row |= {
            f"{name}_samples": found[name].num_samples,
            f"{name}_cpu_ms": round(timing[name][0], 1),
            f"{name}_kept_mib": round(kept_mib(scene, name), 1),
            f"{name}_peak_mib": round(peak_mib(scene, name), 1),
        }
    row["samples_ratio"] = round(row["dense_samples"] / row["packed_samples"], 1)
    row["speedup_ratio"] = round(row["dense_cpu_ms"] / row["packed_cpu_ms"], 1)
    row["met_ratio"] = round(float((found["packed"].opacity > 0).float().mean().detach()), 3)
    return row


def main() -> int:
    """Measures, prints, writes; 1 where an aim is missed."""
    args = parser(__doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(1)
    ledger = Ledger(args.json)
    names = list(CASES)[: 2 if args.quick else None]
    rows = [
        ledger.measure({"case": name, "quick": args.quick}, lambda n=name: measure(CASES[n], args.quick))
        for name in names
    ]
    columns = ("samples", "cpu_ms", "kept_mib", "peak_mib")
    lines = [
        [
            row["case"],
            row["rays"],
            *(f"{row[f'packed_{c}']:.0f} / {row[f'dense_{c}']:.0f}" for c in columns),
            f"{row['samples_ratio']}x",
            f"{row['speedup_ratio']}x",
            f"{row['error']:.0e}",
        ]
        for row in rows
    ]
    print_table(["packed / dense", "rays", *columns, "fewer", "faster", "error"], lines)
    wrong = [row["case"] for row in rows if _misses(row)]
    print(f"aims missed: {'; '.join(wrong) or 'none'}")
    return int(bool(wrong))


def _misses(row: Row) -> bool:
    is_far = CASES[row["case"]].is_published and (row["samples_ratio"] < FEWER_SAMPLES or row["speedup_ratio"] < FASTER)
    return is_far or not row["error"] <= TOLERANCE


if __name__ == "__main__":
    sys.exit(main())
