"""Models: layout, gradients of whole stacks, stacked workers, evaluation, and stacks that are refused."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coopmpi.errors import UserError
from coopmpi.tasks.nn import models
from coopmpi.tasks.nn.models import Layout, build_model

IMAGE = (2, 9, 6)
FEATURES = 2 * 9 * 6
STACKS = {
    "linear": dict(kind="linear"),
    "mlp": dict(kind="mlp", hidden=[9, 70]),
    "cnn": dict(kind="cnn"),
    "relu first": dict(kind="mlp", layers=[{"type": "relu"}, {"type": "dense", "width": 5}]),
    "tanh relu": dict(kind="mlp", layers=[{"type": "dense", "width": 8}, {"type": "tanh"}, {"type": "relu"}]),
    "pool first": dict(kind="cnn", layers=[{"type": "pool", "kind": "mean"}, {"type": "dense", "width": 6}]),
    "strides": dict(kind="cnn", layers=[
        {"type": "conv", "channels": 3, "kernel": 3, "stride": 2, "padding": 1}, {"type": "tanh"},
        {"type": "conv", "channels": 1, "kernel": 2}, {"type": "relu"}, {"type": "flatten"},
        {"type": "dense", "width": 6}, {"type": "relu"}]),
    "residual": dict(kind="cnn", layers=[
        {"type": "conv", "channels": 4, "kernel": 3}, {"type": "group-norm", "groups": 2}, {"type": "relu"},
        {"type": "residual", "layers": [{"type": "relu"}, {"type": "conv", "channels": 4, "kernel": 3, "padding": 1}]}, {"type": "relu"},
        {"type": "residual", "layers": [
            {"type": "conv", "channels": 6, "kernel": 3, "stride": 2, "padding": 1}, {"type": "group-norm", "groups": 3},
            {"type": "residual", "layers": [{"type": "tanh"}]}]},
        {"type": "global-pool"}]),
    "residual first": dict(kind="mlp", layers=[{"type": "residual", "layers": [{"type": "tanh"}, {"type": "dense", "width": FEATURES}]}]),
    "regression": dict(kind="mlp", hidden=[7], loss="squared-error"),
}


def example(stack, b, n, dtype=np.float64, seed=0):
    """A model with three outputs and random arguments of loss_and_gradient."""
    model = build_model(input_features=FEATURES, image_shape=IMAGE, outputs=3, **STACKS[stack])
    rng = np.random.default_rng(seed)
    x = np.stack([model.initial(rng, np.float64) for _ in range(b)])
    x += 0.1 * rng.standard_normal(x.shape)
    inputs = rng.standard_normal((b, n, FEATURES)).astype(dtype)
    targets = rng.integers(0, 3, (b, n)) if model.classifies else rng.standard_normal((b, n, 3)).astype(dtype)
    return model, x.astype(dtype), inputs, targets, rng


def gradient_of(model, x, inputs, targets, weights=None):
    gradient = np.full(x.shape, np.nan, x.dtype)
    return model.loss_and_gradient(np, x, inputs, targets, weights, gradient), gradient


@pytest.mark.parametrize("stack", STACKS)
def test_gradients_are_central_differences(stack):
    model, x, inputs, targets, rng = example(stack, b=2, n=3)
    weights = rng.random((2, 3))
    _, gradient = gradient_of(model, x, inputs, targets, weights)
    # along random directions inside each tensor, so that an error in a small one is not lost in the rest
    epsilon = 1e-6
    for entry in model.layout:
        direction = np.zeros_like(x)
        direction[:, entry.offset:entry.offset + entry.size] = rng.standard_normal((2, entry.size))
        above, _ = gradient_of(model, x + epsilon * direction, inputs, targets, weights)
        below, _ = gradient_of(model, x - epsilon * direction, inputs, targets, weights)
        slope, expected = (gradient * direction).sum(axis=1), (above - below) / (2 * epsilon)
        np.testing.assert_allclose(slope, expected, rtol=1e-6, atol=1e-8, err_msg=entry.name)


@settings(max_examples=40, deadline=None)
@given(stack=st.sampled_from(sorted(STACKS)), b=st.integers(2, 9), n=st.integers(1, 9),
       dtype=st.sampled_from([np.float32, np.float64]), block=st.sampled_from([1, 30_000, 2**30]),
       weighted=st.booleans(), seed=st.integers(0, 9))
def test_stacked_workers_equal_single_runs_bit_for_bit(stack, b, n, dtype, block, weighted, seed):
    model, x, inputs, targets, rng = example(stack, b, n, dtype, seed)
    weights = rng.random((b, n)).astype(dtype) if weighted else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "HOST_BLOCK", block)
        losses, gradient = gradient_of(model, x, inputs, targets, weights)
    for i in range(b):
        own = slice(i, i + 1)
        loss, single = gradient_of(model, x[own], inputs[own], targets[own], weights[own] if weighted else None)
        np.testing.assert_array_equal(loss, losses[own])
        np.testing.assert_array_equal(single, gradient[own])


@pytest.mark.parametrize("stack", STACKS)
def test_evaluation_agrees_with_training_loss(stack, monkeypatch):
    model, x, inputs, targets, _ = example(stack, b=1, n=23)
    monkeypatch.setattr(models, "HOST_BLOCK", 5 * 8 * model._footprint)  # five samples at once
    losses, gradient = gradient_of(model, x, inputs, targets)
    loss, correct = model.evaluate(np, x, inputs[0], targets[0])
    assert float(loss) / 23 == pytest.approx(losses[0], rel=1e-12)
    if model.classifies:
        alone = [model.evaluate(np, x, inputs[0, i:i + 1], targets[0, i:i + 1])[1] for i in range(23)]
        assert correct == sum(alone)
    else:
        assert correct is None
    # an evaluation in between changes nothing
    again, gradient_again = gradient_of(model, x, inputs, targets)
    np.testing.assert_array_equal(again, losses)
    np.testing.assert_array_equal(gradient_again, gradient)


@pytest.mark.parametrize("stack", STACKS)
def test_arguments_stay_as_they_are(stack):
    model, x, inputs, targets, _ = example(stack, b=2, n=3)
    kept = x.copy(), inputs.copy(), targets.copy()
    gradient_of(model, x, inputs, targets)
    model.evaluate(np, x[:1], inputs[0], targets[0])
    for before, after in zip(kept, (x, inputs, targets)):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("stack", ["mlp", "cnn", "residual"])
def test_a_step_allocates_nothing_large(stack):
    # large against the buffers of fixed size that numpy converts types in
    model, x, inputs, targets, _ = example(stack, b=4, n=1000)
    gradient = np.empty_like(x)
    model.loss_and_gradient(np, x, inputs, targets, None, gradient)
    tracemalloc.start()
    model.loss_and_gradient(np, x, inputs, targets, None, gradient)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < inputs.nbytes / 8


@pytest.mark.parametrize("stack", ["mlp", "cnn", "strides", "tanh relu", "residual"])
def test_workspace_is_what_a_step_keeps(stack):
    model, x, inputs, targets, _ = example(stack, b=4, n=300, dtype=np.float32)
    gradient = np.empty_like(x)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    losses = model.loss_and_gradient(np, x, inputs, targets, None, gradient)
    kept = tracemalloc.get_traced_memory()[0] - before - losses.nbytes
    tracemalloc.stop()
    assert model.workspace(np, 4, 300, x.dtype) == pytest.approx(kept, rel=0.1)


def test_weights_of_zero_leave_samples_out():
    model, x, inputs, targets, _ = example("mlp", b=2, n=5)
    weights = np.array([[1 / 3, 1 / 3, 1 / 3, 0, 0], [0.2] * 5])
    losses, gradient = gradient_of(model, x, inputs, targets, weights)
    short, short_gradient = gradient_of(model, x[:1], inputs[:1, :3], targets[:1, :3])
    np.testing.assert_allclose(losses[0], short[0], rtol=1e-12)
    np.testing.assert_allclose(gradient[0], short_gradient[0], atol=1e-14)


def test_gradient_of_linear_regression_vanishes_at_least_squares():
    model = build_model("linear", 4, None, 2, loss="squared-error")
    rng = np.random.default_rng(0)
    inputs, targets = rng.standard_normal((1, 50, 4)), rng.standard_normal((1, 50, 2))
    solution, *_ = np.linalg.lstsq(np.c_[inputs[0], np.ones(50)], targets[0])
    x = np.empty((1, model.layout.size))
    for view, entry, value in zip(model.layout.views(x), model.layout, (solution[:4], solution[4])):
        view[0] = value if view[0].shape == value.shape else value.T
        assert entry.name in ("1.dense.weight.T", "1.dense.bias")
    losses, gradient = gradient_of(model, x, inputs, targets)
    assert np.abs(gradient).max() < 1e-12
    assert losses[0] < gradient_of(model, np.zeros_like(x), inputs, targets)[0][0]


def test_one_output_takes_targets_without_axis():
    model = build_model("mlp", 4, None, 1, hidden=[5], loss="squared-error")
    rng = np.random.default_rng(0)
    x, inputs, targets = model.initial(rng, np.float64)[None], rng.random((1, 6, 4)), rng.random((1, 6))
    flat, column = (gradient_of(model, x, inputs, some) for some in (targets, targets[..., None]))
    for one, other in zip(flat, column):
        np.testing.assert_array_equal(one, other)


def test_layout_covers_the_flat_vector_without_gaps():
    model = build_model("cnn", FEATURES, IMAGE, 3)
    offset = 0
    for entry in model.layout:
        assert entry.offset == offset
        offset += entry.size
    assert offset == model.layout.size
    assert len({entry.name for entry in model.layout}) == len(model.layout)


@pytest.mark.parametrize("b", [1, 3])
def test_layout_views_are_the_flat_array(b):
    layout = Layout([("weight", (3, 4)), ("bias", (4,)), ("kernel", (2, 1, 3, 3))])
    wide = np.arange(b * 50, dtype=float).reshape(b, 50)
    shared = np.broadcast_to(wide[:1, :layout.size], (b, layout.size))
    for flat in (wide[:, :layout.size], wide[:, 5:5 + layout.size], shared):  # row stride 50 or 0, not d
        for view, entry in zip(layout.views(flat), layout):
            assert view.shape == (b, *entry.shape)
            assert np.shares_memory(view, wide)
            np.testing.assert_array_equal(view.reshape(b, -1), flat[:, entry.offset:entry.offset + entry.size])


def test_initial_weights_have_the_variance_that_relu_needs():
    model = build_model("mlp", 400, None, 10, hidden=[300, 200])
    x = model.initial(np.random.default_rng(0), np.float64)
    for view, entry, gain in zip(model.layout.views(x[None]), model.layout, (2, 0, 2, 0, 1, 0)):
        fan_in = {"1": 400, "3": 300, "5": 200}[entry.name[0]]
        assert view.std() == pytest.approx(np.sqrt(gain / fan_in), rel=0.05)


def test_initial_models_agree_in_both_precisions():
    model = build_model("cnn", FEATURES, IMAGE, 3)
    single, double = (model.initial(np.random.default_rng(5), dtype) for dtype in (np.float32, np.float64))
    assert single.dtype == np.float32
    np.testing.assert_array_equal(single, double.astype(np.float32))


def test_a_model_with_one_layer_starts_at_zero():
    assert not build_model("linear", 4, None, 3).initial(np.random.default_rng(0), np.float64).any()


@pytest.mark.parametrize("layers, message", [
    ([{"type": "dense", "width": 4}, {"type": "conv", "channels": 2, "kernel": 3}],
     r"layer 2 \(conv\) takes images"),
    ([{"type": "flatten"}, {"type": "pool"}], r"layer 2 \(pool\) takes images"),
    ([{"type": "conv", "channels": 2, "kernel": 7}], r"layer 1 \(conv\) window 7 x 7, but the image is 9 x 6"),
    ([{"type": "pool", "size": 3}, {"type": "pool", "size": 3}], r"layer 2 \(pool\) window 3 x 3"),
    ([{"type": "convolution", "channels": 2}], "layer 1: unknown layer 'convolution'; did you mean 'conv'"),
    ([{"type": "relu"}, {"type": "conv", "chanels": 2, "kernel": 3}],
     r"layer 2 \(conv\).*did you mean 'channels'"),
    ([{"type": "conv", "channels": 2}], r"layer 1 \(conv\).*kernel"),
    ([{"type": "dense", "width": 0}], r"layer 1 \(dense\) width.*given 0"),
    ([{"type": "dense", "width": "4"}], r"layer 1 \(dense\) width.*given '4'"),
    ([{"type": "pool", "kind": "median"}], r"layer 1 \(pool\) kind: unknown value 'median'; did you mean 'mean'\? \(allowed: max, mean\)"),
    ([{"type": "conv", "channels": 6, "kernel": 3}, {"type": "group-norm"}], r"layer 2 \(group-norm\) groups = 8 must divide the 6 channels"),
    ([{"type": "residual", "layers": [{"type": "pool", "size": 1}, {"type": "flatten"}]}], r"layer 1 \(residual\) makes \(108,\) of \(2, 9, 6\)"),
    ([{"type": "residual", "layers": [{"type": "rely"}]}], r"layer 1 inside a residual one: unknown layer 'rely'.*'relu'"),
    ([{"type": "residual", "layers": [{"type": "pool", "size": 7}]}], r"layer 1 \(residual\) inside, layer 1 \(pool\) window 7 x 7"),
    ([{"width": 4}], "layer 1: a table with a type"),
    (["relu"], "layer 1: a table with a type"),
    ([{"type": ["relu"]}], "layer 1: a table with a type"),
])
def test_stacks_that_cannot_work_are_refused(layers, message):
    with pytest.raises(UserError, match=message):
        build_model("cnn", FEATURES, IMAGE, 3, layers=layers)


def test_convolution_of_data_without_image_shape_is_refused():
    with pytest.raises(UserError, match=r"layer 1 \(conv\) takes images, but gets 108 features"):
        build_model("cnn", FEATURES, None, 3)


@pytest.mark.parametrize("keys, message", [
    ({"kind": "resnet", "depth": 18}, "depth of a resnet must be 8, 14, 20 and so on, 6 n . 2; given 18"),
    ({"kind": "vgg", "depth": 12}, "depth of a vgg must be one of 11, 13, 16, 19; given 12")])
def test_depths_that_there_are_not_are_refused(keys, message):
    with pytest.raises(UserError, match=message):
        build_model(input_features=3072, image_shape=(3, 32, 32), outputs=10, **keys)
