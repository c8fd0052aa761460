"""Local SGD with error-compensated compression in both directions."""

from typing import Annotated, Literal

from msgspec import Meta

from coopmpi.compression.feedback import compress_with_feedback
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
    beta: Annotated[float, Meta(ge=0, lt=1)] = 0.3  # block

    def step(self, state, run):
        loss = yield from run.local_step(state)
        if run.round_due:
            away = run.combine((1.0, -1.0), (state.common, state.x))
            up = compress_with_feedback(run.codec, away, state.left_out, run.hosted, run.round)
            mean = yield Mean(Packed(run.codec, up.packed, run.round))
            # the way back has the random numbers of a worker of its own
            down = compress_with_feedback(run.codec, mean, state.left_out_down, (run.workers,), run.round)
            state.left_out, state.left_out_down, move = up.memory, down.memory, down.value
            # xhat <- xhat - Q, or with block momentum u <- beta u + Q; xhat <- xhat - u
            if self.momentum == "block":
                state.u = move = run.combine((self.beta, 1.0), (state.u, move))
            state.common = run.combine((1.0, -1.0), (state.common, move))
            state.x = run.spread(state.common, like=state.x)
            if self.momentum == "reset":
                run.optimizer.forget(state)
        return loss
