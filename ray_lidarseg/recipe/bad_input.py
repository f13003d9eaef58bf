"""The one explainer of bad input: values that do not fit a model, mistyped keys and options, in few and plain words.

Values come from strangers: one is shown by its beginning, never by a ``repr`` of the whole.
"""

import difflib
import reprlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from ray_lidarseg.errors import LidarSegError, redacted

_SHOWN_PROBLEMS = 12
_SHOWN_CHARACTERS = 80
_LONGEST_KEY = 100  # comparing longer ones with known keys takes seconds

_WORDS = {
    "dict_type": "expected a mapping",
    "mapping_type": "expected a mapping",
    "model_type": "expected a mapping",
    "model_attributes_type": "expected a mapping",
    "list_type": "expected a list",
    "tuple_type": "expected a list",
    "string_type": "expected text",
    "int_type": "expected a whole number",
    "int_parsing": "expected a whole number",
    "int_parsing_size": "expected a whole number of at most 4300 digits",
    "int_from_float": "expected a whole number",
    "float_type": "expected a number",
    "float_parsing": "expected a number",
    "bool_type": "expected yes or no",
    "bool_parsing": "expected yes or no",
    "finite_number": "expected a finite number",
    "greater_than": "expected more than {gt}",
    "greater_than_equal": "expected at least {ge}",
    "less_than": "expected less than {lt}",
    "less_than_equal": "expected at most {le}",
    "too_short": "expected at least {min_length} items, got {actual_length}",
    "too_long": "expected at most {max_length} items, got {actual_length}",
    "string_too_short": "expected at least {min_length} character(s)",
    "string_too_long": "expected at most {max_length} characters",
    "literal_error": "expected {expected}",
    "union_tag_invalid": "expected {discriminator} to be one of {expected_tags}",
    "union_tag_not_found": "expected a mapping with {discriminator}",
    "invalid_key": "expected keys that are text",
}
"""What pydantic found, in our words; by its name for the problem."""


class _Short(reprlib.Repr):
    """``repr`` of the beginning of a value."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 2, 60, 60
        self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = self.maxdict = 4

    def repr_int(self, value: int, level: int) -> str:
        return repr(value) if value.bit_length() < 200 else f"a number of {value.bit_length()} bits"


def shown(value: object) -> str:
    """A value as messages show it: at most 80 characters, without credentials, whatever its size."""
    text = "null" if value is None else redacted(_Short().repr(value))
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 1]}…"


def nearest(key: str, known: Collection[str]) -> str:
    """``; did you mean …?`` with the known key nearest to a mistyped one, or nothing."""
    found = _closest(key, known)
    return f"; did you mean {found!r}?" if found else ""


def _closest(key: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(key, sorted(known), n=1, cutoff=0.5) if len(key) <= _LONGEST_KEY else []
    return near[0] if near else ""


def explain(
    error: ValidationError, model: type[BaseModel], *, prefix: str = "", noun: str = "key", missing: str = ""
) -> list[str]:
    """One line for each of the first problems of a value that does not fit a model.

    Args:
        error: What pydantic says.
        model: What the value should have been.
        prefix: Of the keys, such as ``masks``.
        noun: What the keys are called.
        missing: What to do about a missing key; ``{}`` stands for the key.
    """
    problems = _causes(error.errors(include_url=False))
    lines = [_problem(problem, model, prefix, noun, missing) for problem in problems[:_SHOWN_PROBLEMS]]
    more = len(problems) - len(lines)
    return [*lines, f"… and {more} more"] if more else lines


def _causes(problems: list[Any]) -> list[Any]:
    """Without those that only follow from others: a list whose only entry is wrong is called too short as well."""
    inside = {problem["loc"][:depth] for problem in problems for depth in range(1, len(problem["loc"]))}
    return [problem for problem in problems if not (problem["type"] == "too_short" and problem["loc"] in inside)]


def _problem(problem: Any, model: type[BaseModel], prefix: str, noun: str, missing: str) -> str:
    loc, kind = problem["loc"], problem["type"]
    place = ".".join(filter(None, [prefix, *_without_tags(loc, model)]))
    if kind == "extra_forbidden":
        return f"unknown {noun} {shown(place)}{_hint(place, loc, model, prefix)}"
    if kind == "missing":
        return f"{place} is missing{': ' + missing.format(place) if missing else ''}"
    if kind == "value_error":
        return f"{place}: {problem['ctx']['error']}" if place else str(problem["ctx"]["error"])
    words = _WORDS[kind].format(**_plain(problem.get("ctx", {}))) if kind in _WORDS else problem["msg"]
    return f"{place or 'the whole'}: {words} (got {shown(problem['input'])})"


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """1 and not 1.0."""
    return {name: f"{value:.12g}" if isinstance(value, float) else value for name, value in values.items()}


def _hint(place: str, loc: tuple[Any, ...], model: type[BaseModel], prefix: str) -> str:
    """The key beside it, else the key anywhere in the model, that was probably meant."""
    beside = _fields_at(loc[:-1], model)
    before = place.rpartition(".")[0]
    near = _closest(str(loc[-1]), beside)
    if near:
        return f"; did you mean {'.'.join(filter(None, [before, near]))!r}?"
    if place in dotted_keys(model):
        return f"; it belongs to another {before}"
    anywhere = "" if prefix else nearest(place, dotted_keys(model))
    return anywhere or f"; known are {', '.join(sorted(beside))}"


def _models(annotation: Any) -> Iterator[tuple[str, type[BaseModel]]]:
    """The models of an annotation, each with the name that tells it from the others of its union, or ``""``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield "", annotation
        return
    options = [option for option in get_args(annotation) if option is not type(None)]
    if get_origin(annotation) is Annotated:
        options = options[:1]
    is_union = get_origin(annotation) in (Union, UnionType)
    for option in options:
        for tag, found in _models(option):
            own = found.model_fields["name"].default if is_union and "name" in found.model_fields else ""
            yield tag or (own if isinstance(own, str) else ""), found


