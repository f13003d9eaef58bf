"""Text files from strangers: YAML and JSON in, values out, or an error in plain words.

Nothing here builds more than the text it was given allows: YAML is walked event by event before anything is made of it,
so that 406 bytes of aliases do not become gigabytes. Neither a key given twice nor a number that YAML 1.1 reads as
another one is taken.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from ray_lidarseg.errors import LidarSegError, redacted
from ray_lidarseg.recipe.bad_input import shown

_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's is ten times as fast where it is there
_MAX_TEXT_BYTES = 16 << 20  # ours: a resolved recipe that lists all frames of nuScenes has 1.5 MB
_MAX_VALUES = 200_000  # ours: six times the frames of nuScenes
_MAX_DEPTH = 32  # ours: the deepest of our files has 6
_MAX_JSON_DEPTH = 64
_JSON_NAMES: dict[type, str] = {dict: "object", list: "array", object: "value"}


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


def carries_credentials(value: object) -> bool:
    """Whether a text somewhere in the value is a URI with credentials inside."""
    return any(redacted(text) != text for _, text in _texts(value, 0))


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


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:299]}…"
