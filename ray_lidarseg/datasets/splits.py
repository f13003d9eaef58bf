"""Which training frames count as labelled: four protocols, each a pure function of the catalog's content and a seed.

Numbers under different protocols are not comparable; the digest tells equal splits apart from equal names.
"""

import hashlib
import math
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ray_lidarseg import storage
from ray_lidarseg.datasets.catalog import Catalog
from ray_lidarseg.errors import SplitError, StorageError
from ray_lidarseg.recipe import schema
from ray_lidarseg.recipe.bad_input import shown
from ray_lidarseg.recipe.text_files import read_text


@dataclass(frozen=True)
class LabelSplit:
    """A drawn split of the training frames.

    Attributes:
        protocol: ``uniform``, ``scene``, ``slidr-skip``, ``slidr-scenes`` or ``list``; ``none`` where no label is read.
        ratio: Share asked for; under ``list`` the share the list makes of the frames with labels.
        seed: Seed of the draw; without effect under the ``slidr`` ones and ``list``.
        labelled: Sorted ids.
        unlabelled: Sorted ids of all other training frames, with or without labels; the labelled ones themselves where
            no other is left (the authors' fully labelled setting).
        digest: First 16 hex digits of the SHA-256 of the labelled ids, sorted, joined by newlines.
        published: The published list this is, by its digest, for example ``LaserMix 10 %``; else ``""``.
    """

    protocol: str
    ratio: float
    seed: int
    labelled: tuple[str, ...]
    unlabelled: tuple[str, ...]
    digest: str
    published: str = ""


_PUBLISHED = {
    ("nuscenes", 28_130): {
        1: (281, "33ccc457e08f157d"),
        10: (2_813, "c86bcde189530528"),
        20: (5_626, "cdb9e5ad5554fa7c"),
        50: (14_065, "5c701d1fd57d6352"),
    },
    ("semantickitti", 19_130): {
        1: (191, "d30a4fe07ab15ac8"),
        10: (1_913, "77aa6086b008e249"),
        20: (3_826, "0b90944f9d5be42c"),
        50: (9_565, "f23ad431339051f2"),
    },
}
"""LaserMix's lists of whole data sets, ScribbleKITTI as SemanticKITTI: how many frames by per cent, and their digest.

Digests are over sample tokens on nuScenes, over ids such as ``00/000123`` on SemanticKITTI. Source: the lists that the
LaserMix authors' sister code (OpenPCSeg) ships, which are those of IT2 ("following LaserMix"), too.
"""
_SCAN_PATH = re.compile(r"(?:^|/)(\d\d)/(?:velodyne|labels|scribbles)/(\d{6})\.\w+$")
_PUBLISHED_NAME = re.compile(r"(?:^|[_/])(\d+)pct\.txt$")


