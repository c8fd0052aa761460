"""SlowMo: slow momentum on top of periodic averaging."""

from typing import Annotated

from msgspec import Meta

from coopmpi.registry import register
from coopmpi.step import Algorithm, Mean, Slot


@register("algorithm", "slowmo")
class SlowMo(Algorithm, frozen=True, kw_only=True):
    """tau local steps from the common z, then

        u <- beta u + (z - mean x) / lr;  z <- z - alpha lr u;  x_i <- z

    and the local momentum starts from zero (Adam's moments are kept). beta = 0, alpha = 1 is local SGD.
    """

    source = "Wang, Tantia, Ballas & Rabbat, SlowMo, ICLR 2020, Algorithm 1"
    bibtex = ("wang2020slowmo",)
    slots = (Slot("z", "replica", "model", "the common model at the last round"),
             Slot("u", "replica", "zero", "slow momentum"))
    uses_period = True

    alpha: Annotated[float, Meta(gt=0)] = 1.0
    beta: Annotated[float, Meta(ge=0, lt=1)] = 0.6

    def step(self, state, run):
        loss = yield from run.local_step(state)
        if run.round_due:
            mean = yield Mean(state.x)
            # u <- beta u + (z - mean x) / lr
            state.u = run.combine((self.beta, 1 / run.lr, -1 / run.lr), (state.u, state.z, mean))
            # z <- z - alpha lr u;  x_i <- z
            state.z = run.combine((1.0, -self.alpha * run.lr), (state.z, state.u))
            state.x = run.spread(state.z, like=state.x)
            run.optimizer.forget(state)
        return loss
