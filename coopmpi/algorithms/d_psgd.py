"""D-PSGD: an exchange during each gradient."""

from coopmpi.registry import register
from coopmpi.step import Algorithm, Finish, Grad, Mix, Start


@register("algorithm", "d-psgd")
class DPSGD(Algorithm, frozen=True, kw_only=True):
    """X <- W X - lr direction(G(X)): the gradient is taken at the un-mixed models.

    The mean moves as in Cooperative SGD's order W (X - lr G) with tau = 1; the disagreement differs.
    """

    family = "decentralised"
    source = "Lian et al., Can decentralized algorithms outperform centralized algorithms?, NeurIPS 2017, Algorithm 1"
    bibtex = ("lian2017decentralized",)
    uses_mixing = True

    def step(self, state, context):
        ticket = yield Start(Mix(state.x, context.k))
        loss, gradient = yield Grad(state.x)
        mixed = yield Finish(ticket)
        # x <- W x - lr direction(g(x)); weight decay, too, is taken at the un-mixed x
        context.descend(state, mixed, gradient)
        state.x = mixed
        return loss