def make_split(catalog: Catalog, spec: schema.Split) -> LabelSplit:
    """Draws the labelled frames among the catalog's training frames that have labels.

    ``uniform`` draws floor(ratio N) of these N frames over all scenes (LaserMix); ``scene`` takes whole scenes in
    random order until that many frames are reached; ``slidr-skip`` takes every round(1 / ratio)-th frame in order
    of scene and time, starting with the first (SLidR on SemanticKITTI), ``slidr-scenes`` every round(1 / ratio)-th
    scene whole, in order of their names (SLidR on nuScenes: 7 of 700 at 1 %, in the order of its table); ``list``
    takes the frames of ``spec.frames`` and ``spec.file``: ids, aliases (nuScenes sample tokens, as in the public
    lists) or paths of SemanticKITTI scans (``…/00/velodyne/000123.bin``). On whole nuScenes and SemanticKITTI a
    list is compared with the published ones: a file named like one of them (``…_10pct.txt``) must be it, and a list
    as long as one but different is warned of. A draw ranks ids by a seeded hash: it does not depend on the
    catalog's order, and smaller ratios are subsets of larger ones (the published lists are not all nested).

    Args:
        catalog: All prepared frames; only those of split ``train`` count.
        spec: Protocol, ratio and seed.

    Raises:
        SplitError: There is no training frame with labels, the ratio selects none, or a listed frame is unknown,
            has no labels or is not a training frame, or a file named like a published list is not that list.
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
    published = _published(train, labelled, spec.file) if spec.protocol == "list" else ""
    chosen = set(labelled)
    unlabelled = sorted(frame_id for frame_id in train.frame_id if frame_id not in chosen)
    labelled = sorted(labelled)
    return LabelSplit(
        protocol=spec.protocol,
        ratio=ratio,
        seed=spec.seed,
        labelled=tuple(labelled),
        unlabelled=tuple(unlabelled or labelled),
        digest=split_digest(labelled),
        published=published,
    )


def no_labels(catalog: Catalog) -> LabelSplit:
    """The split of a run that learns from no label: all training frames, with or without labels, are unlabelled ones.

    Raises:
        SplitError: There is no training frame.
    """
    train = sorted(catalog.of_split("train").frame_id)
    if not train:
        raise SplitError(f"none of {len(catalog)} frames is of split train: index scenes to learn from")
    return LabelSplit("none", 0.0, 0, (), tuple(train), split_digest(()))


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


def _drawn(candidates: Catalog, spec: schema.Split, count: int) -> list[str]:
    if spec.protocol == "uniform":
        return _shuffled(candidates.frame_id, spec.seed)[:count]
    if spec.protocol == "scene":
        return _whole_scenes(candidates, spec.seed, count)
    if spec.protocol == "slidr-scenes":
        chosen = set(sorted(set(candidates.scene))[:: round(1 / spec.ratio)])
        return [name for name, scene in zip(candidates.frame_id, candidates.scene, strict=True) if scene in chosen]
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


def _listed(train: Catalog, candidates: Sequence[str], spec: schema.Split) -> list[str]:
    names = {*spec.frames, *(_read_list(spec.file) if spec.file else ())}
    if not names:
        raise SplitError("split.protocol=list needs split.frames, or split.file with one frame id a line")
    listed = sorted(_frame_ids(train, names))
    hint = ""
    if set(train.dataset) == {"nuscenes"} and not any(train.alias):
        hint = "; this folder was prepared by a release that did not keep sample tokens: index and prepare again"
    _refuse(listed, train.frame_id, f"are not among the {len(train)} training frames", hint)
    _refuse(listed, candidates, "have no labels")
    return listed


def _frame_ids(train: Catalog, names: Iterable[str]) -> set[str]:
    """Ids of what a list names by id, by alias or by path; a name that is none of these stays as it is."""
    known = set(train.frame_id)
    id_of_alias = dict(zip(train.alias, train.frame_id, strict=True))
    id_of_alias.pop("", None)
    found = set()
    for name in names:
        path = _SCAN_PATH.search(name)
        as_path = f"{path[1]}/{path[2]}" if path else name
        found.add(name if name in known else id_of_alias.get(name, as_path))
    return found


def _published(train: Catalog, labelled: Sequence[str], file: str) -> str:
    """Which published list this is, where the whole data set is there; see ``make_split``."""
    lists = _PUBLISHED.get((train.dataset[0], len(train)), {}) if len(set(train.dataset)) == 1 else {}
    chosen = train.select(labelled)
    digest = split_digest(alias or frame_id for alias, frame_id in zip(chosen.alias, chosen.frame_id, strict=True))
    for percent, expected in lists.items():
        if expected == (len(labelled), digest):
            return f"LaserMix {percent} %"
    name = _PUBLISHED_NAME.search(file)
    if name and int(name[1]) in lists:
        count, expected_digest = lists[int(name[1])]
        raise SplitError(
            f"split.file {file} is named like LaserMix's {name[1]} % list of {train.dataset[0]} ({count} frames, "
            f"digest {expected_digest}), but lists {len(labelled)} frames with digest {digest}: get the list again, or "
            "rename a list of your own"
        )
    for percent, (count, expected_digest) in lists.items():
        if count == len(labelled):
            warnings.warn(
                f"the list holds {count} frames as LaserMix's {percent} % list of {train.dataset[0]} does, but its "
                f"digest is {digest} and not {expected_digest}: the results do not compare with published ones",
                stacklevel=3,
            )
    return ""


def _refuse(listed: Sequence[str], allowed: Iterable[str], problem: str, hint: str = "") -> None:
    allowed = set(allowed)
    wrong = [frame_id for frame_id in listed if frame_id not in allowed]
    if wrong:
        examples = ", ".join(map(shown, wrong[:3]))
        raise SplitError(f"{len(wrong)} of {len(listed)} listed frames {problem}, for example [{examples}]{hint}")


def _read_list(uri: str) -> list[str]:
    try:
        content = storage.read_bytes(uri)
    except StorageError as error:
        raise SplitError(f"split.file {uri} cannot be read: {error}") from error
    lines = (line.strip() for line in read_text(content, f"split.file {uri}", SplitError).splitlines())
    return [line for line in lines if line]
