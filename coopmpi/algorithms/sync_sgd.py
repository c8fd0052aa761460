"""Fully synchronous SGD: every step averages the gradients."""

import numpy as np

from coopmpi.registry import register
from coopmpi.step import Algorithm, Grad, Mean


@register("algorithm", "sync-sgd")
class SyncSGD(Algorithm, frozen=True, kw_only=True):
    """X <- X - lr direction(J G): gradients are averaged, then the optimiser steps; all models stay equal.

    Cooperative SGD with tau = 1, W = J, v = 0.
    """

    family = "synchronous"
    source = "Wang & Joshi, Cooperative SGD, JMLR 22(213), 2021, sec. 3: A(1, J, 0)"
    bibtex = ("wang2021cooperative",)

    def step(self, state, context):
        loss, gradient = yield Grad(state.x)
        average = yield Mean(gradient)
        context.descend(state, state.x, context.replicate(average, like=gradient))
        return loss

    def matrix_form(self, workers, tau, mixing):
        return 1, np.full((workers, workers), 1 / workers), 0
