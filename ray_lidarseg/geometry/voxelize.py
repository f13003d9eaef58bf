"""Points to voxels: integer cells, unique cells, and what a cell's points say together.

A voxel's address is one int64, ``scan << 48 | x << 32 | y << 16 | z``, so sorting, uniqueness and neighbour search are
one-dimensional integer operations (``torch.unique(dim=0)`` is twenty times slower). Everything here is deterministic,
also on a GPU: sums of floats go segment by segment, never through atomics. The host waits for a GPU only where it must
know how many voxels there are: ``unique``, ``bincount`` and boolean indexing wait, sorting and counting need not.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor

from ray_lidarseg.types import IGNORE

FIELD_BITS = 16
MAX_COORDINATE = (1 << FIELD_BITS) - 1
MAX_SCANS = 1 << (FIELD_BITS - 1)
_LABEL_RANGE = 256


def pack_coords(coords: Int[Tensor, "V 4"]) -> Int[Tensor, "V"]:
    """Addresses of (scan, x, y, z) rows; ascending addresses are lexicographic rows.

    Raises:
        ValueError: A coordinate is outside [0, 65535], or a scan index outside [0, 32767]. Only coordinates in the
            host's memory are looked at: to ask a GPU is to wait for it, and the cells of a grid fit by construction.
    """
    if len(coords) and coords.device.type == "cpu":
        low, high = (row.tolist() for row in coords.aminmax(dim=0))
        if min(low) < 0 or max(high[1:]) > MAX_COORDINATE or high[0] >= MAX_SCANS:
            raise ValueError(
                f"voxel coordinates (scan, x, y, z) must lie in [0, {MAX_COORDINATE}] and scans in "
                f"[0, {MAX_SCANS - 1}]; got {low} … {high}: use larger voxels, a shorter range or fewer scans a batch"
            )
    scan, x, y, z = coords.to(torch.int64).unbind(1)
    return ((scan << FIELD_BITS | x) << FIELD_BITS | y) << FIELD_BITS | z


def unpack_coords(keys: Int[Tensor, "V"]) -> Int[Tensor, "V 4"]:
    """The int32 (scan, x, y, z) rows of addresses."""
    fields = [keys >> shift & MAX_COORDINATE for shift in (3 * FIELD_BITS, 2 * FIELD_BITS, FIELD_BITS, 0)]
    return torch.stack(fields, 1).to(torch.int32)


@dataclass(frozen=True)
class CartesianGrid:
    """Cubes of one size.

    Attributes:
        origin_m: Lower corner of cell (0, 0, 0), in the frame of the points.
        voxel_size_m: Edge of a cell.
        shape: Number of cells in x, y and z.
    """

    origin_m: tuple[float, float, float]
    voxel_size_m: float
    shape: tuple[int, int, int]

    @staticmethod
    def centred(range_m: float, voxel_size_m: float, multiple: int) -> "CartesianGrid":
        """A cube of ± ``range_m`` around the sensor whose side is a multiple of ``multiple`` cells."""
        side = math.ceil(2 * range_m / voxel_size_m / multiple) * multiple
        return CartesianGrid((-0.5 * side * voxel_size_m,) * 3, voxel_size_m, (side,) * 3)

    @property
    def edge_m(self) -> float:
        """The shortest edge of a cell."""
        return self.voxel_size_m

    @property
    def periods(self) -> tuple[int, int, int]:
        """Cells after which an axis begins anew; 0 where it does not."""
        return 0, 0, 0

    @property
    def faithful(self) -> tuple[tuple[int, int], ...]:
        """By axis, the first cell and the end of those that hold only points inside them; ``cells`` fills the rest."""
        x, y, z = ((1, cells - 1) for cells in self.shape)
        return x, y, z

    def positions(self, points: Float[Tensor, "P _"]) -> Float[Tensor, "P 3"]:
        """Where each point lies, in cells from the lower corner; not clamped."""
        return (points[:, :3] - row_like(self.origin_m, points)) / self.voxel_size_m

    def cells(self, points: Float[Tensor, "P _"]) -> Int[Tensor, "P 3"]:
        """Cell of each point; a point outside the grid gets the nearest border cell."""
        return _clamp(self.positions(points), self.shape)


@dataclass(frozen=True)
class CylinderGrid:
    """Cells of equal radius step, azimuth step and height step.

    The step of an axis is its extent over (cells - 1), so the upper limit itself is the last cell: the convention of
    Cylinder3D's code, which the published 240 x 180 x 20 grid was trained with.

    Attributes:
        radius_m: Largest horizontal distance; the smallest is 0.
        height_m: Lowest and highest z.
        shape: Number of cells in radius, azimuth and height.
    """

    radius_m: float
    height_m: tuple[float, float]
    shape: tuple[int, int, int]

    @property
    def origin(self) -> tuple[float, float, float]:
        """Lower corner of cell (0, 0, 0): metres, radians, metres."""
        return 0.0, -math.pi, self.height_m[0]

    @property
    def step(self) -> tuple[float, float, float]:
        """Extent of a cell: metres, radians, metres."""
        radius, azimuth, height = (cells - 1 for cells in self.shape)
        return self.radius_m / radius, 2 * math.pi / azimuth, (self.height_m[1] - self.height_m[0]) / height

    @property
    def edge_m(self) -> float:
        """The shorter edge of a cell along radius and height; across, all cells meet at the axis."""
        radius_m, _, height_m = self.step
        return min(radius_m, height_m)

    @property
    def periods(self) -> tuple[int, int, int]:
        """Cells after which an axis begins anew; 0 where it does not. The last azimuth cell is the first once more."""
        return 0, self.shape[1] - 1, 0

    @property
    def faithful(self) -> tuple[tuple[int, int], ...]:
        """By axis, the first cell and the end of those that hold only points inside them; ``cells`` fills the rest."""
        radius, azimuth, height = (cells - 1 for cells in self.shape)
        return (0, radius), (0, azimuth), (1, height)

    def polar(self, points: Float[Tensor, "P _"]) -> Float[Tensor, "P 3"]:
        """(radius, azimuth, height) of each point: metres, radians in [-π, π], metres; not clamped."""
        x, y, z = points[:, 0], points[:, 1], points[:, 2]
        return torch.stack([torch.hypot(x, y), torch.atan2(y, x), z], 1)

    def positions(self, points: Float[Tensor, "P _"]) -> Float[Tensor, "P 3"]:
        """Where each point lies, in cells (radius, azimuth, height) from the lower corner; not clamped."""
        polar = self.polar(points)
        return (polar - row_like(self.origin, polar)) / row_like(self.step, polar)

    def cells(self, points: Float[Tensor, "P _"]) -> Int[Tensor, "P 3"]:
        """Cell (radius, azimuth, height) of each point; a point outside the grid gets the nearest border cell."""
        return _clamp(self.positions(points), self.shape)

    def centres(self, cells: Int[Tensor, "P 3"]) -> Float32[Tensor, "P 3"]:
        """Centre (radius, azimuth, height) of each cell: metres, radians, metres."""
        step, origin = (_kept_row(values, torch.float32, cells.device) for values in (self.step, self.origin))
        return (cells + 0.5) * step + origin


def row_like(values: tuple[float | int, ...], like: Tensor) -> Tensor:
    """A constant of the type and on the device of a tensor."""
    return _kept_row(values, like.dtype, like.device)


@lru_cache(maxsize=64)
def _kept_row(values: tuple[float | int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A constant that is brought to the device once: each time anew, the host would wait for the device."""
    return torch.tensor(values, dtype=dtype, device=device)


