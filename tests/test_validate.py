"""What `validate` says, with the measuring left out: nothing here starts Ray."""

import json
from pathlib import Path

import pytest

from ray_lidarseg import validate as verb
from ray_lidarseg.checks.findings import Finding
from ray_lidarseg.datasets.parquet_files import parquet_bytes
from ray_lidarseg.datasets.shards import keyframe_table
from ray_lidarseg.sample import Keyframe

SCAN = "/d/[rain]/:x:/[/b]/0.bin"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An index of one frame whose scan cannot be read."""
    monkeypatch.setattr(verb, "_measure", lambda source: [((source.frame_ids[0], f"{SCAN} is gone"), {})])
    monkeypatch.setenv("COLUMNS", "400")
    file = tmp_path / "[red]index[" / "]:car:.parquet"
    file.parent.mkdir()
    frames = [Keyframe("[bold]a", "nuscenes", "s", "train", 0, SCAN)]
    file.write_bytes(parquet_bytes(keyframe_table(frames), 1))
    return str(file)


def test_names_and_paths_are_printed_as_they_are(index: str, capsys: pytest.CaptureFixture) -> None:
    assert verb.validate(index) == 1
    said = capsys.readouterr().out
    assert f"{index}: 1 of 1 frames" in said
    assert said.count("[bold]a") == 2  # in the table, and beside its fix
    assert said.count(SCAN) == 2


def test_the_findings_are_written_before_they_are_printed(index: str, tmp_path: Path, monkeypatch) -> None:
    def broken(*_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(verb, "_print", broken)
    with pytest.raises(BrokenPipeError):
        verb.validate(index, json_out=str(tmp_path / "report.json"))
    assert json.loads((tmp_path / "report.json").read_text())["findings"]


def test_a_fix_is_printed_as_it_is(capsys: pytest.CaptureFixture) -> None:
    verb._print([Finding("[i]files[/i]", "error", "measured [/x]", "expected [b]", "mend [y] :car:")], "title [z]")
    said = capsys.readouterr().out
    assert "[i]files[/i]: measured [/x]. Fix: mend [y] :car:" in said
    assert "title [z]" in said
