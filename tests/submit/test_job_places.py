from pathlib import Path

import pytest

from ray_lidarseg.cli import build_parser
from ray_lidarseg.errors import ResourceError
from ray_lidarseg.submit.job_places import check_command


def check(line: str) -> None:
    check_command(line.split(), vars(build_parser().parse_args(line.split())))


@pytest.mark.parametrize(
    "line",
    [
        "world --out s3://bucket/world",
        "index nuscenes /data/nuscenes --out /data/index.parquet",
        "prepare s3://b/index.parquet --out s3://b/prepared --masks sam --set masks.checkpoint=s3://b/sam.pth",
        "train demo --set data.prepared=s3://b/prepared --set method.num_areas=3,4 --labels 1/16 --run s3://b/run",
        "predict s3://b/run --out s3://b/out --index s3://b/index.parquet",
        "recipe demo",
        "doctor",
    ],
)
def test_places_that_every_node_finds_are_let_through(line: str) -> None:
    check(line)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("world --out data/world", "'data/world' (--out)"),
        ("index nuscenes data --out /data/index.parquet", "'data' (ROOT)"),
        ("train demo --set data.prepared=prepared --run /runs/a", "'prepared' (--set data.prepared)"),
        ("demo", "'demo' (--out)"),
        ("evaluate s3://b/a --ensemble s3://b/b runs/c", "'runs/c' (--ensemble)"),
        ("report s3://b/a runs/b --out s3://b/page.html", "'runs/b' (RUN)"),
        ("predict s3://b/run --out s3://b/out --scans a.bin b.bin", "'a.bin' (--scans), 'b.bin' (--scans)"),
    ],
)
def test_places_of_this_machine_are_named(line: str, named: str) -> None:
    with pytest.raises(ResourceError, match="Give s3:// URIs, or absolute paths that every node mounts") as error:
        check(line)
    assert named in str(error.value)


def test_weights_that_lie_here_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/sam.pth").touch()
    with pytest.raises(ResourceError, match=r"'weights/sam.pth' \(--set masks.checkpoint\)"):
        check("prepare s3://b/i.parquet --out s3://b/p --masks sam --set masks.checkpoint=weights/sam.pth")


def test_a_run_without_a_place_would_be_lost() -> None:
    with pytest.raises(ResourceError, match="a job needs --run"):
        check("train demo --set data.prepared=s3://b/p")


def test_a_job_starts_no_jobs() -> None:
    with pytest.raises(ResourceError, match="submit cannot run as a job"):
        check("submit recipe demo")
