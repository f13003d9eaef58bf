"""The occupied cells of a batch as a field in space: their features at any position, and where there are none."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ray_lidarseg.geometry.voxelize import FIELD_BITS, CartesianGrid, CylinderGrid, unpack_coords
from ray_lidarseg.sparse.interpolation import Corners

_MAX_DIRECT = 1 << 24  # slots of a table of all cells, one byte each (ours); larger grids share slots
_SLOTS_PER_ENTRY = 64  # of a shared table: so few empty places are taken for occupied, 1 in 64 (ours)
_HASH = 0x9E3779B97F4A7C15 - (1 << 64)  # Knuth's multiplicative hash as a signed 64-bit number
_WORD_BITS = 64


@dataclass(frozen=True)
class Volume:
    """Cells of level 0, each with its feature at its centre; space between them is interpolated, elsewhere is empty.

    ``f(x) = Σ_k w_k(x) f_k`` over the eight cells around x: trilinear weights, absent cells count as zero, and what is
    there is not scaled up for them, or a surface would be a cell thicker on each side. The azimuth of a cylinder wraps.
    Border cells that hold points drawn in from outside the grid count as absent: their points are elsewhere.

    Source: linear interpolation as in all published renderers; wrap and border rule are ours.

    Attributes:
        keys: [V] ascending unique addresses (``geometry.voxelize``).
        grid: Where cells lie in the sensor frame.
        num_scans: B.
    """

    keys: Int[Tensor, "V"]
    grid: CartesianGrid | CylinderGrid
    num_scans: int

    def corners(self, points: Float[Tensor, "S _"], scan_idx: Int[Tensor, "S"]) -> Corners:
        """The cells around each position; the weights of a row sum to less than 1 where some are absent.

        Args:
            points: [S, 3], x, y, z first, metres, sensor frame.
            scan_idx: [S] scan whose cells are meant.
        """
        place = self.grid.positions(points) - 0.5
        low = place.floor()
        share = place - low
        base = low.to(torch.int64)
        sides = [list(self._cells(base, axis)) for axis in range(3)]
        rows, weights = [], []
        for picked in product((0, 1), repeat=3):
            (x, y, z), inside = zip(*(sides[axis][side] for axis, side in enumerate(picked)), strict=True)
            key = ((scan_idx << FIELD_BITS | x) << FIELD_BITS | y) << FIELD_BITS | z
            row = torch.searchsorted(self.keys, key).clamp_max(max(len(self.keys) - 1, 0))
            found = inside[0] & inside[1] & inside[2]
            found = found & (self.keys[row] == key) if len(self.keys) else torch.zeros_like(found)
            weight = found.to(place.dtype)
            for axis, side in enumerate(picked):
                weight = weight * (share[:, axis] if side else 1 - share[:, axis])
            rows.append(row)
            weights.append(weight)
        return Corners(torch.stack(rows, 1), torch.stack(weights, 1))

    def sample(
        self, values: Float[Tensor, "V G"], points: Float[Tensor, "S _"], scan_idx: Int[Tensor, "S"]
    ) -> Float[Tensor, "S G"]:
        """Values of the cells at any position, differentiable in the values; see the class. At least float32."""
        return blend(values, self.corners(points, scan_idx))

    def touches(self, points: Float[Tensor, "S _"], scan_idx: Int[Tensor, "S"]) -> Bool[Tensor, "S"]:
        """Whether a position may have a cell around it: never wrong where it says no.

        Of empty places about 1 in 64, or fewer, are taken for occupied. One look-up a position and no search, so that
        rays find the few samples worth computing. Nothing waits for the device.
        """
        base = (self.grid.positions(points) - 0.5).floor().to(torch.int64)
        slots = self._slots(base, scan_idx)
        return self._table[slots]

    def holds(self, points: Float[Tensor, "S _"]) -> Bool[Tensor, "S"]:
        """Whether a position lies in a cell that is read, occupied or not: inside the grid and not at its border."""
        cell = self.grid.positions(points).floor().to(torch.int64)
        inside = torch.ones(len(cell), dtype=torch.bool, device=cell.device)
        for axis, (first, end) in enumerate(self.grid.faithful):
            period = self.grid.periods[axis]
            index = cell[:, axis] % period if period else cell[:, axis]
            inside &= (index >= first) & (index < end)
        return inside

    def _cells(self, base: Int[Tensor, "S 3"], axis: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Of the lower and the upper neighbour along an axis: index, clamped, and whether its cell may be read."""
        period, (first, end) = self.grid.periods[axis], self.grid.faithful[axis]
        for side in (0, 1):
            cell = base[:, axis] + side
            cell = cell % period if period else cell
            yield cell.clamp(0, self.grid.shape[axis] - 1), (cell >= first) & (cell < end)

    @cached_property
    def _shape(self) -> tuple[int, int, int]:
        """Number of places for the lower neighbour: -1 … n - 1 along an axis, 0 … n - 1 where it wraps."""
        x, y, z = (period or cells + 1 for period, cells in zip(self.grid.periods, self.grid.shape, strict=True))
        return x, y, z

    @cached_property
    def _num_slots(self) -> int:
        direct = self.num_scans * math.prod(self._shape)
        shared = 1 << max(1, _SLOTS_PER_ENTRY * 8 * len(self.keys)).bit_length()
        return direct if direct <= _MAX_DIRECT else min(direct, shared)

    @cached_property
    def _table(self) -> Bool[Tensor, "N"]:
        """Marks the slots of lower neighbours of a cell; one more slot, never set, is for what is outside."""
        table = torch.zeros(self._num_slots + 1, dtype=torch.bool, device=self.keys.device)
        scan, *cell = unpack_coords(self.keys).to(torch.int64).unbind(1)
        readable = torch.ones_like(scan, dtype=torch.bool)
        for index, (first, end) in zip(cell, self.grid.faithful, strict=True):
            readable &= (index >= first) & (index < end)
        for offset in product((0, 1), repeat=3):
            base = torch.stack([index - step for index, step in zip(cell, offset, strict=True)], 1)
            table[torch.where(readable, self._slots(base, scan), self._num_slots)] = True
        table[self._num_slots] = False
        return table

    def _slots(self, base: Int[Tensor, "S 3"], scan_idx: Int[Tensor, "S"]) -> Int[Tensor, "S"]:
        slot, inside = scan_idx.to(torch.int64), torch.ones_like(scan_idx, dtype=torch.bool)
        for axis, places in enumerate(self._shape):
            place = base[:, axis] % places if self.grid.periods[axis] else base[:, axis] + 1
            inside &= (place >= 0) & (place < places)
            slot = slot * places + place
        if self._num_slots < self.num_scans * math.prod(self._shape):
            # the topmost bits of the product depend on all bits of the address; the shift fills with the sign
            bits = self._num_slots.bit_length() - 1
            slot = ((slot * _HASH) >> (_WORD_BITS - bits)) & (self._num_slots - 1)
        return torch.where(inside, slot, self._num_slots)


def blend(values: Float[Tensor, "V G"], corners: Corners) -> Float[Tensor, "S G"]:
    """``Σ_k w_k f_k`` in at least float32, whatever autocast computes in; zeros, with a gradient, without cells."""
    values = values if values.dtype == torch.float64 else values.float()
    if not len(values):
        return values.sum() + values.new_zeros(len(corners.rows), values.shape[1])
    return corners.interpolate(values)
