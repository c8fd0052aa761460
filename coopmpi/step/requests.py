"""What a step may ask for at a `yield`."""

from typing import NamedTuple


class Grad(NamedTuple):
    """Answer: losses (b,) and gradients (b, d) at the models x (b, d), on the next mini-batch.

    The gradient array belongs to the task and holds until the next Grad.
    """

    x: object


class Mix(NamedTuple):
    """Answer: sum_j w_ij x_j (b, d), with the mixing matrix of this communication round."""

    x: object
    round: int


class Now(NamedTuple):
    """Answer: seconds since training started, on this rank's clock or the virtual one."""


class Mean(NamedTuple):
    """Answer: the mean of x over all workers, (1, d)."""

    x: object


class Packed(NamedTuple):
    """Compressed rows (b, nbytes) on the wire, in place of x in a Mix or Mean: what the codec decodes from them counts.

    silent: local rows that send nothing, which stands for zeros (Advance only).
    """

    codec: object
    rows: object
    round: int
    silent: tuple = ()

    @property
    def nbytes(self):
        """Bytes of one worker's packet."""
        return self.codec.nbytes


class Advance(NamedTuple):
    """Answer: the remembered copies, each increased by what its owner has packed: the same bits everywhere."""

    copies: object
    packed: Packed


class Recall(NamedTuple):
    """Answer: sum_j w_ij copy_j (b, d), from the remembered copies: nothing is sent."""

    copies: object
    round: int


class Start(NamedTuple):
    """Answer: a ticket for a Mix, Mean or Advance that travels while the step goes on."""

    request: object


class Finish(NamedTuple):
    """Answer: the value that the ticket stands for."""

    ticket: object


def relay(generator, handle):
    """The same generator, with each request passed through `handle(request)`: a generator that returns the answer."""
    answer = None
    while True:
        try:
            request = generator.send(answer)
        except StopIteration as stop:
            return stop.value
        answer = yield from handle(request)
