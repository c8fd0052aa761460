"""When workers cooperate: the period tau between communication rounds."""

import math
from typing import Annotated, ClassVar

from msgspec import Meta

from coopmpi.errors import UserError
from coopmpi.ranges import Count, NonNegative, Positive, Whole
from coopmpi.registry import Part, register
from coopmpi.step.requests import Array, Finish, Mean, Now, Requests, Start
from coopmpi.step.slots import Slot, State


class Period(Part, frozen=True, kw_only=True):
    """Base: which period is in force from step k on."""

    name: ClassVar[str]
    slots: ClassVar[tuple[Slot, ...]] = (Slot("period", "host", "zero", "tau, rounds so far, step of the last one", columns=3),)

    def check(self, deterministic: bool, simulated: bool):
        """Raise UserError if such a run cannot have this period."""

    def tau_from(self, k: int) -> int:
        """The period that starts with step k."""
        raise NotImplementedError

    def rounds(self, state: State) -> "Rounds":
        """The rounds of a run with this state."""
        return Rounds(self, state)

    def follows_numbers(self) -> str:
        """Why the rounds depend on the numbers that are computed; empty: they do not."""
        return ""


class Rounds:
    """Where a run stands between two rounds. Its numbers are kept in the state's slots."""

    def __init__(self, period: Period, state: State):
        self.period = period
        self._numbers = state.period[0]
        if not self.tau:
            self._numbers[:3] = period.tau_from(0), 0, -1

    @property
    def tau(self) -> int:
        """The period in force, in steps."""
        return int(self._numbers[0])

    @property
    def index(self) -> int:
        """Index of the round that ends this period."""
        return int(self._numbers[1])

    def due(self, k: int) -> bool:
        return k - self._numbers[2] >= self.tau

    def after_step(self, k: int, loss: Array, state: State, context) -> Requests:
        """Called after step k with its losses (b,): a generator of requests."""
        if self.due(k):
            self._next(k, self.period.tau_from(k + 1))
        yield from ()

    def finish(self, state: State, context) -> Requests:
        """Complete what is still under way after the last step: a generator of requests. Neutral."""
        yield from ()

    def _next(self, k, tau):
        """A round has ended with step k, a period of tau steps begins."""
        self._numbers[:3] = tau, self.index + 1, k


@register("period", "every")
class Every(Period, frozen=True, kw_only=True):
    """A round after every tau steps: when (k + 1) % tau == 0."""

    tau: Count = 8

    def tau_from(self, k):
        return self.tau


@register("period", "post-local")
class PostLocal(Period, frozen=True, kw_only=True):
    """A round after every step until `switch`, then after every tau steps [Lin et al., ICLR 2020]."""

    switch: Count = 1000
    tau: Count = 16

    def tau_from(self, k):
        return 1 if k < self.switch else self.tau


@register("period", "list")
class Listed(Period, frozen=True, kw_only=True):
    """Periods as given: `taus = [[0, 32], [500, 8], [1500, 1]]` is 32 at first, 8 from step 500 on, then 1."""

    taus: tuple[tuple[Whole, Count], ...] = ((0, 8),)

    def __post_init__(self):
        starts = [start for start, _ in self.taus]
        if not starts or starts[0] != 0 or starts != sorted(set(starts)):
            raise UserError(f"[period] taus must be [step, tau] pairs that ascend from step 0, given steps {starts}")

    def tau_from(self, k):
        return next(tau for start, tau in reversed(self.taus) if start <= k)


SECONDS = 60.0  # between decisions, where no interval is given


