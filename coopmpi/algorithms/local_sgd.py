"""Local SGD, FedAvg with all: local steps, then an average."""

import numpy as np

from coopmpi.registry import register
from coopmpi.step import Algorithm, Mean, Slot


@register("algorithm", "local-sgd")
class LocalSGD(Algorithm, frozen=True, kw_only=True):
    """tau local steps, then every worker restarts from the average: X <- J X.

    Cooperative SGD with W = J, v = 0. The disagreement that tau local steps build up costs an error of
    order lr^2 sigma^2 (tau - 1).
    """

    family = "periodic averaging"
    source = "Stich, Local SGD converges fast and communicates little, ICLR 2019, Algorithm 1"
    bibtex = ("stich2019local", "wang2021cooperative")
    uses_period = True

    def bound_slots(self, context):
        return (Slot("common", "replica", "model", "the last average"),) if context.halves else ()

    def step(self, state, context):
        loss = yield from context.local_step(state)
        if context.round_due and context.halves:
            state.common = yield Mean(state.x, near=state.common)
            state.x = context.spread(state.common, like=state.x)
        elif context.round_due:
            state.x = context.replicate((yield Mean(state.x)), like=state.x)
        return loss

    def matrix_form(self, workers, tau, mixing):
        return tau, np.full((workers, workers), 1 / workers), 0
