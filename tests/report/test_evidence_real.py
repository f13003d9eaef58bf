"""Real recordings of three sensors, from the manifest to the page: the shipped CLIP on masks that cost no time."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pyarrow import fs

from ray_lidarseg.datasets import ontology_files
from ray_lidarseg.datasets.decode import decode
from ray_lidarseg.datasets.shards import write_shard
from ray_lidarseg.index import index
from ray_lidarseg.prepare import Teachers, prepare
from ray_lidarseg.report.evidence_frames import Shown, read_evidence
from ray_lidarseg.report.page import report
from ray_lidarseg.sample import Keyframe
from tests.datasets.real_recordings import KITTI, NUSCENES, OUSTER, kitti_record, nuscenes_record, rellis_record
from tests.prepare.camera_log import without_ray


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    without_ray(monkeypatch)


def stripes(folder: Path, cameras: dict[str, Any]) -> Path:
    """Masks a user may have: eight upright stripes on each image."""
    folder.mkdir()
    for camera in cameras.values():
        stripe = np.arange(camera["width"]) * 8 // camera["width"] + 1
        image = Image.fromarray(np.tile(stripe.astype(np.uint8), (camera["height"], 1)))
        image.save(folder / f"{Path(camera['image']).stem}.png")
    return folder


def prepared(root: Path, record: dict[str, Any], ontology: str, masks: Path) -> str:
    """The folder `index` and `prepare --masks files --features clip` write."""
    (root / "log.jsonl").write_text(json.dumps(record) + "\n")
    (root / "log.yaml").write_text(ontology)
    listed, out = str(root / "index.parquet"), str(root / "out")
    index("manifest", str(root / "log.jsonl"), listed, ontology=str(root / "log.yaml"))
    read_as = ontology_files.of_index(listed)
    ontology_files.keep(read_as, out)
    frames = [decode(Keyframe.from_row(row), read_as) for row in pq.read_table(listed).to_pylist()]
    write_shard(fs.LocalFileSystem(), out, frames)
    prepare(listed, out, teachers=Teachers.of("files", "clip", [f"masks.folder={masks}"]))
    return out


def shown_alone(out: str) -> Shown:
    (shown,), problems = read_evidence(out, 1)
    assert problems == []
    return shown


def test_rellis_points_of_the_person_lie_on_the_mask_a_person_drew(samples: Path, tmp_path: Path) -> None:
    folder = samples / "rellis3d"
    shown = shown_alone(prepared(tmp_path, rellis_record(folder), OUSTER, folder))
    assert shown.notes == []
    (frame,) = shown.frames
    (image,) = frame.cameras
    person = (frame.frame.labels == 2) & frame.is_paired
    column, row = frame.point_pixel[person].T
    ids = np.bincount(image.segments[row, column])
    assert ids.max() / ids.sum() > 0.75  # 0.8; the rest lies on the outline
    covered = np.mean(image.segments == ids.argmax())
    assert 0.001 < covered < 0.05  # that mask is the person, not the meadow
    assert shown.counts.scored > 5_000
    assert len(np.unique(frame.zero_shot[frame.is_paired])) > 1


def test_six_cameras_of_nuscenes_each_have_their_pictures(samples: Path, tmp_path: Path) -> None:
    record = nuscenes_record(samples / "mmdet3d_demo" / "nuscenes")
    out = prepared(tmp_path, record, NUSCENES, stripes(tmp_path / "masks", record["cameras"]))
    shown = shown_alone(out)
    assert ["FRONT" in image.camera.name for image in shown.frames[0].cameras] == [True] * 3 + [False] * 3
    points_of_camera = np.bincount(shown.frames[0].point_camera + 1, minlength=7)[1:]
    assert points_of_camera.min() > 500
    assert shown.counts.segments == 6 * 8
    assert shown.counts.seen == shown.counts.paired  # stripes leave no gap
    report([], str(tmp_path / "page.html"), prepared=out)
    page = (tmp_path / "page.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 6 * 4
    assert page.count("8 masks on 100% of the image") >= 6
    assert "no zero-shot score" in page


def test_kitti_has_one_camera_and_most_points_lie_outside(samples: Path, tmp_path: Path) -> None:
    record = kitti_record(samples / "kitti_object" / "training", 0)
    shown = shown_alone(prepared(tmp_path, record, KITTI, stripes(tmp_path / "masks", record["cameras"])))
    assert 0.1 < shown.counts.paired / shown.counts.points < 0.25
    (frame,) = shown.frames
    assert frame.frame.points[frame.is_paired, 0].min() > 1.0  # the camera looks along x
    assert set(np.unique(frame.zero_shot[frame.is_paired])) == {0}  # the ontology has one class
