"""Layers that take images, (channels, height, width) of one sample; see coopmpi.tasks.nn.layers."""

from math import prod
from typing import Annotated, Literal

from msgspec import Meta

from coopmpi.errors import UserError
from coopmpi.ranges import Count, Whole
from coopmpi.registry import register
from coopmpi.tasks.nn.layers import Layer

EPSILON = 1e-5  # is added to variances


def by_channel(images):
    """(b, n, channels, h, w) -> (b, channels, n, h w): the same memory where it is that of a Scratch."""
    b, n, channels = images.shape[:3]
    return images.swapaxes(1, 2).reshape(b, channels, n, -1)


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

    takes_images = True
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
        """(b, n, channels, h, w) -> (b, channels, n h w)."""
        rows = by_channel(images)
        return rows.reshape(*rows.shape[:2], -1)


@register("layer", "pool")
class Pooling(Layer, frozen=True, kw_only=True):
    """The maximum or mean of windows side by side; rows and columns that fill no window are left out."""

    takes_images = True
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


@register("layer", "global-pool")
class GlobalPooling(Layer, frozen=True, kw_only=True):
    """The mean of every channel: images to features."""

    takes_images = True

    def build(self, shape):
        check_images(shape, 1)
        return shape[:1]

    def footprint(self, shape, inputs_too):
        return 2 * shape[0] + prod(shape) * inputs_too

    def forward(self, scratch, parameters, x):
        xp, rows = scratch.xp, by_channel(x)
        sums = xp.matmul(rows, scratch.ones(rows.shape[3], 1), out=scratch.array("sums", (*rows.shape[:3], 1)))
        return xp.multiply(sums[..., 0].swapaxes(1, 2), 1 / rows.shape[3], out=scratch.array("y", x.shape[:3]))

    def backward(self, scratch, parameters, gradients, x, y, dy, inputs_too):
        if not inputs_too:
            return None
        dx = scratch.array("dx", x.shape)
        dx[...] = scratch.xp.multiply(dy, 1 / prod(x.shape[3:]), out=dy)[..., None, None]
        return dx


@register("layer", "group-norm")
class GroupNorm(Layer, frozen=True, kw_only=True):
    """y = weight (x - mean) / sqrt(variance + 1e-5) + bias, with the mean and variance of a group of channels of a sample.

    Wu & He, Group normalization, ECCV 2018. It does not look at other samples, so models of different workers can be averaged.
    """

    takes_images = True
    groups: Count = 8

    def build(self, shape):
        check_images(shape, 1)
        if shape[0] % self.groups:
            raise UserError(f"groups = {self.groups} must divide the {shape[0]} channels")
        return shape

    def parameters(self, shape):
        return {"weight": shape[:1], "bias": shape[:1]}

    def initial(self, tensors, shape, gain, generator):
        tensors[0][...] = 1

    def footprint(self, shape, inputs_too):
        return 4 * prod(shape) + 2 * shape[0]

    def forward(self, scratch, parameters, x):
        xp, (weight, bias) = scratch.xp, (tensor[:, :, None, None] for tensor in parameters)
        rows, normal, y = by_channel(x), self._normal(scratch, x), scratch.array("y", x.shape)
        out = by_channel(y)
        xp.subtract(rows, self._means(scratch, rows), out=normal)
        variance = self._means(scratch, xp.multiply(normal, normal, out=out))
        inverse = scratch.array("inverse", variance.shape)
        xp.sqrt(xp.add(variance, EPSILON, out=inverse), out=inverse)
        xp.multiply(normal, xp.divide(1, inverse, out=inverse), out=normal)
        xp.add(xp.multiply(normal, weight, out=out), bias, out=out)
        return y

    def backward(self, scratch, parameters, gradients, x, y, dy, inputs_too):
        xp, weight, rows, normal = scratch.xp, parameters[0][:, :, None, None], by_channel(dy), self._normal(scratch, x)
        work = by_channel(scratch.array("work", x.shape))
        xp.multiply(rows, normal, out=work)
        for gradient, numbers in zip(gradients, (work, rows)):
            numbers = numbers.reshape(*numbers.shape[:2], -1)
            xp.matmul(numbers, scratch.ones(numbers.shape[2], 1), out=gradient[:, :, None])
        if not inputs_too:
            return None
        # dx = (dn - mean dn - normal mean(dn normal)) / sqrt(variance + epsilon), dn = weight dy
        dx = scratch.array("dx", x.shape)
        out = by_channel(dx)
        product = self._means(scratch, xp.multiply(work, weight, out=work))
        xp.multiply(rows, weight, out=out)
        mean = self._means(scratch, out)
        xp.subtract(out, xp.multiply(normal, product, out=work), out=out)
        xp.subtract(out, mean, out=out)
        xp.multiply(out, scratch.array("inverse", mean.shape), out=out)
        return dx

    @staticmethod
    def _normal(scratch, x):
        return by_channel(scratch.array("normal", x.shape))

    def _means(self, scratch, rows):
        """Of the group of each channel in each sample, (b, channels, n, 1)."""
        xp, (b, channels, n, size) = scratch.xp, rows.shape
        sums = xp.matmul(rows, scratch.ones(size, 1)).reshape(b, self.groups, channels // self.groups, n, 1)
        means = xp.sum(sums, axis=2, keepdims=True) / (size * channels // self.groups)
        return xp.broadcast_to(means, sums.shape).reshape(b, channels, n, 1)
