"""Speed and memory of `coopmpi simulate` with thousands of workers on one core, and of --time-only."""

import argparse
import resource
import subprocess
import sys
import tempfile
from itertools import count
from pathlib import Path
from time import perf_counter

from benchmarks.descriptions import read
from benchmarks.timing import interleaved, table
from coopmpi import config
from coopmpi.drivers.solo import Solo
from coopmpi.run.assemble import assemble

CASES = (("local-sgd", ""), ("d-psgd", "ring"), ("d-psgd", "exponential"))
PERIOD = 8  # steps that are timed together


def main(arguments):
    parser = argparse.ArgumentParser(prog="python -m benchmarks simulate", description=__doc__)
    parser.add_argument("--workers", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--case", nargs=2, metavar=("ALGORITHM", "GRAPH"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.case:
        _measure(*options.case, options.workers, options.repeats)
        return
    rows = []
    for algorithm, graph in CASES:
        for workers in (options.workers // 4, options.workers // 2, options.workers):
            # a process of its own: what one case has held is not counted in the next
            again = [sys.executable, "-m", "benchmarks", "simulate", "--case", algorithm, graph,
                     "--workers", str(workers), "--repeats", str(options.repeats)]
            out = subprocess.run(again, check=True, capture_output=True, text=True).stdout
            seconds, ratio, memory, models = map(float, out.split())
            rows.append((f"{algorithm} {graph}", workers, f"{workers / seconds:,.0f}", f"{ratio:.2f}",
                         f"{memory / 1e6:.0f}", f"{memory / models:.1f}"))
    table(("mlp 64-128-10, batch 32", "workers", "worker-steps/s", "time / without clocks", "MB",
           "MB / MB of m models"), rows)
    print("bounds at 4,096 workers: 10,000 worker-steps/s on one core, memory linear in m times d\n")
    table(("time alone, without numbers", "result", "aim"), [
        ("mlp 784-1024-512-10, 16 workers, local-sgd: steps against the full simulation", f"{_ratio():,.0f}x", "100x"),
        ("65,536 workers, d-psgd on the exponential graph, 1,000 steps", f"{_many():.1f} s", "60 s")])


def _assembled(tables, mode):
    return assemble(config.resolve({"device": "cpu", "compute": {"kind": "exponential"}} | tables), Solo(), mode)


def _stepper(tables, mode):
    """A function that carries out so many steps."""
    assembly = _assembled(tables, mode)
    driver, context, steps = assembly.driver, assembly.context, count()
    state, _ = assembly.start()

    def go(n):
        for _, k in zip(range(n), steps):
            driver.step(assembly.config.algorithm, state, context, k)
            assembly.clocks.account()

    return go


def _ratio():
    """How many times as many steps per second the simulation of time alone makes."""
    from threadpoolctl import threadpool_limits

    tables = {"workers": 16, "task": {"data": "teacher", "features": 784, "samples": 2000, "hidden": [1024, 512]}}
    full, alone = _stepper(tables, "simulate"), _stepper(tables, "time-only")
    with threadpool_limits(1):
        times = interleaved({"full": lambda: full(PERIOD), "alone": lambda: alone(1000 * PERIOD)}, 5, warm_up=1)
    return 1000 / times["alone"].ratio


def _many():
    """Seconds of a whole run, its result file included."""
    from coopmpi.run.session import train

    begin = perf_counter()
    tables = {"workers": 65536, "steps": 1000, "task": {"data": "teacher", "samples": 100_000},
              "algorithm": {"kind": "d-psgd"}, "mixing": {"graph": "exponential"}}
    with tempfile.TemporaryDirectory() as folder:
        train(_assembled(tables, "time-only"), Solo(), Path(folder, "sim.h5"))
    return perf_counter() - begin


def _measure(algorithm, graph, workers, repeats):
    """Print seconds per step with clocks, their ratio to those without, bytes held at most, bytes of m models."""
    from threadpoolctl import threadpool_limits

    tables = read({"workers": workers, "device": "cpu", "period": {"tau": PERIOD},
                   "task": {"data": "teacher", "features": 64, "samples": 100_000, "hidden": [128]},
                   "algorithm": {"kind": algorithm}, "mixing": {"graph": graph or "ring"},
                   "compute": {"kind": "exponential"}, "network": {"kind": "links", "egress": 1e9}})
    before = _held()
    assembly = _assembled(tables, "simulate")
    driver, run, clocks, steps = assembly.driver, assembly.context, assembly.clocks, count()
    state, _ = assembly.start()

    def period(clocks):
        driver.clocks = clocks
        for _, k in zip(range(PERIOD), steps):
            driver.step(assembly.config.algorithm, state, run, k)

    candidates = {"without": lambda: period(None), "with": lambda: period(clocks)}
    with threadpool_limits(1):
        times = interleaved(candidates, repeats)
    print(times["with"].seconds / PERIOD, times["with"].ratio, _held() - before, state.x.nbytes)


def _held():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
