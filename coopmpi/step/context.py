"""What a step is told, and the updates that steps have in common."""

import sys
from collections.abc import Sequence
from functools import cached_property

from coopmpi.errors import located
from coopmpi.step.requests import Array, Grad, Packed, Requests
from coopmpi.step.slots import State


class Context:
    """The parts that a step was put together with, and where the run stands. b workers live on this rank.

    workers: m; hosted: the b workers' indices; steps: length of the run; tensors: (name, shape, offset) of each tensor
    in the flat model; codec, mixing: where the algorithm uses them, else None. halves: do whole vectors travel as 16-bit
    numbers? Then a Mean of models is better told what they are `near`. clocks: in a simulation, the virtual ones.
    """

    def __init__(self, workers: int, hosted: range, steps: int, optimizer, schedule, device, tensors, seed: int,
                 codec=None, mixing=None, halves=False, clocks=None):
        self.workers, self.hosted, self.steps = workers, hosted, steps
        self.optimizer, self.schedule, self.device = optimizer, schedule, device
        self.tensors, self.seed, self.codec, self.mixing = tensors, seed, codec, mixing
        self.halves, self.clocks = halves, clocks
        self.groups = optimizer.groups(tensors)  # (numbers of the model, their weight decay)
        self.rounds = None  # where the run stands between two rounds; set when there is a state

    def at(self, k: int):
        """Set k, and lr of step k."""
        self.k = k
        self.lr = self.optimizer.lr * self.schedule.factor(k, self.steps)

    @property
    def tau(self) -> int:
        """The period in force, in steps."""
        return self.rounds.tau

    @property
    def round_due(self) -> bool:
        """Does a cooperation round follow this step?"""
        return self.rounds.due(self.k)

    @property
    def round(self) -> int:
        """Index of the cooperation round: it says which of a changing graph's matrices is meant."""
        return self.rounds.index

    def local_step(self, state: State) -> Requests:
        """Gradient at the local models, then one optimiser step in place; returns the losses (b,)."""
        loss, gradient = yield Grad(state.x)
        self.descend(state, state.x, gradient)
        return loss

    def descend(self, state: State, x: Array, gradient: Array):
        """x <- x - lr direction, in place; the gradient is used up. Both (b, d)."""
        self.work(optimizer=x.shape[1])
        self.optimizer.descend(state, x, gradient, self)

    def combine(self, weights: Sequence[float], arrays: Sequence[Array]) -> Array:
        """sum_k weights[k] arrays[k] in a fresh array; arrays (b, d), or (1, d) for what all share."""
        self.work(mix=len(arrays) * arrays[0].shape[1])
        rows = max(array.shape[0] for array in arrays)
        return self.device.combine(weights, arrays, self.device.empty((rows, arrays[0].shape[1]), arrays[0].dtype))

    @cached_property
    def ranges(self):
        """The [compress] table's compressor on a model that is cut into a range for each worker: for Reduce and Gather."""
        return self._required_codec("context.ranges").ranges(self.workers)

    def scale(self, weights: Sequence[float], x: Array) -> Array:
        """weights[i] x_i for each local worker i in a fresh array; weights: b floats."""
        self.work(mix=x.shape[1])
        return self.device.scale(weights, x, self.device.empty(x.shape, x.dtype))

    def pack(self, x: Array, round: int, silent: Sequence[int] = ()) -> Packed:
        """The models x (b, d) compressed for the wire; `silent` local rows become zeros."""
        rows = self._required_codec("context.pack").encode(x, self.hosted, round)
        for row in silent:
            rows[row] = 0
        return Packed(self.codec, rows, round, silent)

    def copy(self, x: Array) -> Array:
        """A fresh array with the same numbers."""
        return self.spread(x, like=x)

    def spread(self, shared: Array, like: Array) -> Array:
        """One row per local worker, (1, d) -> (b, d), in a fresh array: also where `shared` itself is kept."""
        self.work(mix=like.shape[1])
        rows = self.device.empty(like.shape, like.dtype)
        rows[:] = shared
        return rows

    def replicate(self, shared: Array, like: Array) -> Array:
        """One row per local worker from what all share: (1, d) -> (b, d)."""
        return self.device.repeat(shared, like.shape[0])

    def work(self, compress: float = 0, unpack: float = 0, mix: float = 0, optimizer: float = 0):
        """In a simulation every worker goes through so many numbers now, at the prices of [compute].

        The other methods and all requests do so themselves; a step does it for what it computes on its own.
        """
        if self.clocks:
            self.clocks.work(compress, unpack, mix, optimizer)

    def _required_codec(self, whose):
        if self.codec is None:
            raise located(sys._getframe(2), f"{whose} needs the [compress] table: say uses_compress = True in the class")
        return self.codec
