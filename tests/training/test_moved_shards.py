import numpy as np
import pytest

from ray_lidarseg.datasets.catalog import Catalog
from ray_lidarseg.datasets.splits import LabelSplit
from ray_lidarseg.training.moved_shards import are_of_run, with_validation_there
from ray_lidarseg.training.run_frames import RunFrames


def catalog_of(**digests: str) -> Catalog:
    """Training frames by id with the digest of each."""
    names, number = tuple(digests), np.arange(len(digests))
    same = {name: (name,) * len(names) for name in ("dataset", "scene", "shard")}
    columns = {"timestamp_us": number, "row": number, "num_points": number, "is_labelled": number >= 0}
    return Catalog(frame_id=names, split=("train",) * len(names), digest=tuple(digests.values()), **same, **columns)


def frames_of(**content: str) -> RunFrames:
    return RunFrames(LabelSplit("uniform", 1.0, 0, tuple(content), (), ""), content=content)


@pytest.mark.parametrize(
    ("catalog", "frames", "expected"),
    [
        (catalog_of(a="1/1", b="2/1"), frames_of(a="1/1/", b="2/1/"), True),
        (catalog_of(a="1/9"), frames_of(a="1/1/", b="2/1/"), True),  # a part, relabelled
        (catalog_of(a="9/1", b="8/1"), frames_of(a="1/1/", b="2/1/"), False),  # another recording of these ids
        (catalog_of(c="1/1"), frames_of(a="1/1/"), False),
        (catalog_of(a=""), frames_of(a="1/1/"), True),  # prepared by an earlier release
        (catalog_of(a="1/1"), frames_of(), True),
        (catalog_of(a="1/1"), None, True),
    ],
)
def test_shards_of_a_run_are_known_by_their_scans(catalog: Catalog, frames: RunFrames | None, expected: bool) -> None:
    assert are_of_run(catalog, frames) == expected
    split = with_validation_there(catalog, frames, ("a", "gone")).split
    assert split.count("val") == (expected and "a" in catalog.frame_id)
