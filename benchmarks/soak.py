"""Eight ranks for an hour, with checkpoints, copies in memory and evaluations: memory and open files may not grow."""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.descriptions import settings
from benchmarks.timing import table

RANKS, PAUSE, SAMPLE = 8, 0.04, 10.0  # seconds of a gradient; between two looks at the ranks
WARM_UP = 0.1  # share of the time after which the first figures are taken


def main(arguments):
    parser = argparse.ArgumentParser(prog="python -m benchmarks soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--algorithm", default="squarm-sgd")
    options = parser.parse_args(arguments)
    root = str(Path(__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    keys = {"workers": RANKS, "steps": 10**8, "record.eval_every": 100, "task.kind": "python", "task.function": "benchmarks._mortal:task",
            "task.options": f"{{pause = {PAUSE}, numbers = 100000}}", "algorithm.kind": options.algorithm, "compress.kind": "topk",
            "period.tau": 8, "survive.every_seconds": 5, "checkpoint.every_steps": 500}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        process = subprocess.Popen(
            [sys.executable, "-m", "coopmpi", "train", "-n", str(RANKS), "--survive", "--quiet", "-o", "run.h5",
             *settings(keys)], env=environment)
        try:
            samples = _watched(process, options.minutes)
        finally:
            process.terminate()
            process.wait()
        first, last = (np.array(s) for s in (samples[int(WARM_UP * len(samples))], samples[-1]))
        rows = [(rank, *(f"{before:g} -> {after:g}" for before, after in zip(first[rank], last[rank]))) for rank in range(RANKS)]
        table(("rank", "resident memory, MB", "open files", "threads"), rows)
        print(f"{len(samples)} looks in {options.minutes:g} minutes; exit status {process.returncode}; "
              f"run.h5 has {os.path.getsize('run.h5') / 1e6:.0f} MB")


def _watched(process, minutes):
    """[[(MB, files, threads) of each rank] at each look]."""
    files = [Path(f"pid-{rank}") for rank in range(RANKS)]
    while process.poll() is None and not all(file.exists() for file in files):
        time.sleep(0.1)
    samples, end = [], time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        time.sleep(SAMPLE)
        if process.poll() is not None:
            raise SystemExit(f"the run has ended by itself with status {process.returncode}")
        samples.append([_look(int(file.read_text(encoding="utf-8"))) for file in files])
    return samples


def _look(pid):
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines())
    return round(int(status["VmRSS"].split()[0]) / 1e3, 1), len(os.listdir(f"/proc/{pid}/fd")), int(status["Threads"])
