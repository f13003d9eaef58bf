"""Whether a job finds what its command names: it starts in a folder of its own that is deleted with it."""

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ray_lidarseg.errors import ResourceError
from ray_lidarseg.foundation.settings import MINIATURE
from ray_lidarseg.submit.code_folder import is_text_file

_PLACES = {
    "root": "ROOT",
    "data": "DATA",
    "index": "the index",
    "prepared": "--prepared",
    "run_folder": "the run folder (--run of train)",
    "runs": "RUN",
    "ensemble": "--ensemble",
    "scans": "--scans",
    "pictures": "--pictures",
    "predictions": "--predictions",
    "baseline": "--baseline",
    "words": "--words",
    "ontology": "--ontology",
    "storage": "--storage",
    "out": "--out",
    "json": "--json",
}
"""Arguments of the verbs that name a place, by their name in the parser."""

_WRITTEN = ("out", "json")  # a text file that is there already does not travel: the job would write into its copy
_KEYS = ("data.prepared", "start.run", "start.file", "split.file", "*.checkpoint", "*.folder")
_NO_PLACES = {"--baseline": "minkunet18"}  # a word that an argument takes instead of a place

_NOT_AS_JOB = {"submit": "it starts jobs itself"}


def check_command(command: Sequence[str], parsed: Mapping[str, Any]) -> None:
    """Refuses, before anything travels, a verb that is no job and places that exist on this machine only.

    Args:
        command: A verb and its arguments.
        parsed: The same as the command line's parser understands them.

    Raises:
        ResourceError: See above.
    """
    if command[0] in _NOT_AS_JOB:
        raise ResourceError(f"{command[0]} cannot run as a job: {_NOT_AS_JOB[command[0]]}")
    if command[0] == "train" and not parsed["run_folder"]:
        raise ResourceError(
            "a job needs --run: without it the run would lie in the job's own folder, which is deleted with the job; "
            "give an s3:// URI, or an absolute path that every node mounts"
        )
    local = [f"{value!r} ({name})" for name, value in _named_places(parsed) if is_relative(value)]
    written = [(_PLACES[name], parsed.get(name) or "") for name in _WRITTEN]
    local += [f"{value!r} ({name})" for name, value in written if is_text_file(value) and not Path(value).is_absolute()]
    if local:
        raise ResourceError(
            f"relative to what? A job runs on the cluster, in a folder of its own that is deleted with it: "
            f"{', '.join(local)}. Give s3:// URIs, or absolute paths that every node mounts"
        )


def is_relative(value: str) -> bool:
    """Whether a place depends on the folder a process is in; text files of this machine travel and do not count."""
    return bool(value) and "://" not in value and not Path(value).is_absolute() and not is_text_file(value)


def _named_places(parsed: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, shown in _PLACES.items():
        values = parsed.get(name) or ()
        values = [values] if isinstance(values, str) else values
        yield from ((shown, value) for value in values if value != _NO_PLACES.get(shown))
    if parsed["verb"] == "doctor":  # elsewhere it is a step
        yield from (("--checkpoint", value) for value in parsed["checkpoint"])
    for override in parsed.get("overrides", ()):
        name, value = (part.strip(" '\"") for part in override.partition("=")[::2])
        place = value.removeprefix("local-dir:")  # open_clip's
        is_known = any(fnmatch(name, key) for key in _KEYS) and value != MINIATURE
        if is_known or ("/" in place and Path(place).exists()):
            yield f"--set {name}", place
