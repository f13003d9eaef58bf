import torch
from torch.nn import functional

from ray_lidarseg.models.asymmetric_unet import COARSENINGS, AsymmetricUNet
from ray_lidarseg.sparse.build import load_backend
from ray_lidarseg.sparse.geometry import VoxelGeometry
from ray_lidarseg.sparse.modules import SparseConv3d


def _dense(conv: SparseConv3d, x: torch.Tensor, stride=(1, 1, 1)) -> torch.Tensor:
    weight = conv.weight.unflatten(0, conv.kernel)
    padding = [size // 2 for size in conv.kernel]
    if conv.kind == "up":
        sizes = [1 if step == 2 else 0 for step in stride]
        return functional.conv_transpose3d(x, weight.permute(3, 4, 0, 1, 2), None, stride, padding, sizes)
    return functional.conv3d(x, weight.permute(4, 3, 0, 1, 2), None, stride, padding)


def _activated(layer, x):
    norm = layer.norm
    y = functional.leaky_relu(_dense(layer.conv, x))
    return functional.batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)


def _chain(layers, x):
    for layer in layers:
        x = _activated(layer, x)
    return x


def _plain_twin(network: AsymmetricUNet, x: torch.Tensor) -> torch.Tensor:
    """The whole network on a dense grid, every cell of it occupied."""
    x = _chain(network.context.one, x) + _chain(network.context.other, x)
    skips = []
    for stage, step in zip(network.down, COARSENINGS, strict=True):
        x = _chain(stage.pairs.one, x) + _chain(stage.pairs.other, x)
        skips.append(x)
        x = _dense(stage.coarsen, x, step.stride)
    for stage, step in zip(network.up, COARSENINGS[::-1], strict=True):
        x = _dense(stage.refine, _activated(stage.prepare, x), step.stride) + skips.pop()
        x = _chain(stage.blend, x)
    weights = 0
    for conv, norm in zip(network.reweight.convs, network.reweight.norms, strict=True):
        y = _dense(conv, x)
        y = functional.batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
        weights = weights + y.sigmoid()
    return torch.cat([weights * x, x], 1)


def test_on_a_full_grid_it_is_the_dense_network():
    torch.manual_seed(0)
    sizes = (16, 16, 4)
    coords = torch.cartesian_prod(torch.zeros(1, dtype=torch.int64), *map(torch.arange, sizes))
    geometry = VoxelGeometry(VoxelGeometry.of_coords(coords).keys, sizes, COARSENINGS)
    network = AsymmetricUNet(3, 2, load_backend("torch")).eval().double()
    x = torch.randn(len(coords), 3, dtype=torch.float64)
    dense = _plain_twin(network, x.T.reshape(1, 3, *sizes))
    torch.testing.assert_close(network(x, geometry), dense.flatten(2)[0].T, rtol=1e-8, atol=1e-10)
    assert [geometry.level_shape(level) for level in range(5)] == [
        (16, 16, 4),
        (8, 8, 2),
        (4, 4, 1),
        (2, 2, 1),
        (1, 1, 1),
    ]


def test_kernels_of_different_shapes_have_their_own_neighbours():
    """Against the published defect: a map for each kernel shape on each level, and all weights act."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    cells = torch.randint(0, 12, (800, 3), generator=generator)
    rows = torch.cat([torch.zeros(800, 1, dtype=torch.int64), cells], 1).unique(dim=0)
    geometry = VoxelGeometry(VoxelGeometry.of_coords(rows).keys, (12, 12, 12), COARSENINGS)
    network = AsymmetricUNet(3, 2, load_backend("torch"))
    network(torch.randn(len(rows), 3), geometry).square().sum().backward()
    submanifold = {(level, kernel) for kind, level, kernel in geometry._maps if kind == "submanifold"}
    pair_and_cube = {(1, 3, 3), (3, 1, 3), (3, 3, 3)}
    assert {kernel for level, kernel in submanifold if level == 0} == pair_and_cube | {(3, 1, 1), (1, 3, 1), (1, 1, 3)}
    assert all({kernel for at, kernel in submanifold if at == level} == pair_and_cube for level in (1, 2, 3))
    for module in network.modules():
        if isinstance(module, SparseConv3d) and module.level < 2:  # coarser levels are smaller than their kernels
            assert module.weight.grad.flatten(1).any(1).all(), module


def test_levels_are_those_of_the_published_grid():
    geometry = VoxelGeometry(torch.zeros(1, dtype=torch.int64), (480, 360, 32), COARSENINGS)
    assert [geometry.level_shape(level) for level in range(5)] == [
        (480, 360, 32),
        (240, 180, 16),
        (120, 90, 8),
        (60, 45, 8),
        (30, 23, 8),
    ]
