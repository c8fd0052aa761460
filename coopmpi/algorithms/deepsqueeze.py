"""DeepSqueeze: gossip of compressed models, error feedback."""

from coopmpi.compression.feedback import compress_with_feedback
from coopmpi.ranges import Share
from coopmpi.registry import register
from coopmpi.step import Algorithm, Mix, Packed, Slot


@register("algorithm", "deepsqueeze")
class DeepSqueeze(Algorithm, frozen=True, kw_only=True):
    """A local step to x, then the whole model is compressed, with the memory e of what was left out:

        p = x + e;  q = C(p);  e <- p - q;  x_i <- x_i + gamma sum_j (w_ij - delta_ij) q_j

    Needs milder compression and a smaller gamma than CHOCO-SGD, which compresses differences.
    """

    family = "compressed"
    source = "Tang et al., DeepSqueeze, 2019 (arXiv 1907.07346), Algorithm 1"
    bibtex = ("tang2019deepsqueeze",)
    slots = (Slot("left_out", "worker", "zero", "error feedback memory"),)
    uses_mixing = True
    uses_compress = True
    needs_agreement = False  # of W
    needs_contraction = True  # of C

    gamma: Share = 0.1

    def step(self, state, context):
        loss = yield from context.local_step(state)
        sent = compress_with_feedback(context.codec, state.x, state.left_out, context.hosted, context.k)
        context.work(unpack=state.x.shape[1], mix=2 * state.x.shape[1])  # of the feedback
        mixed = yield Mix(Packed(context.codec, sent.packed, context.k), context.k)
        # x <- x + gamma (W q - q);  e <- p - q
        state.x = context.combine((1.0, self.gamma, -self.gamma), (state.x, mixed, sent.value))
        state.left_out = sent.memory
        return loss
