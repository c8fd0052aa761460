"""A compressor at work on whole models: flat vectors to packets and back, tensor by tensor."""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from coopmpi.compression.wire import Field
from coopmpi.device.host import Host
from coopmpi.device.pool import Array, Pool
from coopmpi.streams import Purpose, stream


class Tensor(NamedTuple):
    """One tensor: its place in the model, in the packet and among the random numbers."""

    shape: tuple[int, ...]
    span: slice
    fields: list[Field]
    places: list[slice]
    drawn: slice


class Codec:
    """A compressor at work on a model: flat vectors to packets of a fixed size, and back.

    compressor: a coopmpi.compression.compressors.Compressor; entries: (name, shape, offset) of the model's tensors. part: of
    a model that is cut into ranges, each has random numbers of its own.
    dimension: numbers of the model; nbytes: what one worker's packet takes on the wire; bits: the payload in it, without filling up to bytes.
    A packet decodes to the same bits everywhere: the result is a function of packet, seed, worker and round.
    """

    def __init__(self, compressor: Any, entries: Sequence[tuple[str, tuple[int, ...], int]], dtype: DTypeLike, device: Host,
                 seed: int, part: int = 0) -> None:
        self.compressor, self.device, self.seed, self.dtype = compressor, device, seed, np.dtype(dtype)
        self.entries, self.part = entries, part
        shapes = [tuple(shape) for _, shape, _ in entries]
        fields = [compressor.fields(shape, self.dtype) for shape in shapes]
        place = _slices(field.nbytes for own in fields for field in own)
        drawn = _slices(compressor.draws(shape) for shape in shapes)
        self._tensors = [
            Tensor(shape, slice(offset, offset + prod(shape)), own, [next(place) for _ in own], next(drawn))
            for shape, (_, _, offset), own in zip(shapes, entries, fields)]
        self.nbytes = sum(field.nbytes for own in fields for field in own)
        self.bits = sum(field.bits for own in fields for field in own)
        self.dimension = sum(map(prod, shapes))
        self._largest = max(map(prod, shapes), default=1)
        self._draws = sum(compressor.draws(shape) for shape in shapes)
        self._host = Pool(np.empty)

    def ranges(self, workers: int) -> Any:
        """The same compressor on this model, cut into a range for each worker: a coopmpi.compression.ranges.Ranges."""
        return self.compressor.bind_ranges(self.entries, workers, self.dtype, self.device, self.seed)

    def encode(self, x: Array, workers: Sequence[int], round: int) -> Array:
        """x (b, d) of the workers with these indices -> packets (b, nbytes) uint8."""
        packed = self.device.empty((x.shape[0], self.nbytes), "uint8")
        for rows in self._blocks(x.shape[0]):
            random = self._random(workers[rows], round)
            for tensor in self._tensors:
                drawn = None if random is None else random[:, tensor.drawn]
                values = self.compressor.compress(self.device, x[rows, tensor.span], tensor.shape, drawn)
                for field, place, value in zip(tensor.fields, tensor.places, values):
                    packed[rows, place] = field.pack(self.device, value)
        return packed

    def decode(self, packed: Array, workers: Sequence[int], round: int, out: Array) -> Array:
        """Packets (k, nbytes) uint8 of the workers with these indices -> `out` (k, d), which is returned.

        A packet of zeros is the zero vector.
        """
        return self._unpack(self.compressor.restore, packed, workers, round, out)

    def add(self, packed: Array, workers: Sequence[int], round: int, out: Array) -> Array:
        """What `decode` gives, added to `out` (k, d), which is returned."""
        return self._unpack(self.compressor.add, packed, workers, round, out)

    def _unpack(self, into, packed, workers, round, out):
        for rows in self._blocks(packed.shape[0]):
            random = self._random(workers[rows], round) if self.compressor.random == "both" else None
            for tensor in self._tensors:
                drawn = None if random is None else random[:, tensor.drawn]
                values = [field.unpack(self.device, packed[rows, place])
                          for field, place in zip(tensor.fields, tensor.places)]
                into(self.device, values, tensor.shape, drawn, out[rows, tensor.span])
        return out

    def _blocks(self, rows):
        """Slices of so many rows that intermediate results stay in the cache."""
        block = max(1, self.device.chunk // self._largest)
        return (slice(start, start + block) for start in range(0, rows, block))

    def _random(self, workers, round):
        """The random numbers of these workers, one row each, or one row that they share; None without any."""
        if not self._draws:
            return None
        if self.compressor.random == "shared":
            workers = (0,)
        host = self._host.empty((len(workers), self._draws), self.compressor.drawn_type)
        for row, worker in zip(host, workers):
            generator = stream(self.seed, Purpose.COMPRESS, worker, round, self.part)
            for tensor in self._tensors:
                self.compressor.draw(generator, tensor.shape, row[tensor.drawn])
        return self.device.asarray(host)


def _slices(sizes):
    """Consecutive slices of these sizes."""
    return (slice(*ends) for ends in pairwise(accumulate(sizes, initial=0)))
