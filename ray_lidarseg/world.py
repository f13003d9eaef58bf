"""``ray-lidarseg world``: a synthetic driving log, one Ray task a scene, resumable by file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import ray

from ray_lidarseg import storage
from ray_lidarseg.errors import StorageError
from ray_lidarseg.recipe.text_files import read_json, require
from ray_lidarseg.runtime.cluster import connect, worker_runtime_env
from ray_lidarseg.runtime.progress import progress
from ray_lidarseg.synthetic import nuscenes_writer, semantickitti_writer
from ray_lidarseg.synthetic.frequencies import frequency_table
from ray_lidarseg.synthetic.nuscenes_writer import Rows, dataset_id, write_tables
from ray_lidarseg.synthetic.options import with_options
from ray_lidarseg.synthetic.presets import Preset, preset_named
from ray_lidarseg.synthetic.scene import Scene

_MARKER = "world.json"


def generate(
    preset: str, out: str, seed: int = 0, options: Mapping[str, object] | None = None, frequencies: bool = False
) -> None:
    """Generates a world, or what is missing or torn of it: files that are there are not made again.

    Args:
        preset: Name of a size in ``world.presets.PRESETS``.
        out: Root folder of the data set; all workers must see it.
        seed: Other seeds are other towns.
        options: What to change in the preset, see ``world.options.OPTIONS``; the data set's name records it.
        frequencies: Whether to print how often each class occurs, beside the real data set.

    Raises:
        DataError: There is no such preset or option, or a value that an option cannot have.
        StorageError: The folder cannot be written, is no folder (``s3://``), or holds another world.
    """
    size, root = with_options(preset_named(preset), options or {}), _local(out)
    _claim(root, size, seed)
    if _is_complete(root, size, seed):
        print(f"world: {root} is complete")
    else:
        _fill(root, size, seed)
    if frequencies:
        print(frequency_table(root, size, seed))


def _fill(root: Path, preset: Preset, seed: int) -> None:
    with connect():
        rows = _run_tasks(root, preset, seed)
    if preset.layout == "nuscenes":
        write_tables(root, preset, seed, rows)


def _local(out: str) -> Path:
    if not storage.is_local(out):
        raise StorageError(
            f"a world goes into a folder that all workers share, not to {out}: generate it into a folder, then copy it"
        )
    return Path(storage.absolute(out)).resolve()


def _claim(root: Path, preset: Preset, seed: int) -> None:
    """Checks that the folder can be written and belongs to this world; a new one is marked."""
    mine = {"id": dataset_id(preset, seed), "preset": preset.name, "seed": seed, "options": dict(preset.options)}
    marker = root / _MARKER
    if marker.exists():
        found = _read_marker(marker)
        if found.get("id") != mine["id"]:
            raise StorageError(
                f"{root} holds the world {found.get('id')!r}, not {mine['id']!r}; it was made with "
                f"{_described(found)}: choose another --out folder, or the same --preset, --seed and --set"
            )
        return
    if any((root / name).exists() for name in (preset.version, "sequences")):
        raise StorageError(f"{root} holds a data set that this command did not make: choose another --out folder")
    storage.write_bytes(str(marker), json.dumps(mine, indent=1).encode())


def _read_marker(marker: Path) -> dict[str, Any]:
    where = f"{marker} (choose another --out folder)"
    found = read_json(storage.read_bytes(str(marker)), where, StorageError)
    require(found, {"options?": dict, "*": object}, where, StorageError)
    return found


def _described(marker: dict[str, Any]) -> str:
    settings = [f"--set {name}={value}" for name, value in marker.get("options", {}).items()]
    return " ".join([f"--preset {marker.get('preset')} --seed {marker.get('seed')}", *settings])


def _is_complete(root: Path, preset: Preset, seed: int) -> bool:
    writer = nuscenes_writer if preset.layout == "nuscenes" else semantickitti_writer
    return writer.is_complete(root, preset, seed)


def _run_tasks(root: Path, preset: Preset, seed: int) -> list[Rows]:
    """One task a scene; results in the order of the scenes."""
    task = ray.remote(num_cpus=1, runtime_env=worker_runtime_env())(_scene_task)
    pending = {task.remote(str(root), preset, seed, index): index for index in range(len(preset.scenes))}
    done: dict[int, Rows] = {}
    with progress(len(pending), "world", "scene") as bar:
        while pending:
            ready, _ = ray.wait(list(pending), num_returns=1)
            for reference in ready:
                index = pending.pop(reference)
                try:
                    done[index] = ray.get(reference)
                except ray.exceptions.RayTaskError as error:
                    raise _clear(error, root) from error
                bar.update()
    return [done[index] for index in range(len(preset.scenes))]


def _scene_task(root: str, preset: Preset, seed: int, index: int) -> Rows:
    cv2.setNumThreads(1)
    scene = Scene(preset, seed, index)
    if preset.layout == "nuscenes":
        return nuscenes_writer.write_scene(Path(root), scene)
    semantickitti_writer.write_scene(Path(root), scene)
    return {}


def _clear(error: "ray.exceptions.RayTaskError", root: Path) -> Exception:
    """A full or lost disk in a task reads like one, not like a traceback of Ray."""
    cause = error.cause
    is_storage = isinstance(cause, OSError | StorageError)
    return StorageError(f"cannot write a world to {root}: {cause}") if is_storage else error
