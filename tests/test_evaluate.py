"""What `evaluate` decides before its work; none of it may start Ray."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import fs

from ray_lidarseg.datasets.catalog import read_catalog, write_catalog
from ray_lidarseg.datasets.sensor import resolve_sensor
from ray_lidarseg.datasets.shards import write_shard
from ray_lidarseg.errors import DataError, RunError, StorageError
from ray_lidarseg.evaluate import clean as verb
from ray_lidarseg.evaluate import evaluate, rendered
from ray_lidarseg.evaluate.scored_frames import choose
from ray_lidarseg.methods.build import build_method
from ray_lidarseg.metrics.scoring import Scores
from ray_lidarseg.recipe.load import override
from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.sample import Keyframe
from ray_lidarseg.training import checkpoints, run_frames
from ray_lidarseg.training.inference_options import InferenceOptions
from ray_lidarseg.training.rendered_views import unpack_views
from ray_lidarseg.training.run_folder import RunFolder
from ray_lidarseg.training.run_frames import RunFrames
from tests.datasets.walls_with_masks import with_layers

LOCAL = fs.LocalFileSystem()
TINY = {"name": "fidnet", "height_px": 8, "width_px": 64, "width_factor": 0.0625, "blocks": [1, 1, 1, 1]}


def prepare(folder: Path, label: int = 1, prefix: str = "", scale: int = 1) -> str:
    """Two training and two validation frames, all of one class."""
    frames = [
        Keyframe(
            frame_id=f"{prefix}{split}{number}",
            dataset="nuscenes",
            scene="s",
            split=split,
            timestamp_us=number,
            points_uri=f"{number}.bin",
            labels_uri=f"{number}.label",
            points=np.full((3, 4), scale * (number + 1), np.float32),
            labels=np.full(3, label, np.uint8),
        )
        for split in ("train", "val")
        for number in range(2)
    ]
    write_shard(LOCAL, str(folder), frames)
    write_catalog(LOCAL, str(folder))
    return str(folder)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A run beside ``tmp_path/p``, and a pool that answers at once."""
    recipe = override(Recipe(), {"data.prepared": prepare(tmp_path / "p"), "split.ratio": 0.5, "model": TINY})
    folder = RunFolder(str(tmp_path / "run"))
    torch.manual_seed(0)
    state = {"step": 2, "method": build_method(recipe, resolve_sensor(recipe.data), 16).state_dict()}
    folder.write("recipe.yaml", recipe.to_yaml().encode())
    folder.write(run_frames.FILE, RunFrames.drawn(read_catalog(LOCAL, recipe.data.prepared), recipe).to_json())
    folder.write(f"{checkpoints.FOLDER}/{checkpoints.folder_name(2)}/{checkpoints.FILE}", checkpoints.pack(state))
    monkeypatch.setattr(
        verb, "_score", lambda run, recipe, prepared, catalog, step, names, *_: dict.fromkeys(names, scored)
    )
    scored = Scores.empty(16)
    return folder


def test_the_shards_of_the_run_are_scored_from_whatever_directory(run: RunFolder, tmp_path: Path, monkeypatch) -> None:
    prepare(tmp_path / "other" / "p", prefix="x")
    monkeypatch.chdir(tmp_path / "other")
    assert evaluate(run.uri)["prepared"] == str(tmp_path / "p")
    assert evaluate(run.uri, prepared="p")["prepared"] == str(tmp_path / "other" / "p")


def test_labels_corrected_since_are_scored_and_mentioned(run: RunFolder, tmp_path: Path, capsys) -> None:
    prepare(tmp_path / "p", label=2)
    evaluate(run.uri)
    assert "the labels of 3 frames changed" in capsys.readouterr().out  # one labelled, two of validation


def test_another_project_at_the_place_of_the_old_one_is_refused(run: RunFolder, tmp_path: Path) -> None:
    for file in (tmp_path / "p").iterdir():
        file.unlink()
    prepare(tmp_path / "p", prefix="x")
    with pytest.raises(DataError, match=r"holds none of the 4 frames .*another data set lies there now"):
        evaluate(run.uri)


def test_a_folder_that_moved_is_said_with_the_way_out(run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "p").rename(tmp_path / "q")
    with pytest.raises(RunError, match=r"beside the shards of .*/p, which are not there .*--prepared"):
        evaluate(run.uri)
    assert evaluate(run.uri, prepared=str(tmp_path / "q"))["prepared"] == str(tmp_path / "q")


