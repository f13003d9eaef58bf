import io
import pickle

import pytest
import torch

from ray_lidarseg.datasets.parcel import packed, unpacked
from ray_lidarseg.geometry.rays import no_rays
from ray_lidarseg.sample import PointBatch
from ray_lidarseg.types import IGNORE


def batch(labels: list[int], extras: dict[str, torch.Tensor] | None = None) -> PointBatch:
    points = torch.rand(len(labels), 4, generator=torch.Generator().manual_seed(0))
    return PointBatch.of_scan(points, torch.tensor(labels, dtype=torch.int64), extras or {})


def assert_same(one: PointBatch, other: PointBatch) -> None:
    for name in ("points", "scan_idx", "labels"):
        assert torch.equal(getattr(one, name), getattr(other, name))
        assert getattr(one, name).dtype == getattr(other, name).dtype
    assert one.num_scans == other.num_scans
    assert {name: value.tolist() for name, value in one.extras.items()} == {
        name: value.tolist() for name, value in other.extras.items()
    }


def test_what_arrives_is_what_was_sent() -> None:
    segments = {"segment": torch.tensor([0, 70_000, -1]), "feature": torch.rand(3, 2)}
    step = [(batch([0, 15, IGNORE], segments), batch([IGNORE] * 3, segments)), (batch([]), batch([3]))]
    arrived = unpacked(pickle.loads(pickle.dumps(packed(step))))
    assert [len(pair) for pair in arrived] == [2, 2]
    for pair, other in zip(step, arrived, strict=True):
        for one, back in zip(pair, other, strict=True):
            assert_same(one, back)


def test_rays_travel_too() -> None:
    one = PointBatch(torch.zeros(0, 4), *(torch.zeros(0, dtype=torch.int64) for _ in range(2)), 1, {}, no_rays(1))
    back = unpacked(packed([(one, one)]))[0][0]
    assert (len(back.rays), back.rays.num_scans, back.rays.labels.dtype) == (0, 1, torch.int64)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([0, 255], torch.uint8),
        ([-1, 15], torch.int16),
        ([256], torch.int16),
        ([40_000], torch.int32),
        ([], torch.uint8),
    ],
)
def test_whole_numbers_take_the_smallest_type_that_holds_them(values: list[int], kind: torch.dtype) -> None:
    assert packed(torch.tensor(values, dtype=torch.int64)).values.dtype == kind


def test_numbers_beyond_32_bits_and_floats_stay() -> None:
    for tensor in (torch.tensor([1 << 40]), torch.tensor([1.5])):
        assert packed(tensor) is tensor


def test_a_step_takes_little_more_than_half_the_bytes() -> None:
    step = [(batch([1] * 5_000), batch([IGNORE] * 5_000))]
    plain, small = io.BytesIO(), io.BytesIO()
    torch.save(step, plain)
    torch.save(packed(step), small)
    assert small.tell() < 0.6 * plain.tell()  # 18 of 32 bytes a point
