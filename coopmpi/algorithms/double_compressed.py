"""Local SGD with error-compensated compression in both directions."""

from typing import Literal

from coopmpi.compression.feedback import compress_with_feedback
from coopmpi.ranges import Fraction
from coopmpi.registry import register
from coopmpi.step import Algorithm, Mean, Packed, Slot


@register("algorithm", "double-compressed")
class DoubleCompressed(Algorithm, frozen=True, kw_only=True):
    """tau local steps from the common model xhat, then, with memories e_i and E of what compression left out:

        p_i = (xhat - x_i) + e_i;  q_i = C(p_i);  e_i <- p_i - q_i          (up)
        P = mean q_i + E;  Q = C(P);  E <- P - Q;  xhat <- xhat - Q        (down);  x_i <- xhat

    so that xhat - mean e_i - E moves by the mean local displacement exactly. Every rank forms the same Q.
    momentum, what becomes of it at a round: "kept" (local buffers stay), "reset" (they start from zero), "block"
    (kept, and u <- beta u + Q; xhat <- xhat - u). The form that the paper's own momentum variant takes could not
    be read; these three are named for what they do.
    """

    source = ("Gao, Xu & Huang, On the convergence of communication-efficient local SGD for federated learning, AAAI 2021, "
              "as reconstructed from its abstract")
    bibtex = ("gao2021convergence",)
    slots = (Slot("common", "replica", "model", "the common model xhat"),
             Slot("left_out", "worker", "zero", "error feedback memory of the workers"),
             Slot("left_out_down", "replica", "zero", "error feedback memory of the way back"),
             Slot("u", "replica", "zero", "block momentum"))
    uses_period = True
    uses_compress = True
    needs_contraction = True  # of C

    momentum: Literal["kept", "reset", "block"] = "kept"
    beta: Fraction = 0.3  # block

    def step(self, state, context):
        loss = yield from context.local_step(state)
        if context.round_due:
            away = context.combine((1.0, -1.0), (state.common, state.x))
            up = compress_with_feedback(context.codec, away, state.left_out, context.hosted, context.round)
            d = state.x.shape[1]
            context.work(unpack=d, mix=2 * d)  # of the feedback
            mean = yield Mean(Packed(context.codec, up.packed, context.round))
            # the way back draws the random numbers of a worker m that does not exist
            down = compress_with_feedback(context.codec, mean, state.left_out_down, (context.workers,), context.round)
            context.work(compress=d, unpack=d, mix=2 * d)
            state.left_out, state.left_out_down, move = up.memory, down.memory, down.value
            # xhat <- xhat - Q, or with block momentum u <- beta u + Q; xhat <- xhat - u
            if self.momentum == "block":
                state.u = move = context.combine((self.beta, 1.0), (state.u, move))
            state.common = context.combine((1.0, -1.0), (state.common, move))
            state.x = context.spread(state.common, like=state.x)
            if self.momentum == "reset":
                context.optimizer.forget(state)
        return loss
