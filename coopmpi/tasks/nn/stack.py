"""Layers one after the other, and the layer that has such a stack inside."""

from math import prod
from typing import Any, NamedTuple

from coopmpi.errors import UserError, quoted, unknown
from coopmpi.registry import convert, register
from coopmpi.tasks.nn.images import Conv, GlobalPooling, GroupNorm, Pooling
from coopmpi.tasks.nn.layers import Dense, Flatten, Layer, Relu, Scratch, Tanh


class LayerInStack(NamedTuple):
    """A layer at its place in a stack."""

    layer: Layer
    shape: tuple  # of one input
    tensors: slice  # its entries among those of the stack


class Stack:
    """Layers for inputs of one shape. UserError if one does not fit; it names the layer.

    output: the shape of one output; tensors: (name, shape) of what is trained.
    """

    def __init__(self, layers, shape, where="[task] "):
        self.layers, self.tensors = [], []
        for number, layer in enumerate(layers, start=1):
            if isinstance(layer, Dense) and len(shape) > 1:
                self.layers.append(LayerInStack(Flatten(), shape, slice(0, 0)))
                shape = Flatten().build(shape)
            try:
                output = layer.build(shape)
            except UserError as error:
                raise UserError(f"{where}layer {number} ({layer.name}) {error}") from error
            own = [(f"{number}.{layer.name}.{name}", size) for name, size in layer.parameters(shape).items()]
            self.layers.append(LayerInStack(layer, shape, slice(len(self.tensors), len(self.tensors) + len(own))))
            self.tensors += own
            shape = output
        self.output = shape
        self.trained = [i for i, (layer, size, _) in enumerate(self.layers) if layer.parameters(size)]
        self._first = self.trained[0] if self.trained else len(self.layers)

    def footprint(self, inputs_too):
        """Numbers that one sample occupies in the scratches."""
        return sum(layer.footprint(size, inputs_too or i > self._first) for i, (layer, size, _) in enumerate(self.layers))

    def scratches(self, xp, dtype):
        """A Scratch for each layer. The inputs of the stack must not be overwritten."""
        return [Scratch(xp, dtype, i > self._first) for i in range(len(self.layers))]

    def initial(self, views, generator):
        """Fill the parameters at the start: gain 2 before a relu (He et al., 2015), 1 elsewhere."""
        for i, end in zip(self.trained, [*self.trained[1:], len(self.layers)]):
            layer, shape, tensors = self.layers[i]
            gain = 2 if any(isinstance(later.layer, Relu) for later in self.layers[i:end]) else 1
            layer.initial(views[tensors], shape, gain, generator)

    def forward(self, scratches, parameters, inputs):
        """The inputs, and the outputs of every layer."""
        values = [inputs]
        for (layer, _, tensors), scratch in zip(self.layers, scratches):
            values.append(layer.forward(scratch, parameters[tensors], values[-1]))
        return values

    def backward(self, scratches, parameters, gradients, values, dy, inputs_too=False):
        """Write the gradients of the parameters and return that of the inputs (None unless `inputs_too`)."""
        for i in range(len(self.layers) - 1, -1 if inputs_too else self._first - 1, -1):
            layer, _, tensors = self.layers[i]
            dy = layer.backward(scratches[i], parameters[tensors], gradients[tensors], values[i], values[i + 1], dy,
                                inputs_too=inputs_too or i > self._first)
        return dy if inputs_too else None


@register("layer", "residual")
class Residual(Layer, frozen=True, kw_only=True):
    """y = x + what the layers inside make of x. Where they change the shape, a convolution of 1 x 1 does so for x."""

    layers: list[dict[str, Any]]

    @property
    def takes_images(self):
        return any(layer.takes_images for layer in self._layers())

    def build(self, shape):
        output = self._inside(shape).output
        shortcut = self._shortcut(shape, output)
        if (shortcut.build(shape) if shortcut else shape) != output:
            raise UserError(f"makes {output} of {shape} inside, which no convolution of 1 x 1 does; allowed: the same shape, or images "
                            "whose sides a stride divides alike")
        return output

    def parameters(self, shape):
        inside = self._inside(shape)
        shortcut = self._shortcut(shape, inside.output)
        own = shortcut.parameters(shape).items() if shortcut else ()
        return dict(inside.tensors) | {f"shortcut.{name}": size for name, size in own}

    def initial(self, tensors, shape, gain, generator):
        inside = self._inside(shape)
        inside.initial(tensors, generator)
        if shortcut := self._shortcut(shape, inside.output):
            shortcut.initial(tensors[len(inside.tensors):], shape, 1, generator)

    def footprint(self, shape, inputs_too):
        inside = self._inside(shape)
        shortcut = self._shortcut(shape, inside.output)
        return inside.footprint(inputs_too) + 2 * prod(inside.output) + (shortcut.footprint(shape, inputs_too) if shortcut else 0)

    def forward(self, scratch, parameters, x):
        inside, shortcut, (*scratches, own), values = self._kept(scratch, x)
        count = len(inside.tensors)
        values[:] = inside.forward(scratches, parameters[:count], x)
        values.append(shortcut.forward(own, parameters[count:], x) if shortcut else x)
        return scratch.xp.add(*values[-2:], out=scratch.array("y", values[-1].shape))

    def backward(self, scratch, parameters, gradients, x, y, dy, inputs_too):
        inside, shortcut, (*scratches, own), values = self._kept(scratch, x)
        count = len(inside.tensors)
        # the layers inside may overwrite dy
        past = scratch.array("past", dy.shape)
        past[...] = dy
        dx = inside.backward(scratches, parameters[:count], gradients[:count], values[:-1], dy, inputs_too)
        if shortcut:
            past = shortcut.backward(own, parameters[count:], gradients[count:], x, values[-1], past, inputs_too)
        return scratch.xp.add(dx, past, out=dx) if inputs_too else None

    def _layers(self):
        return [layer_of(table, f"[task] layer {number} inside a residual one") for number, table in enumerate(self.layers, start=1)]

    def _inside(self, shape):
        return Stack(self._layers(), shape, "inside, ")

    @staticmethod
    def _shortcut(shape, output):
        """What brings x to the shape of the output; None: nothing has to."""
        if shape == output or not len(shape) == len(output) == 3:
            return None
        return Conv(channels=output[0], kernel=1, stride=-(-shape[1] // output[1]))

    def _kept(self, scratch, x):
        """(stack, shortcut, scratches, values of the last forward)"""
        def make():
            inside = self._inside(x.shape[2:])
            scratches = [*inside.scratches(scratch.xp, scratch.dtype), Scratch(scratch.xp, scratch.dtype, False)]
            return inside, self._shortcut(x.shape[2:], inside.output), scratches, []
        return scratch.keep("inside", make)


LAYERS = {layer.name: layer for layer in (Conv, Dense, Flatten, GlobalPooling, GroupNorm, Pooling, Relu, Residual, Tanh)}


def layer_of(table, where):
    """The layer that a TOML table describes; UserError if it describes none."""
    if not isinstance(table, dict) or not isinstance(table.get("type"), str):
        raise UserError(f"{where}: a table with a type is needed, given {quoted(table)} (allowed: {', '.join(LAYERS)})")
    own = {key: value for key, value in table.items() if key != "type"}
    if table["type"] not in LAYERS:
        raise unknown("layer", table["type"], LAYERS, f"{where}: ")
    return convert(own, LAYERS[table["type"]], f"{where} ({table['type']})")
