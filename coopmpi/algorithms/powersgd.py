"""PowerSGD: thin factors of every gradient matrix travel."""

from coopmpi.compression.factors import ThinFactors, joined, parted
from coopmpi.ranges import Count
from coopmpi.registry import register
from coopmpi.step import Algorithm, Grad, Mean, Slot


@register("algorithm", "powersgd")
class PowerSGD(Algorithm, frozen=True, kw_only=True):
    """For every tensor, as (n, c) matrix of its first dimension and all others, with Q of the step before:

        M_i = G_i + e_i;  P = orth(mean M_i Q);  Q_i = M_i^T P;  Q <- mean Q_i
        e_i <- M_i - P Q_i^T;  X <- X - lr direction(P Q^T)

    Two all-reduces per step. Tensors that are not larger than their factors, vectors always, are averaged as they
    are. The paper's e_i <- M_i - P Q^T has the same mean, hence gives the same models; the e_i here stay small
    where gradients differ between workers.
    """

    family = "synchronous"
    source = "Vogels, Karimireddy & Jaggi, PowerSGD, NeurIPS 2019, Algorithms 1 and 2"
    bibtex = ("vogels2019powersgd",)
    slots = (Slot("left_out", "worker", "zero", "error feedback memory"),
             Slot("factors", "replica", "zero", "the matrices' Q, each where its matrix begins"))

    per_tensor = True
    compresses_like = "lowrank"

    rank: Count = 2

    def step(self, state, context):
        # at first, Q is random, the same on all ranks
        device, xp = context.device, context.device.xp
        thin = ThinFactors(self.rank, context.tensors)
        if context.k == 0:
            state.factors = context.device.asarray(thin.first(state.factors.shape, state.factors.dtype, context.seed))

        # M_i = G_i + e_i
        loss, gradient = yield Grad(state.x)
        target = context.combine((1.0, 1.0), (gradient, state.left_out))
        ms = thin.matrices(target)
        context.work(compress=target.shape[1])  # P and Q_i

        # P = orth(mean M_i Q), and the mean of what is sent as it is
        sketches = [xp.matmul(m, q) for m, q in zip(ms, thin.views(state.factors))]
        rest = [target[:, span] for span in thin.whole]
        mean = parted((yield Mean(joined(sketches + rest, device))), sketches + rest)
        ps = [xp.linalg.qr(sketch[0])[0] for sketch in mean[:len(ms)]]

        # Q_i = M_i^T P;  Q <- mean Q_i
        own = [xp.matmul(xp.swapaxes(m, 1, 2), p) for m, p in zip(ms, ps)]
        factors = context.copy(state.factors)
        if own:
            for old, q in zip(thin.views(factors), parted((yield Mean(joined(own, device))), own)):
                old[...] = q[0]

        # P Q^T;  e_i <- M_i - P Q_i^T
        context.work(mix=3 * target.shape[1])
        average = device.empty((1, target.shape[1]), target.dtype)
        for out, m, p, mine, q in zip(thin.matrices(average), ms, ps, own, thin.views(factors)):
            xp.matmul(p, q.T, out=out[0])
            sent = device.empty((len(m), m[0].size), m.dtype).reshape(m.shape)
            xp.subtract(m, xp.matmul(p, xp.swapaxes(mine, 1, 2), out=sent), out=m)

        # what was sent as it is: nothing is left out
        for span, numbers in zip(thin.whole, mean[len(ms):]):
            average[:, span] = numbers
            target[:, span] = 0

        # X <- X - lr direction(P Q^T)
        state.left_out, state.factors = target, factors
        context.descend(state, state.x, context.replicate(average, like=target))
        return loss
