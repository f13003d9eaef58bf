from typing import Any

import pytest
import yaml

from ray_lidarseg.errors import DataError
from ray_lidarseg.recipe.ontology import Ontology, parse_ontology

GOOD: dict[str, Any] = {
    "name": "acme",
    "classes": [
        {"name": "car", "raw_ids": [10, 252], "colour": [100, 150, 245], "synonyms": ["van"]},
        {"name": "road", "raw_ids": [40]},
    ],
    "ignore_raw_ids": [0],
    "sensor": {
        "num_beams": 64,
        "fov_up_deg": 22.5,
        "fov_down_deg": -22.5,
        "min_range_m": 1.0,
        "max_range_m": 120.0,
        "intensity": [0, 255],
        "axes": "FLU",
    },
}


def parse(**changes: Any) -> Ontology:
    return parse_ontology(yaml.safe_dump({**GOOD, **changes}), "own.yaml")


def with_sensor(**changes: Any) -> Ontology:
    return parse(sensor={**GOOD["sensor"], **changes})


def test_a_good_ontology_reads_and_survives_json() -> None:
    ontology = parse()
    assert [entry.raw_ids for entry in ontology.classes] == [(10, 252), (40,)]
    assert ontology.absent_class == "skip"
    assert parse_ontology(ontology.model_dump_json()) == ontology


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clases": []}, r"own.yaml does not fit:\n  unknown key 'clases'; did you mean 'classes'\?"),
        ({"absent_class": "nan"}, "absent_class: expected 'skip' or 'zero' "),
        ({"classes": []}, "classes: expected at least 1 item"),
        ({"classes": [{"name": "car"}]}, "classes.0.raw_ids is missing"),
        ({"classes": [{"name": "car", "raw_ids": []}]}, "classes.0.raw_ids: expected at least 1 item"),
        (
            {"classes": [{"name": "car", "raw_id": [1]}]},
            "unknown key 'classes.0.raw_id'; did you mean 'classes.0.raw_ids'",
        ),
        ({"classes": [{"name": "car", "raw_ids": [1]}] * 2}, r"class names \['car'\] occur more than once"),
        (
            {"classes": [{"name": "car", "raw_ids": [1]}, {"name": " Car", "raw_ids": [2]}]},
            r"class names \['car', ' Car'\] differ in case or spaces only",
        ),
        (
            {"classes": [{"name": "car", "raw_ids": [1, 2]}, {"name": "bus", "raw_ids": [2]}]},
            "each raw id may be used once, but: 2 in car and bus",
        ),
        ({"ignore_raw_ids": [0, 40]}, "each raw id may be used once, but: 40 in road and ignore_raw_ids"),
        (
            {"classes": [{"name": "car", "raw_ids": [70000]}]},
            "classes.0.raw_ids.0: expected at most 65535 .got 70000.$",
        ),
        ({"sensor": {}}, "sensor.num_beams is missing"),
        ({"classes": [{"name": "car", "raw_ids": [7, True]}]}, "classes.0.raw_ids.1: expected a number, got true$"),
        (
            {"classes": [{"name": "car", "raw_ids": [7], "colour": [0, False, 0]}]},
            "classes.0.colour.1: expected a number, got false$",
        ),
        ({"ignore_raw_ids": [True]}, "ignore_raw_ids.0: expected a number, got true$"),
    ],
)
def test_a_bad_ontology_says_what_is_wrong(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fov_up": 3}, "unknown key 'sensor.fov_up'; did you mean 'sensor.fov_up_deg'"),
        ({"fov_up_deg": -30}, "fov_down_deg must be below fov_up_deg"),
        ({"max_range_m": 0.5}, "min_range_m must be below max_range_m"),
        ({"intensity": [1, 1]}, r"intensity must be \[lowest, highest\] or none"),
        ({"intensity": "nothing"}, "sensor.intensity"),
        ({"intensity": [False, True]}, "intensity.*expected a number, got false"),
        ({"num_beams": True}, "sensor: num_beams: expected a number, got true$"),
        ({"min_range_m": False}, "sensor: min_range_m: expected a number, got false$"),
        ({"height_m": True}, "sensor.height_m: expected a number, got true$"),
        ({"axes": "FRU"}, "right-handed frame"),
        ({"axes": "FFU"}, "right-handed frame"),
        ({"axes": "xyz"}, "right-handed frame"),
    ],
)
def test_a_bad_sensor_says_what_is_wrong(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        with_sensor(**changes)


@pytest.mark.parametrize(
    ("axes", "rotation"),
    [
        ("FLU", ((1, 0, 0), (0, 1, 0), (0, 0, 1))),
        ("RFU", ((0, 1, 0), (-1, 0, 0), (0, 0, 1))),  # x right, y forward: inside x = y, y = -x
        ("FRD", ((1, 0, 0), (0, -1, 0), (0, 0, -1))),
    ],
)
def test_rotation_takes_the_files_axes_to_forward_left_up(axes: str, rotation: tuple[tuple[int, ...], ...]) -> None:
    assert with_sensor(axes=axes).sensor.rotation == rotation


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "own.yaml is not YAML"),
        ("- 1", "expected a mapping"),
        (b"\xff\xfe\x00name", "own.yaml is not UTF-8 text .byte 0 is 0xff.: save it as UTF-8"),
    ],
)
def test_text_that_is_no_mapping(text: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_ontology(text, "own.yaml")
