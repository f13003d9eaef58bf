"""Whether a job finds what its command names: it starts in a folder of its own that is deleted with it."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ray_lidarseg.errors import ResourceError
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
    "out": "--out",
    "json": "--json",
}
"""Arguments of the verbs that name a place, by their name in the parser."""

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
        yield from ((shown, value) for value in ([values] if isinstance(values, str) else values))
    for override in parsed.get("overrides", ()):
        name, _, value = override.partition("=")
        if name == "data.prepared" or ("/" in value and Path(value).exists()):
            yield f"--set {name}", value
