"""CHOCO-SGD: gossip in which compressed differences travel."""

from coopmpi.compression.gossip import gossip
from coopmpi.ranges import Share
from coopmpi.registry import register
from coopmpi.step import Algorithm, Slot


@register("algorithm", "choco-sgd")
class ChocoSGD(Algorithm, frozen=True, kw_only=True):
    """A local step, then at every step with remembered copies h_0 = 0:

        h_i <- h_i + C(x_i - h_i);  x_i <- x_i + gamma sum_j w_ij (h_j - h_i)

    The copies are refreshed before the consensus step, as SPARQ and SQuARM do; overlap-choco-sgd does it after. gamma is
    to be tuned to the compressor: about 0.3 for top 10 %, 0.05 for top 1 %, 0.5 for sign on a ring of 8. Works on
    changing graphs: whoever may ever need a copy remembers it.
    """

    family = "compressed"
    source = ("Koloskova, Stich & Jaggi, Decentralized stochastic optimization and gossip algorithms with compressed "
              "communication, ICML 2019, Algorithm 2")
    bibtex = ("koloskova2019choco",)
    slots = (Slot("copies", "memory", "zero", "public copies of the own and the neighbours' models"),)
    uses_mixing = True
    uses_compress = True
    needs_agreement = False  # of W
    needs_contraction = True  # of C

    gamma: Share = 0.3

    def step(self, state, context):
        loss = yield from context.local_step(state)
        yield from gossip(state, context, self.gamma)
        return loss
