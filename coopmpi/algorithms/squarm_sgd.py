"""SQuARM-SGD: event-triggered compressed gossip, momentum."""

from typing import Annotated

import msgspec
from msgspec import Meta

from coopmpi.compression import triggers
from coopmpi.compression.gossip import gossip
from coopmpi.errors import UserError
from coopmpi.ranges import Count, NonNegative, Share
from coopmpi.registry import NONZERO, register
from coopmpi.step import Algorithm, Slot


class Triggered(Algorithm, frozen=True, kw_only=True):
    """Gossip on remembered copies every tau steps; worker i speaks if ||x_i - h_i||^2 > c lr^2.

    c = threshold + growth * (step // growth_every); 0 and no growth: everybody always speaks. Or, given `share`, the
    part of the rounds in which workers are to speak, every worker has a threshold of its own in place of c lr^2,
    sized from its distances in past rounds: about their (1 - share) quantile, see coopmpi.compression.triggers. All
    speak while the learning rate warms up.
    """

    slots = (Slot("copies", "memory", "zero", "public copies of the own and the neighbours' models"),
             Slot("sized", "worker", "zero", "with share: threshold and smallest distance", columns=2))
    uses_period = True
    uses_mixing = True
    uses_compress = True
    needs_agreement = False  # of W
    needs_contraction = True  # of C
    read_with = {"threshold": ("share", None), "growth": ("share", None), "growth_every": ("growth", NONZERO)}

    gamma: Share = 0.3
    threshold: NonNegative = 0.0
    growth: NonNegative = 0.0
    growth_every: Count = 1000  # steps
    share: Annotated[float, Meta(gt=0, lt=1)] | None = None

    def follows_numbers(self):
        return "its trigger compares models with their copies" if self.triggered else ""

    def unconditional(self):
        return msgspec.structs.replace(self, threshold=0.0, growth=0.0, share=None)

    @property
    def triggered(self):
        """May a worker be silent? Without a threshold everybody speaks at every round."""
        return self.share is not None or self.threshold > 0 or self.growth > 0

    def bound_slots(self, context):
        return self.slots if self.share is not None else self.slots[:1]

    def check(self, workers, mixing, config):
        super().check(workers, mixing, config)
        if not (mixing.fixed and mixing.symmetric):
            raise UserError(f"{self.name} needs a fixed symmetric mixing matrix; {mixing.description} is not "
                            f"{'symmetric' if mixing.fixed else 'fixed'}. choco-sgd takes any graph")

    def step(self, state, context):
        loss = yield from context.local_step(state)
        if context.round_due:
            if not self.triggered:
                threshold = None
            elif self.share is None:
                threshold = context.lr**2 * (self.threshold + self.growth * (context.k // self.growth_every))
            else:
                threshold = triggers.thresholds(state.sized, context.device)
            distances = yield from gossip(state, context, self.gamma, threshold)
            if self.share is not None and context.k >= context.schedule.warmup:
                # the step's last request has been answered: from here on in place
                triggers.resize(state.sized, distances, self.share, context.device)
        return loss


@register("algorithm", "squarm-sgd")
class SQuARMSGD(Triggered, frozen=True, kw_only=True):
    """tau local Nesterov steps, then, triggered by ||x_i - h_i||^2 > c lr^2, with copies h_0 = 0:

        h_i <- h_i + C(x_i - h_i) or unchanged;  x_i <- x_i + gamma sum_j w_ij (h_j - h_i)

    Momentum is the optimiser's: set momentum and nesterov there.
    """

    family = "compressed"
    source = "Singh, Data, George & Diggavi, SQuARM-SGD, IEEE JSAIT 2(3), 2021, Algorithm 1"
    bibtex = ("singh2021squarm",)
