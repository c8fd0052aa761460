"""Seconds per step of overlapped algorithms with and without evaluations, in which transfers go on while the clock stands.

Two ranks on two hosts made of network namespaces (root only), with a slow link between them. Gradients leave the core
idle, as those on a GPU do; in one case transfers hide behind them, in the other these last several times as long.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import sleep

import h5py
import numpy as np

from benchmarks.descriptions import settings
from benchmarks.hosts import hosts
from benchmarks.timing import table

ALGORITHMS = {"overlap-local-sgd": {}, "cocod-sgd": {}, "overlap-dpa": {"mixing.lazy": True},
              "easgd": {"algorithm.overlap": True}, "streaming-diloco": {"algorithm.delay": 4}, "overlap-sgp": {},
              "d-psgd": {"mixing.lazy": True}, "local-sgd": {}}
MEGABYTES = 1.0  # the model
OFTEN = (8, 5)  # steps between evaluations: after every round, since tau is 8; everywhere in a period
GRADIENTS = {"hidden": 0.020, "exposed": 0.003}  # seconds


class Idle:
    """Gradients and evaluations that take some seconds in which nothing is computed."""

    def __init__(self, place, seconds, evaluation):
        self.dimension, self.seconds, self.evaluation = round(MEGABYTES * 1e6 / 4), seconds, evaluation
        self._zeros = np.zeros((len(place.hosted), self.dimension), place.dtype)

    def initial(self):
        return self._zeros[0].copy()

    def gradient(self, x, step):
        sleep(self.seconds)
        return self._zeros[:, 0].copy(), self._zeros

    def evaluate(self, mean):
        sleep(self.evaluation)
        return {"loss": (0.0, 1)}


def main(arguments):
    parser = argparse.ArgumentParser(prog="python -m benchmarks pauses", description=__doc__)
    parser.add_argument("--rate", type=int, default=100, help="Mbit/s of each host's link (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=80, help="(default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--evaluation", type=float, default=0.1, help="seconds (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=tuple(ALGORITHMS), default=tuple(ALGORITHMS))
    options = parser.parse_args(arguments)
    rows = []
    with hosts(2, options.rate) as network, tempfile.TemporaryDirectory() as folder:
        for algorithm in options.only:
            for case, gradient in GRADIENTS.items():
                rows.append((algorithm, case, *_case(network, Path(folder, "run.h5"), algorithm, gradient, options)))
                print(*rows[-1], file=sys.stderr, flush=True)
    table(("algorithm", "transfers", "ms per step", *(f"evaluated every {every}" for every in OFTEN), "ratios"), rows)


def _case(network, output, algorithm, gradient, options):
    """Cells of a row: medians over the repeats, in which runs take turns."""
    found = {every: [] for every in (options.steps, *OFTEN)}
    for _ in range(options.repeats):
        for every, seconds in found.items():
            seconds.append(_seconds_per_step(network, output, algorithm, gradient, every, options))
    alone, *others = (median(seconds) for seconds in found.values())
    ratios = [median(b / a for a, b in zip(found[options.steps], found[every])) for every in OFTEN]
    return (f"{1e3 * alone:.2f}", *(f"{1e3 * other:.2f}" for other in others), " ".join(f"{ratio:.2f}" for ratio in ratios))


def _seconds_per_step(network, output, algorithm, gradient, every, options):
    command, environment = network.mpirun()
    keys = {"steps": options.steps, "algorithm.kind": algorithm, "record.eval_every": every, "task.kind": "python",
            "task.function": "benchmarks.pauses:Idle",
            "task.options": f"{{seconds = {gradient}, evaluation = {options.evaluation}}}"} | ALGORITHMS[algorithm]
    train = [sys.executable, "-m", "coopmpi", "train", "--quiet", "--overwrite", "-o", str(output), *settings(keys)]
    subprocess.run([*command, *train], env=environment | {"OMP_NUM_THREADS": "1"}, check=True)
    with h5py.File(output) as file:
        return file["train/wall_time"][-1] / options.steps
