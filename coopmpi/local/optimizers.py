"""Local optimisers: the direction in which one worker goes. Buffers stay local and are never exchanged."""

import fnmatch
from math import prod, sqrt
from typing import ClassVar

from coopmpi.errors import UserError, unknown
from coopmpi.ranges import Fraction, NonNegative, Positive
from coopmpi.registry import NONZERO, Part, register
from coopmpi.step import Context, Slot, State
from coopmpi.step.requests import Array


class Optimizer(Part, frozen=True, kw_only=True):
    """Base: `direction` turns a gradient (b, d) at the models x (b, d) into the direction of x <- x - lr direction.

    `direction` may overwrite the gradient, and the array it returns holds until the next gradient. no_decay: patterns of
    names of tensors whose numbers do not decay, as "*.bias"; clip_norm: a worker's gradient with a larger 2-norm is scaled
    to it before it is used.
    """

    name: ClassVar[str]
    read_with = {"no_decay": ("weight_decay", NONZERO)}
    weight_decay: ClassVar[float] = 0.0  # a key where the optimiser has such
    lr: Positive = 0.1
    no_decay: tuple[str, ...] | None = None
    clip_norm: Positive | None = None

    @property
    def slots(self) -> tuple[Slot, ...]:
        return ()

    @property
    def remembers(self) -> str:
        """What it keeps from step to step, in words; empty: nothing."""
        return ", ".join(slot.purpose for slot in self.slots)

    @property
    def linear(self) -> bool:
        """Is the direction linear in the gradients so far?"""
        return False

    def descend(self, state: State, x: Array, gradient: Array, context: Context) -> None:
        """x <- x - lr direction, in place; the gradient is used up. Both (b, d)."""
        self.clip(gradient, context.device)
        context.device.add_scaled(x, -context.lr, self.direction(state, state.x, gradient, context))

    def direction(self, state: State, x: Array, gradient: Array, context: Context) -> Array:
        raise NotImplementedError

    def forget(self, state: State) -> None:
        """Start the local momentum from zero, where the optimiser has one."""

    def clip(self, gradient: Array, device) -> None:
        """g <- g min(1, clip_norm / (||g|| + 1e-6)) for each worker, in place; as PyTorch's clip_grad_norm_ does."""
        if self.clip_norm:
            xp = device.xp
            for row in gradient:
                flat = row.ravel()  # the bits of a sum depend on how its numbers lie
                row *= xp.minimum(1, self.clip_norm / (xp.sqrt(xp.vdot(flat, flat)) + 1e-6))

    def groups(self, tensors) -> list[tuple[slice, float]]:
        """(numbers, their weight decay) of consecutive tensors (name, shape, offset) that decay alike.

        UserError for a pattern that no name matches.
        """
        spared, names = self._named("no_decay", tensors), [name for name, *_ in tensors]
        if not spared:
            return [(slice(None), self.weight_decay)]
        # where a group of tensors begins
        firsts = [(offset, name in spared) for i, (name, _, offset) in enumerate(tensors)
                  if i == 0 or (name in spared) != (names[i - 1] in spared)]
        ends = [*(start for start, _ in firsts[1:]), None]
        return [(slice(start, end), 0.0 if spare else self.weight_decay) for (start, spare), end in zip(firsts, ends)]

    def _named(self, key, tensors):
        """The names of the tensors that the patterns of a key match; UserError for a pattern that matches none."""
        names, found = [name for name, *_ in tensors], set()
        for pattern in getattr(self, key) or ():
            matching = fnmatch.filter(names, pattern)
            if not matching:
                raise unknown("tensor of the model", pattern, names, f"[optimizer] {key}: ")
            found.update(matching)
        return found

    def _pieces(self, context, *arrays):
        """(weight decay, pieces of the arrays) for passes over a model."""
        for span, decay in context.groups:
            for pieces in context.device.pieces(*(array[:, span] for array in arrays)):
                yield decay, *pieces


@register("optimizer", "sgd")
class SGD(Optimizer, frozen=True, kw_only=True):
    """Stochastic gradient descent with PyTorch's momentum, Nesterov and weight decay.

    g <- g + weight_decay x;  v <- momentum v + g;  direction = g + momentum v (nesterov) or v
    """

    momentum: Fraction = 0.0
    nesterov: bool = False
    weight_decay: NonNegative = 0.0

    def __post_init__(self):
        if self.nesterov and not self.momentum:
            raise UserError("[optimizer] nesterov = true needs momentum > 0, given momentum = 0")

    @property
    def slots(self) -> tuple[Slot, ...]:
        return (Slot("velocity", "worker", "zero", "momentum buffer"),) if self.momentum else ()

    @property
    def linear(self) -> bool:
        return not self.clip_norm

    def forget(self, state: State) -> None:
        if self.momentum:
            state.velocity[:] = 0

    def direction(self, state: State, x: Array, gradient: Array, context: Context) -> Array:
        xp, device = context.device.xp, context.device
        if not self.momentum:
            if self.weight_decay:
                for decay, g, at in self._pieces(context, gradient, x):
                    if decay:
                        device.add_scaled(g, decay, at)
            return gradient

        for decay, g, at, v in self._pieces(context, gradient, x, state.velocity):
            if decay:
                device.add_scaled(g, decay, at)
            # v <- momentum v + g
            xp.multiply(v, self.momentum, out=v)
            xp.add(v, g, out=v)
            if self.nesterov:
                # g + momentum v
                device.add_scaled(g, self.momentum, v)
        return gradient if self.nesterov else state.velocity


