"""Errors people can act on: each says what was expected, what came, and what to do; never a secret."""

import re

_SECRETS = (
    re.compile(r"(://)(?:[^\s/@]*:[^\s@]*|[^\s/@]+)(?=@)"),  # KEY:SECRET@, KEY@; a secret may hold a slash
    re.compile(r"(?i)((?:secret|access)_key=|(?:session|access)_token=)[^\s&'\"]+"),
)


def redacted(text: str) -> str:
    """The text with credentials inside URIs replaced by ``…``: what is printed or stored outlives the key."""
    for pattern in _SECRETS:
        text = pattern.sub(r"\1…", text)
    return text


class LidarSegError(Exception):
    """Base of every error this package raises on purpose; the CLI prints it without a traceback."""

    def __str__(self) -> str:
        """The message, without the credentials that a URI in it may hold."""
        return redacted(super().__str__())


def reason(error: Exception) -> str:
    """One line for people: what an error of this package says, or the kind of any other."""
    return str(error) if isinstance(error, LidarSegError) else f"{type(error).__name__}: {error}"


class RecipeError(LidarSegError):
    """A recipe, an override or a sweep space does not fit the schema."""


class DataError(LidarSegError):
    """A file of the data set is missing, truncated, inconsistent or holds an unknown id."""


class TornFileError(DataError):
    """Of a file that this package wrote a part is there, and nothing can be read from it."""


class SplitError(LidarSegError):
    """A label split selects nothing, or names frames that do not exist."""


class StorageError(LidarSegError):
    """A folder or bucket cannot be read or written."""


class ResourceError(LidarSegError):
    """The cluster, the device or an optional backend cannot give what was asked for."""


class RunError(LidarSegError):
    """A run folder is missing a piece, or belongs to another recipe."""
