"""Layers for b workers at once: arrays (b, n, ...) hold n samples of each worker, parameters (b, ...).

A layer is a table of the run description, {type = "conv", channels = 16, kernel = 3}, and holds no arrays: what it
needs from call to call is in the Scratch that it is given, one per layer and shape of input.
"""

from math import prod, sqrt
from typing import ClassVar

from coopmpi.ranges import Count
from coopmpi.registry import Part, register


class Scratch:
    """Arrays of one layer for one shape of input, made at the first use and kept.

    Fresh memory costs a page fault per 4 KiB, often more than the arithmetic done in it.
    """

    def __init__(self, xp, dtype, owns_inputs=True):
        self.xp, self.dtype = xp, dtype
        self.owns_inputs = owns_inputs  # the layer may overwrite its inputs
        self._kept = {}

    def array(self, name, shape, dtype=None):
        """The array called `name`: zeros at first, afterwards whatever was left in it.

        Images (b, n, channels, height, width) lie in memory as (b, channels, n, height, width): all samples of a
        worker make one matrix with a row per channel.
        """
        if name not in self._kept:
            images = len(shape) == 5
            if images:
                shape = (shape[0], shape[2], shape[1], *shape[3:])
            new = self.xp.zeros(shape, dtype or self.dtype)
            self._kept[name] = new.swapaxes(1, 2) if images else new
        return self._kept[name]

    def keep(self, name, make):
        """The value called `name`, made by `make()` at the first use: constants, views of kept arrays."""
        if name not in self._kept:
            self._kept[name] = make()
        return self._kept[name]

    def ones(self, *shape):
        """Ones: the sum over an axis as a product is several times faster than `sum`."""
        return self.keep(shape, lambda: self.xp.ones(shape, self.dtype))


class Layer(Part, frozen=True, kw_only=True):
    """Base of all layers. Shapes are those of one sample: (features,) or (channels, height, width)."""

    name: ClassVar[str]
    takes_images: ClassVar[bool] = False  # and nothing else

    def build(self, shape):
        """The shape of one output for one input of `shape`; UserError if the layer cannot take it."""
        return shape

    def parameters(self, shape):
        """{name: shape} of what is trained, in the order of the flat vector."""
        return {}

    def fan_in(self, shape):
        """How many inputs one output adds up."""
        return prod(shape)

    def initial(self, tensors, shape, gain, generator):
        """Fill the parameters at the start, which are zeros: the first of them is drawn from N(0, gain / fan-in)."""
        # row by row: numbers in float64 of the whole tensor would be its largest array
        for row in tensors[0]:
            row[...] = generator.standard_normal(row.shape) * sqrt(gain / self.fan_in(shape))

    def footprint(self, shape, inputs_too):
        """Numbers that one sample occupies in the scratch after forward and backward."""
        raise NotImplementedError

    def forward(self, scratch, parameters, x):
        """The outputs y for the inputs x, in an array of the scratch."""
        raise NotImplementedError

    def backward(self, scratch, parameters, gradients, x, y, dy, inputs_too):
        """Write the gradients of the parameters and return that of x (None unless `inputs_too`).

        x, y: inputs and outputs of the last forward; dy: gradient of the loss at y, which may be overwritten.
        """
        raise NotImplementedError


@register("layer", "dense")
class Dense(Layer, frozen=True, kw_only=True):
    """y = x weight + bias.

    The weight is stored as (fan-in, width), or as its transpose "weight.T" if the layer is narrow: products with long rows
    and without a large transposed matrix take BLAS up to a third less time.
    """

    width: Count

    @property
    def narrow(self):
        return self.width < 64

    def build(self, shape):
        return (self.width,)

    def parameters(self, shape):
        weight = (prod(shape), self.width)
        return {"weight.T": weight[::-1], "bias": (self.width,)} if self.narrow else {"weight": weight, "bias": (self.width,)}

    def footprint(self, shape, inputs_too):
        return self.width + prod(shape) * (1 if self.narrow else 2) * inputs_too

    def forward(self, scratch, parameters, x):
        weight, bias = parameters
        y = scratch.array("y", (*x.shape[:2], self.width))
        scratch.xp.matmul(x, weight.swapaxes(1, 2) if self.narrow else weight, out=y)
        return scratch.xp.add(y, bias[:, None], out=y)

    def backward(self, scratch, parameters, gradients, x, y, dy, inputs_too):
        xp, weight, (b, n, fan_in) = scratch.xp, parameters[0], x.shape
        # d weight = x^T dy, or its transpose; d bias = sum over samples of dy
        left, right = (dy, x) if self.narrow else (x, dy)
        xp.matmul(left.swapaxes(1, 2), right, out=gradients[0])
        xp.matmul(scratch.ones(1, n), dy, out=gradients[1][:, None])
        if not inputs_too:
            return None
        dx = scratch.array("dx", x.shape)
        if self.narrow:
            return xp.matmul(dy, weight, out=dx)
        # dx^T = weight dy^T
        transposed = xp.matmul(weight, dy.swapaxes(1, 2), out=scratch.array("dx^T", (b, fan_in, n)))
        dx[...] = transposed.swapaxes(1, 2)
        return dx


@register("layer", "flatten")
class Flatten(Layer, frozen=True, kw_only=True):
    """Images to features, channel first. The model puts this layer before a dense one where it is needed."""

    def build(self, shape):
        return (prod(shape),)

    def footprint(self, shape, inputs_too):
        return 2 * prod(shape) * inputs_too

    def forward(self, scratch, parameters, x):
        features = (*x.shape[:2], prod(x.shape[2:]))
        if x.flags.c_contiguous:
            return x.reshape(features)
        y = scratch.array("y", features)
        y.reshape(x.shape)[...] = x
        return y

    def backward(self, scratch, parameters, gradients, x, y, dy, inputs_too):
        if not inputs_too:
            return None
        dx = scratch.array("dx", x.shape)
        dx[...] = dy.reshape(x.shape)
        return dx


@register("layer", "relu")
class Relu(Layer, frozen=True, kw_only=True):
    """y = x where x > 0, else 0."""

    def footprint(self, shape, inputs_too):
        return prod(shape)

    def forward(self, scratch, parameters, x):
        # two passes, and one backward, are faster than `maximum`; no layer below needs the numbers set to zero
        slope = scratch.xp.greater(x, 0, out=scratch.array("slope", x.shape))
        return scratch.xp.multiply(x, slope, out=x if scratch.owns_inputs else scratch.array("y", x.shape))

    def backward(self, scratch, parameters, gradients, x, y, dy, inputs_too):
        return scratch.xp.multiply(dy, scratch.array("slope", y.shape), out=dy)


@register("layer", "tanh")
class Tanh(Layer, frozen=True, kw_only=True):
    """y = tanh(x)."""

    def footprint(self, shape, inputs_too):
        return 2 * prod(shape)

    def forward(self, scratch, parameters, x):
        return scratch.xp.tanh(x, out=scratch.array("y", x.shape))

    def backward(self, scratch, parameters, gradients, x, y, dy, inputs_too):
        # dx = dy (1 - y^2)
        xp, slope = scratch.xp, scratch.array("slope", y.shape)
        xp.multiply(y, y, out=slope)
        xp.subtract(1, slope, out=slope)
        return xp.multiply(dy, slope, out=dy)
