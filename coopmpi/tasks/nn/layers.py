"""Layers for b workers at once: arrays (b, n, ...) hold n samples of each worker, parameters (b, ...).

A layer is a table of the run description, {type = "conv", channels = 16, kernel = 3}, and holds no arrays: what it
needs from call to call is in the Scratch that it is given, one per layer and shape of input.
"""

from math import prod
from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from coopmpi.errors import UserError
from coopmpi.ranges import Count, Whole
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

    def build(self, shape):
        """The shape of one output for one input of `shape`; UserError if the layer cannot take it."""
        return shape

    def parameters(self, shape):
        """{name: shape} of what is trained, in the order of the flat vector; the weight comes first."""
        return {}

    def fan_in(self, shape):
        """How many inputs one output adds up."""
        return prod(shape)

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

    The weight is stored as (fan-in, width), or as (width, fan-in) if the layer is narrow: products with long rows
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
        return {"weight": weight[::-1] if self.narrow else weight, "bias": (self.width,)}

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


def windows(images, size, stride, height, width):
    """Pixel (i, j) of every window, for all i, j < size: views (..., height, width) of the images."""
    return [images[..., i:i + stride * height:stride, j:j + stride * width:stride]
            for i in range(size) for j in range(size)]


def check_images(shape, window, padding=0):
    """UserError if one input is no image, (channels, height, width), or smaller than the window."""
    if len(shape) != 3:
        raise UserError(f"takes images, but gets {prod(shape)} features; allowed: data with an image shape, "
                        f"and no dense or flatten layer before")
    if min(shape[1:]) + 2 * padding < window:
        raise UserError(f"window {window} x {window}, but the image is {shape[1]} x {shape[2]} with padding "
                        f"{padding}; allowed: windows up to {min(shape[1:]) + 2 * padding}")


