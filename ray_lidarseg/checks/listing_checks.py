"""Checks of what an index lists, without its scans: splits and time stamps of every frame. Limits are ours."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from ray_lidarseg.checks.findings import Finding, some

_MOST_SENSORS = 8  # that fire at one time
_STEP_S = (0.001, 60.0)


def check_splits(scenes: Sequence[str], splits: Sequence[str], contents: Sequence[str] = ()) -> Finding:
    """Whether what is scored on was kept apart from what is trained on, by drive and by content.

    Args:
        scenes: Drive of each frame.
        splits: Its split.
        contents: Digest of its scan; "" where it is not known.
    """
    sizes = Counter(splits)
    of_split = {split: {scene for scene, own in zip(scenes, splits, strict=True) if own == split} for split in sizes}
    measured = ", ".join(f"{split} {sizes[split]} frames of {len(of_split[split])} scenes" for split in sorted(sizes))
    expected = "each drive in one split, no scan in two"
    train = of_split.pop("train", set())
    named = [(content, split) for content, split in zip(contents, splits, strict=False) if content]
    trained_on = {content for content, split in named if split == "train"}
    twice = sum(split != "train" and content in trained_on for content, split in named)
    if twice:
        fix = "leave the copies out of train: a score on scans that were trained on says nothing"
        return Finding("splits", "error", f"{measured}; {twice} scans of other splits are in train, too", expected, fix)
    if shared := sorted(train & set().union(*of_split.values())):
        fix = "give whole drives to one split: frames that follow each other are nearly one, and scores are too good"
        return Finding("splits", "warning", f"{measured}; in train and another: {some(shared)}", expected, fix)
    return Finding("splits", "ok", measured, expected)


def check_times(
    scenes: Sequence[str], timestamps_us: Sequence[int], scans: Sequence[str], is_ordered: bool
) -> list[Finding]:
    """Time stamps of all frames of the index: unique and, where the listing has an order, ascending in each scene.

    Args:
        scenes: Drive of each frame.
        timestamps_us: LiDAR time of each frame.
        scans: Scan of each frame: other ones at one time are those of several sensors.
        is_ordered: Whether the frames come in the order of recording.
    """
    by_scene: dict[str, list[int]] = {}
    for scene, time_us in zip(scenes, timestamps_us, strict=True):
        by_scene.setdefault(scene, []).append(time_us)
    most = {scene: max(Counter(times).values()) for scene, times in by_scene.items()}
    repeated = [scene for scene, count in most.items() if count > 1]
    twice = [scan for scan, count in Counter(scans).items() if count > 1]
    back = [scene for scene, times in by_scene.items() if is_ordered and times != sorted(times)]
    steps_s = [step / 1e6 for times in by_scene.values() for step in np.diff(np.unique(times))]
    mean_s = float(np.mean(steps_s)) if steps_s else 0.0  # sensors that fire just after each other halve the median
    measured = f"{len(scenes)} frames of {len(by_scene)} scenes"
    if steps_s:
        measured += f", {np.median(steps_s):.3g} s apart"
    expected = "unique, ascending in a scene, in microseconds"
    if twice:
        fix = "index each frame once, with its own time"
        return [Finding("time stamps", "error", f"{measured}; listed more than once: {some(twice)}", expected, fix)]
    if max(most.values(), default=1) > _MOST_SENSORS:
        fix = "give each frame its own time"
        return [Finding("time stamps", "error", f"{measured}; repeated in {some(repeated)}", expected, fix)]
    if repeated:
        fix = (
            "of several LiDARs that fire together, give each a scene of its own (drive-1/roof, drive-1/front); else "
            "give each frame its own time"
        )
        together = f"{measured}; other scans at one time in {some(repeated)}"
        return [Finding("time stamps", "warning", together, expected, fix)]
    if back:
        fix = "sort the listing by time, or split the drives that were joined"
        return [Finding("time stamps", "warning", f"{measured}; they go back in {some(back)}", expected, fix)]
    if steps_s and not (_STEP_S[0] < mean_s and float(np.median(steps_s)) < _STEP_S[1]):
        return [Finding("time stamps", "warning", measured, expected, "convert the time stamps to microseconds")]
    return [Finding("time stamps", "ok", measured, expected)]
