"""Local optimisers: the direction in which one worker goes. Buffers stay local and are never exchanged."""

from typing import ClassVar

from coopmpi.errors import UserError
from coopmpi.ranges import Fraction, NonNegative, Positive
from coopmpi.registry import Part, register
from coopmpi.step import Context, Slot, State
from coopmpi.step.requests import Array


class Optimizer(Part, frozen=True, kw_only=True):
    """Base: `direction` turns a gradient (b, d) at the models x (b, d) into the direction of x <- x - lr direction.

    `direction` may overwrite the gradient, and the array it returns holds until the next gradient.
    """

    name: ClassVar[str]
    linear: ClassVar[bool] = False  # is the direction linear in the gradients so far?
    lr: Positive = 0.1

    @property
    def slots(self) -> tuple[Slot, ...]:
        return ()

    def direction(self, state: State, x: Array, gradient: Array, context: Context) -> Array:
        raise NotImplementedError

    def forget(self, state: State) -> None:
        """Start the local momentum from zero, where the optimiser has one."""


@register("optimizer", "sgd")
class SGD(Optimizer, frozen=True, kw_only=True):
    """Stochastic gradient descent with PyTorch's momentum, Nesterov and weight decay.

    g <- g + weight_decay x;  v <- momentum v + g;  direction = g + momentum v (nesterov) or v
    """

    linear = True

    momentum: Fraction = 0.0
    nesterov: bool = False
    weight_decay: NonNegative = 0.0

    def __post_init__(self):
        if self.nesterov and not self.momentum:
            raise UserError("[optimizer] nesterov = true needs momentum > 0, given momentum = 0")

    @property
    def slots(self) -> tuple[Slot, ...]:
        return (Slot("velocity", "worker", "zero", "momentum buffer"),) if self.momentum else ()

    def forget(self, state: State) -> None:
        if self.momentum:
            state.velocity[:] = 0

    def direction(self, state: State, x: Array, gradient: Array, context: Context) -> Array:
        xp, device = context.device.xp, context.device
        if not self.momentum:
            if self.weight_decay:
                for g, at in device.pieces(gradient, x):
                    self._decay(g, at, device)
            return gradient

        for g, at, v in device.pieces(gradient, x, state.velocity):
            if self.weight_decay:
                self._decay(g, at, device)
            # v <- momentum v + g
            xp.multiply(v, self.momentum, out=v)
            xp.add(v, g, out=v)
            if self.nesterov:
                # g + momentum v
                xp.add(g, xp.multiply(v, self.momentum, out=device.scratch(v)), out=g)
        return gradient if self.nesterov else state.velocity

    def _decay(self, g, x, device):
        """g <- g + weight_decay x"""
        device.xp.add(g, device.xp.multiply(x, self.weight_decay, out=device.scratch(x)), out=g)


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

    @property
    def slots(self) -> tuple[Slot, ...]:
        return (Slot("first_moment", "worker", "zero", "running mean of the gradient"),
                Slot("second_moment", "worker", "zero", "running mean of its square"))

    def direction(self, state: State, x: Array, gradient: Array, context: Context) -> Array:
        xp, t = context.device.xp, context.k + 1
        for g, at, m, v in context.device.pieces(gradient, x, state.first_moment, state.second_moment):
            work = context.device.scratch(g)
            if self.weight_decay:
                xp.add(g, xp.multiply(at, self.weight_decay, out=work), out=g)

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
        return gradient
