"""Compressors at work in tests: one table of keys for each kind, and the way through the wire."""

import numpy as np
import pytest

from coopmpi import registry
from coopmpi.device.host import Host
from coopmpi.tasks.nn.models import Layout

SEED, ROUND = 5, 7
SHAPES = [("weight", (40, 30)), ("bias", (30,)), ("conv", (6, 3, 3, 3)), ("one", (1,)), ("scalar", ())]
LAYOUT = Layout(SHAPES)
D = LAYOUT.size
TABLES = {
    "none": {}, "topk": {"fraction": 0.1}, "randk": {"fraction": 0.1}, "sign": {}, "sign-topk": {"fraction": 0.1},
    "qsgd": {"levels": 15}, "lowrank": {"rank": 2}, "fp16": {}, "bf16": {},
}
KINDS = pytest.mark.parametrize("kind", TABLES)


def build(kind, **keys):
    return registry.build("compress", {"kind": kind} | TABLES[kind] | keys)


def bind(kind, shapes=SHAPES, dtype="float32", device=None, seed=SEED, **keys):
    return build(kind, **keys).bind(Layout(shapes), dtype, device or Host(), seed)


def through(codec, x, workers=None, round=ROUND):
    """C(x) by way of the wire."""
    workers = range(len(x)) if workers is None else workers
    packed = codec.encode(x, workers, round)
    assert packed.shape == (len(x), codec.nbytes) and packed.dtype == np.uint8
    return codec.decode(packed, workers, round, np.full_like(x, np.nan))


def cached(chunk):
    """The CPU with a cache of so many numbers: longer rows are worked on in pieces."""
    device = Host()
    device.chunk = chunk
    return device


def compressed(kind, x, shape=None, device=None, **keys):
    """C(x) of one tensor x (n,)."""
    codec = bind(kind, [("x", shape or x.shape)], x.dtype, device, **keys)
    return through(codec, x.reshape(1, -1))[0]


def numbers(b=3, d=D, dtype="float32", seed=0):
    return np.random.default_rng(seed).standard_normal((b, d)).astype(dtype)


def squared(x):
    return np.sum(np.square(x, dtype="float64"))
