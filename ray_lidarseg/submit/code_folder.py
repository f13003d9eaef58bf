"""What a job takes along: the package as it is here, and the small text files its command names."""

import importlib.util
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import ray_lidarseg
from ray_lidarseg.errors import ResourceError
from ray_lidarseg.training.environment import git_commit

PACKAGES = ("ray_lidarseg", "tune_spaces")
GIVEN = "given"
"""Folder of the job for files named on the command line."""

_TEXT_SUFFIXES = {".yaml", ".yml", ".txt", ".json"}
_MAX_TEXT_BYTES = 1 << 20  # ours: recipes, studies, ontologies and lists of frames; data go by URI
_OUTPUTS = ("--out", "--json")
_LEFT_OUT = {"__pycache__", ".mypy_cache", ".ruff_cache"}


@dataclass(frozen=True)
class Packed:
    """What lies in the folder that a job starts in.

    Attributes:
        command: The verb and its arguments, with local text files renamed to their copies.
        num_files: Of the package.
        num_bytes: Of the package.
        commit: The git commit of the code; empty where it is not from a checkout.
        is_changed: Whether the code differs from that commit.
        untracked: Python files of the package that git does not know; they stay here.
    """

    command: list[str]
    num_files: int
    num_bytes: int
    commit: str
    is_changed: bool
    untracked: tuple[str, ...]

    def __str__(self) -> str:
        """For people."""
        state = " and changes that are not committed" if self.is_changed else ""
        source = f"commit {self.commit[:12]}{state}" if self.commit else "the installed package"
        return f"{self.num_files} files, {self.num_bytes / 2**20:.1f} MiB, from {source}"


def pack(command: Sequence[str], folder: Path) -> Packed:
    """Copies into ``folder`` what git tracks of the package, as it is now, or all files of an installed one.

    Args:
        command: A verb and its arguments; recipes and other text files that lie here travel, too.
        folder: Empty.

    Raises:
        ResourceError: A text file is too large to be one.
    """
    root = Path(ray_lidarseg.__file__).parents[1]
    tracked = _git(root, "ls-files", "-z", "--", *PACKAGES)
    files = [root / name for name in tracked] if tracked else list(_installed())
    base = {file: root if tracked else _root_of(file) for file in files}
    files = [file for file in files if file.is_file()]  # git still lists what was deleted since
    for file in files:
        target = folder / file.relative_to(base[file])
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    untracked = _git(root, "ls-files", "-z", "--others", "--exclude-standard", "--", *PACKAGES) if tracked else []
    return Packed(
        command=_with_text_files(command, folder / GIVEN),
        num_files=len(files),
        num_bytes=sum(file.stat().st_size for file in files),
        commit=git_commit() if tracked else "",
        is_changed=bool(tracked and _git(root, "diff", "--name-only", "-z", "HEAD", "--", *PACKAGES)),
        untracked=tuple(name for name in untracked if name.endswith(".py")),
    )


def is_text_file(value: str) -> bool:
    """Whether an argument names a text file of this machine, which travels with the job."""
    return Path(value).suffix.lower() in _TEXT_SUFFIXES and Path(value).is_file()


def _with_text_files(command: Sequence[str], folder: Path) -> list[str]:
    renamed = list(command)
    for position, argument in enumerate(command):
        name, sign, value = argument.rpartition("=")  # --set KEY=FILE, --ontology=FILE
        if not is_text_file(value) or _is_output(name if name.startswith("--") else command[position - 1]):
            continue
        if (size := Path(value).stat().st_size) > _MAX_TEXT_BYTES:
            raise ResourceError(
                f"{value} has {size / 2**20:.0f} MiB: only text files up to 1 MiB travel with a job; put it where "
                "every node of the cluster reads it, and give that URI"
            )
        folder.mkdir(exist_ok=True)
        file = f"{position}-{Path(value).name}"  # two of one name stay two
        shutil.copyfile(value, folder / file)
        renamed[position] = f"{name}{sign}{GIVEN}/{file}"
    return renamed


def _is_output(option: str) -> bool:
    """Whether the verb writes what an option, perhaps abbreviated, names: that must stay in its place."""
    return len(option) > 2 and any(output.startswith(option) for output in _OUTPUTS)


def _git(root: Path, *arguments: str) -> list[str]:
    """The names a git command prints; none outside a checkout, or without git."""
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return []
    return [name for name in done.stdout.split("\0") if name] if done.returncode == 0 else []


def _installed() -> Iterator[Path]:
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        for place in (spec.submodule_search_locations or ()) if spec else ():
            found = Path(place).rglob("*")
            yield from sorted(file for file in found if file.is_file() and not _LEFT_OUT & set(file.parts))


def _root_of(file: Path) -> Path:
    """The folder that holds the package of an installed file."""
    return next(parent.parent for parent in file.parents if parent.name in PACKAGES)
