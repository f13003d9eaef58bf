"""Patch features to one feature a segment: bilinear upsampling and a mean over the segment's pixels, as one matrix.

Upsampling is linear and so is the mean; their product is a matrix W [N, h·w] that depends on the segment map alone:

    pooled_n = (1 / |S_n|) Σ_{p ∈ S_n} up(f)_p = Σ_j W_nj f_j,      result_n = pooled_n / ‖pooled_n‖

so the [H, W, F] image of features (3 GB for 512 features at 1600 x 900) never exists. W itself is built from runs of
equal ids along the rows, whose column weights are differences of a prefix sum.

Source: the mean over all pixels of a superpixel is SLidR's (its code upsamples with aligned corners and leaves the
means shorter than 1). Ours: the patches are normalised before the mean, so that none outweighs the others; the mean is
normalised again; pixel centres are not aligned to the corners, because the patches cover the image in equal cells.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Float16, Float64, Integer, UInt16
from scipy import sparse

from ray_lidarseg.errors import DataError

_MAX_CELLS = 4_000_000  # ours: 32 MB of run weights at once, whatever the map


def pool_segments(
    features: Float[np.ndarray, "h w F"], segments: UInt16[np.ndarray, "H W"], num_segments: int
) -> Float16[np.ndarray, "N F"]:
    """Unit feature of each segment; row i is segment i + 1.

    Args:
        features: [h, w, F] patch grid that covers the whole image.
        segments: [H, W] ids 1 … N without gaps; pixels of id 0 count for nobody.
        num_segments: N.

    Returns:
        [N, F] unit rows; a row is zero where the features cancel out.

    Raises:
        DataError: The ids are not 1 … N without gaps, or a feature is not finite.
    """
    if not np.isfinite(features).all():
        raise DataError(
            "the feature teacher gave values that are not finite; try --set features.precision=float32, "
            "and check the checkpoint"
        )
    height, width, num_features = features.shape
    weights = pooling_weights(segments, num_segments, (height, width))
    unit = _unit_rows(features.reshape(-1, num_features).astype(np.float32))
    return _unit_rows(weights.astype(np.float32) @ unit).astype(np.float16)


def pooling_weights(
    segments: UInt16[np.ndarray, "H W"], num_segments: int, grid: tuple[int, int]
) -> Float64[np.ndarray, "_ _"]:
    """The matrix W of the module's text; each row sums to 1.

    Args:
        segments: [H, W] ids 1 … N without gaps, 0 where no segment is.
        num_segments: N.
        grid: h, w of the patches.

    Raises:
        DataError: The ids are not 1 … N without gaps.
    """
    count = np.bincount(segments.ravel(), minlength=num_segments + 1)[1:]
    if len(count) != num_segments or not count.all():
        raise DataError(
            f"expected segment ids 1 … {num_segments} without gaps, got {np.count_nonzero(count)} ids up to "
            f"{len(count) if len(count) != num_segments else np.flatnonzero(count).max(initial=-1) + 1}; "
            "number the segments anew"
        )
    rows_of_patches, columns_of_patches = grid
    row_weights = bilinear_weights(segments.shape[0], rows_of_patches)
    column_sums = np.zeros((segments.shape[1] + 1, columns_of_patches))
    np.cumsum(bilinear_weights(segments.shape[1], columns_of_patches), axis=0, out=column_sums[1:])
    total = np.zeros((num_segments * rows_of_patches, columns_of_patches))
    for ids, row, first, last in _runs(segments, _MAX_CELLS // columns_of_patches):
        total += _spread_rows(ids, row_weights[row], len(total)) @ (column_sums[last] - column_sums[first])
    return total.reshape(num_segments, rows_of_patches * columns_of_patches) / count[:, None]


def bilinear_weights(size_px: int, num_patches: int) -> Float64[np.ndarray, "S p"]:
    """Share of each patch in each pixel along one axis: half-pixel centres, edges repeated; rows sum to 1."""
    position = np.clip((np.arange(size_px) + 0.5) * num_patches / size_px - 0.5, 0, num_patches - 1)
    lower = np.minimum(position.astype(np.int64), max(num_patches - 2, 0))
    weights = np.zeros((size_px, num_patches))
    pixel = np.arange(size_px)
    weights[pixel, lower] = 1 - (position - lower)
    weights[pixel, np.minimum(lower + 1, num_patches - 1)] += position - lower
    return weights


def _spread_rows(
    ids: Integer[np.ndarray, "runs"], row_weights: Float64[np.ndarray, "runs h"], num_rows: int
) -> sparse.csr_matrix:
    """Sparse [N·h, runs]: a run adds to the two rows of patches beside it, of its segment."""
    run, patch_row = np.nonzero(row_weights)
    target = (ids[run].astype(np.int64) - 1) * row_weights.shape[1] + patch_row
    return sparse.csr_matrix((row_weights[run, patch_row], (target, run)), shape=(num_rows, len(ids)))


def _runs(segments: UInt16[np.ndarray, "H W"], max_runs: int) -> Iterator[tuple[np.ndarray, ...]]:
    """Runs of equal ids along rows, id 0 left out, in chunks: id, row, first column, column behind the last."""
    width = segments.shape[1]
    flat = segments.ravel()
    is_start = np.ones(flat.size, bool)
    is_start[1:] = flat[1:] != flat[:-1]
    is_start[::width] = True
    start = np.flatnonzero(is_start)
    stop = np.append(start[1:], flat.size)
    kept = flat[start] > 0
    start, stop = start[kept], stop[kept]
    for begin in range(0, len(start), max_runs):
        first, last = start[begin : begin + max_runs], stop[begin : begin + max_runs]
        row = first // width
        yield flat[first], row, first - row * width, last - row * width


def _unit_rows(rows: Float[np.ndarray, "N F"]) -> Float[np.ndarray, "N F"]:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float32).tiny)
