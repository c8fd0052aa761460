"""A compressor at work on a model that is cut into a range for each worker, which adds up what all send of it."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from coopmpi.compression.codec import Codec
from coopmpi.device.host import Host
from coopmpi.device.pool import Array

Entries = Sequence[tuple[str, tuple[int, ...], int]]


class Ranges:
    """Packets of m ranges: worker j owns the numbers d j // m to d (j + 1) // m of the flat vector. C acts on every piece of it
    by itself; a piece is what a tensor has in a range. A compressor of matrices is given whole rows: the ranges are cut there.

    spans: the ranges in the model; places: in a packet; width: numbers of the longest range; own: packs single ranges.
    A worker's packet, (nbytes,) uint8, is that of all ranges one after the other.
    """

    def __init__(self, compressor: Any, entries: Entries, workers: int, dtype: DTypeLike, device: Host, seed: int) -> None:
        self.device, self.dtype, self.workers = device, np.dtype(dtype), workers
        self.dimension = d = sum(prod(shape) for _, shape, _ in entries)
        self.spans = _cut(compressor, entries, [d * j // workers for j in range(workers + 1)])
        self.codecs = [Codec(compressor, list(_pieces(compressor, entries, span)), dtype, device, seed, part)
                       for part, span in enumerate(self.spans)]
        ends = accumulate((codec.nbytes for codec in self.codecs), initial=0)
        self.places = [slice(*pair) for pair in pairwise(ends)]
        self.nbytes = self.places[-1].stop
        self.width = max(span.stop - span.start for span in self.spans)
        self.own = OwnRanges(self)

    def encode(self, x: Array, workers: Sequence[int], round: int) -> Array:
        """x (b, d) of the workers with these indices -> packets (b, nbytes) uint8."""
        packed = self.device.empty((x.shape[0], self.nbytes), "uint8")
        for codec, span, place in zip(self.codecs, self.spans, self.places):
            packed[:, place] = codec.encode(x[:, span], workers, round)
        return packed

    def decode(self, packed: Array, workers: Sequence[int], round: int, out: Array) -> Array:
        """Packets (k, nbytes) uint8 of the workers with these indices -> `out` (k, d), which is returned."""
        for codec, span, place in zip(self.codecs, self.spans, self.places):
            codec.decode(packed[:, place], workers, round, out[:, span])
        return out


class OwnRanges:
    """A codec for rows (b, width) of which each holds the range that one worker owns, and zeros behind it.

    Packets are as long as the longest one. Worker j draws the random numbers of a worker m + j, which does not exist.
    """

    def __init__(self, ranges: Ranges) -> None:
        self.ranges, self.device, self.dtype = ranges, ranges.device, ranges.dtype
        self.dimension, self.nbytes = ranges.width, max(codec.nbytes for codec in ranges.codecs)

    def encode(self, x: Array, workers: Sequence[int], round: int) -> Array:
        """x (b, width) -> packets (b, nbytes) uint8."""
        packed = self.device.empty((x.shape[0], self.nbytes), "uint8")
        for row, worker in enumerate(workers):
            codec, span = self.ranges.codecs[worker], self.ranges.spans[worker]
            values = x[row:row + 1, :span.stop - span.start]
            packed[row:row + 1, :codec.nbytes] = codec.encode(values, (self.ranges.workers + worker,), round)
            packed[row, codec.nbytes:] = 0
        return packed

    def decode(self, packed: Array, workers: Sequence[int], round: int, out: Array) -> Array:
        """Packets (k, nbytes) -> `out` (k, width), which is returned."""
        for row, worker in enumerate(workers):
            span = self.ranges.spans[worker]
            self.decode_range(packed[row:row + 1], worker, round, out[row:row + 1, :span.stop - span.start])
            out[row, span.stop - span.start:] = 0
        return out

    def decode_range(self, packed: Array, worker: int, round: int, out: Array) -> None:
        """The packet (1, nbytes or less) of one worker -> out (1, numbers of its range)."""
        codec = self.ranges.codecs[worker]
        codec.decode(packed[:, :codec.nbytes], (self.ranges.workers + worker,), round, out)


def _cut(compressor: Any, entries: Entries, ends: list[int]) -> list[slice]:
    """Ranges with about these ends, each moved down to where something begins that the compressor keeps together."""
    offsets, found = [offset for _, _, offset in entries], []
    for end in ends[:-1]:
        _, shape, offset = entries[bisect_right(offsets, end) - 1]
        found.append(offset + (end - offset) // compressor.unit(tuple(shape)) * compressor.unit(tuple(shape)))
    return [slice(*pair) for pair in pairwise([*found, ends[-1]])]


def _pieces(compressor: Any, entries: Entries, span: slice) -> Iterator[tuple[str, tuple[int, ...], int]]:
    """(name, shape, offset in the range) of what each tensor has in it."""
    for name, shape, offset in entries:
        start, stop = max(span.start, offset), min(span.stop, offset + prod(shape))
        if start < stop:
            unit = compressor.unit(tuple(shape))
            rows = (stop - start) // unit
            yield name, (rows, *shape[1:]) if unit > 1 else (rows,), start - span.start
