"""Compressors, rounds with two neighbours, and local optimisers, against one pass of additions over the same numbers."""

import argparse
from time import thread_time
from types import SimpleNamespace

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.descriptions import read
from benchmarks.timing import interleaved, table
from coopmpi import config, registry
from coopmpi.device.host import Host
from coopmpi.drivers.solo import Solo
from coopmpi.run.assemble import assemble
from coopmpi.step import Context
from coopmpi.tasks.nn.models import build_model

SIZES = 784, 1024, 512, 10  # of an mlp
COMPRESSORS = ({"kind": "none"}, {"kind": "topk", "fraction": 0.01}, {"kind": "topk", "fraction": 0.1},
               {"kind": "randk", "fraction": 0.01}, {"kind": "sign"}, {"kind": "sign-topk", "fraction": 0.01},
               {"kind": "sign-topk", "fraction": 0.1}, {"kind": "qsgd"}, {"kind": "lowrank"}, {"kind": "fp16"},
               {"kind": "bf16"})
ALGORITHMS = "choco-sgd", "squarm-sgd", "double-compressed"
OPTIMIZERS = {
    "sgd": {}, "momentum": {"momentum": 0.9}, "adam": {"kind": "adam"},
    "Nesterov, weight decay": {"momentum": 0.9, "nesterov": True, "weight_decay": 1e-4},
}
SPIKY = 0.03  # share of the numbers that are not zero in a sparse vector


class Echo(Solo):
    """Rank 0 of three with a worker each, whose two neighbours send what it sends: the time of one rank alone.

    ranges: are packets of ranges of the model sent? Those of another range fit nowhere here, and zeros come in their place.
    """

    size = 3

    def __init__(self, ranges):
        super().__init__()
        self.ranges = ranges

    def exchange(self, sends, receives, device, number, part=0):
        for _, row in receives:
            row[...] = 0 if self.ranges else sends[0][1]
        return self.done


class Drifting:
    """A problem whose gradients take no time: a few random vectors in turn."""

    def __init__(self, place):
        self.layout, self.dimension = tensors(), tensors().size
        self._gradients = np.random.default_rng(0).standard_normal((4, 1, self.dimension), np.float32)

    def initial(self):
        return np.zeros(self.dimension, np.float32)

    def gradient(self, x, step):
        return np.zeros(1, np.float32), self._gradients[step % len(self._gradients)]


def tensors():
    """The layout of the mlp."""
    features, *hidden, classes = SIZES
    return build_model("mlp", features, None, classes, hidden).layout


def plain_pass(d):
    """x += y over d numbers."""
    x, y = np.zeros(d, np.float32), np.ones(d, np.float32)
    return lambda: np.add(x, y, out=x)


def packing(compress, layout):
    """{what: function} of one worker's vector of random numbers, and of one with many zeros."""
    codec = registry.build("compress", compress).bind(layout, "float32", Host(), 0)
    draw = np.random.default_rng(0)
    x = draw.standard_normal((1, layout.size), np.float32)
    spiky, total = np.where(draw.random(x.shape) < SPIKY, x, np.float32(0)), np.zeros_like(x)
    packed = codec.encode(x, range(1), 0)
    return {"compress": lambda: codec.encode(x, range(1), 0), "compress zeros": lambda: codec.encode(spiky, range(1), 0),
            "unpack and add": lambda: codec.add(packed, range(1), 0, total)}


def stepper(algorithm, compress):
    """A function that makes a step with a round of the algorithm: all but gradients and the network."""
    assembly = assemble(config.resolve(read({
        "workers": 3, "device": "cpu", "optimizer": {"lr": 0.01}, "period": {"tau": 1}, "compress": compress,
        "algorithm": {"kind": algorithm}, "task": {"kind": "python", "function": "benchmarks.compression:Drifting"}})),
        Echo(algorithm == "double-compressed"))
    state, _ = assembly.start()
    steps = iter(range(10**9))

    def step():
        assembly.driver.step(assembly.config.algorithm, state, assembly.context, next(steps))

    return step


def descent(keys, d):
    """A function that makes one local step of one worker, its gradient given."""
    optimizer, device = registry.build("optimizer", {"kind": "sgd"} | keys), Host()
    draw = np.random.default_rng(0)
    x, gradient = draw.standard_normal((2, 1, d), np.float32)
    state = SimpleNamespace(x=x, **{slot.name: np.zeros_like(x) for slot in optimizer.slots})
    context = Context(1, range(1), 1, optimizer, None, device, [], 0)
    context.k, context.lr = 0, 1e-6
    return lambda: context.descend(state, x, gradient)


def main(arguments):
    parser = argparse.ArgumentParser(prog="python -m benchmarks compression", description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args(arguments)
    layout = tensors()
    million = layout.size / 1e6

    def measured(candidates):
        candidates = {"x += y": plain_pass(layout.size)} | candidates
        timings = interleaved(candidates, options.repeats, clock=thread_time)
        first, *others = ((f"{1e3 * seconds / million:.2f}", f"{ratio:.0f}") for seconds, ratio in timings.values())
        return [first[0], *map("{0[0]} ({0[1]}x)".format, others)]

    print(f"processor time in ms per million numbers, of {layout.size:,}; in brackets: how often x += y in the same run\n")
    with threadpool_limits(1):
        rows = []
        for compress in COMPRESSORS:
            found = packing(compress, layout) | {algorithm: stepper(algorithm, compress) for algorithm in ALGORITHMS}
            rows.append((" ".join(map(str, compress.values())), *measured(found)))
        table(("", "x += y", "compress", f"{1 - SPIKY:.0%} zeros", "unpack and add", *ALGORITHMS), rows)
        print()
        table(("", "x += y", *OPTIMIZERS),
              [("local step", *measured({name: descent(keys, layout.size) for name, keys in OPTIMIZERS.items()}))])