@register("period", "adacomm")
class AdaComm(Period, frozen=True, kw_only=True):
    """AdaComm: tau shrinks with the loss, once per interval of time.

        tau_l = ceil( sqrt( (lr_0 / lr_l)^p F_l / F_0 ) tau_0 ),  but ceil( fallback tau_{l-1} ) if that is not smaller

    F_0: loss of all workers at the first step, before any training; F_l: their mean loss since the round before; p = coupling: 0 leaves the learning rate out, 1 is the
    tempered rule used in practice, 3 the one from the bound. `interval` is in seconds of the wall clock, in a simulation
    of the virtual one; `interval_steps` in steps, which repeats exactly. Block momentum on top is `bmuf`.
    Source: Wang & Joshi, MLSys 2019, sec. 4 (rules 17 to 20).
    """

    slots = (*Period.slots,
             Slot("decisions", "host", "zero", "steps since the last round; F_0, lr_0; next decision; news, if any", columns=7),
             Slot("losses", "worker", "zero", "sum of the losses since the last round, and the loss of the first step", columns=2),
             Slot("news", "ticket", "none", "mean loss, decision and first loss, on their way"))

    tau: Count = 16  # tau_0
    interval: Positive | None = None  # seconds; default 60
    interval_steps: Count | None = None
    fallback: Annotated[float, Meta(gt=0, lt=1)] = 0.5
    coupling: NonNegative = 0.0
    largest: Count = 10**6

    def __post_init__(self):
        if self.interval is not None and self.interval_steps is not None:
            raise UserError(f"[period] interval = {self.interval:g} counts seconds and interval_steps = "
                            f"{self.interval_steps} steps; give one of them")

    def check(self, deterministic, simulated):
        if deterministic and not simulated and self.interval_steps is None:
            raise UserError("[period] adacomm decides by the wall clock, which no run repeats: deterministic = true needs "
                            "interval_steps (steps between decisions) instead of interval (seconds)")

    def tau_from(self, k):
        return self.tau

    def rounds(self, state):
        return AdaptiveRounds(self, state)

    def follows_numbers(self):
        return "adacomm chooses tau by the loss"

    def next_tau(self, tau: int, loss: float, first_loss: float, lr_ratio: float) -> int:
        """tau_l from tau_{l-1}, F_l, F_0 and lr_0 / lr_l; no change where the losses have no ratio to go by."""
        if not (0 < first_loss < math.inf and 0 <= loss < math.inf):
            return tau
        try:
            found = math.ceil(math.sqrt(float(lr_ratio) ** self.coupling * loss / first_loss) * self.tau)
        except (OverflowError, ValueError):  # a learning rate that has come to 0 has no ratio either
            return tau
        if found >= tau and (lr_ratio == 1 or not self.coupling):
            found = math.ceil(self.fallback * tau)
        return max(1, min(found, self.largest))


class AdaptiveRounds(Rounds):
    """The rounds of AdaComm. The rank of worker 0 decides, and all follow one round later.

    At every round the workers' losses and worker 0's decision travel without blocking, as a mean of three numbers.
    """

    # places in the slot `decisions`
    STEPS, FIRST_LOSS, FIRST_LR, DEADLINE, ARRIVED, LOSS, TAU = range(7)

    def __init__(self, period, state):
        super().__init__(period, state)
        self._decisions = state.decisions[0]
        if not self._decisions[self.DEADLINE]:
            self._decisions[self.DEADLINE] = self._interval

    @property
    def _interval(self):
        return self.period.interval_steps or self.period.interval or SECONDS

    def after_step(self, k, loss, state, context):
        state.losses[:, 0] += loss
        if k == 0:
            state.losses[:, 1] = loss
        self._decisions[self.STEPS] += 1
        if not self.due(k):
            return
        yield from self.finish(state, context)
        tau = decision = self.tau
        if self._decisions[self.ARRIVED]:
            tau = decision = round(self._decisions[self.TAU])
            now = (k + 1) if self.period.interval_steps else (yield Now())
            decision = self._decide(tau, context.lr, now)
        state.news = yield Start(Mean(self._message(decision, state, context), exact=True))
        state.losses[:, 0] = 0
        self._decisions[[self.STEPS, self.ARRIVED]] = 0
        self._next(k, tau)

    def finish(self, state, context):
        if state.news is not None:
            news = yield Finish(state.news)
            state.news = None
            self._decisions[[self.LOSS, self.TAU, self.FIRST_LOSS]] = context.device.to_host(news)[0]
            self._decisions[self.ARRIVED] = 1

    def _message(self, decision, state, context):
        """(b, 3): mean loss of each local worker; m times the decision from worker 0, and 0 from all others; first loss."""
        message = context.device.xp.zeros((len(context.hosted), 3), "float64")
        message[:, 0] = state.losses[:, 0] / int(self._decisions[self.STEPS])
        message[:, 2] = state.losses[:, 1]
        if context.hosted[0] == 0:
            message[0, 1] = context.workers * decision
        return message

    def _decide(self, tau, lr, now):
        """The period to follow, from the mean loss of the last round; a new one when an interval has passed."""
        decisions = self._decisions
        if not decisions[self.FIRST_LR]:
            decisions[self.FIRST_LR] = lr
        if now < decisions[self.DEADLINE]:
            return tau
        decisions[self.DEADLINE] = now + self._interval
        return self.period.next_tau(tau, decisions[self.LOSS], decisions[self.FIRST_LOSS], decisions[self.FIRST_LR] / lr)
