"""Errors people can act on: each says what was expected, what came, and what to do."""


class LidarSegError(Exception):
    """Base of every error this package raises on purpose; the CLI prints it without a traceback."""


class RecipeError(LidarSegError):
    """A recipe, an override or a sweep space does not fit the schema."""


class DataError(LidarSegError):
    """A file of the data set is missing, truncated, inconsistent or holds an unknown id."""


class SplitError(LidarSegError):
    """A label split selects nothing, or names frames that do not exist."""


class StorageError(LidarSegError):
    """A folder or bucket cannot be read or written."""


class ResourceError(LidarSegError):
    """The cluster, the device or an optional backend cannot give what was asked for."""


class RunError(LidarSegError):
    """A run folder is missing a piece, or belongs to another recipe."""
