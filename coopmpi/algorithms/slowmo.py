"""SlowMo: slow momentum on top of periodic averaging."""

from coopmpi.ranges import Fraction, Positive
from coopmpi.registry import register
from coopmpi.step import Algorithm, Mean, Slot


NO_STEP = 1e-30  # learning rates up to this count as 0, which a schedule may come to: 1 / lr would be too large


@register("algorithm", "slowmo")
class SlowMo(Algorithm, frozen=True, kw_only=True):
    """tau local steps from the common z, then

        u <- beta u + (z - mean x) / lr;  z <- z - alpha lr u;  x_i <- z

    and the local momentum starts from zero (Adam's moments are kept). beta = 0, alpha = 1 is local SGD.
    """

    family = "outer step"
    source = "Wang, Tantia, Ballas & Rabbat, SlowMo, ICLR 2020, Algorithm 1"
    bibtex = ("wang2020slowmo",)
    slots = (Slot("z", "replica", "model", "the common model at the last round"),
             Slot("u", "replica", "zero", "slow momentum"))
    uses_period = True

    alpha: Positive = 1.0
    beta: Fraction = 0.6

    def step(self, state, context):
        loss = yield from context.local_step(state)
        if context.round_due:
            mean = yield Mean(state.x, near=state.z)
            if context.lr > NO_STEP:
                # u <- beta u + (z - mean x) / lr
                state.u = context.combine((self.beta, 1 / context.lr, -1 / context.lr), (state.u, state.z, mean))
                # z <- z - alpha lr u;  x_i <- z
                state.z = context.combine((1.0, -self.alpha * context.lr), (state.z, state.u))
            else:
                # the limit of both for lr -> 0: z <- z - alpha (z - mean x)
                state.z = context.combine((1.0 - self.alpha, self.alpha), (state.z, mean))
            state.x = context.spread(state.z, like=state.x)
            context.optimizer.forget(state)
        return loss
