import math

import pytest
import torch

from ray_lidarseg.sparse.kernel_map import offsets_of
from ray_lidarseg.sparse.layout import from_spconv, from_torchsparse, to_spconv, to_torchsparse

KERNELS = [(3, 3, 3), (3, 1, 3), (1, 3, 5), (2, 2, 2), (1, 1, 1)]


def _weight(kernel):
    return torch.arange(math.prod(kernel) * 6.0).reshape(math.prod(kernel), 2, 3)


@pytest.mark.parametrize("kernel", KERNELS)
def test_round_trips(kernel):
    weight = _weight(kernel)
    assert torch.equal(from_torchsparse(to_torchsparse(weight, kernel), kernel), weight)
    assert torch.equal(from_spconv(to_spconv(weight, kernel)), weight)


def test_torchsparse_counts_odd_kernels_x_fastest():
    weight, other = _weight((3, 3, 3)), to_torchsparse(_weight((3, 3, 3)), (3, 3, 3))
    for x in range(3):
        for y in range(3):
            for z in range(3):
                assert torch.equal(other[x + 3 * y + 9 * z], weight[9 * x + 3 * y + z])
    assert to_torchsparse(_weight((1, 1, 1)), (1, 1, 1)).shape == (2, 3)
    assert torch.equal(to_torchsparse(_weight((2, 2, 2)), (2, 2, 2)), _weight((2, 2, 2)))


def test_spconv_keeps_space_in_the_middle():
    weight = _weight((3, 1, 5))
    other = to_spconv(weight, (3, 1, 5))
    assert other.shape == (3, 3, 1, 5, 2)
    index = offsets_of((3, 1, 5)).index((1, 0, -2))
    assert torch.equal(other[:, 2, 0, 0, :], weight[index].T)
