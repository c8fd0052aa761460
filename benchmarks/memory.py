"""Memory of a rank against the forecast of a dry run; start-up times and memory of a large mixing."""

import argparse
import subprocess
import sys
import tempfile
import time
import tracemalloc
from statistics import median

import numpy as np

from benchmarks.descriptions import read
from benchmarks.timing import table

ALGORITHMS = ("local-sgd", "d-psgd", "sync-sgd", "easgd")
BIG = {"steps": 60, "checkpoint": {"every_minutes": 0}, "task": {"hidden": [2048, 2048]},
       "record": {"eval_every": 60}, "optimizer": {"momentum": 0.9, "lr": 0.01}, "period": {"tau": 4}}
SMALL = {"steps": 20, "checkpoint": {"every_minutes": 0}}


def main(arguments):
    parser = argparse.ArgumentParser(prog="python -m benchmarks memory", description=__doc__)
    parser.add_argument("--rank", nargs=2, metavar=("ALGORITHM", "DATA"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.rank:
        _measure(*options.rank)
        return
    from coopmpi.drivers.mpi.launch import mpirun

    command, environment = mpirun(2, lambda text: None)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        data = f"{folder}/data.npz"
        draw = np.random.default_rng(0)
        np.savez(data, x=draw.standard_normal((20000, 784), np.float32), y=draw.integers(0, 10, 20000))
        for algorithm in ALGORITHMS:
            again = [sys.executable, "-m", "benchmarks", "memory", "--rank", algorithm, data]
            out = subprocess.run([*command, *again], env=environment, check=True, capture_output=True, text=True).stdout
            measured, forecast = map(float, out.split())
            rows.append((algorithm, f"{measured:.0f}", f"{forecast:.0f}", f"{measured / forecast:.2f}"))
    table(("2 workers on 2 ranks", "resident MB", "forecast MB", "ratio"), rows)
    table(("", "median", "bound"), [
        ("coopmpi --help", f"{_seconds_of('-m', 'coopmpi', '--help'):.2f} s", "0.2 s"),
        ("65,536-worker exponential graph, one rank's rows", *_mixing())])


def _measure(algorithm, data):
    """On each rank: growth of resident memory over a training run."""
    from coopmpi import config
    from coopmpi.drivers.mpi.world import connect
    from coopmpi.run.assemble import assemble
    from coopmpi.run.cost import estimate
    from coopmpi.run.session import begin

    world = connect()

    def train(tables):
        assembly = assemble(config.resolve(read(tables | {"workers": 2, "device": "cpu", "algorithm": {"kind": algorithm}})), world)
        trainer = begin(assembly, world, f"{data}.{algorithm}.{tables['steps']}.h5")
        trainer.train()
        return trainer, assembly

    # libraries and their own buffers are there before and after
    train(SMALL)
    np.ones((2048, 2048), np.float32) @ np.ones((2048, 2048), np.float32)
    before = _resident()
    trainer, assembly = train(BIG | {"task": BIG["task"] | {"data": data}})
    measured = _resident() - before
    if world.rank == 0:
        print(measured / 1e6, sum(estimate(assembly).memory.values()) / 1e6)


def _resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def _seconds_of(*arguments):
    seconds = []
    for _ in range(9):
        begin = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        seconds.append(time.perf_counter() - begin)
    return median(seconds)


def _mixing():
    from coopmpi.topology.mixing import mixing_table

    begin = time.perf_counter()
    tracemalloc.start()
    mixing = mixing_table(graph="exponential").bind(65536, 0)
    rows = [mixing.row(i, 0) for i in range(16)]
    peak = tracemalloc.get_traced_memory()[1]
    seconds = time.perf_counter() - begin
    return f"{seconds * 1e3:.1f} ms, {peak / 1e3:.0f} kB for {len(rows)} rows of {len(rows[0])}", "2 s, O(degree)"
