"""PowerSGD: synchronous SGD in which two thin factors of every gradient matrix travel."""

from itertools import accumulate
from math import prod
from typing import Annotated

import numpy as np
from msgspec import Meta

from coopmpi.parts.compressors import LowRank
from coopmpi.registry import register
from coopmpi.step import Algorithm, Grad, Mean, Slot
from coopmpi.streams import Purpose, stream


@register("algorithm", "powersgd")
class PowerSGD(Algorithm, frozen=True, kw_only=True):
    """For every tensor, as (n, c) matrix of its first dimension and all others, with Q of the step before:

        M_i = G_i + e_i;  P = orth(mean M_i Q);  Q_i = M_i^T P;  Q <- mean Q_i
        e_i <- M_i - P Q_i^T;  X <- X - lr direction(P Q^T)

    Two all-reduces per step. Tensors that are not larger than their factors, vectors always, are averaged as they
    are. The paper's e_i <- M_i - P Q^T has the same mean, hence gives the same models; the e_i here stay small
    where gradients differ between workers.
    """

    source = "Vogels, Karimireddy & Jaggi, PowerSGD, NeurIPS 2019, Algorithms 1 and 2"
    bibtex = ("vogels2019powersgd",)
    slots = (Slot("left_out", "worker", "zero", "error feedback memory"),
             Slot("factors", "replica", "zero", "the matrices' Q, each where its matrix begins"))

    rank: Annotated[int, Meta(ge=1)] = 2

    def step(self, state, run):
        device, xp = run.device, run.device.xp
        matrices, whole = self.split(run.tensors)
        if run.k == 0:
            state.factors = self.first_factors(state.factors, matrices, run)
        loss, gradient = yield Grad(state.x)
        # M_i = G_i + e_i
        target = run.combine((1.0, 1.0), (gradient, state.left_out))
        ms = [target[:, span].reshape(-1, *shape) for span, shape in matrices]

        # P = orth(mean M_i Q), and the mean of what is sent as it is
        sketches = [xp.matmul(m, q) for m, q in zip(ms, self.factors(state.factors, matrices))]
        rest = [target[:, span] for span in whole]
        mean = parted((yield Mean(joined(sketches + rest, device))), sketches + rest)
        ps = [xp.linalg.qr(sketch[0])[0] for sketch in mean[:len(ms)]]

        # Q_i = M_i^T P;  Q <- mean Q_i
        own = [xp.matmul(xp.swapaxes(m, 1, 2), p) for m, p in zip(ms, ps)]
        factors = run.copy(state.factors)
        if own:
            for old, q in zip(self.factors(factors, matrices), parted((yield Mean(joined(own, device))), own)):
                old[...] = q[0]

        # P Q^T;  e_i <- M_i - P Q_i^T
        average = device.empty((1, target.shape[1]), target.dtype)
        for (span, shape), m, p, mine, q in zip(matrices, ms, ps, own, self.factors(factors, matrices)):
            xp.matmul(p, q.T, out=average[0, span].reshape(shape))
            sent = device.empty((len(m), prod(shape)), m.dtype).reshape(m.shape)
            xp.subtract(m, xp.matmul(p, xp.swapaxes(mine, 1, 2), out=sent), out=m)
        for span, numbers in zip(whole, mean[len(ms):]):
            average[:, span] = numbers
            target[:, span] = 0
        state.left_out, state.factors = target, factors
        run.descend(state, state.x, run.replicate(average, like=target))
        return loss

    def split(self, tensors):
        """[(span, (n, c))] of the tensors that travel as factors, and [span] of all others."""
        matrices, whole = [], []
        for _, shape, offset in tensors:
            span = slice(offset, offset + prod(shape))
            matrix = LowRank(rank=self.rank).factored(shape)
            if matrix:
                matrices.append((span, matrix))
            else:
                whole.append(span)
        return matrices, whole

    def factors(self, row, matrices):
        """Q (c, r) of every matrix, views into the row (1, d) that holds them."""
        return [row[0, span.start:span.start + c * self.rank].reshape(c, self.rank) for span, (_, c) in matrices]

    def first_factors(self, like, matrices, run):
        """Gaussian Q, the same on all ranks."""
        host, generator = np.zeros(like.shape, like.dtype), stream(run.seed, Purpose.COMPRESS)
        for q in self.factors(host, matrices):
            q[...] = generator.standard_normal(q.shape)
        return run.device.asarray(host)

    def miniature(self, tensors):
        return tensors


def joined(arrays, device):
    """Arrays (b, ...) side by side: one message (b, n)."""
    rows = [array.reshape(len(array), -1) for array in arrays]
    message = device.empty((len(rows[0]), sum(row.shape[1] for row in rows)), rows[0].dtype)
    return device.xp.concatenate(rows, axis=1, out=message)


def parted(message, arrays):
    """The message's parts (1, ...), each in the shape of the array (b, ...) that was put there."""
    shapes = [array.shape[1:] for array in arrays]
    ends = accumulate(map(prod, shapes))
    return [message[:, end - prod(shape):end].reshape(-1, *shape) for shape, end in zip(shapes, ends)]
