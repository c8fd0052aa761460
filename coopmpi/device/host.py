"""The CPU: arrays are numpy.ndarray. Also the interface that a GPU implements (coopmpi.device.gpu)."""

from collections.abc import Iterator, Sequence
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from coopmpi.device.pool import Array, Pool

_SINGLE = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)  # of all float16, by their bits


class Outgoing:
    """A row to be sent that MPI may read at once."""

    ready = True

    def __init__(self, buffer: Array) -> None:
        self.buffer = buffer

    def wait(self) -> None:
        """Return when `buffer` holds the row."""


class Host:
    """The CPU: arrays are numpy.ndarray, and MPI reads them where they are."""

    name = "cpu"
    xp = np
    chunk = 131072  # numbers per pass of a chain of operations: intermediate results stay in the cache

    def __init__(self) -> None:
        self.pool = Pool(self.xp.empty)
        self.staging = self  # serves transfers that need host memory

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """An array with arbitrary content, recycled where possible."""
        return self.pool.empty(shape, dtype)

    def asarray(self, host_array: np.ndarray) -> Array:
        """The array on this device, from NumPy, with the same shape and dtype."""
        return self.xp.asarray(host_array)

    def to_host(self, array: Array) -> np.ndarray:
        """The array as numpy.ndarray, with the same shape and dtype."""
        return np.asarray(array)

    def clock(self) -> Any:
        """A mark in time that costs no synchronisation; `seconds` turns two of them into a duration."""
        return perf_counter()

    def seconds(self, start: Any, end: Any) -> float:
        return end - start

    def synchronize(self) -> None:
        """Return when everything asked of the device has been done."""

    def repeat(self, row: Array, copies: int) -> Array:
        """(1, d) -> (copies, d); the row itself when one is enough."""
        if copies == 1:
            return row
        rows = self.empty((copies, row.shape[1]), row.dtype)
        rows[:] = row
        return rows

    def outgoing(self, row: Array) -> Outgoing:
        """What MPI reads when it sends the row, a contiguous array of any shape and dtype."""
        return Outgoing(row)

    def incoming(self, row: Array) -> Array:
        """Where MPI writes what will become the row: an array of its shape and dtype."""
        return row

    def arrived(self, buffer: Array, row: Array) -> None:
        """Bring what MPI wrote into `buffer` to the row it was meant for."""

    def spans(self, n: int) -> Iterator[slice]:
        """Slices of at most `chunk` that make up n numbers."""
        return (slice(start, start + self.chunk) for start in range(0, n, self.chunk))

    def pieces(self, *arrays: Array) -> Iterator[list[Array]]:
        """The arrays (b, n) in pieces of at most `chunk` numbers, for a chain of operations: lists of views, one of each."""
        b, n = arrays[0].shape
        rows = max(1, self.chunk // n)
        for top in range(0, b, rows):
            for left in range(0, n, self.chunk):
                yield [array[top:top + rows, left:left + self.chunk] for array in arrays]

    def scratch(self, piece: Array) -> Array:
        """An array of the shape and type of a piece, for an intermediate result."""
        return self.empty((piece.size,), piece.dtype).reshape(piece.shape)

    def add_scaled(self, x: Array, factor: float, y: Array) -> None:
        """x <- x + factor y, in place; both (b, n)."""
        # not BLAS's axpy: OpenBLAS for AVX2 rounds the last numbers of an array, up to 31, otherwise than the rest
        for part, other in self.pieces(x, y):
            self.xp.add(part, self.xp.multiply(other, factor, out=self.scratch(other)), out=part)

    def weighted_sum(self, rows: Sequence[Array], weights: Sequence[float], out: Array) -> None:
        """out = weights[0] rows[0] + weights[1] rows[1] + ..., added in that order; 1-D arrays of one dtype.

        Number by number the operations depend on the weights alone, so results do not depend on where the
        rows come from. `out` must not be one of the rows.
        """
        xp, n, common = self.xp, out.shape[0], weights[0] if len(set(weights)) == 1 else None
        scratch = self.empty((min(self.chunk, n),), out.dtype)
        for start in range(0, n, self.chunk):
            span = slice(start, start + self.chunk)
            total, term = out[span], scratch[: n - start]
            if common is None:
                # no pass for a factor of 1 or -1
                first, *others = (row[span] for row in rows)
                so_far = first if weights[0] == 1 else xp.multiply(first, weights[0], out=total)
                for row, weight in zip(others, weights[1:]):
                    if abs(weight) != 1:
                        row = xp.multiply(row, weight, out=term)
                    so_far = (xp.subtract if weight == -1 else xp.add)(so_far, row, out=total)
            else:
                # w (row + row + ...): one pass less
                self._sum([row[span] for row in rows], total)
                if common != 1:
                    xp.multiply(total, common, out=total)

    def combine(self, weights: Sequence[float], arrays: Sequence[Array], out: Array) -> Array:
        """out = sum_k weights[k] arrays[k], row by row; arrays (b, n), or (1, n) for what all rows share."""
        for i in range(out.shape[0]):
            self.weighted_sum([a[i if a.shape[0] > 1 else 0] for a in arrays], weights, out[i])
        return out

    def scale(self, weights: Sequence[float], x: Array, out: Array) -> Array:
        """out_i = weights[i] x_i; weights: b floats; x and out (b, n)."""
        for i, weight in enumerate(weights):
            self.weighted_sum([x[i]], [weight], out[i])
        return out

    def mix(self, local: Sequence[Array], others: Sequence[Array],
            weights: Sequence[tuple[Sequence[int], Sequence[float]]], out: Array) -> Array:
        """out_i = sum_j weights_ij x_j, added in the given order; rows (n,), out (len(weights), n).

        weights: for each row (sources, weights); a source counts the rows of `local`, and then those of `others`.
        """
        b = len(local)
        for target, (sources, row_weights) in zip(out, weights):
            self.weighted_sum([local[j] if j < b else others[j - b] for j in sources], row_weights, target)
        return out

    def sum(self, rows: Sequence[Array], out: Array) -> Array:
        """out (1, n) = rows[0] + rows[1] + ..., in that order; rows of shape (n,)."""
        self.weighted_sum(list(rows), [1.0] * len(rows), out[0])
        return out

    def gather(self, x: Array, indices: Array) -> Array:
        """x[i, indices[i, j]], (b, k); x (b, n), indices (b, k)."""
        if self._short(indices):
            return self.xp.take_along_axis(x, indices, axis=1)
        numbers = self.empty(indices.shape, x.dtype)
        for row, where, found in zip(x, indices, numbers):
            found[...] = row[where]
        return numbers

    def scatter(self, numbers: Array, indices: Array, out: Array) -> None:
        """out[i, indices[i, j]] = numbers[i, j]; out (b, n), the others (b, k)."""
        if self._short(indices):
            out[self.xp.arange(len(out))[:, None], indices] = numbers
        else:
            for row, where, what in zip(out, indices, numbers):
                row[where] = what

    def scatter_add(self, numbers: Array, indices: Array, out: Array) -> None:
        """out[i, indices[i, j]] += numbers[i, j]; out (b, n), the others (b, k), no index twice in a row but of zeros."""
        if self._short(indices):
            out[self.xp.arange(len(out))[:, None], indices] += numbers
        else:
            for row, where, what in zip(out, indices, numbers):
                self.xp.add.at(row, where, what)

    def to_half(self, x: Array, half: Array) -> None:
        """half (b, n) float16 = the nearest to x, ties to even; x within +-65504, or NaN."""
        if x.dtype != np.float32:
            half[...] = x
            return
        # NumPy's own conversion takes 50 times as long where numbers are below 6e-5, as differences of models are
        for part, found in self.pieces(x, half):
            bits = part.view(np.uint32)
            size, bit, low = (self.scratch(bits) for _ in range(3))
            np.bitwise_and(bits, 0x7FFFFFFF, out=size)
            # the exponent counts from 15 in place of 127: (size + 0xfff + lowest bit that stays) >> 13; below 2^-14 that is huge
            np.right_shift(bits, 13, out=bit)
            bit &= 1
            bit += size
            bit += 0xFFF - (113 << 23) + (1 << 32)
            bit >>= 13
            bit += 1 << 10
            # below 2^-14 half precision has steps of 2^-24, as float32 has from 0.5 to 1; above, this is the larger one
            with np.errstate(invalid="ignore"):
                np.add(size.view(np.float32), np.float32(0.5), out=low.view(np.float32))
            low -= np.float32(0.5).view(np.uint32)
            np.minimum(bit, low, out=bit)
            np.copyto(bit, 0x7E00, where=size > 0xFF << 23)
            # and the sign
            np.right_shift(bits, 16, out=low)
            low &= 0x8000
            bit |= low
            found.view(np.uint16)[...] = bit

    def from_half(self, half: Array, out: Array) -> None:
        """out (b, n) = half (b, n) float16."""
        if out.dtype != np.float32:
            out[...] = half
            return
        for part, found in self.pieces(half, out):
            index = self.empty((part.size,), "int64").reshape(part.shape)
            index[...] = part.view(np.uint16)
            np.take(_SINGLE, index, out=found, mode="clip")

    def _short(self, indices):
        """Are rows (b, k) so short that one operation for all takes less than one for each? On a GPU they always are."""
        return indices.shape[1] <= self.chunk // 1024

    def squared_distance(self, row: Array, other: Array) -> float:
        """||row - other||^2 as a float; 1-D arrays."""
        total = 0.0
        apart = self.empty((min(self.chunk, row.size),), row.dtype)
        for start in range(0, row.size, self.chunk):
            part = apart[: row.size - start]
            self.xp.subtract(row[start:start + self.chunk], other[start:start + self.chunk], out=part)
            total += float(self.xp.vdot(part, part))
        return total

    def _sum(self, rows, out):
        if len(rows) == 1:
            out[:] = rows[0]
        else:
            self.xp.add(rows[0], rows[1], out=out)
            for row in rows[2:]:
                self.xp.add(out, row, out=out)
