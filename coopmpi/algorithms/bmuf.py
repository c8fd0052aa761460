"""BMUF: a momentum on the averaged displacement of a period."""

from coopmpi.ranges import Fraction
from coopmpi.registry import register
from coopmpi.step import Algorithm, Mean, Slot


@register("algorithm", "bmuf")
class BMUF(Algorithm, frozen=True, kw_only=True):
    """tau local steps from the common z, then

        u <- beta u + (z - mean x);  z <- z - u;  x_i <- z

    the same as SlowMo with alpha = 1 while lr is constant. Local momentum starts from zero.
    """

    family = "outer step"
    source = "Chen & Huo, Scalable training of deep learning machines by incremental block training, ICASSP 2016"
    bibtex = ("chen2016bmuf",)
    slots = (Slot("z", "replica", "model", "the common model at the last round"),
             Slot("u", "replica", "zero", "block momentum"))
    uses_period = True

    beta: Fraction = 0.3

    def step(self, state, context):
        loss = yield from context.local_step(state)
        if context.round_due:
            mean = yield Mean(state.x, near=state.z)
            # u <- beta u + (z - mean x);  z <- z - u;  x_i <- z
            state.u = context.combine((self.beta, 1.0, -1.0), (state.u, state.z, mean))
            state.z = context.combine((1.0, -1.0), (state.z, state.u))
            state.x = context.spread(state.z, like=state.x)
            context.optimizer.forget(state)
        return loss
