"""DiLoCo: an outer Nesterov step after a long inner period."""

from coopmpi.ranges import Fraction, Positive
from coopmpi.registry import register
from coopmpi.step import Algorithm, Mean, Slot


@register("algorithm", "diloco")
class DiLoCo(Algorithm, frozen=True, kw_only=True):
    """tau inner steps from the common z, then with the outer gradient D = z - mean x

        u <- beta u + D;  z <- z - outer_lr (D + beta u);  x_i <- z

    The inner optimiser's buffers are kept and never sent. beta = 0, outer_lr = 1 is local SGD.
    """

    family = "outer step"
    source = "Douillard et al., DiLoCo, 2023 (arXiv 2311.08105), Algorithm 1"
    bibtex = ("douillard2023diloco",)
    optimizer = "adamw"
    slots = (Slot("z", "replica", "model", "the common model at the last round"),
             Slot("u", "replica", "zero", "outer momentum"))
    uses_period = True

    outer_lr: Positive = 0.7
    beta: Fraction = 0.9

    def step(self, state, context):
        loss = yield from context.local_step(state)
        if context.round_due:
            mean = yield Mean(state.x, near=state.z)
            gradient = context.combine((1.0, -1.0), (state.z, mean))
            # u <- beta u + D;  z <- z - outer_lr (D + beta u);  x_i <- z
            state.u = context.combine((self.beta, 1.0), (state.u, gradient))
            state.z = context.combine((1.0, -self.outer_lr, -self.outer_lr * self.beta), (state.z, gradient, state.u))
            state.x = context.spread(state.z, like=state.x)
        return loss
