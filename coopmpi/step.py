"""What an algorithm is: a `step` generator that yields requests, and slots that hold its state.

An algorithm never communicates. At each `yield` it asks for something and a driver answers, so that the same
file runs over MPI, in one process, and on a virtual clock. Every array has a leading worker axis: (b, d) for
the b workers that live on this rank, (1, d) for what all workers share.
"""

from typing import ClassVar, NamedTuple

from coopmpi.errors import UserError
from coopmpi.registry import Part


# requests: what a step may yield
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


# slots: what is needed at the next step
class Slot(NamedTuple):
    """One declared piece of state. Checkpoints, the memory estimate and the documentation come from here.

    kind: "worker" (b, d), "replica" (rows, d) equal on all ranks, "ticket" (a transfer under way, a tuple of them,
    or None), or "memory": a copy of a vector of every worker that any local worker receives from, the b local ones
    first.
    start: "model" (the common initial model), "zero", or "none" for tickets.
    """

    name: str
    kind: str
    start: str
    purpose: str
    rows: int = 1  # of a replica
    columns: int | None = None  # where d numbers are too many, of a slot that starts at zero


MODEL = Slot("x", "worker", "model", "the workers' models")


class State:
    """The slots of one run, as attributes: state.x, state.momentum, ..."""

    def __init__(self, slots, initial, driver):
        self.slots = slots
        for slot in slots:
            setattr(self, slot.name, self._start(slot, initial, driver))

    @staticmethod
    def _start(slot, initial, driver):
        if slot.kind == "ticket":
            return None
        device, b = driver.device, len(driver.hosted)
        rows = slot.rows if slot.kind == "replica" else b
        if slot.kind == "memory":
            rows += len(driver.audience.remote)
        array = device.empty((rows, slot.columns or initial.size), initial.dtype)
        array[:] = device.asarray(initial) if slot.start == "model" else 0
        return array


class Algorithm(Part, frozen=True, kw_only=True):
    """Base of all algorithms. Fields are the keys of the [algorithm] table; class attributes describe it.

    A new algorithm is one file in coopmpi/algorithms with a registered subclass that defines `step`.
    """

    name: ClassVar[str]
    source: ClassVar[str]  # paper and equation
    bibtex: ClassVar[tuple] = ()  # keys into coopmpi/references.bib
    slots: ClassVar[tuple] = ()  # state beyond the models and the optimiser's own
    uses_period: ClassVar[bool] = False
    uses_mixing: ClassVar[bool] = False
    uses_compress: ClassVar[bool] = False
    needs_agreement: ClassVar[bool] = True  # of X <- W X alone; False where only a part of W's pull is taken
    needs_contraction: ClassVar[bool] = False  # of the compressor: what it leaves out is made up for later

    def bind_mixing(self, mixing, workers, seed):
        """The MixingMatrix that a Mix stands for; mixing: the [mixing] table, as coopmpi.parts.mixing.Mixing."""
        return mixing.bind(workers, seed)

    def bound_slots(self, mixing):
        """The slots of a run with this MixingMatrix, or None."""
        return self.slots

    def check(self, workers, mixing, config):
        """Raise UserError if these parts cannot work together; called before anything is allocated.

        mixing: the run's MixingMatrix, or None; config: the run description. Subclasses add their own rules to these.
        """
        if self.needs_agreement and mixing is not None and not mixing.agrees:
            raise UserError(f"{self.name} needs a W that brings the workers together; with {mixing.description}, they "
                            "never agree: it has more than one eigenvalue of modulus 1. Set lazy = true in [mixing], "
                            "which takes (I + W) / 2")
        if self.needs_contraction and not config.compress.contractive:
            raise UserError(f"{self.name} needs a contractive compressor, ||x - C(x)||^2 < ||x||^2, but "
                            f"{config.compress.name} says it is none; leave out the factor that frees it from bias")

    def step(self, state, run):
        """One step of every worker: a generator of requests that returns the losses (b,)."""
        raise NotImplementedError

    def finish(self, state, run):
        """Complete what is still under way after the last step: a generator of requests."""
        yield from ()

    def miniature(self, tensors):
        """Tensors of the smallest model that costs as much per number as the real one: a dry run rehearses it."""
        return [("x", (1,), 0)]

    def matrix_form(self, workers, tau, mixing):
        """(tau, W, v) of Cooperative SGD, X <- W (X - lr G) every tau steps with v auxiliary rows, or None.

        workers m, the period tau, mixing the (m, m) float64 matrix of the graph; W is (m+v, m+v) float64.
        """
        return None


class Run:
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
        out = self.device.empty((rows, arrays[0].shape[1]), arrays[0].dtype)
        for i in range(rows):
            self.device.weighted_sum([a[i if a.shape[0] > 1 else 0] for a in arrays], weights, out[i])
        return out

    def scale(self, weights, x):
        """weights[i] x_i for each local worker i in a fresh array; weights: b floats."""
        out = self.device.empty(x.shape, x.dtype)
        for i, weight in enumerate(weights):
            self.device.weighted_sum([x[i]], [weight], out[i])
        return out

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
