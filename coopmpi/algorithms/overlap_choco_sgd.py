"""CHOCO-SGD whose messages travel during the next gradient."""

from coopmpi.ranges import Share
from coopmpi.registry import register
from coopmpi.step import Advance, Algorithm, Finish, Recall, Slot, Start


@register("algorithm", "overlap-choco-sgd")
class OverlapChocoSGD(Algorithm, frozen=True, kw_only=True):
    """A local step, then at every step with the remembered copies of the step before, h_0 = 0:

        x_i <- x_i + gamma sum_j w_ij (h_j - h_i);  h_i <- h_i + C(x_i - h_i)

    where the increments of the copies travel during the next gradient. choco-sgd refreshes the copies first and waits for
    that. gamma is to be tuned as for choco-sgd.
    """

    family = "compressed"
    source = ("Koloskova, Lin, Stich & Jaggi, Decentralized deep learning with arbitrary communication compression, "
              "ICLR 2020, Algorithm 1")
    bibtex = ("koloskova2020decentralized",)
    slots = (Slot("copies", "memory", "zero", "public copies of the own and the neighbours' models"),
             Slot("increments", "ticket", "none", "what the copies grow by, under way during a gradient"))
    uses_mixing = True
    uses_compress = True
    needs_agreement = False  # of W
    needs_contraction = True  # of C

    gamma: Share = 0.3

    def step(self, state, context):
        loss = yield from context.local_step(state)
        yield from self.finish(state, context)
        own = state.copies[:state.x.shape[0]]
        # x_i <- x_i + gamma sum_j w_ij (h_j - h_i)
        mixed = yield Recall(state.copies, context.round)
        state.x = context.combine((1.0, self.gamma, -self.gamma), (state.x, mixed, own))
        # h_i <- h_i + C(x_i - h_i)
        apart = context.combine((1.0, -1.0), (state.x, own))
        state.increments = yield Start(Advance(state.copies, context.pack(apart, context.round)))
        return loss

    def finish(self, state, context):
        if state.increments is not None:
            state.copies, state.increments = (yield Finish(state.increments)), None
