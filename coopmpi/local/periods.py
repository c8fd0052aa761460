"""When workers cooperate: the period tau between communication rounds."""

import math
from typing import Annotated, ClassVar

from msgspec import Meta

from coopmpi.errors import UserError
from coopmpi.ranges import Count, NonNegative, Positive, Whole
from coopmpi.registry import Part, register
from coopmpi.step import Finish, Mean, Now, Start


class Period(Part, frozen=True, kw_only=True):
    """Base: which period is in force from step k on."""

    name: ClassVar[str]

    def tau_from(self, k):
        """The period that starts with step k."""
        raise NotImplementedError

    def rounds(self):
        """The rounds of one run, from the start."""
        return Rounds(self)


class Rounds:
    """Where a run stands between two rounds: the period in force, and the index of the round that ends it."""

    def __init__(self, period):
        self.period, self.tau = period, period.tau_from(0)
        self.index, self._last = 0, -1

    def due(self, k):
        return k - self._last >= self.tau

    def replay(self, taus, first_loss, context, now):
        """Go to where an earlier run stopped: taus in force at its steps, mean loss of its first period, seconds."""
        for k, tau in enumerate(taus):
            self.tau = tau
            if self.due(k):
                self.index, self._last = self.index + 1, k
                self.tau = self.period.tau_from(k + 1)

    def after_step(self, k, loss, context):
        """Called after step k with its losses (b,): a generator of requests."""
        if self.due(k):
            self.index, self._last = self.index + 1, k
            self.tau = self.period.tau_from(k + 1)
        yield from ()

    def finish(self):
        """Complete what is still under way after the last step: a generator of requests."""
        yield from ()


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


@register("period", "adacomm")
class AdaComm(Period, frozen=True, kw_only=True):
    """AdaComm: tau shrinks with the loss, once per interval of time.

        tau_l = ceil( sqrt( (lr_0 / lr_l)^p F_l / F_0 ) tau_0 ),  but ceil( fallback tau_{l-1} ) if that is not smaller

    F_l: mean loss of all workers since the round before; p = coupling: 0 leaves the learning rate out, 1 is the
    tempered rule used in practice, 3 the one from the bound. Time is the wall clock, in a simulation the virtual
    one. Block momentum on top is `bmuf`. Source: Wang & Joshi, MLSys 2019, sec. 4 (rules 17 to 20).
    """

    tau: Count = 16  # tau_0
    interval: Positive = 60.0  # seconds
    fallback: Annotated[float, Meta(gt=0, lt=1)] = 0.5
    coupling: NonNegative = 0.0
    largest: Count = 10**6

    def tau_from(self, k):
        return self.tau

    def rounds(self):
        return AdaptiveRounds(self)

    def next_tau(self, tau, loss, first_loss, lr_ratio):
        """tau_l from tau_{l-1}, F_l, F_0 and lr_0 / lr_l; no change where the losses have no ratio to go by."""
        if not (0 < first_loss < math.inf and 0 <= loss < math.inf):
            return tau
        found = math.ceil(math.sqrt(lr_ratio**self.coupling * loss / first_loss) * self.tau)
        if found >= tau and (lr_ratio == 1 or not self.coupling):
            found = math.ceil(self.fallback * tau)
        return max(1, min(found, self.largest))


class AdaptiveRounds(Rounds):
    """The rounds of AdaComm. The rank of worker 0 decides, and all follow one round later.

    At every round the workers' losses and worker 0's decision travel without blocking, as a mean of two numbers.
    """

    def __init__(self, period):
        super().__init__(period)
        self._loss, self._steps = 0.0, 0  # of this rank's workers, summed since the last round
        self._news = None  # under way since then
        self._first = None  # (loss, lr) of the first round
        self._deadline = period.interval

    def replay(self, taus, first_loss, context, now):
        super().replay(taus, first_loss, context, now)
        self.tau, self._deadline = taus[-1], now + self.period.interval
        context.at(taus[0] - 1)
        self._first = first_loss, context.lr

    def after_step(self, k, loss, context):
        self._loss, self._steps = self._loss + loss, self._steps + 1
        if not self.due(k):
            return
        self.index, self._last = self.index + 1, k
        decision = self.tau
        if self._news is not None:
            news = yield Finish(self._news)
            mean_loss, tau = context.device.to_host(news)[0].tolist()
            self.tau = decision = round(tau)
            if context.hosted[0] == 0:
                decision = self._decide(mean_loss, context.lr, (yield Now()))
        self._news = yield Start(Mean(self._message(decision, context)))
        self._loss, self._steps = 0.0, 0

    def finish(self):
        if self._news is not None:
            yield Finish(self._news)
            self._news = None

    def _message(self, decision, context):
        """(b, 2): mean loss of each local worker; m times the decision from worker 0, and 0 from all others."""
        message = context.device.xp.zeros((len(context.hosted), 2), "float64")
        message[:, 0] = self._loss / self._steps
        if context.hosted[0] == 0:
            message[0, 1] = context.workers * decision
        return message

    def _decide(self, loss, lr, now):
        """The period to follow, from the mean loss of the last round; a new one when an interval has passed."""
        if self._first is None:
            self._first = loss, lr
        if now < self._deadline:
            return self.tau
        self._deadline = now + self.period.interval
        first_loss, first_lr = self._first
        return self.period.next_tau(self.tau, loss, first_loss, first_lr / lr)
