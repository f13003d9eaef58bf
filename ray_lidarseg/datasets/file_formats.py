"""How a file is written: what its name says, or what an index says of it (``FILE#FORMAT``)."""

from collections.abc import Collection, Mapping

from ray_lidarseg import storage


def format_by_name(uri: str, extensions: Mapping[str, str]) -> str:
    """The format that goes with the first of the extensions a file's name ends in; empty where it ends in none."""
    name = storage.name_of(uri).lower()
    return next((stated for extension, stated in extensions.items() if name.endswith(extension)), "")


def split_format(uri: str, formats: Collection[str]) -> tuple[str, str]:
    """``FILE#FORMAT`` of an index as its two parts; the format is empty where the name says it."""
    file, _, stated = uri.rpartition("#")
    return (file, stated) if stated in formats else (uri, "")
