"""Shards that are named by hand: whether they are those a run was trained beside, and which of them validate it."""

from collections.abc import Iterable

from ray_lidarseg.datasets.catalog import Catalog
from ray_lidarseg.training.run_frames import RunFrames


def are_of_run(catalog: Catalog, frames: RunFrames | None) -> bool:
    """Whether shards hold a scan a run was trained beside: in its folder, moved or not, a copy, or a part of either.

    An id alone says little, every SemanticKITTI has a ``08/000000``; it decides where the content is not known, in
    runs and shards of earlier releases.

    Args:
        catalog: Of the shards.
        frames: What ``split.json`` of the run says; None where there is none.
    """
    if frames is None or not frames.content:
        return True
    now = dict(zip(catalog.frame_id, map(_scan, catalog.digest), strict=True))
    before = ((now[name], _scan(content)) for name, content in frames.content.items() if name in now)
    return any(one == other or not one or not other for one, other in before)


def with_validation_there(catalog: Catalog, frames: RunFrames | None, val_frames: Iterable[str]) -> Catalog:
    """The catalog with ``data.val_frames`` in split ``val`` as in training, as far as the shards hold them.

    Args:
        catalog: Of shards named by hand; those of another project stay as they are.
        frames: As of ``are_of_run``.
        val_frames: The recipe's.
    """
    if not are_of_run(catalog, frames):
        return catalog
    return catalog.with_validation(set(val_frames).intersection(catalog.frame_id))


def _scan(digest: str) -> str:
    return digest.partition("/")[0]
