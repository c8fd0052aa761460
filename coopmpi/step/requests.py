"""What a step may ask for at a `yield`. Arrays have a row for each of the b workers that live on this rank.

A request that is communicated has `traffic(wiring)`: what it moves in this run, see coopmpi.drivers.wiring.
"""

from collections.abc import Generator
from typing import Any, NamedTuple

import numpy as np

from coopmpi.step.traffic import Traffic

Array = Any  # numpy.ndarray or cupy.ndarray


class Packed(NamedTuple):
    """Compressed rows on the wire, in place of x in a Mix: what the codec decodes from them counts.

    silent: local rows that send nothing, which stands for zeros (Advance only).
    """

    codec: Any  # coopmpi.compression.codec.Codec, or Ranges of coopmpi.compression.ranges
    rows: Array  # (b, nbytes) uint8
    round: int
    silent: tuple[int, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of one worker's packet."""
        return self.codec.nbytes


class Grad(NamedTuple):
    """Answer: losses (b,) and gradients (b, d) at the models x, on the next mini-batch.

    The gradient array belongs to the task and holds until the next Grad; the step may overwrite it.
    """

    x: Array  # (b, d)


class Now(NamedTuple):
    """Answer: seconds since training started, on this rank's clock or the virtual one."""


class Mix(NamedTuple):
    """Answer: sum_j w_ij x_j (b, d), with the mixing matrix of this communication round."""

    x: Array | Packed  # (b, d)
    round: int

    def traffic(self, wiring) -> Traffic:
        if type(self.x) is not Packed and wiring.averages(self.round):
            return wiring.average(row_bytes(self.x))  # W = J
        return wiring.exchange(self.round, row_bytes(self.x))


class Mean(NamedTuple):
    """Answer: the mean of x over all workers, (1, n).

    group: the mean over each group of so many consecutive workers instead; a row for each worker, (b, n). near: (1, n), what
    all workers know and x is close to; exact: whether x may not be rounded. Where whole vectors travel as 16-bit numbers,
    x - near does.
    """

    x: Array  # (b, n)
    group: int | None = None
    near: Array | None = None
    exact: bool = False

    def traffic(self, wiring) -> Traffic:
        return wiring.average(row_bytes(self.x), self.group)


class Reduce(NamedTuple):
    """Answer: for each local worker the range that it owns, added up from what all workers have packed of it, in ascending
    order of the workers: (b, width), with zeros behind a shorter range.
    """

    packed: Packed  # of context.ranges

    def traffic(self, wiring) -> Traffic:
        return wiring.to_owners(self.packed.codec)


class Gather(NamedTuple):
    """Answer: the model (1, d) put together from the ranges that their owners have packed: the same bits everywhere."""

    packed: Packed  # of context.ranges.own

    def traffic(self, wiring) -> Traffic:
        return wiring.from_owners(self.packed.codec.ranges)


class Advance(NamedTuple):
    """Answer: the remembered copies, each increased by what its owner has packed: the same bits everywhere."""

    copies: Array  # of a "memory" slot
    packed: Packed

    def traffic(self, wiring) -> Traffic:
        speaking = np.full(len(self.packed.rows), float(self.packed.nbytes))
        speaking[list(self.packed.silent)] = 0
        return wiring.to_all_who_remember(speaking)


class Recall(NamedTuple):
    """Answer: sum_j w_ij copy_j (b, d), from the remembered copies: nothing is sent."""

    copies: Array
    round: int


class Start(NamedTuple):
    """Answer: a ticket for what is communicated while the step goes on."""

    request: Mix | Mean | Reduce | Gather | Advance


class Finish(NamedTuple):
    """Answer: the value that the ticket stands for."""

    ticket: Any


Requests = Generator[NamedTuple, Any, Any]  # what a step is: it yields requests and is sent their answers


def row_bytes(x: Array | Packed) -> float:
    """Bytes of one worker's row on the wire."""
    return x.nbytes if type(x) is Packed else x.shape[1] * x.dtype.itemsize


def is_request(value) -> bool:
    """Is the value a request?"""
    return isinstance(value, (Grad, Now, Mix, Mean, Reduce, Gather, Advance, Recall, Start, Finish))
