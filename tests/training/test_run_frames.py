"""The labelled set is drawn once a run; frames that come, go or change are counted, or end the start."""

import dataclasses
import json

import numpy as np
import pytest
from pyarrow import fs

from ray_lidarseg.datasets.catalog import Catalog
from ray_lidarseg.datasets.layers import layer_folder, write_layer_catalog, write_layer_shard
from ray_lidarseg.errors import RunError
from ray_lidarseg.recipe.load import override
from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.training import run_frames
from ray_lidarseg.training.run_folder import RunFolder
from ray_lidarseg.training.run_frames import RunFrames, content_of, frames_of_run

HALF = override(Recipe(), {"split.ratio": 0.5, "data.prepared": "/p"})


def catalog(train: int = 8, val: int = 2, **digests: str) -> Catalog:
    """Labelled frames t0, t1, … and v0, …, of which some have another content than the rest."""
    names = [f"t{number}" for number in range(train)] + [f"v{number}" for number in range(val)]
    count = len(names)
    return Catalog(
        frame_id=tuple(names),
        dataset=("nuscenes",) * count,
        scene=("s",) * count,
        split=("train",) * train + ("val",) * val,
        timestamp_us=np.arange(count),
        shard=("shard-x.parquet",) * count,
        row=np.arange(count),
        num_points=np.full(count, 3),
        is_labelled=np.full(count, True),
        digest=tuple(digests.get(name, "aa/bb") for name in names),
    )


@pytest.fixture
def begun(tmp_path) -> RunFolder:
    """A run that began on eight training frames."""
    folder = RunFolder(str(tmp_path / "run"))
    frames = frames_of_run(folder.uri, catalog(), HALF)
    folder.write("recipe.yaml", HALF.to_yaml().encode())
    folder.write(run_frames.FILE, frames.to_json())
    return folder


def test_the_same_data_give_the_same_frames_without_a_word(begun, capsys):
    frames = frames_of_run(begun.uri, catalog(), HALF)
    assert frames == RunFrames.drawn(catalog(), HALF)
    assert (len(frames.split.labelled), len(frames.split.unlabelled), frames.validation) == (4, 4, ("v0", "v1"))
    assert frames.content == dict.fromkeys(catalog().frame_id, "aa/bb/")
    assert capsys.readouterr().out == ""


def test_frames_that_come_change_nothing_and_are_counted(begun, capsys):
    before = frames_of_run(begun.uri, catalog(), HALF)
    assert RunFrames.drawn(catalog(20, 5), HALF).split != before.split
    assert frames_of_run(begun.uri, catalog(20, 5), HALF) == before
    said = capsys.readouterr().out
    assert "has 12 training and 3 validation frames more than when this run began: it keeps the 4 labelled" in said
    assert before.split.digest in said


def test_a_run_that_has_not_begun_draws(tmp_path):
    assert frames_of_run(str(tmp_path), catalog(20), HALF).split.labelled != ()
    assert len(frames_of_run(str(tmp_path), catalog(20), HALF).split.labelled) == 10


def test_frames_that_are_gone_end_the_start(begun):
    with pytest.raises(RunError, match=r"1 frames that .* was trained on are not in /p any more, for example t7"):
        frames_of_run(begun.uri, catalog(train=7), HALF)


def test_changed_content_ends_the_start_and_says_what_changed(begun):
    labelled, unlabelled = (
        getattr(frames_of_run(begun.uri, catalog(), HALF).split, name)[0] for name in ("labelled", "unlabelled")
    )
    with pytest.raises(
        RunError, match=rf"the labels of 1 frames changed \(for example {labelled}\) since .*another --run"
    ):
        frames_of_run(begun.uri, catalog(**{labelled: "aa/new"}), HALF)
    with pytest.raises(RunError, match=rf"the scan of 2 frames changed \(for example {unlabelled}, v1\) since"):
        frames_of_run(begun.uri, catalog(**{unlabelled: "new/bb", "v1": "new/bb"}), HALF)
    assert frames_of_run(begun.uri, catalog(**{unlabelled: "aa/new"}), HALF), "labels nobody sees may change"


def test_all_frames_elsewhere_are_known_by_their_content(begun):
    stored = run_frames.stored_frames(begun.uri)

    def is_all_of(*arguments, **digests) -> bool:
        return stored.is_all_of(content_of(catalog(*arguments, **digests), HALF))

    assert is_all_of()
    assert is_all_of(20)
    assert not is_all_of(7)
    assert not is_all_of(t3="aa/new")
    assert not is_all_of(t3="")


def test_a_run_of_an_earlier_release_is_validated_on_what_is_there(begun):
    old = dataclasses.asdict(frames_of_run(begun.uri, catalog(), HALF).split)
    begun.write(run_frames.FILE, json.dumps(old).encode())
    frames = frames_of_run(begun.uri, catalog(9, 4, t0="new/new"), HALF)
    assert (frames.split.labelled, frames.validation) == (tuple(old["labelled"]), ("v0", "v1", "v2", "v3"))
    assert not run_frames.stored_frames(begun.uri).is_all_of(content_of(catalog(), HALF))


@pytest.mark.parametrize("text", [b"", b"[]", b'{"labelled": 3}', b'{"labelled": [], "unlabelled": [], "x": 1}'])
def test_a_damaged_file_is_named(begun, text):
    begun.write(run_frames.FILE, text)
    with pytest.raises(RunError, match=r"split.json is no list of labelled frames .*put the file back"):
        frames_of_run(begun.uri, catalog(), HALF)


def test_layers_computed_anew_from_other_images_end_the_start(tmp_path):
    local, prepared = fs.LocalFileSystem(), str(tmp_path / "p")
    recipe = override(HALF, {"data.prepared": prepared, "data.evidence": "features-1/pairs-1"})

    def write(feature: bytes) -> dict[str, str]:
        for name in ("features-1", "pairs-1"):
            folder = layer_folder(prepared, name)
            rows = [{"frame_id": "t0", "x": feature}, {"frame_id": "t1", "x": b"same"}]
            write_layer_shard(local, folder, ["all"], rows)
            write_layer_catalog(local, folder)
        return content_of(catalog(), recipe)

    frames = RunFrames(RunFrames.drawn(catalog(), HALF).split, content=write(b"one"))
    assert frames.content["t0"] != frames.content["t1"] != "aa/bb/"
    assert frames.content["v0"] == "aa/bb/", "no evidence of it"
    assert frames.changed(write(b"one")) == {}
    assert frames.changed(write(b"two")) == {"layers": ["t0"]}


def test_a_list_that_was_changed_or_lost_since_changes_nothing_and_is_mentioned(tmp_path, capsys):
    file, folder = tmp_path / "list.txt", RunFolder(str(tmp_path / "run"))
    file.write_text("t1\nt2\n")
    recipe = override(Recipe(), {"split.protocol": "list", "split.file": str(file), "data.prepared": "/p"})
    frames = frames_of_run(folder.uri, catalog(), recipe)
    folder.write("recipe.yaml", recipe.to_yaml().encode())
    folder.write(run_frames.FILE, frames.to_json())
    assert frames_of_run(folder.uri, catalog(), recipe) == frames
    assert capsys.readouterr().out == ""
    file.write_text("t1\nt2\nt3\n")
    assert frames_of_run(folder.uri, catalog(), recipe) == frames
    assert (
        "split.file names other frames than when this run began: it keeps the 2 it began with"
        in capsys.readouterr().out
    )
    file.unlink()
    assert frames_of_run(folder.uri, catalog(), recipe) == frames
    assert "list.txt" in capsys.readouterr().out
