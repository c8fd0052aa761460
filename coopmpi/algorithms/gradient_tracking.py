"""Gradient tracking: all follow the average gradient."""

from coopmpi.registry import register
from coopmpi.step import Algorithm, Finish, Grad, Mix, Slot, Start


@register("algorithm", "gradient-tracking")
class GradientTracking(Algorithm, frozen=True, kw_only=True):
    """X <- W (X - lr Y);  Y <- W Y + G_new - G_old;  Y_0 = G_0. Invariant: mean(Y) = mean(G).

    Two vectors per step. Exact on heterogeneous data, where D-PSGD keeps a bias.
    """

    family = "decentralised"
    source = "Nedic, Olshevsky & Shi, SIAM J. Optim. 27(4), 2017, Algorithm 1 (DIGing), in adapt-then-combine order"
    bibtex = ("nedic2017achieving",)
    slots = (Slot("tracked", "worker", "zero", "W Y of the step before"),
             Slot("gradient", "worker", "zero", "G of the step before"))
    uses_mixing = True

    def step(self, state, context):
        loss, gradient = yield Grad(state.x)
        # y <- W y + g_new - g_old; at first, y_0 = g_0
        y = context.combine((1.0, 1.0, -1.0), (state.tracked, gradient, state.gradient))
        state.gradient = context.copy(gradient)
        ahead = context.copy(state.x)
        context.descend(state, ahead, context.copy(y))
        # x <- W (x - lr direction(y)), and W y for the next step: both travel together
        tickets = (yield Start(Mix(ahead, context.k))), (yield Start(Mix(y, context.k)))
        state.x = yield Finish(tickets[0])
        state.tracked = yield Finish(tickets[1])
        return loss
