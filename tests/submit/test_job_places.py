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
        "train demo --set start.run=s3://b/a --set split.file=/nfs/list --run s3://b/run",
        "prepare s3://b/i.parquet --out s3://b/p --masks sam --set masks.checkpoint=miniature",
        "prepare s3://b/i.parquet --out s3://b/p --features clip --set features.checkpoint=local-dir:/nfs/clip",
        "evaluate s3://b/r --robustness --baseline minkunet18 --checkpoint best",
        "recipe demo",
        "doctor",
        "doctor --storage s3://b/runs --checkpoint s3://b/sam.pth",
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
        ("evaluate s3://b/r --words emb.npz", "'emb.npz' (--words)"),
        ("evaluate s3://b/r --robustness --baseline runs/a", "'runs/a' (--baseline)"),
        ("index manifest s3://b/m.jsonl --out s3://b/i.parquet --ontology onto.json", "'onto.json' (--ontology)"),
        ("doctor --storage runs", "'runs' (--storage)"),
        ("doctor --checkpoint sam.pth", "'sam.pth' (--checkpoint)"),
        ("train demo --run s3://b/r --set start.run=r", "'r' (--set start.run)"),
        ("train demo --run s3://b/r --set start.file='state.pt'", "'state.pt' (--set start.file)"),
        ("train demo --run s3://b/r --set split.file=list", "'list' (--set split.file)"),
        ("prepare s3://b/i --out s3://b/p --set masks.checkpoint=sam.pth", "'sam.pth' (--set masks.checkpoint)"),
        ("prepare s3://b/i --out s3://b/p --set masks.folder=m", "'m' (--set masks.folder)"),
        ("prepare s3://b/i --out s3://b/p --set features.checkpoint=local-dir:c", "'c' (--set features.checkpoint)"),
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


def test_text_files_travel_in_whatever_case_but_not_what_a_verb_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("onto.JSON", "list.txt", "report.json"):
        (tmp_path / name).touch()
    check("index manifest s3://b/m.jsonl --out s3://b/i.parquet --ontology onto.JSON")
    check("train demo --run s3://b/r --set split.file=list.txt")
    with pytest.raises(ResourceError, match=r"'report.json' \(--json\)"):
        check("validate s3://b/i.parquet --json report.json")


def test_a_run_without_a_place_would_be_lost() -> None:
    with pytest.raises(ResourceError, match="a job needs --run"):
        check("train demo --set data.prepared=s3://b/p")


def test_a_job_starts_no_jobs() -> None:
    with pytest.raises(ResourceError, match="submit cannot run as a job"):
        check("submit recipe demo")
