"""Learning-rate schedules: the factor on the optimiser's lr at step k, after a linear warm-up."""

import math
from typing import Annotated, ClassVar

from msgspec import Meta

from coopmpi.errors import UserError
from coopmpi.ranges import Positive, Whole
from coopmpi.registry import Part, register


class Schedule(Part, frozen=True, kw_only=True):
    """Base: factor(k, steps) for step k of a run of `steps` steps. The warm-up is given in steps or in epochs."""

    name: ClassVar[str]
    warmup: Whole = 0  # steps of linear increase at the start
    warmup_epochs: Positive | None = None  # instead: passes over the data

    def __post_init__(self):
        if self.warmup and self.warmup_epochs:
            raise UserError(f"[schedule] give warmup or warmup_epochs, not both; given {self.warmup} and {self.warmup_epochs:g}")

    def factor(self, k: int, steps: int) -> float:
        ramp = min(1.0, (k + 1) / self.warmup) if self.warmup else 1.0
        return ramp * self.decay(k, steps)

    def decay(self, k: int, steps: int) -> float:
        raise NotImplementedError


@register("schedule", "constant")
class Constant(Schedule, frozen=True, kw_only=True):
    """The same learning rate throughout."""

    def decay(self, k: int, steps: int) -> float:
        return 1.0


@register("schedule", "step")
class Step(Schedule, frozen=True, kw_only=True):
    """Multiply by `factor_each` at every milestone, given in steps or as fractions of the run."""

    milestones: tuple[float, ...] = (0.5, 0.75)
    factor_each: Positive = 0.1

    def __post_init__(self):
        super().__post_init__()
        if sorted(self.milestones) != list(self.milestones) or min(self.milestones, default=0) < 0:
            raise UserError(f"[schedule] milestones must ascend from 0, given {list(self.milestones)}")
        try:
            self.factor_each ** len(self.milestones)
        except OverflowError as error:
            raise UserError(f"[schedule] factor_each = {self.factor_each:g} to the power of {len(self.milestones)} "
                            f"milestones is too large; take a smaller factor") from error

    def decay(self, k: int, steps: int) -> float:
        passed = sum(k >= (at * steps if at < 1 else at) for at in self.milestones)
        return self.factor_each**passed


@register("schedule", "cosine")
class Cosine(Schedule, frozen=True, kw_only=True):
    """Half a cosine from 1 to `floor` over the steps after the warm-up [Loshchilov & Hutter 2017, eq. 5]."""

    floor: Annotated[float, Meta(ge=0, le=1)] = 0.0

    def decay(self, k: int, steps: int) -> float:
        progress = min(1.0, max(0, k - self.warmup) / max(1, steps - self.warmup))
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * progress))
