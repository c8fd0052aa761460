"""SQuARM-SGD: local Nesterov steps, compressed gossip, and messages only when there is something to say."""

from typing import Annotated

from msgspec import Meta

from coopmpi.errors import UserError
from coopmpi.parts.gossip import gossip
from coopmpi.registry import register
from coopmpi.step import Algorithm, Slot


class Triggered(Algorithm, frozen=True, kw_only=True):
    """Gossip on remembered copies every tau steps; worker i speaks if ||x_i - h_i||^2 > c lr^2.

    c = threshold + growth * (step // growth_every): 0 speaks whenever anything changed; the run's events and
    bytes tell how often workers spoke. ||x - h||^2 / lr^2 at a round is the number to size c from.
    """

    slots = (Slot("copies", "memory", "zero", "public copies of the own and the neighbours' models"),)
    uses_period = True
    uses_mixing = True
    uses_compress = True

    gamma: Annotated[float, Meta(gt=0, le=1)] = 0.3
    threshold: Annotated[float, Meta(ge=0)] = 0.0
    growth: Annotated[float, Meta(ge=0)] = 0.0
    growth_every: Annotated[int, Meta(ge=1)] = 1000  # steps

    def check(self, workers, mixing, config):
        if not (mixing.fixed and mixing.symmetric):
            raise UserError(f"{self.name} needs a fixed symmetric mixing matrix; {mixing.description} is not "
                            f"{'symmetric' if mixing.fixed else 'fixed'}. choco-sgd works on changing graphs")

    def step(self, state, run):
        loss = yield from run.local_step(state)
        if run.round_due:
            c = self.threshold + self.growth * (run.k // self.growth_every)
            yield from gossip(state, run, self.gamma, threshold=c * run.lr**2)
        return loss


@register("algorithm", "squarm-sgd")
class SQuARMSGD(Triggered, frozen=True, kw_only=True):
    """tau local Nesterov steps, then, triggered by ||x_i - h_i||^2 > c lr^2, with copies h_0 = 0:

        h_i <- h_i + C(x_i - h_i) or unchanged;  x_i <- x_i + gamma sum_j w_ij (h_j - h_i)

    Momentum is the optimiser's: set momentum and nesterov there.
    """

    source = "Singh, Data, George & Diggavi, SQuARM-SGD, IEEE JSAIT 2(3), 2021, Algorithm 1"
    bibtex = ("singh2021squarm",)
