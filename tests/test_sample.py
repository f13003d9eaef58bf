import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

import ray_lidarseg.batches
import ray_lidarseg.sample
from ray_lidarseg.geometry.mixing import exchange
from ray_lidarseg.geometry.polar_mix import paste
from ray_lidarseg.sample import CameraImage, Keyframe, PointBatch, RayBatch
from ray_lidarseg.types import IGNORE, IMAGE_SEGMENT


def _frame() -> Keyframe:
    rng = np.random.default_rng(0)
    camera = CameraImage("CAM_FRONT", "a.jpg", np.eye(3), np.arange(16.0).reshape(4, 4), 7, 96, 54, b"jpeg")
    return Keyframe(
        frame_id="f0",
        dataset="nuscenes",
        scene="s0",
        split="train",
        timestamp_us=5,
        points_uri="a.bin",
        labels_uri="a.label",
        points=rng.normal(size=(6, 4)).astype(np.float32),
        labels=np.array([0, 1, 2, IGNORE, 4, 5], np.uint8),
        ring=np.arange(6, dtype=np.uint8),
        cameras=(camera,),
        alias="token",
    )


def test_a_keyframe_survives_arrow_and_back() -> None:
    frame = _frame()
    row = pa.Table.from_pylist([frame.to_row()]).to_pylist()[0]
    back = Keyframe.from_row(row)
    assert (back.frame_id, back.scene, back.split, back.timestamp_us) == ("f0", "s0", "train", 5)
    np.testing.assert_array_equal(back.points, frame.points)
    np.testing.assert_array_equal(back.labels, frame.labels)
    np.testing.assert_array_equal(back.ring, frame.ring)
    np.testing.assert_array_equal(back.cameras[0].cam_SE3_lidar, frame.cameras[0].cam_SE3_lidar)
    assert back.alias == "token"
    assert Keyframe.from_row({key: value for key, value in row.items() if key != "alias"}).alias == ""
    assert back.cameras[0].image == b"jpeg"
    assert (back.cameras[0].width_px, back.cameras[0].height_px) == (96, 54)


def test_rows_hold_no_null_and_no_python_object() -> None:
    table = pa.Table.from_pylist([_frame().to_row(), Keyframe("f1", "nuscenes", "s", "val", 0, "b.bin").to_row()])
    assert all(not pa.types.is_null(column.type) for column in table.select(table.column_names[:12]).columns)
    assert table.column("points").null_count == 0


def _batch(*sizes: int) -> PointBatch:
    scans = []
    for size in sizes:
        points = torch.arange(4.0 * size).reshape(size, 4)
        scans.append(PointBatch.of_scan(points, torch.arange(size), {"feature": points[:, :2] * 2}))
    return PointBatch.pack(scans)


def test_packing_and_unpacking_are_inverse_also_with_an_empty_scan() -> None:
    batch = _batch(3, 0, 2)
    assert batch.num_scans == 3
    assert batch.scan_idx.tolist() == [0, 0, 0, 2, 2]
    scans = batch.scans()
    assert [len(scan) for scan in scans] == [3, 0, 2]
    again = PointBatch.pack(scans)
    assert torch.equal(again.points, batch.points)
    assert torch.equal(again.extras["feature"], batch.extras["feature"])


def test_extras_and_labels_follow_a_selection() -> None:
    batch = _batch(4)
    chosen = batch.select(torch.tensor([True, False, False, True]))
    assert chosen.labels.tolist() == [0, 3]
    assert torch.equal(chosen.extras["feature"], batch.points[[0, 3], :2] * 2)


def test_unlabelled_hides_every_label() -> None:
    assert (_batch(4).unlabelled().labels == IGNORE).all()


def test_pack_refuses_what_does_not_fit_together() -> None:
    with pytest.raises(ValueError, match="extras differ"):
        PointBatch.pack([_batch(2), PointBatch.of_scan(torch.zeros(2, 4))])
    with pytest.raises(ValueError, match="at least one"):
        PointBatch.pack([])


def _on_segments(*numbers: int) -> PointBatch:
    """One scan; the value of a segment is 10 times its number in the scan, plus the scan's number of points."""
    table = 10.0 * torch.arange(1 + max(numbers)) + len(numbers)
    table[0] = 0
    scan = PointBatch.of_scan(torch.zeros(len(numbers), 4), extras={IMAGE_SEGMENT: torch.tensor(numbers)})
    return replace(scan, segments={"value": table})


