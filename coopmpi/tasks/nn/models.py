"""Neural networks for b workers at once: parameters (b, d), inputs (b, n, features), gradients (b, d)."""

from itertools import accumulate
from math import prod
from typing import NamedTuple

import numpy as np

from coopmpi.errors import UserError
from coopmpi.tasks.nn.architectures import DEEP, cnn, mlp
from coopmpi.tasks.nn.layers import Dense, Scratch
from coopmpi.tasks.nn.losses import LOSSES, count_correct
from coopmpi.tasks.nn.stack import Stack, layer_of

LARGEST = 10**15  # numbers that a sample may take

# bytes of activations that are worked on at once: workers, or samples of an evaluation, are taken in blocks
HOST_BLOCK = 3 << 20  # few enough for the caches, many enough to share the cost of a call
DEVICE_BLOCK = 1 << 26  # fill a GPU without filling its memory


class Entry(NamedTuple):
    """One tensor in the flat vector of parameters."""

    name: str
    shape: tuple
    offset: int

    @property
    def size(self):
        return prod(self.shape)


class Layout(tuple):
    """The tensors of a model in the order of its flat vector: a tuple of Entry."""

    def __new__(cls, shapes):
        """From (name, shape) pairs."""
        shapes = [(name, tuple(shape)) for name, shape in shapes]
        offsets = accumulate((prod(shape) for _, shape in shapes), initial=0)
        self = super().__new__(cls, (Entry(*named, offset) for named, offset in zip(shapes, offsets)))
        self.size = sum(entry.size for entry in self)  # d
        self._spans = [(slice(entry.offset, entry.offset + entry.size), entry.shape) for entry in self]
        return self

    def views(self, flat):
        """[(b, *shape)] of every tensor, without copies; flat (b, d) with any distance between its rows."""
        b = flat.shape[0]
        return [flat[:, span].reshape(b, *shape) for span, shape in self._spans]


class Model:
    """A stack of layers and a loss, for any number of workers and samples.

    Arrays that are needed on the way are kept for each shape of input, so that training and evaluation do not
    disturb each other and a step allocates nothing large.
    """

    def __init__(self, layers, shape, loss):
        self.shape, self.loss = shape, LOSSES[loss]
        self.classifies = loss == "cross-entropy"
        self._stack = Stack(layers, shape)
        self.layout = Layout(self._stack.tensors)
        self._scratches = {}
        # numbers kept for one sample: by the layers, and by the loss (outputs by class, some single numbers)
        self._footprint = self._stack.footprint(False) + prod(self._stack.output) + 7
        if self._footprint > LARGEST:
            raise UserError(f"[task] one sample takes {self._footprint} numbers in the layers of this model; allowed are "
                            f"up to {LARGEST:g}")

    def initial(self, generator, dtype):
        """The flat vector (d,) at the start; a model with one layer of parameters starts at zero."""
        x = np.zeros(self.layout.size, dtype)
        if len(self._stack.trained) > 1:
            self._stack.initial([view[0] for view in self.layout.views(x[None])], generator)
        return x

    def loss_and_gradient(self, xp, x, inputs, targets, weights, gradient):
        """Mean losses (b,) at the models x (b, d); `gradient` (b, d) is overwritten with their gradients.

        inputs (b, n, features); targets (b, n) labels, or (b, n, outputs); weights (b, n) of the samples in the
        mean, or None for 1/n.
        """
        b, n = inputs.shape[:2]
        losses = xp.empty(b, x.dtype)
        block = self._per_block(xp, n, x.dtype)
        for start in range(0, b, block):
            rows = slice(start, start + block)
            own = None if weights is None else weights[rows]
            self._block_gradient(xp, x[rows], inputs[rows], targets[rows], own, gradient[rows], losses[rows])
        return losses

    def evaluate(self, xp, x, inputs, targets):
        """(sum of losses, number of correct predictions or None) of one model x (1, d) on inputs (n, features)."""
        loss, correct = 0, 0 if self.classifies else None
        parameters = self.layout.views(x)
        block = self._per_block(xp, 1, x.dtype)
        for start in range(0, len(inputs), block):
            some, goal = inputs[None, start:start + block], targets[None, start:start + block]
            *layers, scratch = self._scratch(xp, x.dtype, some.shape)
            outputs = self._stack.forward(layers, parameters, self._shaped(some))[-1]
            if self.classifies:
                correct = correct + count_correct(outputs, goal)
            losses = scratch.array("losses", some.shape[:2])
            self.loss(scratch, outputs, goal, scratch.ones(*some.shape[:2]), losses)
            loss = loss + xp.sum(losses, dtype="float64")
        return loss, correct

    def workspace(self, xp, b, n, dtype):
        """Bytes of activations kept for gradients of b workers on n samples each."""
        return min(b, self._per_block(xp, n, dtype)) * n * self._footprint * dtype.itemsize

    def _block_gradient(self, xp, x, inputs, targets, weights, gradient, losses):
        *layers, scratch = self._scratch(xp, x.dtype, inputs.shape)
        parameters, gradients = self.layout.views(x), self.layout.views(gradient)
        values = self._stack.forward(layers, parameters, self._shaped(inputs))
        outputs = values[-1]
        # the loss leaves its gradient in the outputs
        b, n = inputs.shape[:2]
        if weights is None:
            weights = scratch.keep("1/n", lambda: xp.full((1, n), 1 / n, x.dtype))
        each = scratch.array("losses", (b, n))
        self.loss(scratch, outputs, targets, weights, each)
        xp.matmul(each[:, None], weights[:, :, None], out=losses[:, None, None])
        self._stack.backward(layers, parameters, gradients, values, outputs)

    def _shaped(self, inputs):
        """The inputs (b, n, features) as the first layer takes them."""
        return inputs.reshape(*inputs.shape[:2], *self.shape)

    def _scratch(self, xp, dtype, shape):
        """One Scratch per layer and one for the loss."""
        key = xp, dtype, shape[:2]
        if key not in self._scratches:
            self._scratches[key] = [*self._stack.scratches(xp, dtype), Scratch(xp, dtype)]
        return self._scratches[key]

    def _per_block(self, xp, n, dtype):
        """How many times n samples are worked on at once: a power of two, which mostly leaves no remainder."""
        size = HOST_BLOCK if xp is np else DEVICE_BLOCK
        fitting = max(1, size // (n * self._footprint * dtype.itemsize))
        return 1 << fitting.bit_length() - 1


def build_model(kind, input_features, image_shape, outputs, hidden=(128,), layers=None, loss="cross-entropy", depth=None):
    """The Model of a run description.

    kind: one of coopmpi.tasks.nn.architectures.KINDS, "mlp" with `hidden` sizes, "resnet" and "vgg" with a `depth`; `layers`: tables of any other stack,
    instead. A dense layer to `outputs` comes last by itself. image_shape: (channels, height, width) or None; loss:
    "cross-entropy" or "squared-error". Raises UserError for a stack that does not fit; it names the layer.
    """
    if layers is None and kind in DEEP:
        make, usual = DEEP[kind]
        layers = make(depth or usual)
    elif layers is None:
        layers = {"linear": list, "mlp": lambda: mlp(hidden), "cnn": cnn}[kind]()
    stack = [layer_of(table, f"[task] layer {number}") for number, table in enumerate(layers, start=1)]
    images = image_shape and any(layer.takes_images for layer in stack)
    return Model([*stack, Dense(width=outputs)], tuple(image_shape) if images else (input_features,), loss)
