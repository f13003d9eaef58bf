"""What a prepared row was made of, written beside it, so that a later call sees when that has changed.

Files by size, times and digest; calibration, times and the rows of other layers by the digest of their value.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ray_lidarseg.errors import DataError
from ray_lidarseg.recipe.text_files import read_json
from ray_lidarseg.sample import Keyframe
from ray_lidarseg.storage.stamps import Stamp, changed_files

_EXAMPLES = 3


@dataclass(frozen=True)
class Origin:
    """What one row was made of.

    Attributes:
        files: Stamps by URI.
        values: Digests, or short values, by what they are of.
    """

    files: dict[str, Stamp] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """As text."""
        files = {uri: stamp.to_list() for uri, stamp in self.files.items()}
        return json.dumps({"files": files, "values": self.values}, sort_keys=True)

    @staticmethod
    def from_json(text: str, where: str) -> "Origin | None":
        """The inverse of ``to_json``; None for the empty text of rows that earlier releases wrote.

        Raises:
            DataError: Not such a text.
        """
        if not text:
            return None
        try:
            content = read_json(text, "it", DataError)
            files = {str(uri): Stamp.from_list(stamp) for uri, stamp in content["files"].items()}
            return Origin(files, {str(name): str(value) for name, value in content["values"].items()})
        except (DataError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise DataError(
                f"{where} does not say what it was made of ({error}): delete it and prepare again"
            ) from error


def values_of(frame: Keyframe) -> dict[str, str]:
    """What the index says of a frame beside its files: ``calibration``, ``images`` (which), ``time`` and ``alias``."""
    calibration = [
        [camera.name, camera.intrinsics.tolist(), camera.cam_SE3_lidar.tolist(), camera.width_px, camera.height_px]
        for camera in frame.cameras
    ]
    images = [[camera.name, camera.uri, camera.timestamp_us] for camera in frame.cameras]
    return {
        "calibration": digest_of_value(calibration),
        "images": digest_of_value(images),
        "time": str(frame.timestamp_us),
        "alias": frame.alias,
    }


def digest_of_value(value: Any) -> str:
    """First 16 hex digits of the SHA-256 of a value as JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def what_changed(origins: Mapping[str, Origin], now: Mapping[str, Mapping[str, str]]) -> dict[str, list[str]]:
    """Frames whose files or values are not what they were, each with the URIs and the names of values that differ.

    A value that only one side knows, and a file that is gone, have not changed.

    Args:
        origins: What the rows were made of, by frame.
        now: Values as they are, by frame.

    Raises:
        StorageError: A file whose times changed cannot be read.
    """
    before = {uri: stamp for origin in origins.values() for uri, stamp in origin.files.items()}
    other_files = changed_files(before)
    found: dict[str, list[str]] = {}
    for frame_id, origin in origins.items():
        current = now.get(frame_id, {})
        different = [name for name, value in origin.values.items() if current.get(name, value) != value]
        different += [uri for uri in origin.files if uri in other_files]
        if different:
            found[frame_id] = different
    return found


@dataclass(frozen=True)
class Compared:
    """Rows that are there, compared with what they would be made of now.

    Attributes:
        finished: Frames that are there as they would be made now.
        changed: Frames that are there as they were, each with what changed since.
        outdated: Shard and row of each row that is not as it would be now.
        before: Values that the rows of ``changed`` were made of.
    """

    finished: set[str]
    changed: dict[str, list[str]]
    outdated: list[tuple[str, int]]
    before: dict[str, dict[str, str]]


Entries = Mapping[str, Mapping[str, Any]]
"""Rows by a name of their own: at least ``frame_id``, ``shard``, ``row`` and ``origin`` of each."""


def compare(
    entries: Iterable[Mapping[str, Any]],
    now: Mapping[str, Mapping[str, str]],
    folder: str,
    older: Callable[[Entries], dict[str, list[str]]] = lambda entries: {},
) -> Compared:
    """Compares the rows of a folder with the present.

    Args:
        entries: Of shards or of a layer; frames that ``now`` does not know are left out.
        now: Values as they are, by frame.
        folder: Where the rows lie, for errors.
        older: What changed in rows of earlier releases, which do not say what they were made of; left out, nothing.

    Raises:
        DataError: A row's origin is damaged.
        StorageError: A file whose times changed cannot be read.
    """
    rows = {f"{entry['shard']}/{entry['row']}": entry for entry in entries if entry["frame_id"] in now}
    found = {place: Origin.from_json(entry["origin"], f"{folder}/{place}") for place, entry in rows.items()}
    origins = {place: origin for place, origin in found.items() if origin is not None}
    differing = what_changed(origins, {place: now[rows[place]["frame_id"]] for place in origins})
    differing |= older({place: entry for place, entry in rows.items() if place not in origins})
    finished = {entry["frame_id"] for place, entry in rows.items() if place not in differing}
    stale = {place: rows[place]["frame_id"] for place in differing if rows[place]["frame_id"] not in finished}
    return Compared(
        finished,
        {frame_id: differing[place] for place, frame_id in stale.items()},
        [(rows[place]["shard"], rows[place]["row"]) for place in differing],
        {frame_id: origins[place].values for place, frame_id in stale.items() if place in origins},
    )


def described(changed: Mapping[str, Iterable[str]]) -> str:
    """The first few frames, each with what changed, by the last part of a file's name."""
    shown = [
        f"{frame_id} ({', '.join(name.rpartition('/')[2] for name in changed[frame_id])})"
        for frame_id in sorted(changed)[:_EXAMPLES]
    ]
    return ", ".join(shown) + (f" and {len(changed) - _EXAMPLES} more" if len(changed) > _EXAMPLES else "")
