"""Layers from a log with cameras, in this process: what is computed, what is skipped, what a bad file costs."""

import errno
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pyarrow import fs
from safetensors.torch import save_file

from ray_lidarseg.datasets.catalog import read_catalog
from ray_lidarseg.datasets.evidence import EvidenceReader, read_text
from ray_lidarseg.datasets.layers import (
    LayerRows,
    cameras_of,
    layer_digests,
    layer_entries,
    layer_folder,
    segments_of,
)
from ray_lidarseg.datasets.shards import list_shards
from ray_lidarseg.errors import DataError, StorageError
from ray_lidarseg.foundation.clip_architecture import MINIATURE, build_clip_miniature
from ray_lidarseg.foundation.prompts import vocabulary_of
from ray_lidarseg.prepare import PrepareReport, Teachers, prepare, stages, status, workers
from ray_lidarseg.types import IMAGE_FEATURES, IMAGE_SEGMENT, LANGUAGE_LOGITS
from tests.prepare.camera_log import (
    CAMERAS,
    HEIGHT_PX,
    WIDTH_PX,
    decoded,
    frame_id,
    image_file,
    without_ray,
    write_image,
    write_log,
)

LOCAL = fs.LocalFileSystem()
COUNT = 5
SLIC = ("masks.num_segments=4", "masks.sigma=0", "pairs.occlusion=no")


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    without_ray(monkeypatch)


@pytest.fixture
def index(tmp_path: Path) -> str:
    return write_log(tmp_path, COUNT)


@pytest.fixture
def out(index: str, tmp_path: Path) -> str:
    decoded(index, str(tmp_path / "out"))
    return str(tmp_path / "out")


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> list[str]:
    """Two CLIPs with random weights."""
    folders = []
    for seed in (0, 1):
        folder = tmp_path_factory.mktemp(f"clip{seed}")
        (folder / "open_clip_config.json").write_text(json.dumps(MINIATURE))
        save_file(build_clip_miniature(seed).state_dict(), folder / "open_clip_model.safetensors")
        folders.append(f"local-dir:{folder}")
    return folders


def slic(*more: str) -> Teachers:
    return Teachers.of("slic", overrides=[*SLIC, *more])


def with_clip(checkpoint: str, *more: str) -> Teachers:
    return Teachers.of("slic", "clip", [*SLIC, f"features.checkpoint={checkpoint}", *more])


def layer_of(out: str, kind: str) -> str:
    (name,) = [path.name for path in Path(out, "layers").iterdir() if path.name.startswith(kind)]
    return name


def failures(out: str, kind: str) -> dict[str, str]:
    lines = Path(layer_folder(out, layer_of(out, kind)), "failures.jsonl").read_text().splitlines()
    return {line["frame_id"]: line["reason"] for line in map(json.loads, lines)}


def modified(out: str) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in Path(out).rglob("shard-*")}


def test_every_point_gets_the_feature_of_its_segment(index: str, out: str, clips: list[str]) -> None:
    report = prepare(index, out, teachers=with_clip(clips[0]))
    assert [(layer.layer.partition("-")[0], layer.done, layer.failed) for layer in report.layers] == [
        ("masks", COUNT, 0),
        ("pairs", COUNT, 0),
        ("features", COUNT, 0),
    ]
    catalog = read_catalog(LOCAL, out)
    reader = EvidenceReader(LOCAL, out, catalog, "auto")
    masks, pairs = (LayerRows(LOCAL, out, layer_of(out, kind)) for kind in ("masks", "pairs"))
    for position, name in enumerate(catalog.frame_id):
        row = masks.row(name)
        assert cameras_of(row) == list(CAMERAS)
        evidence, pair = reader.evidence(position), pairs.row(name)
        pixels = np.frombuffer(pair["point_pixel"], np.int16).reshape(-1, 2)
        assert evidence.point_camera[:5].tolist() == [0] * 5, "both cameras see them at the same place: the first wins"
        assert evidence.point_camera[5:].tolist() == [-1] * (len(pixels) - 5)
        segments = segments_of(row, CAMERAS[0])
        assert segments.shape == (HEIGHT_PX, WIDTH_PX)
        np.testing.assert_array_equal(evidence.point_segment[:5], segments[pixels[:5, 1], pixels[:5, 0]])
        extras, segments = reader.read(position, [IMAGE_FEATURES, LANGUAGE_LOGITS])
        row = extras[IMAGE_SEGMENT]
        assert (row > 0).tolist() == [True] * 5 + [False] * (len(pixels) - 5)
        features = segments[IMAGE_FEATURES].numpy().astype(float)
        np.testing.assert_allclose(np.linalg.norm(features[row[:5]], axis=1), 1, atol=2e-3)
        assert segments[LANGUAGE_LOGITS].shape == (len(features), 19)
        assert not features[0].any()


