"""Local SGD with compression in both directions."""

from typing import Literal

from coopmpi.compression.feedback import compress_with_feedback
from coopmpi.ranges import Fraction
from coopmpi.registry import register
from coopmpi.step import Algorithm, Gather, Packed, Reduce, Slot


@register("algorithm", "double-compressed")
class DoubleCompressed(Algorithm, frozen=True, kw_only=True):
    """tau local steps from the common model xhat, then, with memories e_i and E of what compression left out:

        p_i = (xhat - x_i) + e_i;  q_i = C(p_i);  e_i <- p_i - q_i          (up)
        P = mean q_i + E;  Q = C(P);  E <- P - Q;  xhat <- xhat - Q        (down);  x_i <- xhat

    so that xhat - mean e_i - E moves by the mean local displacement exactly. The server's part is shared out: worker j
    owns the j-th of m ranges of the model, gets all q_i of it, and sends its Q to all. C acts on what a tensor has in a range.
    momentum, what becomes of it at a round: "kept" (local buffers stay), "reset" (they start from zero), "block"
    (kept, and u <- beta u + Q; xhat <- xhat - u). The form that the paper's own momentum variant takes could not
    be read; these three are named for what they do.
    """

    family = "compressed"
    source = ("Gao, Xu & Huang, On the convergence of communication-efficient local SGD for federated learning, AAAI 2021, "
              "as reconstructed from its abstract")
    bibtex = ("gao2021convergence",)
    slots = (Slot("common", "replica", "model", "the common model xhat"),
             Slot("left_out", "worker", "zero", "error feedback memory of the workers"),
             Slot("left_out_down", "worker", "zero", "error feedback memory of the way back, of the range that a worker owns"),
             Slot("u", "replica", "zero", "block momentum"))
    uses_period = True
    uses_compress = True
    needs_contraction = True  # of C
    read_with = {"beta": ("momentum", "block")}

    momentum: Literal["kept", "reset", "block"] = "kept"
    beta: Fraction = 0.3  # block

    def bound_slots(self, context):
        return tuple(slot._replace(columns=context.ranges.width) if slot.name == "left_out_down" else slot for slot in self.slots)

    def step(self, state, context):
        loss = yield from context.local_step(state)
        if context.round_due:
            ranges, round = context.ranges, context.round
            # p_i = (xhat - x_i) + e_i;  q_i = C(p_i);  e_i <- p_i - q_i
            away = context.combine((1.0, -1.0), (state.common, state.x))
            up = compress_with_feedback(ranges, away, state.left_out, context.hosted, round)
            d, n = state.x.shape[1], ranges.width
            context.work(unpack=d, mix=2 * d)  # of the feedback
            total = yield Reduce(Packed(ranges, up.packed, round))
            # P = mean q_i + E;  Q = C(P);  E <- P - Q
            mean = context.combine((1 / context.workers,), (total,))
            down = compress_with_feedback(ranges.own, mean, state.left_out_down, context.hosted, round)
            context.work(unpack=n, mix=2 * n)
            move = yield Gather(Packed(ranges.own, down.packed, round))
            state.left_out, state.left_out_down = up.memory, down.memory
            # xhat <- xhat - Q, or with block momentum u <- beta u + Q; xhat <- xhat - u
            if self.momentum == "block":
                state.u = move = context.combine((self.beta, 1.0), (state.u, move))
            state.common = context.combine((1.0, -1.0), (state.common, move))
            state.x = context.spread(state.common, like=state.x)
            if self.momentum == "reset":
                context.optimizer.forget(state)
        return loss
