"""Which training frames count as labelled: four protocols, each a pure function of the catalog's content and a seed.

Numbers under different protocols are not comparable; the digest tells equal splits apart from equal names.
"""

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from pyarrow import fs

from ray_lidarseg import recipe
from ray_lidarseg.datasets.shards import Catalog
from ray_lidarseg.errors import SplitError


@dataclass(frozen=True)
class LabelSplit:
    """A drawn split of the training frames.

    Attributes:
        protocol: ``uniform``, ``scene``, ``slidr-skip`` or ``list``.
        ratio: Share asked for; under ``list`` the share the list makes of the frames with labels.
        seed: Seed of the draw; without effect under ``slidr-skip`` and ``list``.
        labelled: Sorted ids.
        unlabelled: Sorted ids of all other training frames, with or without labels; the labelled ones themselves where
            no other is left (the authors' fully labelled setting).
        digest: First 16 hex digits of the SHA-256 of the labelled ids, sorted, joined by newlines.
    """

    protocol: str
    ratio: float
    seed: int
    labelled: tuple[str, ...]
    unlabelled: tuple[str, ...]
    digest: str


def make_split(catalog: Catalog, spec: recipe.Split) -> LabelSplit:
    """Draws the labelled frames among the catalog's training frames that have labels.

    ``uniform`` draws floor(ratio N) of these N frames over all scenes (LaserMix); ``scene`` takes whole scenes in
    random order until that many frames are reached; ``slidr-skip`` takes every round(1 / ratio)-th frame in order of
    scene and time, starting with the first (SLidR); ``list`` takes the frames of ``spec.frames`` and ``spec.file``.
    A draw ranks ids by a seeded hash: it does not depend on the catalog's order, and smaller ratios are subsets of
    larger ones (the published lists are not all nested).

    Args:
        catalog: All prepared frames; only those of split ``train`` count.
        spec: Protocol, ratio and seed.

    Raises:
        SplitError: There is no training frame with labels, the ratio selects none, or a listed frame is unknown,
            has no labels or is not a training frame.
    """
    train = catalog.of_split("train")
    candidates = [train.frame_id[index] for index in np.flatnonzero(train.is_labelled)]
    if not candidates:
        raise SplitError(
            f"none of the {len(train)} training frames (of {len(catalog)} in all) has labels: "
            "index a folder with labels, or check the split of the scenes"
        )
    if spec.protocol == "list":
        labelled = _listed(train, candidates, spec)
        ratio = len(labelled) / len(candidates)
    else:
        ratio = spec.ratio
        labelled = _drawn(train.select(candidates), spec, _count(len(candidates), ratio))
    chosen = set(labelled)
    unlabelled = sorted(frame_id for frame_id in train.frame_id if frame_id not in chosen)
    labelled = sorted(labelled)
    return LabelSplit(
        spec.protocol, ratio, spec.seed, tuple(labelled), tuple(unlabelled or labelled), split_digest(labelled)
    )


def split_digest(frame_ids: Iterable[str]) -> str:
    """First 16 hex digits of the SHA-256 of the sorted ids joined by newlines."""
    return hashlib.sha256("\n".join(sorted(frame_ids)).encode()).hexdigest()[:16]


def _count(num_frames: int, ratio: float) -> int:
    count = math.floor(ratio * num_frames + 1e-9)  # 0.29 * 100 is 28.999…
    if not count:
        raise SplitError(
            f"split.ratio={ratio:g} of {num_frames} training frames with labels selects none: "
            f"the least ratio is {1 / num_frames:.6g}"
        )
    return count


def _drawn(candidates: Catalog, spec: recipe.Split, count: int) -> list[str]:
    if spec.protocol == "uniform":
        return _shuffled(candidates.frame_id, spec.seed)[:count]
    if spec.protocol == "scene":
        return _whole_scenes(candidates, spec.seed, count)
    by_time = sorted(zip(candidates.scene, candidates.timestamp_us.tolist(), candidates.frame_id, strict=True))
    return [frame_id for _, _, frame_id in by_time[:: round(1 / spec.ratio)]]


def _shuffled(names: Iterable[str], seed: int) -> list[str]:
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())


def _whole_scenes(candidates: Catalog, seed: int, count: int) -> list[str]:
    members: dict[str, list[str]] = {}
    for scene, frame_id in zip(candidates.scene, candidates.frame_id, strict=True):
        members.setdefault(scene, []).append(frame_id)
    labelled: list[str] = []
    for scene in _shuffled(members, seed):
        if len(labelled) < count:
            labelled += members[scene]
    return labelled


def _listed(train: Catalog, candidates: Sequence[str], spec: recipe.Split) -> list[str]:
    listed = sorted({*spec.frames, *(_read_list(spec.file) if spec.file else ())})
    if not listed:
        raise SplitError("split.protocol=list needs split.frames, or split.file with one frame id a line")
    _refuse(listed, train.frame_id, f"are not among the {len(train)} training frames")
    _refuse(listed, candidates, "have no labels")
    return listed


def _refuse(listed: Sequence[str], allowed: Iterable[str], problem: str) -> None:
    allowed = set(allowed)
    wrong = [frame_id for frame_id in listed if frame_id not in allowed]
    if wrong:
        raise SplitError(f"{len(wrong)} of {len(listed)} listed frames {problem}, for example {wrong[:3]}")


def _read_list(uri: str) -> list[str]:
    filesystem, path = fs.FileSystem.from_uri(uri) if "://" in uri else (fs.LocalFileSystem(), uri)
    try:
        with filesystem.open_input_stream(path) as stream:
            lines = stream.read().decode().splitlines()
    except OSError as error:
        raise SplitError(f"split.file {uri} cannot be read: {error}") from error
    return [line.strip() for line in lines if line.strip()]
