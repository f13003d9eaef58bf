"""Processes below another one, by the names Ray gives its workers; Linux only, like Ray's clusters."""

from pathlib import Path


def descendants(pid: int, word: str) -> list[int]:
    """Ids of processes below ``pid`` whose command line holds ``word``."""
    parents, titles = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            titles[int(folder.name)] = (folder / "cmdline").read_bytes().decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
    return [child for child in titles if word in titles[child] and _is_below(child, pid, parents)]


def _is_below(child: int, ancestor: int, parents: dict[int, int]) -> bool:
    while child in parents:
        child = parents[child]
        if child == ancestor:
            return True
    return False
