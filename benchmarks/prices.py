"""Does a simulation with measured prices tell what a step costs? One rank of two is timed, and its step is forecast."""

import argparse
import tomllib
from itertools import count
from statistics import median
from time import perf_counter

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.descriptions import read
from benchmarks.timing import table
from coopmpi import config
from coopmpi.drivers.solo import Solo
from coopmpi.run import measure
from coopmpi.run.assemble import assemble
from coopmpi.run.cost import Rehearsal

COMPRESSORS = ("sign", "topk", "qsgd", "randk", "fp16")
CASES = [*((algorithm, None) for algorithm in ("sync-sgd", "local-sgd", "d-psgd", "gradient-tracking", "powersgd")),
         *((algorithm, kind) for algorithm in ("choco-sgd", "deepsqueeze", "double-compressed") for kind in COMPRESSORS)]
TASKS = {"million": measure.BUILTIN["task"], "digits": {"data": "digits"}}
TAU = 2
STEPS = 4 * TAU  # that are timed together


class Twin(Rehearsal):
    """Rank 0 of two: the other one sends what this one sends, and nothing takes time but a copy.

    ranges: are packets of ranges of the model sent? Those of the other one's range fit nowhere here, and zeros come in their place.
    """

    def __init__(self, ranges):
        super().__init__(0, 2)
        self.ranges = ranges

    def exchange(self, sends, receives, device, number, part=0):
        for (_, row, _), (_, out) in zip(sends, receives):
            out[...] = 0 if self.ranges else row
        return self.done

    def all_sum(self, source, target, device):
        np.multiply(source, 2, out=target)
        return self.done


def main(arguments):
    parser = argparse.ArgumentParser(prog="python -m benchmarks prices", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--task", choices=TASKS, default="million")
    options = parser.parse_args(arguments)
    base = {"workers": 2, "steps": 10**6, "device": "cpu", "task": TASKS[options.task], "optimizer": {"lr": 0.01}}
    with threadpool_limits(1):
        rows = _rows(base, options.rounds)
    table(("algorithm", "compressor", "a step, ms", "forecast / measured", "gradient alone / measured"), rows)


def _rows(base, rounds):
    tables = {case: read(base | {"algorithm": {"kind": case[0]}, "period": {"tau": TAU}, "compress": {"kind": case[1] or "none"}})
              for case in CASES}
    steppers = {case: _stepper(tables[case]) for case in CASES}
    found = {case: [] for case in CASES}
    for _ in range(rounds):
        # what slows the machine for a while slows both sides
        prices = tomllib.loads(measure.table(*measure.measured(config.resolve(base))))["compute"]
        for case, step in steppers.items():
            seconds = step()
            found[case].append((seconds, _forecast(tables[case], prices) / seconds, prices["seconds"] / seconds))
    for (algorithm, kind), figures in found.items():
        seconds, forecast, gradient = map(median, zip(*figures))
        yield algorithm, kind or "", f"{1e3 * seconds:.3g}", f"{forecast:.2f}", f"{gradient:.2f}"


def _stepper(tables):
    """A function that carries out STEPS steps of rank 0; the seconds of one."""
    assembly = assemble(config.resolve(tables), Twin(tables["algorithm"]["kind"] == "double-compressed"))
    (state, _), numbers = assembly.start(), count()

    def step():
        begin = perf_counter()
        for _ in range(STEPS):
            assembly.driver.step(assembly.config.algorithm, state, assembly.context, next(numbers))
        return (perf_counter() - begin) / STEPS

    step()
    return step


def _forecast(tables, prices):
    """Virtual seconds of a step on a network that costs nothing."""
    free = {"compute": prices, "network": {"kind": "delay", "seconds": 0.0}}
    assembly = assemble(config.resolve(tables | free), Solo(), "time-only")
    state, _ = assembly.start()
    for k in range(STEPS):
        assembly.driver.step(assembly.config.algorithm, state, assembly.context, k)
    return assembly.clocks.time / STEPS