def _clamp(position: Tensor, shape: tuple[int, int, int]) -> Tensor:
    limit = row_like(tuple(cells - 1 for cells in shape), position)
    return torch.minimum(position.floor().clamp_min(0), limit).to(torch.int32)


@dataclass(frozen=True)
class Voxels:
    """The occupied cells of a batch, in lexicographic (scan, x, y, z) order.

    Attributes:
        keys: [V] int64 addresses, ascending.
        point_cell: [P] voxel of each point.
        point_order: [P] points sorted by voxel, in their own order within a voxel.
        starts: [E = V + 1] where each voxel begins in ``point_order``.
    """

    keys: Int[Tensor, "V"]
    point_cell: Int[Tensor, "P"]
    point_order: Int[Tensor, "P"]
    starts: Int[Tensor, "E"]

    def __len__(self) -> int:
        """Number of voxels V."""
        return len(self.keys)

    def mean(self, values: Float[Tensor, "P F"]) -> Float[Tensor, "V F"]:
        """Mean over the points of each voxel."""
        return segment_sum(values, self.point_order, self.starts) / self.starts.diff().unsqueeze(1)

    def max(self, values: Float[Tensor, "P F"]) -> Float[Tensor, "V F"]:
        """Maximum over the points of each voxel; points that share it share the gradient."""
        if not len(self):
            return values[:0]
        ordered = values.index_select(0, self.point_order)
        return torch.segment_reduce(ordered, "max", lengths=self.starts.diff(), unsafe=True)  # they are right

    def vote(self, labels: Int[Tensor, "P"]) -> Int[Tensor, "V"]:
        """Most frequent label of each voxel's points.

        IGNORE never wins over a known label; a voxel without a known label is IGNORE; a tie goes to the lower id.
        """
        # one number for voxel and label, so that sorting brings equal votes of a voxel together
        ballots, _ = (self.point_cell * _LABEL_RANGE + labels).sort()
        run = _is_new(ballots).cumsum(0) - 1
        counts = torch.zeros_like(ballots).index_add_(0, run, (ballots % _LABEL_RANGE != IGNORE).long())[run]
        # and one for count and label, the lower label higher, so that the largest is the winner and breaks the tie
        score = torch.where(counts > 0, counts * _LABEL_RANGE + (IGNORE - ballots % _LABEL_RANGE), 0)
        best = torch.zeros_like(self.keys).scatter_reduce_(0, ballots // _LABEL_RANGE, score, "amax")
        return IGNORE - best % _LABEL_RANGE


def find_voxels(cells: Int[Tensor, "P 3"], scan_idx: Int[Tensor, "P"]) -> Voxels:
    """The unique cells of a batch and which points each holds.

    Raises:
        ValueError: A cell or scan index in the host's memory does not fit its 16 or 15 bits.
    """
    # one address a point: sorting it brings the points of a cell together, and cells into the order of addresses
    packed = pack_coords(torch.cat([scan_idx.to(cells.dtype).unsqueeze(1), cells], 1))
    ordered, point_order = packed.sort(stable=True)
    is_first = _is_new(ordered)
    cell_of_ordered = is_first.cumsum(0) - 1
    num_cells = int(cell_of_ordered[-1]) + 1 if len(ordered) else 0
    firsts = is_first.nonzero_static(size=num_cells).flatten()
    point_cell = torch.empty_like(packed).scatter_(0, point_order, cell_of_ordered)
    starts = torch.nn.functional.pad(firsts, (0, 1), value=len(ordered))
    return Voxels(ordered[firsts], point_cell, point_order, starts)


def _is_new(ordered: Int[Tensor, "N"]) -> Bool[Tensor, "N"]:
    """Whether each number of an ascending list is another than the one before it."""
    found = torch.ones_like(ordered, dtype=torch.bool)
    found[1:] = ordered[1:] != ordered[:-1]
    return found


def segments(rows: Int[Tensor, "N"], num_rows: int) -> tuple[Int[Tensor, "N"], Int[Tensor, "E"]]:
    """Places ordered by what row they name, in their own order within a row, and where each of the rows begins.

    Both in the rows' type, as ``segment_sum`` wants them alike.
    """
    counts = rows.new_zeros(num_rows + 1).index_add_(0, rows + 1, torch.ones_like(rows))
    return rows.argsort(stable=True).to(rows.dtype), counts.cumsum(0, dtype=rows.dtype)


def segment_sum(
    values: Float[Tensor, "N F"], order: Int[Tensor, "M"], starts: Int[Tensor, "E"]
) -> Float[Tensor, "_ F"]:
    """Row s is the sum of ``values[order[starts[s]:starts[s + 1]]]``, added in that order; an empty segment is 0."""
    if not len(values):
        return values.new_zeros(len(starts) - 1, values.shape[1])
    return torch.nn.functional.embedding_bag(order, values, starts, mode="sum", include_last_offset=True)
