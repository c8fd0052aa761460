"""SQuARM-SGD: local Nesterov steps, compressed gossip, and messages only when there is something to say."""

from math import exp
from typing import Annotated

import numpy as np
from msgspec import Meta

from coopmpi.errors import UserError
from coopmpi.parts.gossip import gossip
from coopmpi.registry import register
from coopmpi.step import Algorithm, Slot

PACE = 0.2  # what a round may change ln c by, where c is sized from data


class Triggered(Algorithm, frozen=True, kw_only=True):
    """Gossip on remembered copies every tau steps; worker i speaks if s_i = ||x_i - h_i||^2 / lr^2 > c.

    c = threshold + growth * (step // growth_every): 0 speaks whenever anything changed. Or, given `share`, the part
    of the rounds in which a worker is to speak, each has a c_i of its own, sized by what it has seen itself:

        c_i <- PACE s_i at its first round, then c_i <- c_i exp(PACE (1 - share)) if it spoke, c_i exp(-PACE share) if not

    c_i goes to the quantile of the s_i that is exceeded in that share of rounds (0.5: the median), and follows when
    they grow or shrink. Whatever they do, after T rounds the share is off by ln(c_i / first c_i) / (PACE T).
    """

    slots = (Slot("copies", "memory", "zero", "public copies of the own and the neighbours' models"),
             Slot("sized", "worker", "zero", "with share: the worker's c, first number of its row"))
    uses_period = True
    uses_mixing = True
    uses_compress = True

    gamma: Annotated[float, Meta(gt=0, le=1)] = 0.3
    threshold: Annotated[float, Meta(ge=0)] = 0.0
    growth: Annotated[float, Meta(ge=0)] = 0.0
    growth_every: Annotated[int, Meta(ge=1)] = 1000  # steps
    share: Annotated[float, Meta(gt=0, lt=1)] | None = None

    def bound_slots(self, mixing):
        return self.slots[:1] if self.share is None else self.slots

    def check(self, workers, mixing, config):
        if not (mixing.fixed and mixing.symmetric):
            raise UserError(f"{self.name} needs a fixed symmetric mixing matrix; {mixing.description} is not "
                            f"{'symmetric' if mixing.fixed else 'fixed'}. choco-sgd works on changing graphs")
        if self.share is not None and (self.threshold or self.growth):
            raise UserError(f"[algorithm] share = {self.share:g} sizes the threshold from data, given threshold = "
                            f"{self.threshold:g} and growth = {self.growth:g}; leave these two out, or share")

    def step(self, state, run):
        loss = yield from run.local_step(state)
        if run.round_due:
            c = self.c(state, run)
            distances = yield from gossip(state, run, self.gamma, threshold=c * run.lr**2)
            if self.share is not None:
                # the step's last request has been answered: from here on in place
                spoke = distances > c * run.lr**2
                c = np.where(c > 0, c * np.where(spoke, *self.factors()), PACE * distances / run.lr**2)
                state.sized[:, 0] = run.device.asarray(c.astype(state.sized.dtype))
        return loss

    def c(self, state, run):
        """The threshold in squared learning rates: a number, or (b,) of the local workers."""
        if self.share is None:
            return self.threshold + self.growth * (run.k // self.growth_every)
        return run.device.to_host(state.sized[:, 0]).astype(np.float64)

    def factors(self):
        """What c_i is multiplied by after a round in which its worker spoke, and was silent."""
        return exp(PACE * (1 - self.share)), exp(-PACE * self.share)


@register("algorithm", "squarm-sgd")
class SQuARMSGD(Triggered, frozen=True, kw_only=True):
    """tau local Nesterov steps, then, triggered by ||x_i - h_i||^2 > c lr^2, with copies h_0 = 0:

        h_i <- h_i + C(x_i - h_i) or unchanged;  x_i <- x_i + gamma sum_j w_ij (h_j - h_i)

    Momentum is the optimiser's: set momentum and nesterov there.
    """

    source = "Singh, Data, George & Diggavi, SQuARM-SGD, IEEE JSAIT 2(3), 2021, Algorithm 1"
    bibtex = ("singh2021squarm",)
