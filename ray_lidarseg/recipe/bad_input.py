"""The one explainer of bad input: text that is no YAML or JSON, values that do not fit a model, in few and plain words.

Files come from strangers: nothing here builds more than the text it was given allows. YAML is walked event by event
before anything is made of it, so that 406 bytes of aliases do not become gigabytes, and a value is shown by its
beginning, never by a ``repr`` of the whole.
"""

import difflib
import json
import re
import reprlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from ray_lidarseg.errors import LidarSegError, redacted

_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's is ten times as fast where it is there
_MAX_TEXT_BYTES = 16 << 20  # ours: a resolved recipe that lists all frames of nuScenes has 1.5 MB
_MAX_VALUES = 200_000  # ours: six times the frames of nuScenes
_MAX_DEPTH = 32  # ours: the deepest of our files has 6
_MAX_JSON_DEPTH = 64
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


class _Loader(_SafeLoader):
    """Of a key that is given twice YAML takes the last: the first one's value would be gone without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        seen: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            name, line = (key.tag, key.value), key.start_mark.line + 1
            if name in seen:
                raise _GivenTwiceError(f"key {shown(key.value)} is given twice, in lines {seen[name]} and {line}")
            seen[name] = line
        return super().construct_mapping(node, deep)


class _GivenTwiceError(ValueError):
    """Two values of one key."""


class _OtherNumberError(ValueError):
    """A number that YAML 1.1 reads as another one than is written there."""


_LEADING_ZERO = re.compile(r"[-+]?0[0-9_]+")


def _as_written(construct: str) -> Any:
    """A constructor of numbers that refuses ``010`` (octal, 8) and ``1:40`` (base 60, 100)."""

    def number(loader: Any, node: yaml.ScalarNode) -> Any:
        text, line = str(node.value), node.start_mark.line + 1
        if ":" in text:
            raise _OtherNumberError(
                f"{shown(text)} in line {line}: YAML reads it as base 60: quote it or write the number"
            )
        if _LEADING_ZERO.fullmatch(text):
            raise _OtherNumberError(
                f"{shown(text)} in line {line}: write it without a leading 0 (YAML reads it as octal), or quote a text"
            )
        return getattr(loader, construct)(node)

    return number


_Loader.add_constructor("tag:yaml.org,2002:int", _as_written("construct_yaml_int"))
_Loader.add_constructor("tag:yaml.org,2002:float", _as_written("construct_yaml_float"))


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


def read_text(content: str | bytes, origin: str, fail: type[LidarSegError]) -> str:
    """The text of a file.

    Raises:
        LidarSegError: ``fail``: not UTF-8, or too large for a text file of ours.
    """
    if len(content) > _MAX_TEXT_BYTES:
        raise fail(f"{origin} has {len(content)} bytes: expected a text file of at most {_MAX_TEXT_BYTES}")
    if isinstance(content, str):
        return content
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise fail(
            f"{origin} is not UTF-8 text (byte {error.start} is {content[error.start]:#04x}): save it as UTF-8"
        ) from error


def read_yaml(content: str | bytes, origin: str, fail: type[LidarSegError]) -> Any:
    """What a YAML (or JSON) text says; None where it is empty.

    Args:
        content: The text.
        origin: What it is called, for errors.
        fail: Class of the errors.

    Raises:
        LidarSegError: ``fail``: no YAML, not UTF-8, nested too deeply, its aliases stand for too much, or a number
            that YAML reads as octal or as base 60.
    """
    text = read_text(content, origin, fail)
    try:
        _refuse_bombs(text, origin, fail)
        value = yaml.load(text, Loader=_Loader)
    except _GivenTwiceError as error:
        raise fail(f"{origin}: {error}: keep one of them") from error
    except _OtherNumberError as error:
        raise fail(f"{origin}: {error}") from error
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:  # ValueError: a date 2026-13-45
        raise fail(f"{origin} is not YAML: {_one_line(error)}") from error
    _refuse_half_characters(value, origin, fail)
    return value


def read_json(content: str | bytes, origin: str, fail: type[LidarSegError], shape: type = dict) -> Any:
    """What a JSON text says.

    Args:
        content: The text.
        origin: What it is called, for errors.
        fail: Class of the errors.
        shape: ``dict``, ``list`` or ``object``: what its outermost value must be.

    Raises:
        LidarSegError: ``fail``: no JSON, not UTF-8, nested too deeply, or another value than ``shape``.
    """
    text = read_text(content, origin, fail)
    try:
        value = json.loads(text, object_pairs_hook=_of_pairs)
    except _GivenTwiceError as error:
        raise fail(f"{origin}: {error}: keep one of them") from error
    except (ValueError, RecursionError) as error:
        raise fail(f"{origin} is not JSON: {_one_line(error)}") from error
    if not isinstance(value, shape):
        raise fail(f"{origin}: expected a JSON {_JSON_NAMES[shape]}, got {shown(value)}")
    _refuse_half_characters(value, origin, fail)
    return value


def _of_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _GivenTwiceError(f"key {shown(next(key for key in keys if keys.count(key) > 1))} is given twice")
    return value


def require(value: object, shape: Any, origin: str, fail: type[LidarSegError]) -> None:
    """Refuses a value read from JSON that does not have a shape.

    Args:
        value: The value.
        shape: A type, or a tuple of types; ``[shape]``: a list of such; a mapping: an object with these keys, of which
            those that end in ``?`` may be absent, and ``*`` stands for any other.
        origin: What the value is called, for errors.
        fail: Class of the errors.

    Raises:
        LidarSegError: ``fail``: it has another shape.
    """
    if isinstance(shape, Mapping):
        require(value, dict, origin, fail)
        given: dict[str, object] = dict(value)  # type: ignore[call-overload]
        named = {key.removesuffix("?"): inner for key, inner in shape.items() if key != "*"}
        missing = [key for key in shape if key != "*" and not key.endswith("?") and key not in given]
        if missing:
            raise fail(f"{origin} has no {missing[0]!r}: the file is not what this program writes")
        for key, inner in given.items():
            if key in named or "*" in shape:
                require(inner, named.get(key, shape.get("*")), f"{origin}: {shown(key)}", fail)
    elif isinstance(shape, list):
        require(value, list, origin, fail)
        for number, inner in enumerate(value):  # type: ignore[arg-type]
            require(inner, shape[0], f"{origin}[{number}]", fail)
    elif not isinstance(value, shape) or (isinstance(value, bool) and shape is not bool and shape is not object):
        wanted = " or ".join(kind.__name__ for kind in (shape if isinstance(shape, tuple) else (shape,)))
        raise fail(f"{origin} is {shown(value)}, expected {wanted}: the file is not what this program writes")


_JSON_NAMES: dict[type, str] = {dict: "object", list: "array", object: "value"}


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


def _refuse_bombs(text: str, origin: str, fail: type[LidarSegError]) -> None:
    """Counts the values that the text stands for, aliases expanded, and their depth; nothing is built."""
    open_sizes, names, sizes = [0], [""], dict[str, int]()
    for event in yaml.parse(text, Loader=_Loader):
        size = 0
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise fail(f"{origin} is not YAML we read: alias *{event.anchor} stands for something it is part of")
            size = sizes[event.anchor]
        elif isinstance(event, yaml.ScalarEvent):
            size = 1
            if event.anchor:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            open_sizes.append(1)
            names.append(event.anchor or "")
            if len(open_sizes) > _MAX_DEPTH:
                raise fail(f"{origin} is nested deeper than {_MAX_DEPTH} levels: none of our files needs that")
        elif isinstance(event, yaml.CollectionEndEvent):
            size, name = open_sizes.pop(), names.pop()
            if name:
                sizes[name] = size
        open_sizes[-1] += size
        if open_sizes[-1] > _MAX_VALUES:
            raise fail(f"{origin} stands for more than {_MAX_VALUES} values: give fewer, and no aliases of aliases")


def _refuse_half_characters(value: object, origin: str, fail: type[LidarSegError]) -> None:
    """Escapes can write halves of characters, which no file and no terminal takes; and values nested without end."""
    for depth, text in _texts(value, 0):
        if depth > _MAX_JSON_DEPTH:
            raise fail(f"{origin} is nested deeper than {_MAX_JSON_DEPTH} levels: none of our files needs that")
        if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
            raise fail(f"{origin} holds half a character (a lone surrogate) in {text[:40]!a}: write it whole")


def _texts(value: object, depth: int) -> Iterator[tuple[int, str]]:
    if isinstance(value, str):
        yield depth, value
    elif depth > _MAX_JSON_DEPTH:
        yield depth, ""
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _texts(key, depth + 1)
            yield from _texts(inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner, depth + 1)


def carries_credentials(value: object) -> bool:
    """Whether a text somewhere in the value is a URI with credentials inside."""
    return any(redacted(text) != text for _, text in _texts(value, 0))


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:299]}…"


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
