"""Is a ``.bin`` what its reader takes it for? Its bytes do not say, its values do: rows of float32 repeat.

Any bytes are float32 of some number of columns, so whatever is not looked at here becomes points of a scan that nobody
recorded. Thresholds: ours; real scans of 4 sensors are far from them (``tests/datasets/test_float_rows.py``).
"""

import numpy as np

from ray_lidarseg.errors import DataError

_BEGINNINGS = {
    b"\x93NUMPY": ".npy",
    b"# .PCD": ".pcd",
    b"VERSION ": ".pcd",
    b"PAR1": ".parquet",
    b"ply\n": ".ply",
    b"LASF": ".las",
    b"PK\x03\x04": ".zip or .npz",
    b"\x1f\x8b": ".gz",
}
_TEXT = frozenset(b"0123456789+-.eE,;:# \t\r\n") | frozenset(b"abcdfghijklmnopqrstuvwxyzNI")
_LOOKED_AT_BYTES = 4096  # of text
_LEAST_TEXT_BYTES = 64  # fewer may be floats by chance
_PLAUSIBLE = (1e-6, 1e8)  # metres; coordinates of the Earth in float32 stay below
_LEAST_NEVER = 1e38  # drivers write the largest float for no return
_MOST_IMPLAUSIBLE_RATIO = 0.2  # of a column's values that are not 0

_COUNTS = range(3, 17)  # columns a .bin is tested for
_LEAST_VALUES = 512  # fewer prove nothing
_MOST_VALUES = 1 << 17  # more prove no more
_LEAST_GAIN_RATIO = 0.1  # of the share of the variance; see refuse_other_columns
_LEAST_SIGN_RATIO = 0.2  # of the negative ones among the values of a column
_MOST_CHANGE_RATIO = 0.5  # of the change from row to row
_MOST_STEP_RATIO = 0.8


