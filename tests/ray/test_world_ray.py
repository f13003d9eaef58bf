import json
import os
from pathlib import Path

import pytest

from ray_lidarseg.errors import DataError, StorageError
from ray_lidarseg.synthetic.nuscenes_writer import frame_files
from ray_lidarseg.synthetic.presets import PRESETS
from ray_lidarseg.world import generate

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def world(tmp_path_factory, local_ray) -> Path:
    root = tmp_path_factory.mktemp("generated")
    generate("tiny", str(root), 3)
    return root


def test_all_files_are_there_and_a_second_call_does_nothing(world, capsys):
    preset = PRESETS["tiny"]
    files = [file for index in range(10) for frame in range(2) for file in frame_files(world, preset, 3, index, frame)]
    assert all(file.exists() for file in files)
    times = [file.stat().st_mtime_ns for file in files]
    generate("tiny", str(world), 3)
    assert "is complete" in capsys.readouterr().out
    assert [file.stat().st_mtime_ns for file in files] == times


def test_what_is_missing_is_made_again_with_the_same_bytes(world):
    lost = frame_files(world, PRESETS["tiny"], 3, 7, 1)[2]
    table = world / "v1.0-mini" / "scene.json"
    before = lost.read_bytes(), table.read_bytes()
    lost.unlink()
    table.unlink()
    generate("tiny", str(world), 3)
    assert (lost.read_bytes(), table.read_bytes()) == before


@pytest.mark.parametrize(("preset", "seed"), [("tiny", 4), ("demo", 3)])
def test_a_folder_with_another_world_is_refused(world, preset, seed):
    with pytest.raises(StorageError, match=r"holds the world 'ray-lidarseg-world-v\d+-tiny-seed3', not"):
        generate(preset, str(world), seed)


def test_a_foreign_data_set_is_refused(tmp_path):
    (tmp_path / "v1.0-mini").mkdir()
    with pytest.raises(StorageError, match="did not make"):
        generate("tiny", str(tmp_path))


def test_a_broken_marker_and_a_folder_that_is_a_file_are_storage_errors(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cannot write .*a part of the path is a file, not a folder"):
        generate("tiny", str(tmp_path / "file"))
    for content, message in (("{", "is not JSON"), ("[]", "expected a JSON object")):
        (tmp_path / "world.json").write_text(content)
        with pytest.raises(StorageError, match=message):
            generate("tiny", str(tmp_path))


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_read_only_folder_is_a_storage_error(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="choose a folder this user may use"):
        generate("tiny", str(tmp_path / "world"))


def test_an_unknown_preset_is_an_error_before_anything_is_written(tmp_path):
    with pytest.raises(DataError, match="choose one of bench, demo, kitti, tiny"):
        generate("huge", str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_object_storage_is_refused_with_the_way_out():
    with pytest.raises(StorageError, match="not to s3://bucket/world: generate it into a folder"):
        generate("tiny", "s3://bucket/world")


def test_the_marker_names_generator_preset_and_seed(world):
    assert json.loads((world / "world.json").read_text())["seed"] == 3


def test_options_and_the_other_layout_go_through_tasks_too(tmp_path, local_ray, capsys):
    options = {"columns": 90, "beams": 8, "frames": 1, "image_width_px": 64, "train_scenes": 1, "val_scenes": 1}
    generate("kitti", str(tmp_path), 3, options, frequencies=True)
    assert "semantickitti %" in capsys.readouterr().out
    assert len(list(tmp_path.glob("sequences/*/image_2/000000.png"))) == 2
    assert json.loads((tmp_path / "world.json").read_text())["options"]["beams"] == "8"
    generate("kitti", str(tmp_path), 3, options)
    assert "is complete" in capsys.readouterr().out
    with pytest.raises(StorageError, match=r"it was made with --preset kitti --seed 3 --set beams=8 --set columns=90"):
        generate("kitti", str(tmp_path), 3)
