"""Local steps: against sums written out in float64, and the same bits whatever a rank hosts and the cache holds."""

from types import SimpleNamespace

import numpy as np
import pytest

from coopmpi import registry
from coopmpi.step import Context
from tests.compression import cached, numbers

B, D, STEPS, LR = 4, 33, 5, 0.1
OPTIMIZERS = {
    "plain": {}, "decay": {"weight_decay": 0.1}, "momentum": {"momentum": 0.9},
    "momentum and decay": {"momentum": 0.9, "weight_decay": 0.1},
    "nesterov": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    "adam": {"kind": "adam"}, "adam with decay": {"kind": "adam", "weight_decay": 0.1},
}
EVERY = pytest.mark.parametrize("name", OPTIMIZERS)


def gradients(dtype):
    return [numbers(B, D, dtype, seed) for seed in range(1, STEPS + 1)]


def steps(name, dtype, rows=slice(None), chunk=10**6, layout=np.array):
    """The models of these workers after some steps of coopmpi; layout: how a gradient lies in memory."""
    device = cached(chunk)
    optimizer = registry.build("optimizer", {"kind": "sgd"} | OPTIMIZERS[name])
    x = numbers(B, D, dtype)[rows].copy()
    state = SimpleNamespace(x=x, **{slot.name: np.zeros_like(x) for slot in optimizer.slots})
    context = Context(B, range(B)[rows], STEPS, optimizer, None, device, [], 0)
    for k, gradient in enumerate(gradients(dtype)):
        context.k, context.lr = k, LR
        context.descend(state, x, layout(gradient[rows]))
    return x


def written_out(name):
    """The same in float64, as the docstrings of the optimisers say."""
    keys, x, m, v = OPTIMIZERS[name], numbers(B, D, "float64"), 0, 0
    for t, g in enumerate(gradients("float64"), start=1):
        g = g + keys.get("weight_decay", 0) * x
        if keys.get("kind") == "adam":
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            direction = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
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
