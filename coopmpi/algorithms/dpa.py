"""Local steps, then an exchange with neighbours in a graph."""

from coopmpi.registry import register
from coopmpi.step import Algorithm, Mix


@register("algorithm", "dpa")
class DPA(Algorithm, frozen=True, kw_only=True):
    """tau local steps, then X <- W X over the graph: what lies between local SGD and decentralised SGD.

    Cooperative SGD with a sparse W, v = 0.
    """

    family = "decentralised"
    source = "Wang & Joshi, Cooperative SGD, JMLR 22(213), 2021, sec. 3: A(tau, W, 0)"
    bibtex = ("wang2021cooperative",)
    uses_period = True
    uses_mixing = True

    def step(self, state, context):
        loss = yield from context.local_step(state)
        if context.round_due:
            state.x = yield Mix(state.x, context.round)
        return loss

    def matrix_form(self, workers, tau, mixing):
        return tau, mixing, 0
