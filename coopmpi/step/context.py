"""What a step is told, and the updates that steps have in common."""

from coopmpi.step.requests import Grad, Packed


class Context:
    """What a step is told: the parts it was put together with, and where the run stands."""

    def __init__(self, workers, hosted, steps, optimizer, schedule, period, device, tensors, seed, codec=None,
                 mixing=None):
        self.workers, self.hosted, self.steps = workers, hosted, steps  # m; the workers of this rank; length of the run
        self.optimizer, self.schedule, self.rounds = optimizer, schedule, period.rounds()
        self.device, self.codec, self.mixing = device, codec, mixing  # the last two: where the algorithm uses them
        self.tensors, self.seed = tensors, seed  # (name, shape, offset) of each tensor in the flat vector

    def at(self, k):
        """Point the run at step k."""
        self.k = k
        self.lr = self.optimizer.lr * self.schedule.factor(k, self.steps)

    @property
    def tau(self):
        """The period in force, in steps."""
        return self.rounds.tau

    @property
    def round_due(self):
        """Does a cooperation round follow this step?"""
        return self.rounds.due(self.k)

    @property
    def round(self):
        """Index of that round: which of a changing graph's matrices is meant."""
        return self.rounds.index

    def local_step(self, state):
        """Gradient at the local models, then one optimiser step in place; returns the losses."""
        loss, gradient = yield Grad(state.x)
        self.descend(state, state.x, gradient)
        return loss

    def descend(self, state, x, gradient):
        """x <- x - lr direction, in place; the gradient is used up."""
        self.device.descend(x, self.lr, self.optimizer.direction(state, state.x, gradient, self))

    def combine(self, weights, arrays):
        """sum_k weights[k] arrays[k] in a fresh array; arrays (b, d), or (1, d) for what all share."""
        rows = max(array.shape[0] for array in arrays)
        return self.device.combine(weights, arrays, self.device.empty((rows, arrays[0].shape[1]), arrays[0].dtype))

    def scale(self, weights, x):
        """weights[i] x_i for each local worker i in a fresh array; weights: b floats."""
        return self.device.scale(weights, x, self.device.empty(x.shape, x.dtype))

    def pack(self, x, round, silent=()):
        """The models x (b, d) compressed for the wire; `silent` local rows say nothing."""
        rows = self.codec.encode(x, self.hosted, round)
        for row in silent:
            rows[row] = 0
        return Packed(self.codec, rows, round, silent)

    def copy(self, x):
        """A fresh array with the same numbers."""
        return self.spread(x, like=x)

    def spread(self, shared, like):
        """The same as `replicate`, in a fresh array: for what is kept as shared, too."""
        rows = self.device.empty(like.shape, like.dtype)
        rows[:] = shared
        return rows

    def replicate(self, shared, like):
        """One row per local worker from what all share: (1, d) -> (b, d)."""
        return self.device.repeat(shared, like.shape[0])