def refuse_foreign(content: bytes, num_columns: int, uri: str) -> None:
    """Refuses what is no little-endian float32 at all: files of other formats, text, other types, another byte order.

    Args:
        content: The file.
        num_columns: Its reader takes the first three of so many for coordinates.
        uri: Its name.

    Raises:
        DataError: See above.
    """
    for beginning, ending in _BEGINNINGS.items():
        if content.startswith(beginning):
            raise DataError(f"{uri} is no .bin of float32: it begins like a {ending} file: give it that ending")
    if len(content) >= _LEAST_TEXT_BYTES and _TEXT.issuperset(content[:_LOOKED_AT_BYTES]):
        raise DataError(f"{uri} is text, no .bin of float32: write little-endian float32, or .npy, .pcd or .parquet")
    least, most = _PLAUSIBLE
    rows = np.frombuffer(content, "<f4", len(content) // (4 * num_columns) * num_columns).reshape(-1, num_columns)
    for name, values in zip("xyz", rows[:, :3].T, strict=True):
        size = np.abs(values)
        size = size[(size > 0) & (size < _LEAST_NEVER)]  # neither NaN nor infinite
        is_implausible = (size < least) | (size > most)
        if np.count_nonzero(is_implausible) > _MOST_IMPLAUSIBLE_RATIO * len(size):
            raise DataError(
                f"{uri}: {name} holds values like {size[is_implausible][0]:g} as little-endian float32: the file has "
                "another type (float64, integers), another byte order, or other columns; write float32, or .npy"
            )


def refuse_other_columns(content: bytes, num_columns: int, uri: str) -> None:
    """Refuses a ``.bin`` of float32 whose values repeat with another number of columns than its reader takes.

    Two signs, each enough. Of ``log |value|``, the share of the variance that lies between the columns is largest at
    the true number of them: x, y, z, intensity, ring and time each have their own size. And from row to row a value
    changes little, compared with the values beside it, as a scanner goes along. Where that holds from value to value,
    the columns lie one after the other.

    Source: ours.

    Raises:
        DataError: Another number of columns fits the size, and the values far better.
    """
    num_values = len(content) // 4
    if num_values < _LEAST_VALUES:
        return
    values = np.frombuffer(content, "<f4", min(num_values, _MOST_VALUES))
    is_known = (np.abs(values) < _LEAST_NEVER) & (values != 0)  # neither NaN nor a missing return
    values = np.where(is_known, values, np.float32(0))
    sizes = np.where(is_known, np.log(np.abs(values) + np.float32(0.01)), np.float32(np.nan))
    scaled = np.where(is_known, np.sign(values) * np.log1p(np.abs(values)), np.float32(np.nan))
    fitting = [c for c in _COUNTS if num_values % c == 0 and (c % num_columns or _is_of_more(values, num_columns, c))]
    found = _by_share(sizes, num_columns, fitting) or _by_change(scaled, num_columns, fitting)
    if found:
        raise DataError(
            f"{uri} looks like {found} float32 columns, not {num_columns}: say which with point_format in the manifest "
            "(bin4, bin5, bin6) or --columns of predict; write other columns as .npy or .parquet with names"
        )
    step = _change(scaled, 1)
    if 0 < step < _MOST_STEP_RATIO * _change(scaled, num_columns) and step < _MOST_CHANGE_RATIO * _spread(scaled):
        raise DataError(
            f"{uri} looks like columns one after the other, not {num_columns} float32 a point: write point after point"
        )


def _is_of_more(values: np.ndarray, num_columns: int, multiple: int) -> bool:
    """Whether what stands ``num_columns`` on is of another kind: not another beam's x and y, and not a missing return.

    Beams that fire in turn repeat with a multiple of the columns, too, but all see to the left as often as the others.
    """
    if multiple == num_columns:
        return True
    whole = values[: len(values) // multiple * multiple]
    rows = whole.reshape(-1, multiple // num_columns, num_columns)[:, :, :2]
    num_known = np.count_nonzero(rows, axis=0)
    is_negative = np.count_nonzero(rows < 0, axis=0) / np.maximum(num_known, 1)
    known = is_negative[num_known.min(axis=1) > 0]
    return len(known) > 1 and bool((known.max(axis=0) - known.min(axis=0)).max() > _LEAST_SIGN_RATIO)


def _by_share(sizes: np.ndarray, num_columns: int, fitting: list[int]) -> int:
    shares = {count: _share_between(sizes, count) for count in {*fitting, num_columns}}
    best = max((shares[count] for count in fitting), default=0.0)
    if best <= shares[num_columns] + _LEAST_GAIN_RATIO:
        return 0
    return next(count for count in fitting if shares[count] > best - _LEAST_GAIN_RATIO / 2)  # not a multiple of it


def _by_change(scaled: np.ndarray, num_columns: int, fitting: list[int]) -> int:
    """A multiple of the stated number is no other number: rings of few beams change least from one to the next."""
    limit = _MOST_CHANGE_RATIO * _change(scaled, num_columns)
    changes = {count: _change(scaled, count) for count in fitting if count % num_columns}
    better = [count for count, change in changes.items() if change < limit]
    least = min((changes[count] for count in better), default=0.0)
    return next((count for count in better if changes[count] <= 2 * least), 0)


def _share_between(sizes: np.ndarray, num_columns: int) -> float:
    rows = sizes[: len(sizes) // num_columns * num_columns].reshape(-1, num_columns)
    is_known = np.isfinite(rows)
    means = rows.sum(axis=0, dtype=np.float64, where=is_known) / np.maximum(is_known.sum(axis=0), 1)
    variance = rows.var(dtype=np.float64, where=is_known) if is_known.any() else 0.0
    return float(means[is_known.any(axis=0)].var() / variance) if variance else 0.0


def _change(scaled: np.ndarray, lag: int) -> float:
    """Mean change from a value to the one ``lag`` places on."""
    return _mean(np.abs(scaled[lag:] - scaled[:-lag]))


def _spread(scaled: np.ndarray) -> float:
    """The same from a value to any other."""
    return _mean(np.abs(scaled - np.random.default_rng(0).permutation(scaled)))


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else 0.0
