"""What `predict` decides around its work, with the work done in this process: nothing of it starts Ray."""

import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pyarrow import fs

from ray_lidarseg.datasets.catalog import write_catalog
from ray_lidarseg.datasets.parquet_files import parquet_bytes
from ray_lidarseg.datasets.point_clouds import read_cloud
from ray_lidarseg.datasets.prediction_log import read_log
from ray_lidarseg.datasets.semantickitti import CLASSES
from ray_lidarseg.datasets.sensor import resolve_sensor
from ray_lidarseg.datasets.shards import keyframe_table, write_shard
from ray_lidarseg.errors import RunError, StorageError
from ray_lidarseg.methods.build import build_method
from ray_lidarseg.predict import labelling as verb
from ray_lidarseg.predict import predict
from ray_lidarseg.recipe.load import override
from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.report.scenes import predicted_scenes
from ray_lidarseg.sample import Keyframe
from ray_lidarseg.storage.lock import held
from ray_lidarseg.training import checkpoints
from ray_lidarseg.training.inference_options import InferenceOptions
from ray_lidarseg.training.run_folder import RunFolder

SMALL = {"name": "fidnet", "height_px": 8, "width_px": 64, "width_factor": 0.0625, "blocks": [1, 1, 1, 1]}
NUM_SCANS, NUM_POINTS = 3, 40


def write_run(folder: Path, seed: int = 0) -> str:
    changes = {"data.dataset": "semantickitti", "model": SMALL, "method.name": "supervised", "train.evaluate_batch": 2}
    recipe, run = override(Recipe(), changes), RunFolder(str(folder))
    torch.manual_seed(seed)
    method = build_method(recipe, resolve_sensor(recipe.data), 19)
    run.write("recipe.yaml", recipe.to_yaml().encode())
    for step in (5, 6):
        state = checkpoints.pack({"step": step, "method": method.state_dict(), "metrics": ""})
        run.write(f"checkpoints/{checkpoints.folder_name(step)}/{checkpoints.FILE}", state)
    return run.uri


def write_scan(file: Path, seed: int) -> None:
    scan = np.random.default_rng(seed).uniform(-20, 20, (NUM_POINTS, 4)).astype(np.float32)
    scan[:, 3] = 0.5
    file.parent.mkdir(parents=True, exist_ok=True)
    scan.tofile(file)


def scan_file(folder: Path, number: int) -> Path:
    return folder / "scans" / "sequences" / "11" / "velodyne" / f"{number:06d}.bin"


@pytest.fixture
def run(tmp_path: Path) -> str:
    for number in range(NUM_SCANS):
        write_scan(scan_file(tmp_path, number), number)
    return write_run(tmp_path / "run")


