"""Own logs from one manifest and one ontology file to labels of new scans, through the command line, no code."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from pypcd4 import Encoding, PointCloud

from ray_lidarseg.cli import main
from ray_lidarseg.errors import DataError
from ray_lidarseg.prepare import prepare
from ray_lidarseg.training.run_folder import RunFolder

pytestmark = pytest.mark.ray

# Raw ids of the labels: 7 and 8 road, 20 wall, 0 unknown; the axes are x right, y forward.
ONTOLOGY = {
    "name": "acme",
    "classes": [
        {"name": "road", "raw_ids": [7, 8]},
        {"name": "wall", "raw_ids": [20]},
        {"name": "bus", "raw_ids": [30]},
    ],
    "ignore_raw_ids": [0],
    "absent_class": "zero",
    "sensor": {
        "num_beams": 16,
        "fov_up_deg": 20.0,
        "fov_down_deg": -35.0,
        "min_range_m": 1.0,
        "max_range_m": 60.0,
        "intensity": [0, 255],
        "axes": "RFU",
        "height_m": 1.8,
    },
}
RECIPE = """
data: {{prepared: {prepared}, dataset: manifest}}
split: {{ratio: 0.5}}
model: {{name: fidnet, height_px: 16, width_px: 64, width_factor: 0.1, blocks: [1, 1, 1, 1]}}
method: {{name: supervised}}
train: {{steps: 4, labelled_per_step: 2, unlabelled_per_step: 2, evaluate_every: 4, checkpoint_every: 4}}
workers: {{num_workers: 1, use_gpu: "no"}}
"""


def write_scan(folder: Path, number: int) -> None:
    """A road and a wall to the right, as a PCD with a label column, compressed."""
    rng = np.random.default_rng(number)
    azimuth, range_m = rng.uniform(-np.pi, np.pi, 800), rng.uniform(3.0, 25.0, 800)
    x, y = range_m * np.cos(azimuth), range_m * np.sin(azimuth)
    is_wall = x > 8
    z = np.where(is_wall, rng.uniform(-1.8, 0.5, 800), -1.8)
    raw = np.where(is_wall, 20, np.where(np.arange(800) % 2, 7, 8))
    raw[:5] = 0
    columns = [x, y, z, np.where(is_wall, 200, 30)]
    cloud = PointCloud.from_points(
        [*(column.astype(np.float32) for column in columns), raw.astype(np.uint16)],
        ("x", "y", "z", "intensity", "class"),
        (np.float32,) * 4 + (np.uint16,),
    )
    cloud.save(folder / f"{number:02d}.pcd", Encoding.BINARY_COMPRESSED)


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs")
    (folder / "scans").mkdir()
    records = []
    for number in range(6):
        write_scan(folder / "scans", number)
        split = "train" if number < 4 else "val"
        record = {"frame_id": f"f{number}", "scene": f"drive{number // 2}", "split": split, "timestamp_us": number}
        records.append({**record, "points": f"scans/{number:02d}.pcd", "labels": "#class"})
    (folder / "manifest.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "ontology.yaml").write_text(yaml.safe_dump(ONTOLOGY))
    return folder


@pytest.fixture(scope="module")
def trained(logs: Path, local_ray: None) -> str:
    manifest, ontology, index = (str(logs / name) for name in ("manifest.jsonl", "ontology.yaml", "index.parquet"))
    assert main(["index", "manifest", manifest, "--ontology", ontology, "--out", index]) == 0
    assert main(["prepare", index, "--out", str(logs / "prepared")]) == 0
    (logs / "recipe.yaml").write_text(RECIPE.format(prepared=logs / "prepared"))
    run = str(logs / "run")
    assert main(["train", str(logs / "recipe.yaml"), "--run", run]) == 0
    return run


def test_the_run_alone_says_what_its_classes_are(trained: str) -> None:
    ontology = RunFolder(trained).recipe().data.ontology
    assert ontology is not None
    assert [entry.name for entry in ontology.classes] == ["road", "wall", "bus"]


def test_the_same_command_finds_the_run_finished(trained: str, logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(logs / "recipe.yaml"), "--run", trained]) == 0
    assert "is finished" in capsys.readouterr().out


def test_evaluate_follows_the_ontologys_rule(trained: str) -> None:
    assert main(["evaluate", trained]) == 0
    result = json.loads(Path(trained, "evaluation", "val.json").read_text())
    assert (result["dataset"], result["absent_rule"], result["frames"]) == ("acme", "zero", 2)
    assert result["class_names"] == ["road", "wall", "bus"]
    point = next(iter(result["models"].values()))["point"]
    assert np.sum(point["confusion"]) == 2 * 795  # the unknown points do not count


@pytest.mark.parametrize("source", ["index", "prepared", "scans"])
def test_predictions_are_the_ontologys_raw_ids(trained: str, logs: Path, source: str) -> None:
    out = logs / f"labels-{source}"
    given = {"index": logs / "index.parquet", "prepared": logs / "prepared", "scans": logs / "scans"}[source]
    split = [] if source == "scans" else ["--split", "val"]
    assert main(["predict", trained, f"--{source}", str(given), *split, "--out", str(out)]) == 0
    files = sorted(out.rglob("*.label"))
    assert len(files) == (6 if source == "scans" else 2)
    raw = np.fromfile(files[-1], "<u4")
    assert raw.shape == (800,)
    assert set(np.unique(raw)) <= {7, 20, 30}


def test_an_index_and_a_file_name_read_the_same_scan(trained: str, logs: Path) -> None:
    files = [("index", "f5"), ("prepared", "f5"), ("scans", "05.pcd")]
    folders = [logs / f"labels-{source}" / "sequences" / "00" / "predictions" for source, _ in files]
    confidence = [np.load(folder / f"{name}.confidence.npy") for folder, (_, name) in zip(folders, files, strict=True)]
    assert len(np.unique(confidence[0])) > 5  # says more of what was read than labels after so short a training
    for other in confidence[1:]:
        np.testing.assert_allclose(other, confidence[0], atol=2e-3)


def test_the_report_shows_the_predictions(trained: str, logs: Path) -> None:
    page = logs / "report.html"
    predicted = [str(logs / "labels-index"), str(logs / "labels-prepared"), str(logs / "labels-scans")]
    assert main(["report", trained, "--out", str(page), "--predictions", *predicted]) == 0
    text = page.read_text()
    assert "acme" in text
    assert "cannot" not in text


def test_a_folder_keeps_to_one_ontology(trained: str, logs: Path) -> None:
    other = {**ONTOLOGY, "name": "other"}
    (logs / "other.yaml").write_text(yaml.safe_dump(other))
    index, ontology = str(logs / "other.parquet"), str(logs / "other.yaml")
    assert main(["index", "manifest", str(logs / "manifest.jsonl"), "--ontology", ontology, "--out", index]) == 0
    with pytest.raises(DataError, match="prepared with another ontology"):
        prepare(index, str(logs / "prepared"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["manifest", "manifest.jsonl"], "dataset manifest needs --ontology"),
        (["manifest", "missing.jsonl", "--ontology", "ontology.yaml"], "cannot read"),
        (["nuscenes", ".", "--ontology", "ontology.yaml"], "--ontology is for own logs"),
    ],
)
def test_bad_calls_of_index(logs: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(logs / word) if "." in word else word for word in arguments]
    assert main(["index", *paths, "--out", str(logs / "x.parquet")]) == 2
    assert message in capsys.readouterr().err


def test_index_warns_where_the_sensor_contradicts_the_first_scan(
    logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = {**ONTOLOGY, "sensor": {**ONTOLOGY["sensor"], "intensity": [0, 100000], "fov_down_deg": -5.0}}
    (logs / "wrong.yaml").write_text(yaml.safe_dump(wrong))
    arguments = ["index", "manifest", str(logs / "manifest.jsonl"), "--ontology", str(logs / "wrong.yaml")]
    assert main([*arguments, "--out", str(logs / "wrong.parquet")]) == 0
    said = capsys.readouterr().out
    assert "set sensor.fov_down_deg=-31 and sensor.fov_up_deg=2, or check the axes" in said
    assert "the stated range is too wide, or the file is scaled already: set sensor.intensity" in said
