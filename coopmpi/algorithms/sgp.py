"""Stochastic gradient push: push-sum over directed graphs."""

from coopmpi.registry import register
from coopmpi.step import Algorithm, Grad, Mix


@register("algorithm", "sgp")
class SGP(Algorithm, frozen=True, kw_only=True):
    """Models z = y / w, of which the numerator y and the mass w are mixed; the gradient is taken at z:

        Y <- P (Y - lr direction(G(Z)));  w <- P w;  z_i <- y_i / w_i

    P: every sender keeps, and sends to each of its receivers, 1 / (receivers + 1), so columns sum to 1 and the
    sums of y and w are conserved on any connected directed graph. y is w z: only z is kept. On regular graphs
    w stays 1. Each P is column-stochastic; a matrix in a file is P itself.
    """

    family = "decentralised"
    source = "Assran, Loizou, Ballas & Rabbat, Stochastic gradient push, ICML 2019, Algorithm 1"
    bibtex = ("assran2019stochastic",)
    uses_mixing = True
    push_sum = True

    def step(self, state, context):
        loss, gradient = yield Grad(state.x)
        # y <- P (w z - lr direction)
        y = numerator(context, state.x)
        context.descend(state, y, gradient)
        state.x = debiased(context, (yield Mix(y, context.k)))
        return loss


def numerator(context, z):
    """y_i = w_i z_i before round k; z itself where all w_i are 1."""
    mass = context.mixing.mass(context.k)[context.hosted]
    return z if (mass == 1).all() else context.scale(mass.tolist(), z)


def debiased(context, y):
    """z_i = y_i / w_i after round k; y itself where all w_i are 1."""
    mass = context.mixing.mass(context.k + 1)[context.hosted]
    return y if (mass == 1).all() else context.scale((1 / mass).tolist(), y)
