"""The interface between the drivers and whatever is trained."""

from dataclasses import dataclass
from typing import Any

from coopmpi.errors import UserError


@dataclass(frozen=True)
class Place:
    """Where a problem is set up: for which workers, on which device, among which ranks."""

    workers: int  # m, over all ranks
    hosted: range  # the workers of this rank
    seed: int
    dtype: str
    device: Any
    world: Any

    def share(self, n):
        """The slice of n items that this rank looks after when all ranks split them."""
        rank, size = self.world.rank, self.world.size
        return slice(n * rank // size, n * (rank + 1) // size)


class Problem:
    """Base of all problems: m objectives F_i over one flat model of d numbers.

    A user's own problem needs `dimension`, `initial` and `gradient`; the rest has defaults.
    """

    dimension: int  # d
    samples = None  # training samples in all, where there are such: what an epoch means
    batch = None  # samples of one gradient

    def initial(self):
        """The common initial model, numpy (d,)."""
        raise NotImplementedError

    def gradient(self, x, step):
        """Losses (b,) and gradients (b, d) of this rank's workers at their models x (b, d).

        The gradient array may be overwritten by who asked; it holds until the next call.
        """
        raise NotImplementedError

    def evaluate(self, mean):
        """This rank's share of the figures of the mean model (1, d): {"loss": (sum, count), ...}."""
        return {}

    def memory(self):
        """Bytes on this rank by what they hold, for the forecast of a dry run."""
        return {}

    def steps(self, epochs, workers):
        """How many steps `epochs` passes over the data are."""
        if self.samples is None:
            raise UserError("epochs needs a task with samples; give steps instead")
        return max(1, round(epochs * self.samples / (workers * self.batch)))
