"""A compressor at work on whole models: flat vectors to packets and back, tensor by tensor."""

from itertools import accumulate, pairwise
from math import prod
from typing import NamedTuple

import numpy as np

from coopmpi.device.pool import Pool
from coopmpi.streams import Purpose, stream


class Tensor(NamedTuple):
    """One tensor: its place in the model, in the packet and among the random numbers."""

    shape: tuple
    span: slice
    fields: list
    places: list
    drawn: slice


class Codec:
    """A compressor at work on a model: flat vectors to packets of a fixed size, and back.

    nbytes: what one worker's packet takes on the wire; bits: the payload in it, without filling up to bytes.
    A packet decodes to the same bits everywhere: what is decoded is a function of it, the seed, worker and round.
    """

    def __init__(self, compressor, entries, dtype, device, seed):
        self.compressor, self.device, self.seed, self.dtype = compressor, device, seed, np.dtype(dtype)
        shapes = [tuple(shape) for _, shape, _ in entries]
        fields = [compressor.fields(shape, self.dtype) for shape in shapes]
        place = _slices(field.nbytes for own in fields for field in own)
        drawn = _slices(compressor.draws(shape) for shape in shapes)
        self._tensors = [
            Tensor(shape, slice(offset, offset + prod(shape)), own, [next(place) for _ in own], next(drawn))
            for shape, (_, _, offset), own in zip(shapes, entries, fields)]
        self.nbytes = sum(field.nbytes for own in fields for field in own)
        self.bits = sum(field.bits for own in fields for field in own)
        self._largest = max(prod(shape) for shape in shapes)
        self._draws = sum(compressor.draws(shape) for shape in shapes)
        self._host = Pool(np.empty)

    def encode(self, x, workers, round):
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

    def decode(self, packed, workers, round, out):
        """Packets (k, nbytes) of the workers with these indices -> `out` (k, d), which is returned.

        A packet of zeros is the zero vector.
        """
        for rows in self._blocks(packed.shape[0]):
            random = self._random(workers[rows], round) if self.compressor.random == "both" else None
            for tensor in self._tensors:
                drawn = None if random is None else random[:, tensor.drawn]
                values = [field.unpack(self.device, packed[rows, place])
                          for field, place in zip(tensor.fields, tensor.places)]
                self.compressor.restore(self.device, values, tensor.shape, drawn, out[rows, tensor.span])
        return out

    def _blocks(self, rows):
        """Slices of so many rows that what is computed on the way stays in the cache."""
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
            generator = stream(self.seed, Purpose.COMPRESS, worker, round)
            for tensor in self._tensors:
                self.compressor.draw(generator, tensor.shape, row[tensor.drawn])
        return self.device.asarray(host)


def _slices(sizes):
    """Consecutive slices of these sizes."""
    return (slice(*ends) for ends in pairwise(accumulate(sizes, initial=0)))
