"""sgp whose messages travel while the gradient is computed."""

from coopmpi.algorithms.sgp import SGP, debiased, numerator
from coopmpi.registry import register
from coopmpi.step import Finish, Grad, Mix, Start


@register("algorithm", "overlap-sgp")
class OverlapSGP(SGP, frozen=True, kw_only=True):
    """Messages leave before the gradient and are added after it, one step stale:

        Y <- P Y - lr direction(G(Z));  w <- P w;  z_i <- y_i / w_i

    The step is applied to y as it is, not scaled by the mass that a worker has left while messages are under way:
    so the mean of y moves as in SGD.
    """

    family = "decentralised"
    source = "Assran, Loizou, Ballas & Rabbat, Stochastic gradient push, ICML 2019, Algorithm 2 (1-OSGP)"

    def step(self, state, context):
        ticket = yield Start(Mix(numerator(context, state.x), context.k))
        loss, gradient = yield Grad(state.x)
        # y <- P y - lr direction(g(z))
        y = yield Finish(ticket)
        context.descend(state, y, gradient)
        state.x = debiased(context, y)
        return loss
