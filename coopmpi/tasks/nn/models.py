"""Neural networks for b workers at once: parameters (b, d), inputs (b, n, features), gradients (b, d)."""

from itertools import accumulate
from math import prod
from typing import NamedTuple

import numpy as np

from coopmpi.errors import UserError, quoted, unknown
from coopmpi.registry import convert
from coopmpi.tasks.nn.layers import Conv, Dense, Flatten, Pooling, Relu, Scratch, Tanh
from coopmpi.tasks.nn.losses import LOSSES, count_correct

LAYERS = {layer.name: layer for layer in (Conv, Dense, Flatten, Pooling, Relu, Tanh)}
CNN = (
    {"type": "conv", "channels": 16, "kernel": 3, "padding": 1}, {"type": "relu"}, {"type": "pool", "size": 2},
    {"type": "conv", "channels": 32, "kernel": 3, "padding": 1}, {"type": "relu"}, {"type": "pool", "size": 2},
)
KINDS = ("linear", "mlp", "cnn")
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


class LayerInModel(NamedTuple):
    """A layer at its place in a model."""

    layer: object
    shape: tuple  # of one input
    tensors: slice  # its entries in the layout


class Model:
    """A stack of layers and a loss, for any number of workers and samples.

    Arrays that are needed on the way are kept for each shape of input, so that training and evaluation do not
    disturb each other and a step allocates nothing large.
    """

    def __init__(self, layers, shape, loss):
        self.shape, self.loss = shape, LOSSES[loss]
        self.classifies = loss == "cross-entropy"
        self.stack, tensors = [], []
        for number, layer in enumerate(layers, start=1):
            if isinstance(layer, Dense) and len(shape) > 1:
                self.stack.append(LayerInModel(Flatten(), shape, slice(0, 0)))
                shape = Flatten().build(shape)
            try:
                output = layer.build(shape)
            except UserError as error:
                raise UserError(f"[task] layer {number} ({layer.name}) {error}") from error
            own = [(f"{number}.{layer.name}.{name}", size) for name, size in layer.parameters(shape).items()]
            self.stack.append(LayerInModel(layer, shape, slice(len(tensors), len(tensors) + len(own))))
            tensors += own
            shape = output
        self.layout = Layout(tensors)
        self._first = next(i for i, (layer, size, _) in enumerate(self.stack) if layer.parameters(size))
        self._scratches = {}
        # numbers kept for one sample: by the layers, and by the loss (outputs by class, some single numbers)
        sizes = [layer.footprint(size, i > self._first) for i, (layer, size, _) in enumerate(self.stack)]
        self._footprint = sum(sizes) + prod(shape) + 7
        if self._footprint > LARGEST:
            raise UserError(f"[task] one sample takes {self._footprint} numbers in the layers of this model; allowed are "
                            f"up to {LARGEST:g}")

    def initial(self, generator, dtype):
        """The flat vector (d,) at the start: zero biases, weights N(0, gain / fan-in) with gain 2 before a relu
        (He et al., 2015) and 1 elsewhere. A model with one layer of parameters starts at zero.
        """
        x = np.zeros(self.layout.size, dtype)
        trained = [i for i, layer_in_model in enumerate(self.stack) if layer_in_model.layer.parameters(layer_in_model.shape)]
        if len(trained) == 1:
            return x
        views = self.layout.views(x[None])
        for i, end in zip(trained, [*trained[1:], len(self.stack)]):
            layer, shape, tensors = self.stack[i]
            gain = 2 if any(isinstance(p.layer, Relu) for p in self.stack[i:end]) else 1
            weight = views[tensors][0]
            # row by row: numbers in float64 of the whole tensor would be its largest array
            for row in weight:
                row[...] = generator.standard_normal(row.shape) * np.sqrt(gain / layer.fan_in(shape))
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
            outputs = self._forward(layers, parameters, some)[-1]
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
        *values, outputs = self._forward(layers, parameters, inputs)
        # the loss leaves its gradient in the outputs
        b, n = inputs.shape[:2]
        if weights is None:
            weights = scratch.keep("1/n", lambda: xp.full((1, n), 1 / n, x.dtype))
        each = scratch.array("losses", (b, n))
        self.loss(scratch, outputs, targets, weights, each)
        xp.matmul(each[:, None], weights[:, :, None], out=losses[:, None, None])
        # back through the layers, down to the first that is trained
        dy, values = outputs, [*values, outputs]
        for i in range(len(layers) - 1, self._first - 1, -1):
            layer, _, tensors = self.stack[i]
            dy = layer.backward(layers[i], parameters[tensors], gradients[tensors], values[i], values[i + 1], dy,
                                inputs_too=i > self._first)

    def _forward(self, scratches, parameters, inputs):
        """The inputs as the first layer takes them, and the outputs of every layer."""
        values = [inputs.reshape(*inputs.shape[:2], *self.shape)]
        for (layer, _, tensors), scratch in zip(self.stack, scratches):
            values.append(layer.forward(scratch, parameters[tensors], values[-1]))
        return values

    def _scratch(self, xp, dtype, shape):
        """One Scratch per layer and one for the loss. The inputs of the model must not be overwritten."""
        key = xp, dtype, shape[:2]
        if key not in self._scratches:
            self._scratches[key] = [Scratch(xp, dtype, i > self._first) for i in range(len(self.stack) + 1)]
        return self._scratches[key]

    def _per_block(self, xp, n, dtype):
        """How many times n samples are worked on at once: a power of two, which mostly leaves no remainder."""
        size = HOST_BLOCK if xp is np else DEVICE_BLOCK
        fitting = max(1, size // (n * self._footprint * dtype.itemsize))
        return 1 << fitting.bit_length() - 1


def build_model(kind, input_features, image_shape, outputs, hidden=(128,), layers=None, loss="cross-entropy"):
    """The Model of a run description.

    kind: "linear", "mlp" (`hidden` sizes, relu) or "cnn"; `layers`: tables of any other stack, instead. A dense
    layer to `outputs` comes last by itself. image_shape: (channels, height, width) or None; loss: "cross-entropy"
    or "squared-error". Raises UserError for a stack that does not fit; it names the layer.
    """
    if kind not in KINDS:
        raise unknown("model", kind, KINDS, where="[task] ")
    if layers is None:
        dense = [table for width in hidden for table in ({"type": "dense", "width": width}, {"type": "relu"})]
        layers = {"linear": [], "mlp": dense, "cnn": CNN}[kind]
    stack = [_layer(number, table) for number, table in enumerate(layers, start=1)]
    stack.append(Dense(width=outputs))
    images = image_shape and any(isinstance(layer, (Conv, Pooling)) for layer in stack)
    return Model(stack, tuple(image_shape) if images else (input_features,), loss)


def _layer(number, table):
    """The layer that a TOML table describes."""
    where = f"[task] layer {number}"
    if not isinstance(table, dict) or not isinstance(table.get("type"), str):
        raise UserError(f"{where}: a table with a type is needed, given {quoted(table)} (allowed: {', '.join(LAYERS)})")
    own = {key: value for key, value in table.items() if key != "type"}
    if table["type"] not in LAYERS:
        raise unknown("layer", table["type"], LAYERS, f"{where}: ")
    return convert(own, LAYERS[table["type"]], f"{where} ({table['type']})")