def test_nothing_is_computed_twice_and_no_teacher_is_built_for_nothing(
    index: str, out: str, clips: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(index, out, teachers=with_clip(clips[0]))
    before = modified(out)
    for kind in ("build_masks", "build_features"):
        monkeypatch.setattr(workers, kind, lambda *_: pytest.fail("a teacher was built"))
    again = prepare(index, out, teachers=with_clip(clips[0]))
    assert [(layer.done, layer.skipped) for layer in again.layers] == [(0, COUNT)] * 3
    assert modified(out) == before


def test_another_checkpoint_makes_a_layer_of_its_own_and_the_old_one_stays(
    index: str, out: str, clips: list[str], capsys
) -> None:
    first = prepare(index, out, teachers=with_clip(clips[0])).layers
    before = modified(out)
    capsys.readouterr()
    second = prepare(index, out, teachers=with_clip(clips[1])).layers
    assert [layer.layer for layer in first][:2] == [layer.layer for layer in second][:2]
    assert [layer.done for layer in second] == [0, 0, COUNT]
    said = capsys.readouterr().out
    assert f"{second[2].layer} is a new layer: checkpoint_sha256 " in said
    assert f"; {first[2].layer} stays as it is" in said
    assert before.items() <= modified(out).items()
    with pytest.raises(DataError, match=rf"2 features layers.*data.evidence={min(first[2].layer, second[2].layer)}"):
        EvidenceReader(LOCAL, out, read_catalog(LOCAL, out), "auto")


def test_other_words_are_embedded_again_and_nothing_else_is_computed(
    index: str, out: str, clips: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(index, out, teachers=with_clip(clips[0]))
    before, name = modified(out), layer_of(out, "features")
    words = vocabulary_of([(f"thing {number}", "stuff") for number in range(19)])
    monkeypatch.setattr(stages, "vocabulary", lambda dataset, ontology: words)
    prepare(index, out, teachers=with_clip(clips[0]))
    assert "38 words of the classes embedded again" in capsys.readouterr().out
    text = read_text(LOCAL, out, name)
    assert text.names == words.words
    assert text.embeddings.shape == (38, MINIATURE["model_cfg"]["embed_dim"])
    assert modified(out) == before
    prepare(index, out, teachers=with_clip(clips[0]))
    assert "embedded again" not in capsys.readouterr().out


def test_other_masks_recompute_all_that_reads_them(index: str, out: str, clips: list[str]) -> None:
    prepare(index, out, teachers=with_clip(clips[0]))
    again = prepare(index, out, teachers=with_clip(clips[0], "masks.compactness=9"))
    assert [layer.done for layer in again.layers] == [COUNT] * 3


def test_what_only_changes_speed_makes_no_new_layer(index: str, out: str, clips: list[str]) -> None:
    prepare(index, out, teachers=with_clip(clips[0]))
    again = prepare(index, out, teachers=with_clip(clips[0], "features.image_batch=1"))
    assert [layer.done for layer in again.layers] == [0, 0, 0]


def spoil(root: Path) -> dict[int, str]:
    """Three frames whose images cannot be used; the reasons to expect."""
    data = image_file(root, 0).read_bytes()
    image_file(root, 0).write_bytes(data[: len(data) // 2])
    Image.fromarray(np.zeros((10, 12, 3), np.uint8)).save(image_file(root, 1, "image_3"))
    image_file(root, 3).unlink()
    return {
        0: "image_2: .*000000.png is not a whole image: ",
        1: "image_3: .*000001.png has 12 x 10 pixels, its calibration is for 48 x 32",
        3: "image_2: cannot read .*000003.png: no such file",
    }


def test_bad_images_cost_their_frames_and_are_tried_again(index: str, out: str, tmp_path: Path, clips) -> None:
    reasons = spoil(tmp_path)
    report = prepare(index, out, max_failed_ratio=0.6, teachers=with_clip(clips[0]))
    assert [(layer.done, layer.failed) for layer in report.layers] == [(2, 3), (2, 0), (2, 0)]
    found = failures(out, "masks")
    assert list(found) == [frame_id(number) for number in reasons]
    for number, reason in reasons.items():
        assert re.search(reason, found[frame_id(number)])
    assert EvidenceReader(LOCAL, out, read_catalog(LOCAL, out), "auto").num_missing == 3
    for number in (0, 1):
        write_image(tmp_path, number, "image_2")
        write_image(tmp_path, number, "image_3")
    again = prepare(index, out, max_failed_ratio=0.6, teachers=with_clip(clips[0]), retry_failed=True)
    assert (again.layers[0].done, again.layers[0].skipped, again.layers[0].failed) == (2, 2, 1)
    assert list(failures(out, "masks")) == [frame_id(3)]
    last = prepare(index, out, max_failed_ratio=0.6, teachers=with_clip(clips[0]))
    assert [(layer.done, layer.skipped) for layer in last.layers] == [(0, 4), (2, 2), (2, 2)]


def test_only_the_failed_frames_are_tried_when_asked(index: str, out: str, tmp_path: Path) -> None:
    spoil(tmp_path)
    prepare(index, out, max_failed_ratio=0.6, teachers=slic())
    for file in Path(layer_folder(out, layer_of(out, "masks"))).glob("shard-*"):
        file.unlink()
    write_image(tmp_path, 3)
    report = prepare(index, out, max_failed_ratio=0.6, teachers=slic(), retry_failed=True)
    assert (report.layers[0].done, report.layers[0].failed) == (1, 2)


def test_too_many_bad_frames_stop_the_stage_and_name_reasons_and_file(index: str, out: str, tmp_path: Path) -> None:
    spoil(tmp_path)
    with pytest.raises(
        DataError, match=r"(?s)\d of 5 frames cannot .*000000.png is not a whole .*masks-\w+/failures.jsonl"
    ):
        prepare(index, out, teachers=slic())


@pytest.mark.parametrize("max_failed_ratio", [0.01, 1.0])
def test_a_full_disk_ends_the_job_whatever_share_may_fail_and_leaves_no_torn_file(
    index: str, out: str, monkeypatch: pytest.MonkeyPatch, max_failed_ratio: float
) -> None:
    name = slic().layers()[0].name
    fsync = os.fsync

    def full(handle: int) -> None:
        if f"/{name}/.unfinished-shard" in os.readlink(f"/proc/self/fd/{handle}"):
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"^cannot write .*shard-.*: the disk is full: free space or choose another"):
        prepare(index, out, max_failed_ratio, teachers=slic())
    assert [path.name for path in Path(layer_folder(out, name)).iterdir() if "shard" in path.name] == []
    monkeypatch.setattr(os, "fsync", fsync)
    assert prepare(index, out, teachers=slic()).layers[0].done == COUNT


def test_a_checkpoint_of_another_architecture_is_refused_before_any_image_is_read(
    index: str, out: str, clips: list[str]
) -> None:
    wrong = clips[0].removeprefix("local-dir:") + "/open_clip_model.safetensors"
    with pytest.raises(DataError, match=r"open_clip_model.safetensors"):
        prepare(index, out, teachers=Teachers.of("sam", overrides=[f"masks.checkpoint={wrong}"]))
    assert not list(Path(out).glob("layers/*/shard-*"))
    with pytest.raises(DataError, match=r"no checkpoint file at .*none.pth"):
        prepare(index, out, teachers=Teachers.of("sam", overrides=["masks.checkpoint=/none.pth"]))


def test_a_layer_of_other_settings_under_the_same_name_is_refused(index: str, out: str) -> None:
    prepare(index, out, teachers=slic())
    folder = Path(layer_folder(out, layer_of(out, "masks")))
    content = json.loads((folder / "layer.json").read_text())
    content["identity"]["num_segments"] = 7
    (folder / "layer.json").write_text(json.dumps(content))
    (folder / "catalog.parquet").unlink()
    with pytest.raises(DataError, match=r"holds a layer of other settings under the same name: delete it"):
        prepare(index, out, teachers=slic())


def test_frames_without_cameras_are_done_without_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.prepare.camera_log.CAMERAS", ())
    index = write_log(tmp_path, 2)
    decoded(index, str(tmp_path / "out"))
    report = prepare(index, str(tmp_path / "out"), teachers=slic())
    assert [layer.done for layer in report.layers] == [2, 2]


def test_a_result_that_got_lost_is_found_on_disk(index: str, out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that dies after its shard was written: the frames are not computed a second time under another name."""
    inline = stages.stream
    calls = []

    def forgetful(rows: list[dict], *arguments) -> list[dict]:
        calls.append(len(rows))
        results = list(inline(rows, *arguments))
        return [] if len(calls) == 1 else results

    monkeypatch.setattr(stages, "stream", forgetful)
    report = prepare(index, out, teachers=slic())
    assert report.layers[0].done == COUNT
    assert calls == [COUNT, 0, COUNT, 0]  # masks, then nothing left alone; pairs likewise
    ids = [entry["frame_id"] for entry in layer_entries(LOCAL, layer_folder(out, layer_of(out, "masks")))]
    assert sorted(ids) == sorted(set(ids))


def test_a_frame_no_result_ever_comes_of_is_a_failure(index: str, out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inline = stages.stream
    monkeypatch.setattr(
        stages, "stream", lambda rows, *rest: inline([row for row in rows if row["frame_id"] != frame_id(2)], *rest)
    )
    report = prepare(index, out, max_failed_ratio=0.2, teachers=slic())
    assert (report.layers[0].done, report.layers[0].failed) == (4, 1)
    assert failures(out, "masks") == {frame_id(2): "its worker process died 3 times (out of memory?)"}


def test_few_frames_are_spread_and_a_crash_costs_at_most_four(index: str, out: str) -> None:
    prepare(index, out, teachers=slic())
    assert len(list_shards(LOCAL, layer_folder(out, layer_of(out, "masks")))) == COUNT


def test_status_counts_what_is_done_left_failed_and_waiting(
    index: str, out: str, tmp_path: Path, clips, capsys
) -> None:
    (empty,) = status(index, str(tmp_path / "new"))
    assert (empty.done, empty.left, empty.waits) == (0, COUNT, 0)
    spoil(tmp_path)
    prepare(index, out, max_failed_ratio=0.6, teachers=with_clip(clips[0]))
    for file in list(Path(layer_folder(out, layer_of(out, "pairs"))).glob("shard-*"))[:1]:
        file.unlink()
    capsys.readouterr()
    found = {stage.name.partition("-")[0]: stage for stage in status(index, out)}
    counts = {name: (stage.done, stage.left, len(stage.failures), stage.waits) for name, stage in found.items()}
    assert counts == {"decode": (5, 0, 0, 0), "masks": (2, 0, 3, 0), "pairs": (1, 1, 0, 3), "features": (2, 0, 0, 3)}
    said = capsys.readouterr().out
    assert "(slic): 2 done, 0 left, 3 failed, " in said
    assert re.search(r"\(clip, checkpoint [0-9a-f]{8}\+[0-9a-f]{8}\): 2 done", said)  # configuration and weights
    assert f"    {frame_id(0)}: image_2: " in said
    assert "; 3 wait for the masks" in said


def done_by_kind(report: PrepareReport) -> dict[str, int]:
    return {layer.layer.partition("-")[0]: layer.done for layer in report.layers}


def test_replaced_images_are_shown_again_and_the_other_frames_stay(
    index: str, out: str, tmp_path: Path, clips: list[str], capsys
) -> None:
    teachers = with_clip(clips[0])
    prepare(index, out, teachers=teachers)
    before = LayerRows(LOCAL, out, layer_of(out, "features")).row(frame_id(1))
    capsys.readouterr()
    write_image(tmp_path, 1, "image_3", seed=99)
    write_image(tmp_path, 2)  # the same bytes once more
    report = prepare(index, out, teachers=teachers)
    said = capsys.readouterr().out
    assert re.search(rf"masks-\w+: what 1 frames were made of changed: {frame_id(1)} \(000001.png\); they are", said)
    done = done_by_kind(report)
    assert (report.done, done["masks"], done["features"]) == (0, 1, 1)
    now = LayerRows(LOCAL, out, layer_of(out, "features")).row(frame_id(1))
    same = [now[f"{camera}.segment_features"] == before[f"{camera}.segment_features"] for camera in CAMERAS]
    assert same == [True, False]
    ids = [entry["frame_id"] for entry in layer_entries(LOCAL, layer_folder(out, layer_of(out, "masks")))]
    assert sorted(ids) == [frame_id(number) for number in range(COUNT)], "an old row is still there"
    assert set(done_by_kind(prepare(index, out, teachers=teachers)).values()) == {0}


def test_rows_of_images_whose_masks_fail_now_are_gone(index: str, out: str, tmp_path: Path, clips, capsys) -> None:
    teachers = with_clip(clips[0])
    prepare(index, out, teachers=teachers)
    image_file(tmp_path, 1, "image_3").write_bytes(b"no image")
    before = modified(out)
    prepare(index, out, max_failed_ratio=0.6, teachers=teachers, retry_failed=True)
    assert modified(out) == before
    capsys.readouterr()
    report = prepare(index, out, max_failed_ratio=0.6, teachers=teachers)
    assert [(layer.done, layer.skipped, layer.failed) for layer in report.layers] == [(0, 4, 1), (0, 4, 0), (0, 4, 0)]
    said = capsys.readouterr().out
    for kind in ("pairs", "features"):
        assert re.search(rf"{kind}-\w+: their masks failed, so these rows are gone: {frame_id(1)} \(masks\)\n", said)
    assert held_by(out) == {kind: [0, 2, 3, 4] for kind in ("masks", "pairs", "features")}
    assert EvidenceReader(LOCAL, out, read_catalog(LOCAL, out), "auto").num_missing == 1
    write_image(tmp_path, 1, "image_3")
    assert done_by_kind(prepare(index, out, teachers=teachers)) == {"masks": 1, "pairs": 1, "features": 1}


def test_a_corrected_calibration_pairs_anew_and_shows_no_image_again(
    index: str, out: str, tmp_path: Path, clips: list[str], capsys
) -> None:
    teachers = with_clip(clips[0])
    fresh = str(tmp_path / "fresh")
    prepare(index, fresh, teachers=teachers)
    prepare(index, out, teachers=teachers)  # the shards of ``out`` do not say what they were made of
    for folder in (fresh, out):
        write_log(tmp_path, COUNT, moved=[3])
        for file in (tmp_path / "data" / "velodyne").iterdir():
            os.utime(file, (0, 0))  # the scans are what they were
        capsys.readouterr()
        report = prepare(index, folder, teachers=teachers)
        assert f"1 frames changed since they were prepared: {frame_id(3)} (calibration)" in capsys.readouterr().out
        assert (report.done, done_by_kind(report)) == (1, {"masks": 0, "pairs": 1, "features": 0})
        write_log(tmp_path, COUNT)
        prepare(index, folder, teachers=teachers)


def test_corrected_labels_or_scans_show_no_image_again(tmp_path: Path, clips: list[str]) -> None:
    index, out = write_log(tmp_path, COUNT), str(tmp_path / "fresh")
    prepare(index, out, teachers=with_clip(clips[0]))
    scan = tmp_path / "data" / "velodyne" / "000002.bin"
    (np.fromfile(scan, np.float32) * np.float32(0.9)).tofile(scan)
    report = prepare(index, out, teachers=with_clip(clips[0]))
    assert (report.done, done_by_kind(report)) == (1, {"masks": 0, "pairs": 1, "features": 0})


def held_by(out: str) -> dict[str, list[int]]:
    """Numbers of the frames that each finished layer lists and holds, by kind."""
    numbers = {}
    for kind in ("masks", "pairs", "features"):
        name = layer_of(out, kind)
        listed = sorted(layer_digests(LOCAL, out, name))
        assert sorted(entry["frame_id"] for entry in layer_entries(LOCAL, layer_folder(out, name))) == listed
        numbers[kind] = [int(frame.rpartition("/")[2]) for frame in listed]
    return numbers


def correct_scan(root: Path, number: int) -> None:
    """Other coordinates, as many points."""
    scan = root / "data" / "velodyne" / f"{number:06d}.bin"
    (np.fromfile(scan, np.float32) * np.float32(0.9)).tofile(scan)


def test_rows_of_a_corrected_scan_are_missing_until_they_are_asked_for(tmp_path: Path, clips, capsys) -> None:
    index, out, teachers = write_log(tmp_path, COUNT), str(tmp_path / "fresh"), with_clip(clips[0])
    prepare(index, out, teachers=teachers)
    before = modified(out)
    assert prepare(index, out).done == 0
    assert modified(out) == before
    correct_scan(tmp_path, 2)
    assert prepare(index, out, retry_failed=True).done == 0
    assert modified(out) == before
    capsys.readouterr()
    assert prepare(index, out).done == 1
    said = capsys.readouterr().out
    assert re.search(
        rf"\npairs-\w+: what 1 frames were made of changed: {frame_id(2)} \(scan\); their rows are gone: "
        r"give the command with the --masks and --features of the layer to compute them again\n$",
        said,
    )
    everything = list(range(COUNT))
    assert held_by(out) == {"masks": everything, "pairs": [0, 1, 3, 4], "features": everything}
    assert EvidenceReader(LOCAL, out, read_catalog(LOCAL, out), "auto").num_missing == 1
    assert done_by_kind(prepare(index, out, teachers=teachers)) == {"masks": 0, "pairs": 1, "features": 0}
    assert EvidenceReader(LOCAL, out, read_catalog(LOCAL, out), "auto").num_missing == 0


def test_what_reads_a_layer_goes_with_its_rows_and_a_bad_layer_is_said(tmp_path: Path, clips, capsys) -> None:
    index, out, teachers = write_log(tmp_path, COUNT), str(tmp_path / "fresh"), with_clip(clips[0])
    prepare(index, out, teachers=teachers)
    write_image(tmp_path, 1, "image_3", seed=99)
    assert prepare(index, out).done == 0
    rest = [0, 2, 3, 4]
    assert held_by(out) == {"masks": rest, "pairs": rest, "features": rest}
    assert re.search(rf"pairs-\w+: what 1 frames .* {frame_id(1)} \(masks\); their rows", capsys.readouterr().out)
    Path(layer_folder(out, layer_of(out, "masks")), "layer.json").write_text("{}")
    correct_scan(tmp_path, 4)
    assert prepare(index, out).done == 1
    assert re.search(r"masks-\w+ is not compared with the frames: .*layer.json", capsys.readouterr().out)
    assert held_by(out) == {"masks": rest, "pairs": rest[:3], "features": rest}


def test_layers_and_splits_that_are_not_asked_for_lose_what_changed(tmp_path: Path, clips: list[str]) -> None:
    index, out = write_log(tmp_path, COUNT, val=[4]), str(tmp_path / "fresh")
    prepare(index, out, teachers=with_clip(clips[0]))
    write_image(tmp_path, 1, seed=99)
    correct_scan(tmp_path, 4)
    report = prepare(index, out, teachers=slic(), image_splits=["train"])
    assert done_by_kind(report) == {"masks": 1, "pairs": 0}  # their content is as it was
    assert held_by(out) == {"masks": [0, 1, 2, 3, 4], "pairs": [0, 1, 2, 3], "features": [0, 2, 3, 4]}


def test_changed_masks_in_the_folder_of_masks_are_read_again(index: str, out: str, tmp_path: Path) -> None:
    folder = tmp_path / "stored"
    folder.mkdir()
    for camera in CAMERAS:
        for number in range(COUNT):
            file = folder / camera / f"{number:06d}.png"
            file.parent.mkdir(exist_ok=True)
            Image.fromarray(np.full((HEIGHT_PX, WIDTH_PX), 1, np.uint8)).save(file)
    teachers = Teachers.of("files", overrides=[f"masks.folder={folder}", "pairs.occlusion=no"])
    assert done_by_kind(prepare(index, out, teachers=teachers)) == {"masks": COUNT, "pairs": COUNT}
    halves = np.repeat([1, 2], HEIGHT_PX // 2).astype(np.uint8)[:, None].repeat(WIDTH_PX, 1)
    Image.fromarray(halves).save(folder / "image_2" / "000004.png")
    assert done_by_kind(prepare(index, out, teachers=teachers)) == {"masks": 1, "pairs": 1}
    assert LayerRows(LOCAL, out, layer_of(out, "masks")).row(frame_id(4))["image_2.num_segments"] == 2


def test_status_counts_what_changed_as_left_and_retry_failed_leaves_it(
    index: str, out: str, tmp_path: Path, capsys
) -> None:
    prepare(index, out, teachers=slic())
    write_image(tmp_path, 1, seed=99)
    found = {stage.name.partition("-")[0]: (stage.done, stage.left) for stage in status(index, out)}
    assert found == {"decode": (COUNT, 0), "masks": (COUNT - 1, 1), "pairs": (COUNT, 0)}
    report = prepare(index, out, teachers=slic(), retry_failed=True)
    assert done_by_kind(report) == {"masks": 0, "pairs": 0}
    assert "they stay as they were until the command is given without --retry-failed" in capsys.readouterr().out
    assert done_by_kind(prepare(index, out, teachers=slic()))["masks"] == 1


def test_no_flipped_bit_of_a_layer_is_read_as_if_nothing_were(index: str, out: str, clips: list[str]) -> None:
    prepare(index, out, teachers=with_clip(clips[0]))
    rng, silent, count = np.random.default_rng(0), 0, 0
    for kind in ("masks", "pairs", "features"):
        name = layer_of(out, kind)
        right = LayerRows(LOCAL, out, name).row(frame_id(0))
        entries = layer_entries(LOCAL, layer_folder(out, name))
        (shard,) = [entry["shard"] for entry in entries if entry["frame_id"] == frame_id(0)]
        file = Path(layer_folder(out, name), shard)
        data = file.read_bytes()
        for position in rng.choice(8 * len(data), 100, replace=False):
            flipped = bytearray(data)
            flipped[position // 8] ^= 1 << (position % 8)
            file.write_bytes(flipped)
            try:
                silent += LayerRows(LOCAL, out, name).row(frame_id(0)) != right
            except DataError:
                count += 1
        file.write_bytes(data)
    assert (silent, count > 50) == (0, True)


def test_only_the_images_of_the_splits_asked_for_are_shown(tmp_path: Path, capsys) -> None:
    index, out = write_log(tmp_path, COUNT, val=(1, 3)), str(tmp_path / "out")
    decoded(index, out)
    first = prepare(index, out, teachers=slic(), image_splits=("train",))
    assert [stage.done for stage in first.layers] == [3, 3]
    masks = LayerRows(LOCAL, out, layer_of(out, "masks"))
    assert [frame_id(number) in masks for number in range(COUNT)] == [True, False, True, False, True]
    again = prepare(index, out, teachers=slic(), image_splits=("train",))
    assert [(stage.done, stage.skipped) for stage in again.layers] == [(0, 3), (0, 3)]
    capsys.readouterr()
    assert [stage.left for stage in status(index, out, ("train",))] == [0, 0, 0]
    assert [(stage.left, stage.waits) for stage in status(index, out)[1:]] == [(2, 0), (0, 2)]
    rest = prepare(index, out, teachers=slic())
    assert [(stage.done, stage.skipped) for stage in rest.layers] == [(2, 3), (2, 3)]


def test_splits_that_no_frame_is_of(index: str, out: str) -> None:
    with pytest.raises(DataError, match=r"--image-splits val test: no frame is of these splits; there are: train"):
        prepare(index, out, teachers=slic(), image_splits=("val", "test"))
    assert prepare(index, out, image_splits=("val",)).layers == ()


def test_a_torn_shard_of_a_layer_is_deleted_and_its_frames_are_computed_again(index: str, out: str, capsys) -> None:
    prepare(index, out, teachers=slic())
    masks = Path(layer_folder(out, layer_of(out, "masks")))
    torn = masks / list_shards(LOCAL, str(masks))[0]
    torn.write_bytes(b"")
    report = prepare(index, out, teachers=slic())
    assert report.layers[0].done > 0
    assert report.layers[0].done + report.layers[0].skipped == COUNT
    assert f"torn and deleted: {torn.name}" in capsys.readouterr().out
    assert [layer.skipped for layer in prepare(index, out, teachers=slic()).layers] == [COUNT, COUNT]