def test_packed_scans_keep_their_segments_apart_and_selections_and_mixing_keep_them() -> None:
    batch = PointBatch.pack([_on_segments(0, 2, 1), _on_segments(0), _on_segments(3, 0)])
    assert batch.extras[IMAGE_SEGMENT].tolist() == [0, 2, 1, 0, 5, 0]
    assert batch.of_segments("value").tolist() == [0, 23, 13, 0, 32, 0]
    assert len(batch.segments["value"]) == 6  # row 0 once, and of each scan what it has
    assert batch.scan(2).of_segments("value").tolist() == [32, 0]
    assert batch.select(torch.tensor([4, 2])).of_segments("value").tolist() == [32, 13]
    assert batch.unlabelled().to("cpu").of_segments("value").tolist() == batch.of_segments("value").tolist()
    other = PointBatch.pack([_on_segments(1), _on_segments(1, 1), _on_segments(0)])
    mixed = exchange(batch, other, torch.zeros(6, dtype=torch.bool), torch.ones(4, dtype=torch.bool))
    assert mixed.scan(0).of_segments("value").tolist() == [0, 23, 13, 11]
    assert mixed.scan(2).of_segments("value").tolist() == [0, 12, 12]
    with pytest.raises(ValueError, match="extras differ"):
        PointBatch.pack([batch, replace(other, segments={})])


def _rays(*sizes: int) -> RayBatch:
    bundles = []
    for size in sizes:
        rows = torch.arange(3.0 * size).reshape(size, 3)
        flat, whole = torch.arange(float(size)), torch.arange(size)
        zeros = torch.zeros_like(whole)
        bundles.append(RayBatch(rows, rows, zeros, flat, flat + 1, 1, flat, whole, {"pixel": rows[:, :2]}))
    return RayBatch.pack(bundles)


def test_rays_pack_and_unpack_with_their_scans_also_where_a_scan_has_none() -> None:
    batch = PointBatch.pack(
        [replace(scan, rays=_rays(size)) for scan, size in zip(_batch(3, 0, 2).scans(), (2, 1, 0), strict=True)]
    )
    assert batch.rays.num_scans == 3
    assert batch.rays.scan_idx.tolist() == [0, 0, 1]
    assert [len(scan.rays) for scan in batch.scans()] == [2, 1, 0]
    again = PointBatch.pack(batch.scans())
    for name in ("origins", "directions", "scan_idx", "near_m", "far_m", "depth_m", "labels"):
        assert torch.equal(getattr(again.rays, name), getattr(batch.rays, name))
    assert torch.equal(again.rays.extras["pixel"], batch.rays.extras["pixel"])


def test_choosing_points_leaves_the_rays_and_hiding_labels_hides_theirs_too() -> None:
    batch = replace(_batch(4), rays=_rays(3))
    assert batch.select(batch.labels > 1).rays is batch.rays
    assert (batch.unlabelled().rays.labels == IGNORE).all()
    assert torch.equal(batch.unlabelled().rays.depth_m, batch.rays.depth_m)
    assert len(batch.to("cpu").rays) == 3
    assert batch.rays.select(torch.tensor([0, 2])).labels.tolist() == [0, 2]


def test_rays_in_some_batches_only_are_refused() -> None:
    with pytest.raises(ValueError, match="1 of 2 batches have rays"):
        PointBatch.pack([replace(_batch(2), rays=_rays(1)), _batch(2)])


def test_a_mixed_scan_has_no_rays() -> None:
    a, b = (replace(_batch(3), rays=_rays(2)) for _ in range(2))
    swap = torch.tensor([True, False, True])
    assert exchange(a, b, swap, swap).rays is None
    assert paste(a, b, [1], torch.zeros(1, 1)).rays is None


@pytest.mark.parametrize(
    "module",
    ["index", "validate", "world", "prepare", "prepare.decoding", "datasets.decode", "runtime.cluster", "sample"],
)
def test_what_only_reads_frames_does_without_torch(module: str) -> None:
    """Importing torch takes a second and a half of processor time, in every worker."""
    code = f"import sys, ray_lidarseg.{module}; sys.exit('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}; {code}"]).returncode == 0
    )


def test_batches_come_from_where_frames_do() -> None:
    assert ray_lidarseg.sample.PointBatch is ray_lidarseg.batches.PointBatch
    assert ray_lidarseg.sample.RayBatch is ray_lidarseg.batches.RayBatch
    with pytest.raises(AttributeError, match="has no attribute 'PointCloud'"):
        ray_lidarseg.sample.PointCloud  # noqa: B018
