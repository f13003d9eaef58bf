import json
import time
import tracemalloc

import pytest

from ray_lidarseg.errors import DataError, RecipeError
from ray_lidarseg.recipe.load import load_recipe, parse_recipe
from ray_lidarseg.recipe.ontology import parse_ontology
from ray_lidarseg.recipe.text_files import read_json, read_yaml

LAUGHS = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)
)
"""Billion laughs: 9^10 values in half a kilobyte."""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, "f.yaml stands for more than 200000 values"),
        ("a: &a [*a]", "alias [*]a stands for something it is part of"),
        ("[" * 40 + "]" * 40, "nested deeper than 32 levels"),
        ("[" * 100_000, "nested deeper than 32 levels"),
        ("a: [", "f.yaml is not YAML: .*line 2"),
        ("when: 2026-13-45", "f.yaml is not YAML: month must be in 1..12"),
        ("a: " + "1" * 5000, "f.yaml is not YAML: .*4300"),
        ("a: !!python/object:os.system x", "f.yaml is not YAML: could not determine a constructor"),
        ("? [a]\n: b", "f.yaml is not YAML: .*unhashable"),
        ('a: "\\ud800"', "f.yaml"),
        (b"a: \xe4", "f.yaml is not UTF-8 text .byte 3 is 0xe4.: save it as UTF-8"),
        (b" " * (17 << 20), "has 17825792 bytes: expected a text file of at most 16777216"),
    ],
)
def test_yaml_that_is_none_or_too_much(text: str | bytes, message: str) -> None:
    start = time.monotonic()
    tracemalloc.start()
    with pytest.raises(DataError, match=message) as caught:
        read_yaml(text, "f.yaml", DataError)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert time.monotonic() - start < 5
    assert peak_bytes < 64 << 20
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb:\n  c: 2\na: 3\n", r"^x.yaml: key 'a' is given twice, in lines 1 and 4: keep one of them$"),
        ("b:\n  - {c: 2, d: 1, c: 2}\n", r"^x.yaml: key 'c' is given twice, in lines 2 and 2"),
    ],
)
def test_a_key_given_twice_is_no_yaml(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_yaml(text, "x.yaml", DataError)


def test_a_key_given_twice_is_no_json() -> None:
    with pytest.raises(DataError, match=r"^m.jsonl, line 3: key 'c' is given twice: keep one of them$"):
        read_json('{"a": [{"c": 1, "d": 2, "c": 3}]}', "m.jsonl, line 3", DataError)


def test_keys_that_merge_are_not_given_twice() -> None:
    assert read_yaml("a: &x {b: 1, c: 2}\nd:\n  <<: *x\n  b: 3\n", "x.yaml", DataError)["d"] == {"b": 3, "c": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a:\n- 010\n",
            "f.yaml: '010' in line 2: write it without a leading 0 .YAML reads it as octal., or quote a text$",
        ),
        ("000123: b", "'000123' in line 1: write it without a leading 0"),
        ("a: -0_7", "'-0_7' in line 1: write it without a leading 0"),
        ("a: !!int '08'", "'08' in line 1: write it without a leading 0"),
        ("a: [1:40]", "f.yaml: '1:40' in line 1: YAML reads it as base 60: quote it or write the number$"),
        ("a: 1:30.5", "'1:30.5' in line 1: YAML reads it as base 60"),
    ],
)
def test_numbers_that_yaml_reads_as_others_are_refused(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_yaml(text, "f.yaml", DataError)


def test_numbers_that_yaml_reads_as_written_stay() -> None:
    text = "[0, -0, 10, +7, 1_000, 0x10, 0.5, 00.5, .5, 1e3, 1.0e+3, '010', '1:40', 1:75]"
    assert read_yaml(text, "f", DataError) == [
        0,
        0,
        10,
        7,
        1000,
        16,
        0.5,
        0.5,
        0.5,
        "1e3",
        1000.0,
        "010",
        "1:40",
        "1:75",
    ]


def test_yaml_that_is_some() -> None:
    assert read_yaml("a: &x [1, 2]\nb: *x\n", "f", DataError) == {"a": [1, 2], "b": [1, 2]}
    assert read_yaml(b"\xef\xbb\xbfa: 1", "f", DataError) == {"a": 1}  # a byte order mark
    assert read_yaml("", "f", DataError) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "f.json is not JSON"),
        ("[1]", "f.json: expected a JSON object, got .1."),
        ("[" * 100_000, "f.json is not JSON: .*recursion"),
        ('{"a": ' + "[" * 80 + "]" * 80 + "}", "nested deeper than 64 levels"),
        (b"\xff", "not UTF-8"),
        ("1" * 5000, "f.json is not JSON: .*4300"),
        ('{"a": "\\ud800"}', "half a character"),
    ],
)
def test_json_that_is_none(text: str | bytes, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        read_json(text, "f.json", RecipeError)


def test_json_that_is_some() -> None:
    assert read_json('{"a": [1, null]}', "f", DataError) == {"a": [1, None]}
    assert read_json("3", "f", DataError, object) == 3


def test_bombs_do_not_go_off_in_the_readers_of_recipes_and_ontologies() -> None:
    with pytest.raises(RecipeError, match="stands for more than 200000 values"):
        parse_recipe(LAUGHS)
    with pytest.raises(DataError, match="stands for more than 200000 values"):
        parse_ontology(LAUGHS)
    with pytest.raises(RecipeError, match="--set train is not YAML"):
        parse_recipe("", ["train=["])
    with pytest.raises(RecipeError, match=r"recipe 'aaaa.* cannot be read: File name too long"):
        load_recipe("a" * 5000)
    with pytest.raises(RecipeError, match="no recipe"):
        load_recipe("a\0b")


def test_json_reads_what_python_writes() -> None:
    value = {"ä": [1.5, True, None, "x" * 100]}
    assert read_json(json.dumps(value), "f", DataError) == value
