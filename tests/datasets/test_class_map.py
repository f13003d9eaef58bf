"""Class maps: what raw ids become, with points counted by hand, and what does not fit."""

import numpy as np
import pytest

from ray_lidarseg.datasets.class_map import (
    UNMAPPED,
    MappedId,
    chosen_label_files,
    class_map,
    class_map_of_classes,
    counted,
    described_map,
    warnings_of,
)
from ray_lidarseg.datasets.semantickitti import CLASSES, SPEC
from ray_lidarseg.errors import DataError
from ray_lidarseg.sample import Keyframe
from ray_lidarseg.types import IGNORE


def test_every_raw_id_says_what_it_becomes():
    rows = class_map(CLASSES, {10: 5, 252: 2, 0: 7, 77: 3})
    by_raw = {row.raw_ids: row for row in rows}
    assert by_raw[(252,)] == MappedId((252,), 0, "car", 2)
    assert by_raw[(0,)] == MappedId((0,), IGNORE, "ignored", 7)
    assert rows[-1] == MappedId((77,), UNMAPPED, "UNMAPPED", 3)
    assert [row.raw_ids for row in rows][:3] == [(10,), (252,), (11,)]
    assert len(rows) == len(CLASSES.raw_to_train) + 1


def test_what_does_not_fit_is_said():
    unmapped, unseen = warnings_of(class_map(CLASSES, {10: 5, 77: 3, 78: 1}), CLASSES)
    assert unmapped == "raw ids seen but not mapped: 77, 78 (4 points): give them a class, or ignore them"
    assert unseen.startswith("classes never seen: bicycle, motorcycle, ")
    assert "car" not in unseen
    assert warnings_of(class_map(CLASSES, {}), CLASSES) == []
    assert warnings_of(class_map(CLASSES, dict.fromkeys(CLASSES.raw_to_train, 1)), CLASSES) == []


def test_prepared_labels_are_mapped_back():
    rows = class_map_of_classes(CLASSES, {0: 9, IGNORE: 4})
    assert rows[0] == MappedId((10, 252), 0, "car", 9)
    assert rows[-1] == MappedId((0, 1, 52, 99), IGNORE, "ignored", 4)
    assert len(rows) == 20


def test_only_ids_that_are_seen_are_printed():
    text = described_map(class_map(CLASSES, {10: 1234, 0: 7, 77: 3}), "class map")
    lines = [line.split() for line in text.splitlines()[1:]]
    assert lines == [
        ["10", "→", "0", "→", "car", "1,234"],
        ["0", "→", "-", "→", "ignored", "7"],
        ["77", "→", "?", "→", "UNMAPPED", "3"],
    ]


def test_raw_ids_are_counted_before_they_are_mapped(tmp_path):
    file = tmp_path / "a.label"
    np.array([10, (5 << 16) + 10, 77], "<u4").tofile(file)
    frame = Keyframe("a", "semantickitti", "", "", 0, "", str(file))
    assert counted(SPEC.raw_labels(frame)) == {10: 2, 77: 1}
    file.write_bytes(b"12345")
    with pytest.raises(DataError, match="5 bytes, no multiple of 4"):
        SPEC.raw_labels(frame)


def test_label_files_are_spread_evenly():
    assert chosen_label_files(["", "a", "b", ""]) == [1, 2]
    assert chosen_label_files(["x"] * 80) == list(range(0, 80, 10))
    assert chosen_label_files([""]) == []