@pytest.fixture
def labelled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The pool is one actor in this process; gives the ids of the scans that were labelled."""
    done: list[str] = []

    def stream(rows: list[dict], worker: type, arguments: dict[str, Any], group: int, at_hand: int) -> Iterator[dict]:
        actor = worker(**arguments) if rows else None
        for first in range(0, len(rows), group):
            part = rows[first : first + group]
            done.extend(row["frame_id"] for row in part)
            yield from actor(pa.Table.from_pylist(part)).to_pylist()

    monkeypatch.setattr(verb.pool, "stream", stream)
    monkeypatch.setattr(verb, "connect", nullcontext)
    return done


def label(run: str, folder: Path, **more: Any) -> Any:
    arguments = {"scans": [str(scan_file(folder, 0).parent)], "columns": 4, **more}
    return predict(run, str(folder / "out"), **arguments)


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "out" / "predictions.json").read_text())


def label_file(folder: Path, number: int) -> Path:
    return folder / "out" / "sequences" / "11" / "predictions" / f"{number:06d}.label"


def test_what_is_there_is_not_labelled_again_and_counts_once(run, tmp_path, labelled) -> None:
    first = label(run, tmp_path)
    assert (first.done, sum(first.num_points.values())) == (NUM_SCANS, NUM_SCANS * NUM_POINTS)
    assert summary(tmp_path)["num_points"] == first.num_points
    label_file(tmp_path, 1).unlink()
    labelled.clear()
    again = label(run, tmp_path)
    assert (again.done, again.skipped, labelled) == (1, 2, ["11/000001"])
    assert summary(tmp_path)["num_points"] == first.num_points
    assert (summary(tmp_path)["num_labelled"], summary(tmp_path)["num_scans"]) == (NUM_SCANS, NUM_SCANS)


def test_a_torn_label_file_is_named_and_written_again(run, tmp_path, labelled, capsys) -> None:
    label(run, tmp_path)
    file = label_file(tmp_path, 1)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    labelled.clear()
    label(run, tmp_path)
    assert labelled == ["11/000001"]
    assert file.read_bytes() == whole
    assert (
        "1 label files are torn (sequences/11/predictions/000001.label); they are written again"
        in capsys.readouterr().out
    )


def test_a_label_file_that_somebody_made_longer_stays(run, tmp_path, labelled) -> None:
    label(run, tmp_path)
    file = label_file(tmp_path, 1)
    file.write_bytes(edited := file.read_bytes() + b"0000")
    labelled.clear()
    label(run, tmp_path)
    assert labelled == []
    assert file.read_bytes() == edited


def test_an_interruption_loses_no_points_of_the_summary(run, tmp_path, labelled, monkeypatch) -> None:
    stream = verb.pool.stream

    def dies(*arguments: Any, at_hand: int) -> Iterator[dict]:
        for number, result in enumerate(stream(*arguments, at_hand=at_hand)):
            if number == 2:
                raise SystemExit  # as a kill would: the third scan has its labels, its result never came
            yield result

    monkeypatch.setattr(verb.pool, "stream", dies)
    monkeypatch.setattr(verb, "_write_summary", lambda *_: None)  # nor did the driver write its last words
    with pytest.raises(SystemExit):
        label(run, tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(verb.pool, "stream", stream)
    monkeypatch.setattr(verb, "connect", nullcontext)
    log = tmp_path / "out" / "scans.jsonl"
    log.write_text(log.read_text() + '{"frame_id": "11/0000')
    labelled.clear()
    report = label(run, tmp_path)
    assert (report.done, report.skipped, labelled) == (1, 2, ["11/000002"])
    assert sum(summary(tmp_path)["num_points"].values()) == NUM_SCANS * NUM_POINTS
    raw = np.concatenate([np.fromfile(label_file(tmp_path, number), np.uint32) for number in range(NUM_SCANS)])
    assert sorted(np.unique(raw, return_counts=True)[1]) == sorted(
        filter(None, summary(tmp_path)["num_points"].values())
    )
    assert len(log.read_text().splitlines()) == NUM_SCANS == len(read_log(str(tmp_path / "out")))


@pytest.mark.parametrize("lost", [1, NUM_SCANS])
def test_scans_that_a_dead_node_took_along_are_tried_again_unless_it_took_all(
    run, tmp_path, labelled, monkeypatch, lost
) -> None:
    stream, groups = verb.pool.stream, []

    def without_some(rows: list[dict], worker: type, arguments: dict, group: int, at_hand: int) -> Iterator[dict]:
        groups.append((len(rows), group))
        yield from stream(rows if len(groups) > 1 else rows[lost:], worker, arguments, group, at_hand)

    monkeypatch.setattr(verb.pool, "stream", without_some)
    if lost == NUM_SCANS:
        report = label(run, tmp_path)
        assert (report.done, report.failed, len(groups)) == (0, NUM_SCANS, 1)
        assert set(report.reasons.values()) == {"its worker process kept dying (out of memory?)"}
    else:
        assert label(run, tmp_path).done == NUM_SCANS
        assert groups[1:] == [(lost, 1)]


def test_a_scan_that_changed_is_named_and_labelled_again(run, tmp_path, labelled, capsys) -> None:
    label(run, tmp_path)
    confidence = label_file(tmp_path, 1).with_suffix(".confidence.npy")
    before = confidence.read_bytes()
    write_scan(scan_file(tmp_path, 1), seed=9)
    scan_file(tmp_path, 2).touch()
    labelled.clear()
    report = label(run, tmp_path)
    assert "1 scans changed since they were labelled: 11/000001 (000001.bin)" in capsys.readouterr().out
    assert (report.done, report.skipped, labelled) == (1, 2, ["11/000001"])
    assert confidence.read_bytes() != before


def test_a_report_shows_no_labels_on_a_scan_that_was_replaced(run, tmp_path, labelled) -> None:
    label(run, tmp_path)
    assert len(predicted_scenes(str(tmp_path / "out"))[0]) == NUM_SCANS
    write_scan(scan_file(tmp_path, 1), seed=9)
    scenes, _, problems = predicted_scenes(str(tmp_path / "out"))
    assert len(scenes) == NUM_SCANS - 1
    assert problems == ["11/000001: the scan was replaced since it was labelled: give the predict command again"]


def test_a_scan_of_that_name_from_elsewhere_is_another_scan(run, tmp_path, labelled, capsys) -> None:
    label(run, tmp_path)
    write_scan(tmp_path / "other" / "scans" / "sequences" / "11" / "velodyne" / "000001.bin", seed=9)
    report = label(run, tmp_path, scans=[str(scan_file(tmp_path / "other", 1))])
    assert report.done == 1
    assert "11/000001 (file)" in capsys.readouterr().out
    assert summary(tmp_path)["num_labelled"] == NUM_SCANS


def test_a_frame_whose_shard_was_prepared_anew_is_labelled_again(run, tmp_path, labelled) -> None:
    def prepare(value: float) -> None:
        points = np.full((4, 4), value, np.float32)
        frames = [
            Keyframe(f"11/{n:06d}", "semantickitti", "11", "test", n, "p", points=points * (n + 1)) for n in (0, 1)
        ]
        frames[0] = Keyframe("11/000000", "semantickitti", "11", "test", 0, "p", points=np.ones((4, 4), np.float32))
        write_shard(fs.LocalFileSystem(), str(tmp_path / "p"), frames)
        write_catalog(fs.LocalFileSystem(), str(tmp_path / "p"))

    arguments = {"scans": (), "columns": 0, "prepared": str(tmp_path / "p")}
    prepare(0.5)
    assert label(run, tmp_path, **arguments).done == 2
    assert label(run, tmp_path, **arguments).done == 0
    prepare(0.25)
    labelled.clear()
    assert label(run, tmp_path, **arguments).done == 1
    assert labelled == ["11/000001"]


@pytest.mark.parametrize("file_format", ["label", "ply"])
def test_clouds_of_frames_whose_labels_were_corrected_are_written_again(run, tmp_path, labelled, file_format) -> None:
    def prepare(label: int) -> None:
        points = np.ones((4, 4), np.float32)
        labels = [np.full(4, label, np.uint8), np.zeros(4, np.uint8)]
        frames = [
            Keyframe(f"08/{n:06d}", "semantickitti", "08", "val", n, "p", "l", points=points, labels=labels[n])
            for n in (0, 1)
        ]
        write_shard(fs.LocalFileSystem(), str(tmp_path / "p"), frames)
        write_catalog(fs.LocalFileSystem(), str(tmp_path / "p"))

    arguments = {"scans": (), "columns": 0, "prepared": str(tmp_path / "p"), "split": "val"}
    prepare(1)
    assert label(run, tmp_path, **arguments, file_format=file_format).done == 2
    prepare(2)
    labelled.clear()
    label(run, tmp_path, **arguments, file_format=file_format)
    assert labelled == (["08/000000"] if file_format == "ply" else [])


def test_frames_taken_out_of_train_are_of_split_val_wherever_the_shards_lie(run, tmp_path, labelled) -> None:
    recipe = override(RunFolder(run).recipe(), {"data.prepared": "/gone", "data.val_frames": ["00/000000", "00/9"]})
    RunFolder(run).write("recipe.yaml", recipe.to_yaml().encode())
    points = np.ones((4, 4), np.float32)
    frames = [Keyframe(f"00/{n:06d}", "semantickitti", "00", "train", n, "p", points=points) for n in (0, 1)]
    write_shard(fs.LocalFileSystem(), str(tmp_path / "p"), frames)
    write_catalog(fs.LocalFileSystem(), str(tmp_path / "p"))
    label(run, tmp_path, scans=(), columns=0, prepared=str(tmp_path / "p"), split="val")
    assert labelled == ["00/000000"]


def test_other_weights_are_refused_whatever_their_run_is_called_and_a_moved_run_is_not(run, tmp_path, labelled) -> None:
    label(run, tmp_path)
    with pytest.raises(
        RunError, match=r"holds other predictions \(step 6, not 5; weights \w+, not \w+\): choose another"
    ):
        label(run, tmp_path, which=5)
    moved = str(tmp_path / "moved")
    Path(run).rename(moved)
    assert label(moved, tmp_path).skipped == NUM_SCANS
    write_run(Path(run), seed=1)  # the same recipe and steps, trained anew
    with pytest.raises(RunError, match=r"holds other predictions \(.*weights"):
        label(run, tmp_path)


def test_labels_of_an_earlier_release_are_made_again(run, tmp_path, labelled) -> None:
    label(run, tmp_path)
    (tmp_path / "out" / "scans.jsonl").unlink()
    content = summary(tmp_path)
    content.pop("weights")
    (tmp_path / "out" / "predictions.json").write_text(json.dumps(content))
    assert label(run, tmp_path).done == NUM_SCANS


@pytest.mark.parametrize("text", ["{", "[]", "3"])
def test_a_damaged_summary_is_named(run, tmp_path, labelled, text) -> None:
    label(run, tmp_path)
    (tmp_path / "out" / "predictions.json").write_text(text)
    with pytest.raises(RunError, match=r"predictions.json \(choose another folder"):
        label(run, tmp_path)


@pytest.mark.parametrize("file_format", ["pcd", "ply", "las"])
def test_clouds_hold_every_point_and_are_read_back_by_the_report(run, tmp_path, labelled, file_format) -> None:
    report = label(run, tmp_path, file_format=file_format)
    assert report.done == NUM_SCANS
    scenes, _, problems = predicted_scenes(str(tmp_path / "out"))
    assert (len(scenes), problems) == (NUM_SCANS, [])
    assert not list((tmp_path / "out").rglob("*.npy")), "confidence is a field of the cloud"
    cloud = read_cloud((label_file(tmp_path, 0).with_suffix(f".{file_format}")).read_bytes(), file_format, "a cloud")
    assert len(cloud["label"]) == NUM_POINTS
    assert set(cloud["label"].tolist()) <= set(CLASSES.train_to_raw)
    assert "error" not in cloud


def test_clouds_of_labelled_frames_say_what_is_wrong(run, tmp_path, labelled) -> None:
    truth = np.full(NUM_POINTS, 10, np.uint32)
    labels = tmp_path / "truth.label"
    truth.tofile(labels)
    frame = Keyframe("08/000000", "semantickitti", "08", "val", 0, str(scan_file(tmp_path, 0)), str(labels))
    (tmp_path / "index.parquet").write_bytes(parquet_bytes(keyframe_table([frame]), 1))
    label(run, tmp_path, scans=(), columns=0, index=str(tmp_path / "index.parquet"), split="val", file_format="ply")
    file = tmp_path / "out" / "sequences" / "08" / "predictions" / "000000.ply"
    cloud = read_cloud(file.read_bytes(), "ply", "a cloud")
    np.testing.assert_array_equal(cloud["error"], cloud["label"] != 10)


def test_the_work_list_ranks_all_scans_of_the_folder(run, tmp_path, labelled) -> None:
    label(run, tmp_path, scans=[str(scan_file(tmp_path, 0))])
    label(run, tmp_path)
    table = pq.read_table(tmp_path / "out" / "work_list.parquet")
    assert sorted(table.column("frame_id").to_pylist()) == [f"11/{number:06d}" for number in range(NUM_SCANS)]
    doubt = table.column("uncertainty").to_pylist()
    assert doubt == sorted(doubt, reverse=True)
    confidence = np.load(
        label_file(tmp_path, int(table.column("frame_id")[0].as_py()[-1])).with_suffix(".confidence.npy")
    )
    assert doubt[0] == pytest.approx(1 - confidence[confidence > 0].astype(float).mean(), abs=1e-3)
    assert (tmp_path / "out" / "work_list.csv").read_text().startswith('"rank","frame_id","uncertainty"')


def test_a_scan_without_points_costs_itself_only(run, tmp_path, labelled) -> None:
    frames = [
        Keyframe(f"11/{n:06d}", "semantickitti", "11", "test", n, "p", points=np.ones((4 * n, 4), np.float32))
        for n in (0, 1)
    ]
    write_shard(fs.LocalFileSystem(), str(tmp_path / "p"), frames)
    write_catalog(fs.LocalFileSystem(), str(tmp_path / "p"))
    report = label(run, tmp_path, scans=(), columns=0, prepared=str(tmp_path / "p"))
    assert (report.done, report.failed) == (1, 1)
    assert report.reasons == {"11/000000": "11/000000 holds no points: there is nothing to label"}


def test_a_second_predict_in_the_folder_is_refused(run, tmp_path, labelled) -> None:
    with held(str(tmp_path / "out"), "predict"), pytest.raises(StorageError, match="is in use: `ray-lidarseg predict`"):
        label(run, tmp_path)


def test_inference_options_make_other_predictions_of_a_folder_of_their_own(run, tmp_path, labelled) -> None:
    label(run, tmp_path)
    with pytest.raises(RunError, match=r"holds other predictions \(weights \w+, not \w+-tta2-knn\)"):
        label(run, tmp_path, options=InferenceOptions(views=2, knn=True))
    other = predict(
        run,
        str(tmp_path / "other"),
        scans=[str(scan_file(tmp_path, 0).parent)],
        columns=4,
        options=InferenceOptions(views=2, knn=True),
    )
    assert (other.done, other.failed) == (NUM_SCANS, 0)
    written = json.loads((tmp_path / "other" / "predictions.json").read_text())
    assert written["inference"] == {"views": 2, "knn": True, "ensemble": []}
