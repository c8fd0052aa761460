"""D2: gossip that is exact where the data of workers differ."""

from coopmpi.errors import UserError
from coopmpi.registry import register
from coopmpi.step import Algorithm, Grad, Mix, Slot


@register("algorithm", "d2")
class D2(Algorithm, frozen=True, kw_only=True):
    """X_{k+1} = W (2 X_k - X_{k-1} - lr G_k + lr G_{k-1}), first W (X_0 - lr G_0); one vector per step.

    With the half step h_k = x_k - lr direction(g_k) this is X_{k+1} = W (X_k + h_k - h_{k-1}), h_{-1} = X_0.
    Needs a fixed symmetric W with smallest eigenvalue above -1/3, and a direction that is linear in the gradients.
    """

    family = "decentralised"
    source = "Tang et al., D2: decentralized training over decentralized data, ICML 2018, Algorithm 1"
    bibtex = ("tang2018d2",)
    slots = (Slot("half", "worker", "model", "x - lr direction of the step before"),)
    uses_mixing = True

    def check(self, workers, mixing, config):
        from coopmpi.topology.spectra import smallest_eigenvalue

        rule = "d2 needs a fixed symmetric W whose smallest eigenvalue is above -1/3"
        if not (mixing.fixed and mixing.symmetric):
            raise UserError(f"{rule}; {mixing.description} is not {'symmetric' if mixing.fixed else 'fixed'}. "
                            "gradient-tracking has no such condition")
        smallest = smallest_eigenvalue(mixing)
        if smallest <= -1 / 3 + 1e-9:
            raise UserError(f"{rule}; that of {mixing.description} is {smallest:.4f}. Set lazy = true in "
                            "[mixing], which takes (I + W) / 2, or use gradient-tracking")
        if not config.optimizer.linear:
            raise UserError("d2 needs an optimiser whose direction is linear in the gradients, or its models agree on "
                            f"a wrong point; {config.optimizer.name} is not. Take sgd, or gradient-tracking")

    def step(self, state, context):
        loss, gradient = yield Grad(state.x)
        half = context.copy(state.x)
        context.descend(state, half, gradient)
        # x <- W (x + h - h_old)
        ahead = context.combine((1.0, 1.0, -1.0), (state.x, half, state.half))
        state.half = half
        state.x = yield Mix(ahead, context.k)
        return loss
