"""The variants the benchmark of sparse convolution compares compute the same, on a scan too small to time."""

import pytest
import torch

from ray_lidarseg.geometry.voxelize import CartesianGrid, find_voxels
from ray_lidarseg.sparse.geometry import VoxelGeometry
from tests.bench.sparse_conv import TOLERANCE, bench_layer, bench_maps, bench_network, cast_scan, row_of


@pytest.fixture(scope="module")
def points() -> torch.Tensor:
    return cast_scan(8, 64)


@pytest.fixture(scope="module")
def geometry(points) -> VoxelGeometry:
    grid = CartesianGrid.centred(51.2, 0.4, 16)
    voxels = find_voxels(grid.cells(points), torch.zeros(len(points), dtype=torch.int64))
    return VoxelGeometry(voxels.keys, grid.shape)


def test_maps_layers_and_networks_of_all_variants_agree(points, geometry):
    _, differs = bench_maps(geometry.keys, 1)
    _, of_layer, gflop = bench_layer(geometry, 16, 1)
    timing, of_network = bench_network(points, 0.4, 1)
    assert differs == 0.0
    assert max(of_layer, of_network) <= TOLERANCE
    assert gflop > 0
    assert row_of(timing, of_network)["cpu_speedup_ratio"] > 0


def test_the_share_is_of_the_products_alone():
    timing = {"ours": (4.0, 8.0), "naive": (12.0, 16.0), "mm": (2.0, 4.0)}
    row = row_of(timing, 0.0, gflop=1.0)
    assert (row["bound_share_ratio"], row["cpu_speedup_ratio"], row["wall_speedup_ratio"]) == (0.5, 3.0, 2.0)
    assert row["ours_gflop_per_cpu_s"] == 250.0
