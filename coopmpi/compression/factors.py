"""Tensors of a flat model as matrices with thin factors, and messages that carry several arrays."""

from collections.abc import Sequence
from itertools import accumulate
from math import prod

import numpy as np
from numpy.typing import DTypeLike

from coopmpi.compression.compressors import LowRank
from coopmpi.device.host import Host
from coopmpi.device.pool import Array
from coopmpi.streams import Purpose, stream


class ThinFactors:
    """Which tensors (name, shape, offset) travel as factors of that rank.

    shapes: [(span in the flat model, (n, c))] of those; whole: [span] of all others, which are not larger than their
    factors.
    """

    def __init__(self, rank: int, tensors: Sequence[tuple[str, tuple[int, ...], int]]) -> None:
        self.rank, self.shapes, self.whole = rank, [], []
        for _, shape, offset in tensors:
            span, matrix = slice(offset, offset + prod(shape)), LowRank(rank=rank).factored(shape)
            if matrix:
                self.shapes.append((span, matrix))
            else:
                self.whole.append(span)

    def matrices(self, x: Array) -> list[Array]:
        """The tensors (b, n, c) of models x (b, d): views."""
        return [x[:, span].reshape(-1, *shape) for span, shape in self.shapes]

    def views(self, row: Array) -> list[Array]:
        """The factors Q (c, r) in the row (1, d) that holds them, each where its matrix begins."""
        return [row[0, span.start:span.start + c * self.rank].reshape(c, self.rank) for span, (_, c) in self.shapes]

    def first(self, shape: tuple[int, ...], dtype: DTypeLike, seed: int) -> np.ndarray:
        """A row (1, d) of Gaussian Q, on the host, the same on all ranks."""
        row, generator = np.zeros(shape, dtype), stream(seed, Purpose.COMPRESS)
        for q in self.views(row):
            q[...] = generator.standard_normal(q.shape)
        return row


def joined(arrays: Sequence[Array], device: Host) -> Array:
    """Arrays (b, ...) side by side: one message (b, n)."""
    rows = [array.reshape(len(array), -1) for array in arrays]
    message = device.empty((len(rows[0]), sum(row.shape[1] for row in rows)), rows[0].dtype)
    return device.xp.concatenate(rows, axis=1, out=message)


def parted(message: Array, arrays: Sequence[Array]) -> list[Array]:
    """The parts of a message (1, n), (1, ...), each in the shape of the array (b, ...) that was put there."""
    shapes = [array.shape[1:] for array in arrays]
    ends = accumulate(map(prod, shapes))
    return [message[:, end - prod(shape):end].reshape(-1, *shape) for shape, end in zip(shapes, ends)]