@cache
def dotted_keys(model: type[BaseModel]) -> frozenset[str]:
    """Every key of a model and of what is inside it, of every variant of a union, with dots between the parts."""
    return frozenset(".".join(path) for path in _paths(model))


def _paths(model: type[BaseModel]) -> Iterator[tuple[str, ...]]:
    for key, entry in model.model_fields.items():
        yield (key,)
        for _, inner in _models(entry.annotation):
            yield from ((key, *path) for path in _paths(inner))


_Tagged = list[tuple[str, type[BaseModel]]]


def _inside(current: _Tagged, part: object) -> tuple[_Tagged, bool]:
    """The models one part of a place further in, and whether the part only names the variant of a union."""
    tagged: _Tagged = [("", each) for tag, each in current if tag and tag == part]
    if tagged:  # it comes right behind the union, before any field of that name
        return tagged, True
    inner = [
        found
        for _, each in current
        if part in each.model_fields
        for found in _models(each.model_fields[str(part)].annotation)
    ]
    return inner or current, False  # an index, or the key of a mapping, stays where it is


def _fields_at(loc: tuple[Any, ...], model: type[BaseModel]) -> set[str]:
    """Names of the fields of the model, or models, at a place."""
    current: _Tagged = [("", model)]
    for part in loc:
        current, _ = _inside(current, part)
    return {key for _, each in current for key in each.model_fields}


def _without_tags(loc: tuple[Any, ...], model: type[BaseModel]) -> list[str]:
    """The place as a user writes it: pydantic puts the name of a union's variant in."""
    parts: list[str] = []
    current: _Tagged = [("", model)]
    for part in loc:
        current, is_tag = _inside(current, part)
        parts += [] if is_tag else [str(part)]
    return parts


def assignments(
    texts: Iterable[str], example: str, fail: type[LidarSegError], num_parts: int = 1, option: str = "--set"
) -> dict[str, str]:
    """``KEY=VALUE`` texts of an option as a mapping, blanks around both removed; of a repeated key the last counts.

    Args:
        texts: As typed; a value may hold further ``=``.
        example: A right one, for errors.
        fail: Class of the errors.
        num_parts: The least number of parts, with dots between them, that a key has.
        option: What they were given with, for errors.

    Raises:
        LidarSegError: ``fail``: no ``=``, an empty part in the key, or too few of them.
    """
    found = {}
    for text in texts:
        key, equals, value = (part.strip() for part in text.partition("="))
        parts = key.split(".")
        if not equals or not all(parts) or len(parts) < num_parts:
            form = ".".join(["KEY"] * max(num_parts, example.partition("=")[0].count(".") + 1))
            raise fail(f"{option} {shown(text)}: expected {form}=VALUE, for example {example}")
        found[key] = value
    return found
