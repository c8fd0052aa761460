"""Every layer and loss against central differences in float64 and against independent references."""

import numpy as np
import pytest
from scipy.signal import correlate2d
from scipy.special import log_softmax

from coopmpi.tasks.nn.images import Conv, GlobalPooling, GroupNorm, Pooling
from coopmpi.tasks.nn.layers import Dense, Flatten, Relu, Scratch, Tanh
from coopmpi.tasks.nn.losses import count_correct, cross_entropy, squared_error
from coopmpi.tasks.nn.stack import LAYERS, Residual

EPSILON = 1e-6
CASES = [
    (Dense(width=4), (7,)),
    (Dense(width=70), (3,)),  # wide layers take another way through backward
    (Conv(channels=3, kernel=3), (2, 5, 7)),
    (Conv(channels=2, kernel=3, padding=1), (1, 4, 4)),
    (Conv(channels=3, kernel=2, stride=2), (2, 5, 6)),
    (Conv(channels=1, kernel=4, stride=3, padding=2), (3, 6, 5)),
    (Conv(channels=2, kernel=1, stride=2), (2, 3, 5)),
    (Pooling(kind="max"), (2, 5, 4)),
    (Pooling(kind="max", size=3), (1, 7, 6)),
    (Pooling(kind="mean"), (2, 5, 4)),
    (Pooling(kind="mean", size=3), (1, 7, 6)),
    (GlobalPooling(), (2, 3, 4)),
    (GroupNorm(groups=2), (4, 2, 3)),
    (GroupNorm(groups=1), (3, 2, 2)),
    (GroupNorm(groups=3), (3, 3, 2)),
    (Residual(layers=[{"type": "conv", "channels": 2, "kernel": 3, "padding": 1}, {"type": "tanh"}]), (2, 3, 4)),
    (Residual(layers=[{"type": "conv", "channels": 4, "kernel": 3, "padding": 1, "stride": 2}, {"type": "group-norm", "groups": 2}]),
     (2, 4, 5)),
    (Residual(layers=[{"type": "dense", "width": 5}, {"type": "tanh"}, {"type": "dense", "width": 6}]), (6,)),
    (Residual(layers=[{"type": "tanh"}]), (3,)),
    (Flatten(), (2, 3, 2)),
    (Relu(), (6,)),
    (Relu(), (2, 3, 3)),
    (Tanh(), (6,)),
    (Tanh(), (2, 3, 3)),
]


def name(case):
    layer, shape = case
    keys = "-".join(str(getattr(layer, key)) for key in layer.__struct_fields__)
    return f"{layer.name}-{keys}-{'x'.join(map(str, shape))}"


def central_differences(f, x):
    """d f / d x for a function of an array, number by number."""
    slope = np.empty(x.shape)
    for where in np.ndindex(x.shape):
        kept = x[where]
        x[where] = kept + EPSILON
        above = f()
        x[where] = kept - EPSILON
        slope[where] = (above - f()) / (2 * EPSILON)
        x[where] = kept
    return slope


def relative_error(a, b):
    return np.abs(a - b).max() / max(np.abs(b).max(), 1e-3)


def test_every_layer_is_checked():
    assert {layer.name for layer, _ in CASES} == set(LAYERS)


@pytest.mark.parametrize("b, n", [(1, 1), (1, 3), (3, 2)])
@pytest.mark.parametrize("case", CASES, ids=name)
def test_gradients_are_central_differences(case, b, n):
    layer, shape = case
    rng = np.random.default_rng(3)
    x = rng.standard_normal((b, n, *shape))
    parameters = [rng.standard_normal((b, *size)) for size in layer.parameters(shape).values()]
    gradients = [np.full_like(p, np.nan) for p in parameters]
    slope = rng.standard_normal((b, n, *layer.build(shape)))
    scratch = Scratch(np, np.dtype(float), owns_inputs=False)

    def functional():
        return (slope * layer.forward(scratch, parameters, x)).sum()

    for _ in range(2):  # the second time in arrays that are not fresh any more
        y = layer.forward(scratch, parameters, x)
        assert y.shape == slope.shape
        dx = layer.backward(scratch, parameters, gradients, x, y, slope.copy(), inputs_too=True).copy()
    assert relative_error(dx, central_differences(functional, x)) < 1e-6
    for gradient, parameter in zip(gradients, parameters):
        assert relative_error(gradient, central_differences(functional, parameter)) < 1e-6


