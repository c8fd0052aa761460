"""Local steps: against sums written out in float64, and the same bits whatever a rank hosts and the cache holds."""

from types import SimpleNamespace

import numpy as np
import pytest

from coopmpi import registry
from coopmpi.errors import UserError
from coopmpi.step import Context
from tests.compression import cached, numbers

B, D, STEPS, LR = 4, 33, 5, 0.1
OPTIMIZERS = {
    "plain": {}, "decay": {"weight_decay": 0.1}, "momentum": {"momentum": 0.9},
    "momentum and decay": {"momentum": 0.9, "weight_decay": 0.1},
    "nesterov": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    "adam": {"kind": "adam"}, "adam with decay": {"kind": "adam", "weight_decay": 0.1}, "adamw": {"kind": "adamw", "weight_decay": 0.1},
    "clipped": {"momentum": 0.9, "clip_norm": 5.5}, "adamw, clipped, biases spared": {
        "kind": "adamw", "weight_decay": 0.3, "clip_norm": 5.5, "no_decay": ["*.bias", "norm.*"]},
    "muon": {"kind": "muon"}, "muon, a matrix and biases spared": {
        "kind": "muon", "plain": ["b.weight"], "no_decay": ["*.bias", "norm.*"], "weight_decay": 0.3, "momentum": 0.8},
    "momentum, biases spared": {"momentum": 0.9, "weight_decay": 0.3, "no_decay": ["*.bias", "norm.*"]},
}
TENSORS = (("a.weight", (4, 3), 0), ("a.bias", (3,), 12), ("norm.scale", (5,), 15), ("b.weight", (2, 5), 20), ("b.bias", (3,), 30))
SPARED = np.r_[12:20, 30:33]
EVERY = pytest.mark.parametrize("name", OPTIMIZERS)


def gradients(dtype):
    return [numbers(B, D, dtype, seed) for seed in range(1, STEPS + 1)]


def steps(name, dtype, rows=slice(None), chunk=10**6, layout=np.array):
    """The models of these workers after some steps of coopmpi; layout: how a gradient lies in memory."""
    device = cached(chunk)
    optimizer = registry.build("optimizer", {"kind": "sgd"} | OPTIMIZERS[name])
    x = numbers(B, D, dtype)[rows].copy()
    state = SimpleNamespace(x=x, **{slot.name: np.zeros_like(x) for slot in optimizer.slots})
    context = Context(B, range(B)[rows], STEPS, optimizer, None, device, TENSORS, 0)
    for k, gradient in enumerate(gradients(dtype)):
        context.k, context.lr = k, LR
        context.descend(state, x, layout(gradient[rows]))
    return x


def orthogonal(matrix):
    """U p(S) V^T with the polynomial of Newton and Schulz, five times."""
    left, sizes, right = np.linalg.svd(matrix, full_matrices=False)
    sizes = sizes / np.linalg.norm(sizes)
    for _ in range(5):
        sizes = 3.4445 * sizes - 4.775 * sizes**3 + 2.0315 * sizes**5
    return left * sizes @ right


def written_out(name):
    """The same in float64, as the docstrings of the optimisers say."""
    keys, x, m, v = OPTIMIZERS[name], numbers(B, D, "float64"), 0, 0
    momentum, decay = np.zeros((B, D)), np.full(D, keys.get("weight_decay", 0.1 if keys.get("kind") == "muon" else 0.0))
    if "no_decay" in keys:
        decay[SPARED] = 0
    for t, g in enumerate(gradients("float64"), start=1):
        if "clip_norm" in keys:
            norm = np.linalg.norm(g, axis=1, keepdims=True)
            g = g * np.minimum(1, keys["clip_norm"] / (norm + 1e-6))
        if keys.get("kind") not in ("adamw", "muon"):
            g = g + decay * x
        if keys.get("kind", "sgd") != "sgd":
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            direction = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
            if keys["kind"] == "muon":
                for place, shape in ((slice(0, 12), (4, 3)), *([(slice(20, 30), (2, 5))] if "plain" not in keys else ())):
                    momentum[:, place] = keys.get("momentum", 0.95) * momentum[:, place] + g[:, place]
                    ahead = g[:, place] + keys.get("momentum", 0.95) * momentum[:, place]
                    for row, values in zip(direction, ahead):
                        row[place] = 0.2 * max(shape) ** 0.5 * orthogonal(values.reshape(shape)).ravel()
            if keys["kind"] != "adam":
                direction = direction + decay * x
        else:
            v = keys.get("momentum", 0) * v + g
            direction = g + keys["momentum"] * v if keys.get("nesterov") else v
        x = x - LR * direction
    return x


@EVERY
@pytest.mark.parametrize("dtype, accuracy", [("float32", 1e-5), ("float64", 1e-14)])
def test_equals_what_is_written_out(name, dtype, accuracy):
    x = steps(name, dtype)
    assert x.dtype == dtype and np.allclose(x, written_out(name), rtol=0, atol=accuracy)


@EVERY
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("chunk", [1, 8, 40, 10**6])
def test_workers_together_or_alone_give_the_same_bits(name, dtype, chunk):
    together = steps(name, dtype)
    assert np.array_equal(steps(name, dtype, chunk=chunk), together)
    alone = [steps(name, dtype, slice(i, i + 1), chunk) for i in range(B)]
    assert np.array_equal(np.concatenate(alone), together)


@EVERY
@pytest.mark.parametrize("layout", [lambda g: np.array(g, order="F"), lambda g: np.repeat(g, 2, axis=1)[:, ::2]])
def test_gradients_need_not_be_contiguous(name, layout):
    assert np.array_equal(steps(name, "float32", chunk=8, layout=layout), steps(name, "float32"))


def test_a_pattern_that_spares_nothing_is_refused():
    optimizer = registry.build("optimizer", {"kind": "adamw", "no_decay": ["a.biass"]})
    with pytest.raises(UserError, match=r"no_decay: unknown tensor of the model 'a.biass'; did you mean 'a.bias'\?"):
        optimizer.groups(TENSORS)


def test_tensors_that_decay_alike_are_taken_together():
    optimizer = registry.build("optimizer", {"kind": "sgd", "weight_decay": 0.5, "no_decay": ["*.bias", "norm.*"]})
    assert optimizer.groups(TENSORS) == [(slice(0, 12), 0.5), (slice(12, 20), 0.0), (slice(20, 30), 0.5), (slice(30, None), 0.0)]


def test_some_gradients_of_these_tests_are_clipped_and_some_are_not():
    norms = np.linalg.norm(gradients("float64"), axis=2)
    assert (norms > 5.5).any() and (norms < 5.5).any()
