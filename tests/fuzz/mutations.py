"""Seeded damage to files: what disks, half-finished copies, editors and ill will make of them."""

import json
import random
from collections.abc import Callable
from typing import Any

ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63) - 1, 10**400, 1e308, -0.0, float("nan"), float("inf")),
    *("", " ", "\0", "nan", "../../x", "/etc/passwd", "s3://KEY:SECRET@b/k", "s3://b//k", "a" * 5000, "é\U0001f600"),
    *("$x$", [], {}, [[]], [None], {"a": None}, {"": 0}, [0] * 17, ["x"] * 5),
)
ODD_TEXTS = (
    *(b"\0", b"\xff\xfe", b"\xed\xa0\x80", b"[", b"{", b"}", b"]", b'"', b"'", b":", b"=", b"#", b"%", b"&a ", b"*a "),
    *(
        b"!!x ",
        b"\n",
        b"\r\n",
        b"\t",
        b"- ",
        b"? ",
        b"<<: ",
        b"| ",
        b"2026-13-45",
        b"9" * 5000,
        b"1e999",
        b"0x",
        b".nan",
    ),
    *(
        b".nan",
        b"~",
        b"null",
        b"[" * 3000,
        b"{" * 3000,
        b"-1",
        b"4294967296",
        b"18446744073709551616",
        b"$",
        b"\\ud800",
    ),
)

Mutation = Callable[[bytes, random.Random], bytes]


def cut(data: bytes, rng: random.Random) -> bytes:
    """A copy that ended too early."""
    return data[: rng.randrange(max(1, len(data)))]


def flip(data: bytes, rng: random.Random) -> bytes:
    """Up to eight flipped bits."""
    found = bytearray(data)
    for _ in range(rng.randint(1, 8) if found else 0):
        found[rng.randrange(len(found))] ^= 1 << rng.randrange(8)
    return bytes(found)


def overwrite(data: bytes, rng: random.Random) -> bytes:
    """A run of other bytes: zeros, ones, or a number that promises too much."""
    filler = rng.choice((b"\0" * 8, b"\xff" * 8, b"\x7f" * 4, rng.randbytes(16), b"\x80" * 8, b"9" * 12))
    start = rng.randrange(max(1, len(data)))
    return data[:start] + filler + data[start + len(filler) :]


def insert(data: bytes, rng: random.Random) -> bytes:
    """A piece of text that means something to some parser."""
    start = rng.randrange(max(1, len(data)))
    return data[:start] + rng.choice(ODD_TEXTS) + data[start:]


def drop(data: bytes, rng: random.Random) -> bytes:
    """A hole."""
    start = rng.randrange(max(1, len(data)))
    return data[:start] + data[start + rng.randint(1, 64) :]


def repeat(data: bytes, rng: random.Random) -> bytes:
    """A piece twice, as an interrupted append leaves it."""
    start = rng.randrange(max(1, len(data)))
    end = start + rng.randint(1, 4096)
    return data[:end] + data[start:end] + data[end:]


def replace_number(data: bytes, rng: random.Random) -> bytes:
    """One number of a text as another one."""
    places = [place for place, byte in enumerate(data[:20_000]) if 0x30 <= byte <= 0x39]
    if not places:
        return flip(data, rng)
    start = rng.choice(places)
    number = rng.choice((b"-1", b"0", b"1.5", b"99999999999999999999", b"1e400", b"nan", b"2147483648", b"x"))
    return data[:start] + number + data[start + 1 :]


def odd_json(data: bytes, rng: random.Random) -> bytes:
    """JSON, or one line of it, with one value replaced, removed, or added; anything else gets an odd piece of text."""
    lines = data.splitlines(keepends=True)
    number = rng.randrange(max(1, len(lines)))
    whole, pieces = True, [data]
    if len(lines) > 1 and lines[number].lstrip().startswith(b"{") and lines[number].rstrip().endswith(b"}"):
        whole, pieces = False, [lines[number]]
    try:
        value = json.loads(pieces[0])
    except ValueError:
        return insert(data, rng)
    changed = json.dumps(_with_odd(value, rng)).encode()
    if whole:
        return changed
    lines[number] = changed + b"\n"
    return b"".join(lines)


def _with_odd(value: Any, rng: random.Random) -> Any:
    if isinstance(value, dict) and value and rng.random() < 0.8:
        key = rng.choice(sorted(value))
        action = rng.randrange(6)
        if action == 0:
            return {name: inner for name, inner in value.items() if name != key}
        if action == 1:
            return {**value, rng.choice(("", "x", key + "s", "$", "__class__")): rng.choice(ODD_VALUES)}
        return {**value, key: _with_odd(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        place = rng.randrange(len(value))
        return [*value[:place], _with_odd(value[place], rng), *value[place + 1 :]]
    return rng.choice(ODD_VALUES)


BINARY: tuple[Mutation, ...] = (cut, flip, overwrite, insert, drop, repeat)
TEXT: tuple[Mutation, ...] = (*BINARY, replace_number, odd_json, odd_json, odd_json)
