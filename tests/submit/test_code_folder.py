import subprocess
from pathlib import Path

import pytest

from ray_lidarseg.errors import ResourceError
from ray_lidarseg.submit import code_folder
from ray_lidarseg.submit.code_folder import pack


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a package of two tracked files, one changed since, and one that git does not know."""
    root = tmp_path / "checkout"
    package = root / "ray_lidarseg"
    package.mkdir(parents=True)
    for name in ("__init__.py", "old.py"):
        (package / name).write_text("before\n")
    (root / "secret.txt").write_text("not of the package")
    for command in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "1"]):
        subprocess.run(["git", "-C", str(root), *command], check=True)
    (package / "__init__.py").write_text("after\n")
    (package / "new.py").write_text("unknown to git\n")
    monkeypatch.setattr(code_folder.ray_lidarseg, "__file__", str(package / "__init__.py"))
    return root


def names(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def test_a_job_takes_what_git_tracks_as_it_is_now(checkout: Path, tmp_path: Path) -> None:
    folder = tmp_path / "job"
    folder.mkdir()
    packed = pack(["doctor"], folder)
    assert names(folder) == ["ray_lidarseg/__init__.py", "ray_lidarseg/old.py"]
    assert (folder / "ray_lidarseg/__init__.py").read_text() == "after\n"
    assert (packed.num_files, packed.num_bytes) == (2, len("after\nbefore\n"))
    assert packed.is_changed
    assert "changes that are not committed" in str(packed)
    assert packed.untracked == ("ray_lidarseg/new.py",)


def test_a_file_deleted_since_stays_away(checkout: Path, tmp_path: Path) -> None:
    (checkout / "ray_lidarseg/old.py").unlink()
    (tmp_path / "job").mkdir()
    pack(["doctor"], tmp_path / "job")
    assert names(tmp_path / "job") == ["ray_lidarseg/__init__.py"]


def test_an_installed_package_travels_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_folder, "_git", lambda *_: [])
    packed = pack(["recipe"], tmp_path)
    assert "from the installed package" in str(packed)
    assert (tmp_path / "ray_lidarseg/cli.py").is_file()
    assert (tmp_path / "ray_lidarseg/recipes/demo.yaml").is_file()
    assert not list(tmp_path.rglob("__pycache__"))


def test_text_files_that_the_command_names_travel_and_two_of_one_name_stay_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code_folder, "_git", lambda *_: [])
    monkeypatch.setattr(code_folder, "_installed", lambda: iter(()))
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "own.yaml").write_text(place)
    job = tmp_path / "job"
    job.mkdir()
    command = ["train", str(tmp_path / "a/own.yaml"), f"--ontology={tmp_path / 'b/own.yaml'}", "demo"]
    packed = pack(command, job)
    assert packed.command == ["train", "given/1-own.yaml", "--ontology=given/2-own.yaml", "demo"]
    assert [(job / name).read_text() for name in ("given/1-own.yaml", "given/2-own.yaml")] == ["a", "b"]


def test_what_a_verb_writes_stays_in_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_folder, "_git", lambda *_: [])
    monkeypatch.setattr(code_folder, "_installed", lambda: iter(()))
    recipe, report = tmp_path / "R.YAML", tmp_path / "report.json"
    recipe.touch()
    report.touch()
    (tmp_path / "job").mkdir()
    command = ["train", str(recipe), f"--json={report}", "--json", str(report), "--js", str(report)]
    assert pack(command, tmp_path / "job").command == ["train", "given/1-R.YAML", *command[2:]]


def test_data_do_not_travel(tmp_path: Path) -> None:
    large = tmp_path / "scans.txt"
    large.write_bytes(b"0" * (2 << 20))
    (tmp_path / "job").mkdir()
    with pytest.raises(ResourceError, match="has 2 MiB: only text files up to 1 MiB travel with a job"):
        pack(["train", str(large)], tmp_path / "job")