@register("layer", "conv")
class Conv(Layer, frozen=True, kw_only=True):
    """Cross-correlation of images with square kernels: one product with the matrix of all windows (im2col)."""

    channels: Count
    kernel: Count
    stride: Count = 1
    padding: Whole = 0

    def build(self, shape):
        check_images(shape, self.kernel, self.padding)
        height, width = ((side + 2 * self.padding - self.kernel) // self.stride + 1 for side in shape[1:])
        return self.channels, height, width

    def parameters(self, shape):
        return {"weight": (self.channels, shape[0], self.kernel, self.kernel), "bias": (self.channels,)}

    def fan_in(self, shape):
        return shape[0] * self.kernel**2

    def footprint(self, shape, inputs_too):
        _, height, width = self.build(shape)
        padded = shape[0] * prod(side + 2 * self.padding for side in shape[1:])
        dx = padded + prod(shape) if self.padding else padded
        return height * width * (self.channels + self.fan_in(shape)) + padded + dx * inputs_too

    def forward(self, scratch, parameters, x):
        xp, (weight, bias), (b, n, *shape) = scratch.xp, parameters, x.shape
        y = scratch.array("y", (b, n, *self.build(shape)))
        # columns[:, c, k] = pixel k of every window on channel c
        padded, columns = self._padded(scratch, "padded x", x), self._columns(scratch, x, y)
        padded[self._inside(x)] = x
        views = scratch.keep("pixels", lambda: windows(padded, self.kernel, self.stride, *y.shape[3:]))
        for k, view in enumerate(views):
            columns[:, :, k] = view.swapaxes(1, 2)
        # y = weight columns + bias
        rows = self._rows(y)
        xp.matmul(weight.reshape(b, self.channels, -1), columns.reshape(b, -1, rows.shape[2]), out=rows)
        xp.add(rows, bias[:, :, None], out=rows)
        return y

    def backward(self, scratch, parameters, gradients, x, y, dy, inputs_too):
        xp, b = scratch.xp, x.shape[0]
        rows, columns = self._rows(dy), self._columns(scratch, x, y)
        matrix = columns.reshape(b, -1, rows.shape[2])
        xp.matmul(rows, matrix.swapaxes(1, 2), out=gradients[0].reshape(b, self.channels, -1))
        xp.matmul(rows, scratch.ones(rows.shape[2], 1), out=gradients[1][:, :, None])
        if not inputs_too:
            return None
        # every window adds its share to the pixels that it covers; what was in the columns is not needed any more
        xp.matmul(parameters[0].reshape(b, self.channels, -1).swapaxes(1, 2), rows, out=matrix)
        padded = self._padded(scratch, "padded dx", x)
        padded[...] = 0
        views = scratch.keep("shares", lambda: windows(padded, self.kernel, self.stride, *y.shape[3:]))
        for k, view in enumerate(views):
            xp.add(view, columns[:, :, k].swapaxes(1, 2), out=view)
        if not self.padding:
            return padded
        dx = scratch.array("dx", x.shape)
        dx[...] = padded[self._inside(x)]
        return dx

    def _columns(self, scratch, x, y):
        (b, n, c), size = x.shape[:3], y.shape[3:]
        return scratch.array("columns", (b, c, self.kernel**2, n, *size))

    def _padded(self, scratch, name, x):
        """Images like x with a border of zeros."""
        *outer, height, width = x.shape
        return scratch.array(name, (*outer, height + 2 * self.padding, width + 2 * self.padding))

    def _inside(self, x):
        """Where x is in its padded image."""
        return ..., *(slice(self.padding, self.padding + side) for side in x.shape[3:])

    @staticmethod
    def _rows(images):
        """(b, n, channels, h, w) -> (b, channels, n h w): the same memory."""
        by_channel = images.swapaxes(1, 2)
        return by_channel.reshape(*by_channel.shape[:2], -1)


@register("layer", "pool")
class Pooling(Layer, frozen=True, kw_only=True):
    """The maximum or mean of windows side by side; rows and columns that fill no window are left out."""

    kind: Literal["max", "mean"] = "max"
    size: Annotated[int, Meta(ge=1, le=256)] = 2

    def build(self, shape):
        check_images(shape, self.size)
        return shape[0], shape[1] // self.size, shape[2] // self.size

    def footprint(self, shape, inputs_too):
        return 2 * prod(self.build(shape)) + prod(shape) * inputs_too

    def forward(self, scratch, parameters, x):
        y = scratch.array("y", (*x.shape[:2], *self.build(x.shape[2:])))
        views = windows(x, self.size, self.size, *y.shape[3:])
        (self._maximum if self.kind == "max" else self._mean)(scratch, views, y)
        return y

    def backward(self, scratch, parameters, gradients, x, y, dy, inputs_too):
        if not inputs_too:
            return None
        xp, dx = scratch.xp, scratch.array("dx", x.shape)  # what fills no window stays zero
        for k, view in enumerate(windows(dx, self.size, self.size, *y.shape[3:])):
            if self.kind == "max":
                won = xp.equal(scratch.array("winner", y.shape), k, out=scratch.array("larger", y.shape))
                xp.multiply(dy, won, out=view)
            else:
                xp.multiply(dy, 1 / self.size**2, out=view)
        return dx

    @staticmethod
    def _maximum(scratch, views, y):
        """Notes which pixel of each window is the largest, the first of equals. NaN counts as the largest."""
        xp = scratch.xp
        winner, larger = scratch.array("winner", y.shape, "uint16"), scratch.array("larger", y.shape, bool)
        number = scratch.array("number", y.shape, "uint16")
        y[...] = views[0]
        winner[...] = 0
        for k, view in enumerate(views[1:], start=1):
            xp.greater(view, y, out=larger)
            xp.maximum(y, view, out=y)
            # winner <- k where larger: k is above all earlier ones, and a masked copy takes ten times as long
            xp.maximum(winner, xp.multiply(larger.view("uint8"), xp.uint16(k), out=number), out=winner)

    @staticmethod
    def _mean(scratch, views, y):
        xp = scratch.xp
        y[...] = views[0]
        for view in views[1:]:
            xp.add(y, view, out=y)
        xp.multiply(y, 1 / len(views), out=y)


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
