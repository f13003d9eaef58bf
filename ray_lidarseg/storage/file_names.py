"""The one encoder of ids to file names: whatever an id holds, its file lies in the folder it belongs to, and alone.

Letters, digits, blanks and ``. _ - + = @ ,`` stay; every other byte of the UTF-8 text is written ``%XX``, so that ids
of the benchmarks are their own file names, and no two ids share one. A part of a relative path that is empty, ``.`` or
``..`` is written in ``%``, too: nothing climbs. An id too long for a file system keeps its beginning and gets a digest
behind a ``~``, which no other name holds.
"""

import hashlib

_KEPT = frozenset("._-+=@, ")
_MAX_BYTES = 160  # of the 255 of common file systems: endings, and the marks of unfinished files, need the rest
_MAX_PARTS = 16  # deeper ids become one name: paths are limited, too
_DIGEST_DIGITS = 32


def file_name(text: str) -> str:
    """One file name for any text; texts that differ get names that differ.

    >>> file_name("000123"), file_name("a/b"), file_name(".."), file_name("")
    ('000123', 'a%2Fb', '%2E%2E', '%')
    """
    if not text:
        return "%"
    name = "".join(letter if _is_kept(letter) else _escaped(letter) for letter in text)
    if name[0] in " ." or name[-1] in " .":  # hidden, climbing, unfinished; at the end some file systems drop them
        name = "".join(_escaped(letter) if letter in " ." else letter for letter in name)
    if len(name.encode()) <= _MAX_BYTES:
        return name
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST_DIGITS]
    return f"{name.encode()[: _MAX_BYTES - _DIGEST_DIGITS].decode(errors='ignore')}~{digest}"


def relative_file(text: str) -> str:
    """A path below a folder for an id whose slashes mean folders; ids that differ get paths that differ.

    >>> relative_file("08/000123"), relative_file("../x"), relative_file("/a//b")
    ('08/000123', '%2E%2E/x', '%/a/%/b')
    """
    parts = text.split("/")
    return file_name(text) if len(parts) > _MAX_PARTS else "/".join(map(file_name, parts))


def _is_kept(letter: str) -> bool:
    return letter in _KEPT or (letter.isascii() and letter.isalnum())


def _escaped(letter: str) -> str:
    return "".join(f"%{byte:02X}" for byte in letter.encode("utf-8", "surrogatepass"))
