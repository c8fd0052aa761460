"""Elastic averaging SGD: a spring ties workers to a centre."""

import numpy as np

from coopmpi.ranges import Share
from coopmpi.registry import register
from coopmpi.step import Algorithm, Finish, Mean, Slot, Start


@register("algorithm", "easgd")
class EASGD(Algorithm, frozen=True, kw_only=True):
    """After tau local steps, from the old values of both sides:

        x_i <- (1 - alpha) x_i + alpha z
        z   <- (1 - m alpha) z + alpha sum_i x_i

    Cooperative SGD with W_alpha and v = 1; the centre z is replicated on every rank. The pull needs only the
    old z, so with `overlap` the sum travels during the next period and the trajectory stays the same.
    alpha: default 2 / (m + 2), the smallest zeta; stable below 2 / (m + 1).
    """

    family = "elastic and general"
    source = "Zhang, Choromanska & LeCun, Deep learning with elastic averaging SGD, NeurIPS 2015, eqs. 5-6"
    bibtex = ("zhang2015elastic", "wang2021cooperative")
    slots = (Slot("z", "replica", "model", "the centre"),
             Slot("sum", "ticket", "none", "mean of the models, under way during a period"))
    uses_period = True

    alpha: Share | None = None
    overlap: bool = False

    def elasticity(self, m):
        return 2 / (m + 2) if self.alpha is None else self.alpha

    def step(self, state, context):
        loss = yield from context.local_step(state)
        if context.round_due:
            yield from self.finish(state, context)  # overlapped: the centre of the round before
            alpha = self.elasticity(context.workers)
            state.sum = yield Start(Mean(state.x, near=state.z))
            # x_i <- (1 - alpha) x_i + alpha z
            state.x = context.combine((1 - alpha, alpha), (state.x, state.z))
            if not self.overlap:
                yield from self.finish(state, context)
        return loss

    def finish(self, state, context):
        if state.sum is not None:
            mean = yield Finish(state.sum)
            # z <- (1 - m alpha) z + m alpha mean_i x_i
            pull = context.workers * self.elasticity(context.workers)
            state.z, state.sum = context.combine((1 - pull, pull), (state.z, mean)), None

    def matrix_form(self, workers, tau, mixing):
        alpha = self.elasticity(workers)
        w = np.diag(np.full(workers + 1, 1 - alpha))
        w[-1, :-1] = w[:-1, -1] = alpha
        w[-1, -1] = 1 - workers * alpha
        return tau, w, 1