def test_frames_taken_out_of_train_are_scored_wherever_the_shards_lie(run: RunFolder, tmp_path: Path, capsys) -> None:
    recipe = override(run.recipe(), {"data.val_frames": ["train0"]})
    run.write("recipe.yaml", recipe.to_yaml().encode())
    run.write(run_frames.FILE, RunFrames.drawn(read_catalog(LOCAL, recipe.data.prepared), recipe).to_json())

    def chosen(prepared: str) -> tuple[str, ...]:
        return choose(run, run.recipe(), prepared, "val")[1].frame_id

    assert chosen("") == chosen(str(tmp_path / "p")) == ("train0", "val0", "val1")
    assert chosen(prepare(tmp_path / "relabelled", label=2)) == ("train0", "val0", "val1")
    assert "the labels of 3 frames changed" in capsys.readouterr().out
    assert chosen(prepare(tmp_path / "same_names", scale=2)) == ("val0", "val1")
    assert chosen(prepare(tmp_path / "other", prefix="x")) == ("xval0", "xval1")
    assert capsys.readouterr().out == ""


def test_a_folder_that_cannot_be_written_ends_it_before_the_work(run: RunFolder, monkeypatch) -> None:
    def work(*_: object) -> None:
        raise AssertionError("it scored first")

    monkeypatch.setattr(verb, "_score", work)
    Path(run.path("evaluation")).touch()
    with pytest.raises(StorageError, match="a part of the path is a file"):
        evaluate(run.uri)


def test_the_result_is_written_before_it_is_printed(run: RunFolder, monkeypatch) -> None:
    def describe(result: dict) -> str:
        assert Path(run.path("evaluation", "val.json")).is_file()
        return "table"

    monkeypatch.setattr(verb, "describe", describe)
    evaluate(run.uri)


def test_words_and_options_are_both_in_the_name_of_the_result(run: RunFolder, monkeypatch) -> None:
    monkeypatch.setattr(verb, "other_words", lambda *_: b"")
    evaluate(run.uri, words="w.npz", options=InferenceOptions(views=2, knn=True))
    assert Path(run.path("evaluation", "words-val-tta2-knn.json")).is_file()
    with pytest.raises(RunError, match="--words is read by one network: leave --ensemble out"):
        evaluate(run.uri, words="w.npz", options=InferenceOptions(ensemble=(run.uri,)))


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool, without Ray."""

    def results(positions, worker, arguments, batch, title):
        made = worker(**arguments)
        for position in positions:
            (part,) = made(pa.table({"position": [position]})).to_pylist()
            if part["error"]:
                raise DataError(part["error"])
            yield part

    monkeypatch.setattr(rendered, "results", results)


def nerf_run(folder: Path, masks: str = "none") -> tuple[RunFolder, Recipe, str]:
    """An untrained one beside three frames with cameras and masks of SAM."""
    prepared = with_layers(str(folder / "p")).folder
    model = {"name": "cylinder3d", "grid": [24, 24, 8], "width_factor": 0.125}
    changes = {"data.prepared": prepared, "model": model, "method.name": "nerf", "method.masks": masks}
    recipe, made = override(Recipe(), changes), RunFolder(str(folder / "run"))
    torch.manual_seed(0)
    state = {"step": 2, "method": build_method(recipe, resolve_sensor(recipe.data), 16).state_dict()}
    made.write("recipe.yaml", recipe.to_yaml().encode())
    made.write(f"{checkpoints.FOLDER}/{checkpoints.folder_name(2)}/{checkpoints.FILE}", checkpoints.pack(state))
    return made, recipe, prepared


@pytest.mark.usefixtures("in_this_process")
def test_a_run_of_method_nerf_gets_pictures_of_evenly_spaced_frames(tmp_path: Path, monkeypatch) -> None:
    made, _, _ = nerf_run(tmp_path, "sam")
    monkeypatch.setattr(verb, "_score", lambda *_: {"student": Scores.empty(16)})
    evaluate(made.uri, split="train")
    views, step = unpack_views((tmp_path / "run/evaluation/rendered-train.npz").read_bytes(), "")
    assert step == 2
    assert [view.frame_id for view in views] == ["f0", "f1"]
    assert set(np.unique(views[0].segments)) == {0, 3, 5}


@pytest.mark.usefixtures("in_this_process")
def test_what_cannot_be_rendered_is_said_and_fails_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    made, recipe, prepared = nerf_run(tmp_path, "slic")
    rendered.render_views(made, recipe, prepared, read_catalog(LOCAL, prepared), "val", 2)
    assert "no rendered views for the report" in (said := capsys.readouterr().out)
    assert "has no layer of segments 'slic'" in said
    assert not (tmp_path / "run/evaluation").exists()


def test_runs_of_other_methods_are_not_rendered(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendered, "results", None)
    prepared = run.recipe().data.prepared
    rendered.render_views(run, run.recipe(), prepared, read_catalog(LOCAL, prepared), "val", 2)