@register("optimizer", "adam")
class Adam(Optimizer, frozen=True, kw_only=True):
    """Adam [Kingma & Ba 2015, Algorithm 1]; weight decay is added to the gradient.

    m <- beta1 m + (1-beta1) g;  v <- beta2 v + (1-beta2) g^2;  direction = mhat / (sqrt(vhat) + epsilon)
    """

    lr: Positive = 0.001
    beta1: Fraction = 0.9
    beta2: Fraction = 0.999
    epsilon: Positive = 1e-8
    weight_decay: NonNegative = 0.0
    decoupled: ClassVar[bool] = False  # is the weight decay apart from the moments?

    @property
    def slots(self) -> tuple[Slot, ...]:
        return (Slot("first_moment", "worker", "zero", "running mean of the gradient"),
                Slot("second_moment", "worker", "zero", "running mean of its square"))

    def direction(self, state: State, x: Array, gradient: Array, context: Context) -> Array:
        xp, t = context.device.xp, context.k + 1
        for decay, g, at, m, v in self._pieces(context, gradient, x, state.first_moment, state.second_moment):
            work = context.device.scratch(g)
            if decay and not self.decoupled:
                context.device.add_scaled(g, decay, at)

            # v <- beta2 v + (1 - beta2) g^2
            xp.multiply(g, g, out=work)
            xp.multiply(work, 1 - self.beta2, out=work)
            xp.multiply(v, self.beta2, out=v)
            xp.add(v, work, out=v)

            # m <- beta1 m + (1 - beta1) g
            xp.multiply(g, 1 - self.beta1, out=g)
            xp.multiply(m, self.beta1, out=m)
            xp.add(m, g, out=m)

            # (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + epsilon)
            xp.multiply(v, 1 / (1 - self.beta2**t), out=work)
            xp.sqrt(work, out=work)
            xp.add(work, self.epsilon, out=work)
            xp.multiply(m, 1 / (1 - self.beta1**t), out=g)
            xp.divide(g, work, out=g)
            if decay and self.decoupled:
                context.device.add_scaled(g, decay, at)
        return gradient


@register("optimizer", "adamw")
class AdamW(Adam, frozen=True, kw_only=True):
    """AdamW [Loshchilov & Hutter 2019, Algorithm 2], with PyTorch's defaults: weight decay apart from the moments.

    m <- beta1 m + (1-beta1) g;  v <- beta2 v + (1-beta2) g^2;  direction = mhat / (sqrt(vhat) + epsilon) + weight_decay x
    """

    decoupled = True

    weight_decay: NonNegative = 0.01


@register("optimizer", "muon")
class Muon(AdamW, frozen=True, kw_only=True):
    """Muon [Jordan et al. 2024]: the momentum of a matrix is made nearly orthogonal; all other tensors take AdamW.

    m <- momentum m + g;  direction = 0.2 sqrt(max(n, c)) orth(g + momentum m) + weight_decay x

    A tensor with two or more dimensions is the matrix (n, c) of its first and all others; the factor makes its steps as
    large as those of AdamW [Liu et al. 2025, section 2.2], so both take the same lr. orth: five steps of Newton and Schulz,
    which leave singular values between about 0.7 and 1.2. plain: patterns of names of matrices that take AdamW, too, as those
    of embeddings and of the last layer should.
    """

    momentum: Fraction = 0.95
    plain: tuple[str, ...] = ()
    weight_decay: NonNegative = 0.1

    def groups(self, tensors) -> list[tuple[slice, float]]:
        """(numbers, their weight decay) of each tensor that takes AdamW."""
        return [(span, decay) for span, shape, decay in self._parted(tensors) if shape is None]

    def direction(self, state: State, x: Array, gradient: Array, context: Context) -> Array:
        super().direction(state, x, gradient, context)
        for span, shape, decay in self._parted(context.tensors):
            if shape is not None:
                g, m = gradient[:, span], state.first_moment[:, span]
                # m <- momentum m + g
                m *= self.momentum
                m += g
                # g + momentum m
                context.device.add_scaled(g, self.momentum, m)
                orthogonal = _orthogonal(context.device.xp, g.reshape(-1, *shape))
                g[...] = orthogonal.reshape(g.shape)
                g *= 0.2 * sqrt(max(shape))
                if decay:
                    context.device.add_scaled(g, decay, x[:, span])
        return gradient

    def _parted(self, tensors):
        """(numbers, shape of the matrix or None, weight decay) of each tensor."""
        plain, spared = self._named("plain", tensors), self._named("no_decay", tensors)
        for name, shape, offset in tensors:
            matrix = (shape[0], prod(shape[1:])) if len(shape) > 1 and name not in plain else None
            yield slice(offset, offset + prod(shape)), matrix, 0.0 if name in spared else self.weight_decay


def _orthogonal(xp, matrices):
    """Newton and Schulz: X <- a X + (b X X^T + c (X X^T)^2) X, five times, from X / ||X||; (b, n, c)."""
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices.copy() if wide else matrices.swapaxes(1, 2).copy()
    for one in x:
        flat = one.ravel()
        one /= xp.maximum(xp.sqrt(xp.vdot(flat, flat)), 1e-7)
    for _ in range(5):
        square = xp.matmul(x, x.swapaxes(1, 2))
        x = 3.4445 * x + xp.matmul(-4.775 * square + 2.0315 * xp.matmul(square, square), x)
    return x if wide else x.swapaxes(1, 2)
