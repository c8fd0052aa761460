"""Stacks of layers that have a name, as tables of a run description."""

from coopmpi.errors import UserError

VGG = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}  # convolutions of each width
RELU, NORM = {"type": "relu"}, {"type": "group-norm"}


def _conv(channels, stride=1):
    return {"type": "conv", "channels": channels, "kernel": 3, "stride": stride, "padding": 1}


def mlp(hidden):
    return [table for width in hidden for table in ({"type": "dense", "width": width}, RELU)]


def cnn():
    """Two convolutions with pooling."""
    return [table for channels in (16, 32) for table in (_conv(channels), RELU, {"type": "pool", "size": 2})]


def resnet(depth):
    """That of He et al., CVPR 2016, for images of 32 x 32: 6 n + 2 layers, with group norm; shortcuts are convolutions of 1 x 1."""
    if depth < 8 or depth % 6 != 2:
        raise UserError(f"[task] depth of a resnet must be 8, 14, 20 and so on, 6 n + 2; given {depth}")
    layers = [_conv(16), NORM, RELU]
    for channels in (16, 32, 64):
        for block in range(depth // 6):
            stride = 2 if channels > 16 and not block else 1
            layers += [{"type": "residual", "layers": [_conv(channels, stride), NORM, RELU, _conv(channels), NORM]}, RELU]
    return [*layers, {"type": "global-pool"}]


def vgg(depth):
    """That of Simonyan & Zisserman, ICLR 2015, for images of 32 x 32: with group norm, and one dense layer at the end."""
    if depth not in VGG:
        raise UserError(f"[task] depth of a vgg must be one of {', '.join(map(str, VGG))}; given {depth}")
    layers = []
    for channels, count in zip((64, 128, 256, 512, 512), VGG[depth]):
        layers += [*[table for _ in range(count) for table in (_conv(channels), NORM, RELU)], {"type": "pool", "size": 2}]
    return [*layers, {"type": "global-pool"}]


DEEP = {"resnet": (resnet, 20), "vgg": (vgg, 11)}  # with a depth, and its default
KINDS = ("linear", "mlp", "cnn", *DEEP)