@pytest.mark.parametrize("stride, padding", [(1, 0), (1, 1), (2, 0), (2, 1), (3, 2)])
def test_convolution_is_cross_correlation(stride, padding):
    rng = np.random.default_rng(0)
    layer, shape = Conv(channels=4, kernel=3, stride=stride, padding=padding), (2, 7, 8)
    x, weight, bias = rng.standard_normal((2, 3, *shape)), rng.standard_normal((2, 4, 2, 3, 3)), rng.random((2, 4))
    y = layer.forward(Scratch(np, np.dtype(float)), [weight, bias], x)
    for worker, sample, channel in np.ndindex(2, 3, 4):
        padded = np.pad(x[worker, sample], ((0, 0), (padding, padding), (padding, padding)))
        products = [correlate2d(*pair, "valid") for pair in zip(padded, weight[worker, channel])]
        expected = sum(products)[::stride, ::stride] + bias[worker, channel]
        np.testing.assert_allclose(y[worker, sample, channel], expected, atol=1e-12)


def test_pooling_reduces_windows_side_by_side():
    x = np.arange(2 * 1 * 1 * 5 * 4, dtype=float).reshape(2, 1, 1, 5, 4) % 7
    for kind, reduce in (("max", np.max), ("mean", np.mean)):
        y = Pooling(kind=kind).forward(Scratch(np, x.dtype), [], x)
        for worker, i, j in np.ndindex(2, 2, 2):
            assert y[worker, 0, 0, i, j] == reduce(x[worker, 0, 0, 2 * i:2 * i + 2, 2 * j:2 * j + 2])


def test_the_first_of_equal_maxima_gets_the_whole_gradient():
    layer, scratch, x = Pooling(), Scratch(np, np.dtype(float)), np.ones((1, 1, 1, 2, 2))
    y = layer.forward(scratch, [], x)
    dx = layer.backward(scratch, [], [], x, y, np.ones_like(y), inputs_too=True)
    assert dx.ravel().tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("layer", [Pooling(), Pooling(kind="mean"), Relu(), Tanh()], ids=lambda layer: layer.name)
@pytest.mark.parametrize("place", range(4))
def test_nan_is_not_hidden(layer, place):
    x = np.ones((1, 1, 1, 2, 2))
    x.reshape(-1)[place] = np.nan
    assert np.isnan(layer.forward(Scratch(np, x.dtype), [], x)).any()


def losses_of(loss, outputs, targets, weights):
    """(losses (b, n), gradient) without touching the outputs."""
    gradient, losses = outputs.copy(), np.empty(outputs.shape[:2], outputs.dtype)
    loss(Scratch(np, outputs.dtype), gradient, targets, weights, losses)
    return losses, gradient


def example(loss, b=3, n=4, outputs=5):
    rng = np.random.default_rng(1)
    labels = rng.integers(0, outputs, (b, n))
    targets = labels if loss is cross_entropy else rng.standard_normal((b, n, outputs))
    return 3 * rng.standard_normal((b, n, outputs)), targets, rng.random((b, n))


@pytest.mark.parametrize("loss", [cross_entropy, squared_error])
def test_loss_gradients_are_central_differences(loss):
    outputs, targets, weights = example(loss)
    _, gradient = losses_of(loss, outputs, targets, weights)

    def total():
        return (weights * losses_of(loss, outputs, targets, weights)[0]).sum()

    assert relative_error(gradient, central_differences(total, outputs)) < 1e-6


def test_cross_entropy_is_the_negative_log_softmax_at_the_label():
    outputs, labels, weights = example(cross_entropy)
    losses, _ = losses_of(cross_entropy, outputs, labels, weights)
    expected = -np.take_along_axis(log_softmax(outputs, axis=-1), labels[..., None], -1)[..., 0]
    np.testing.assert_allclose(losses, expected, rtol=1e-12)


def test_squared_error_is_half_the_squared_distance():
    outputs, targets, weights = example(squared_error)
    losses, gradient = losses_of(squared_error, outputs, targets, weights)
    np.testing.assert_allclose(losses, np.linalg.norm(outputs - targets, axis=-1) ** 2 / 2, rtol=1e-12)
    np.testing.assert_array_equal(gradient, (outputs - targets) * weights[..., None])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cross_entropy_survives_huge_outputs(dtype):
    outputs = np.array([[[1e30, 0, -1e30], [-5e4, -5e4, -5e4]]], dtype)
    losses, gradient = losses_of(cross_entropy, outputs, np.array([[0, 1]]), np.ones((1, 2), dtype))
    np.testing.assert_allclose(losses, [[0, np.log(3)]], rtol=1e-6)
    np.testing.assert_allclose(gradient[0], [[0, 0, 0], [1 / 3, -2 / 3, 1 / 3]], rtol=1e-6)


def test_correct_predictions_are_counted():
    outputs = np.array([[[0.0, 2, 1], [3, 2, 1], [0, 0, 1]]])
    assert count_correct(outputs, np.array([[1, 1, 2]])) == 2
