"""What is trained: the protocol between the drivers and a problem."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from coopmpi.errors import UserError, located
from coopmpi.step.requests import Array
from coopmpi.step.slots import Slot, State


@dataclass(frozen=True)
class Place:
    """Where a problem is set up: for which workers, on which device, among which ranks."""

    workers: int  # m, over all ranks
    hosted: range  # the workers of this rank
    seed: int
    dtype: str
    device: Any
    world: Any

    def share(self, n: int) -> slice:
        """The slice of n items that is this rank's when all ranks split them."""
        rank, size = self.world.rank, self.world.size
        return slice(n * rank // size, n * (rank + 1) // size)

    def spread(self, n: int, count: int) -> np.ndarray:
        """This rank's share of at most `count` of n items that lie evenly among them: indices."""
        chosen = np.linspace(0, n - 1, min(n, count)).astype(np.intp)
        return chosen[self.share(len(chosen))]


class Problem:
    """Base of all problems: m objectives F_i over one flat model of d numbers.

    A user's own problem needs `dimension`, `initial` and `gradient`, and need not derive from this class; the rest has
    the defaults below.

    layout: (name, shape, offset) of the tensors in the flat model, which compressors and powersgd take one by one;
    empty: one vector. slots: state of the problem's own, "worker" rows such as running statistics: `gradient` and
    `evaluate` then get one more argument, whose attributes are their arrays, and algorithms never see them.
    figures: {name: (unit, description)} of what `evaluate` gives; rising: names of those that are better when larger; chance:
    {name: what a model gets that has learnt nothing}.
    class_names: in the order of the classes, where they have names; notes: what the user should know of how the data were understood.
    """

    dimension: int  # d
    layout: tuple[tuple[str, tuple, int], ...] = ()
    samples: int | None = None  # training samples in all, where there are such: what an epoch means
    batch: int | None = None  # samples of one gradient
    slots: tuple[Slot, ...] = ()
    figures: ClassVar[Mapping[str, tuple[str, str]]] = {"loss": ("1", "loss of the mean model")}
    rising: tuple[str, ...] = ("accuracy",)
    chance: ClassVar[Mapping[str, float]] = {}
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def initial(self) -> np.ndarray:
        """The common initial model, on the host, (d,)."""
        raise NotImplementedError

    def gradient(self, x: Array, step: int) -> tuple[Array, Array]:
        """Losses (b,) and gradients (b, d) of this rank's workers at their models x (b, d).

        The caller may overwrite the gradient array; it holds until the next call.
        """
        raise NotImplementedError

    def evaluate(self, mean: Array) -> dict[str, tuple[float, float]]:
        """This rank's share of the figures of the mean model (1, d): {"loss": (sum, count), ...}.

        With slots, the second argument holds their means over all workers, (1, columns) each; of whole numbers, a worker's.
        """
        return {}

    def memory(self) -> dict[str, float]:
        """Bytes on this rank by what they hold, for the forecast of a dry run."""
        return {}


LARGEST = 2**59  # numbers in one array
LONGEST = 10**15  # steps


def require_countable(workers: int, dimension: int):
    """UserError if the models of all workers are more numbers than an array can have."""
    if workers * dimension > LARGEST:
        raise UserError(f"[task] the models of {workers} workers have {dimension} parameters each; allowed are up to "
                        f"{LARGEST // workers}")


REQUIRED = ("dimension", "initial", "gradient")


class Objective:
    """A problem as a driver sees it: missing members get defaults, and its answers are checked."""

    def __init__(self, problem, place: Place, name: str):
        for member in REQUIRED:
            if not hasattr(problem, member):
                raise UserError(f"{name} must give a problem with `dimension`, `initial` and `gradient` (see "
                                f"coopmpi.tasks.problem.Problem); {member!r} is missing in {problem!r:.100}")
        self.problem, self.place, self.name = problem, place, name
        self.dimension, self.dtype = problem.dimension, np.dtype(place.dtype)
        optional = ("layout", "samples", "batch", "slots", "figures", "rising", "chance", "class_names", "notes")
        given = {member: getattr(problem, member, getattr(Problem, member)) for member in optional}
        self.slots, self.figures, self.rising = tuple(given["slots"]), dict(given["figures"]), tuple(given["rising"])
        self.samples, self.batch, self.chance = given["samples"], given["batch"], dict(given["chance"])
        self.class_names, self.notes = tuple(given["class_names"]), tuple(given["notes"])
        self.layout = tuple(given["layout"]) or (("x", (self.dimension,), 0),)
        self.has_layout = bool(given["layout"])
        self.evaluates = hasattr(problem, "evaluate") and getattr(type(problem), "evaluate", None) is not Problem.evaluate
        self._own = ()  # the state of its slots, as one more argument
        self._check_slots()
        require_countable(place.workers, self.dimension)

    def _check_slots(self):
        for slot in self.slots:
            if slot.kind != "worker" or slot.columns is None:
                raise UserError(f'{self.name}: slots of a problem are of kind "worker" and say their columns; '
                                f"{slot.name!r} is of kind {slot.kind!r} with columns = {slot.columns}")

    def start(self, driver) -> State:
        """The state of the problem's own slots at the beginning of a run."""
        state = State(self.slots, self.initial(), driver)
        self._own = (state,) if self.slots else ()
        return state

    def initial(self) -> np.ndarray:
        """The common initial model, on the host, (d,)."""
        x = self.problem.initial()
        if getattr(x, "shape", None) != (self.dimension,) or getattr(x, "dtype", None) != self.dtype:
            raise located(self.problem.initial, f"{self.name}: initial() must give a NumPy array of shape ({self.dimension},) "
                          f"and dtype {self.dtype}, given {_described(x)}")
        return x

    def gradient(self, x: Array, step: int) -> tuple[Array, Array]:
        """Losses (b,) and gradients (b, d) of this rank's workers at their models x (b, d)."""
        answer = self.problem.gradient(x, step, *self._own)
        if not (isinstance(answer, tuple) and len(answer) == 2):
            raise located(self.problem.gradient, f"{self.name}: gradient() must return losses (b,) and gradients (b, d), given "
                          f"{_described(answer)}")
        loss, gradient = answer
        for what, value, shape in (("losses", loss, x.shape[:1]), ("gradients", gradient, x.shape)):
            if getattr(value, "shape", None) != shape or value.dtype != x.dtype:
                raise located(self.problem.gradient, f"{self.name}: gradient() must return {what} of shape {shape} and dtype "
                              f"{x.dtype}, given {_described(value)}")
        return loss, gradient

    def evaluate(self, mean: Array, driver) -> dict[str, tuple[float, float]]:
        """(sum, count) of this rank for each of its figures, at the mean model (1, d); all ranks take part."""
        if not self.evaluates:
            return {}
        own = ()
        if self.slots:
            own = (SimpleNamespace(**{slot.name: mean for slot, mean in zip(self.slots, self.means(driver))}),)
        found = self.problem.evaluate(mean, *own)
        for name in found:
            if name not in self.figures:
                raise located(self.problem.evaluate, f"{self.name}: evaluate() returned a figure {name!r} that is not declared; "
                              f'add it to figures = {{"{name}": (unit, description)}} (declared: '
                              f"{', '.join(self.figures) or 'none'})")
        return {name: found.get(name, (np.nan, 1)) for name in self.figures}

    def own(self) -> list[Array]:
        """The arrays (b, columns) of its slots, of this rank's workers."""
        return [getattr(self._own[0], slot.name) for slot in self.slots]

    def means(self, driver) -> list[Array]:
        """Of each slot, (1, columns) over all workers; whole numbers, which count something, are this rank's first worker's."""
        return [driver.mean(values) if values.dtype.kind == "f" else values[:1].copy() for values in self.own()]

    def memory(self) -> dict[str, float]:
        """Bytes on this rank by what they hold."""
        return self.problem.memory() if hasattr(self.problem, "memory") else {}

    @property
    def steps_per_epoch(self) -> float | None:
        """Steps of one pass over the data; None where the problem does not tell its samples and its batch."""
        if self.samples is None or self.batch is None:
            return None
        return self.samples / (self.place.workers * self.batch)

    def steps(self, epochs: float) -> int:
        """How many steps `epochs` passes over the data are."""
        if self.steps_per_epoch is None:
            raise UserError("epochs needs a task that tells its samples and its batch; give steps instead")
        steps = epochs * self.steps_per_epoch
        if steps > LONGEST:
            raise UserError(f"epochs = {epochs:g} makes {steps:.3g} steps; allowed are up to {LONGEST:g} steps")
        return max(1, round(steps))


def _described(value):
    if hasattr(value, "shape"):
        return f"an array of shape {tuple(value.shape)} and dtype {value.dtype}"
    return f"{value!r:.80}"
