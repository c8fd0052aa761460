"""Overlap Local-SGD: averages hide behind the next period."""

from coopmpi.ranges import Fraction, Share
from coopmpi.registry import register
from coopmpi.step import Algorithm, Finish, Mean, Slot, Start


@register("algorithm", "overlap-local-sgd")
class OverlapLocalSGD(Algorithm, frozen=True, kw_only=True):
    """At a round, the mean started one round ago moves the anchor z, and z pulls the models:

        u <- beta u + (mean - z);  z <- z + u
        x_i <- x_i - alpha (x_i - z)

    then the mean of the new models is started and travels during the next period. With beta = 0 a round leaves
    (1 - alpha) mean(x) + alpha z as it was, and disagreement shrinks by 1 - alpha. A constant drift moves the
    whole system by (1 - alpha) / (1 - alpha beta) of it, so lr wants tuning per method.
    """

    family = "periodic averaging"
    source = "Wang, Liang & Joshi, Overlap Local-SGD, ICASSP 2020, sec. 2 (anchor and its momentum)"
    bibtex = ("wang2020overlap",)
    slots = (Slot("z", "replica", "model", "the anchor"),
             Slot("u", "replica", "zero", "momentum of the anchor"),
             Slot("mean", "ticket", "none", "mean of the models, under way during a period"))
    uses_period = True

    alpha: Share = 0.6
    beta: Fraction = 0.7

    def step(self, state, context):
        loss = yield from context.local_step(state)
        if context.round_due:
            yield from self.finish(state, context)
            # x_i <- (1 - alpha) x_i + alpha z
            pulled = context.combine((1 - self.alpha, self.alpha), (state.x, state.z))
            state.mean = yield Start(Mean(pulled, near=state.z))
            state.x = context.copy(pulled)  # local steps work in place
        return loss

    def finish(self, state, context):
        if state.mean is not None:
            mean = yield Finish(state.mean)
            # u <- beta u + (mean - z);  z <- z + u
            state.u = context.combine((self.beta, 1.0, -1.0), (state.u, mean, state.z))
            state.z, state.mean = context.combine((1.0, 1.0), (state.z, state.u)), None
