"""The training loss after as many epochs: coopmpi's algorithms and PyTorch's DDP, on the task of benchmarks.slow_network.

Each takes the learning rate of the grid with which its loss is least at the end, with seed 0. Root only, as the ranks are hosts;
the environment of PyTorch is made as for slow-network.
"""

import argparse
import os
import sys
from math import ceil, inf
from pathlib import Path
from statistics import mean

from numpy import nan_to_num

from benchmarks._torch_ranks import EVERY
from benchmarks._trainings import BATCH, COOPMPI, LRS, RANKS, TORCH, Results, Trainings
from benchmarks.hosts import hosts
from benchmarks.timing import table

SAMPLES = 4000
RATE = 10_000  # Mbit/s, which changes no number
METHODS = ("ddp", "sync-sgd", "local-sgd", "overlap-local-sgd", "squarm-sgd")


def main(arguments):
    parser = argparse.ArgumentParser(prog="python -m benchmarks epochs", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-python", metavar="PATH", default=os.environ.get("COOPMPI_TORCH_PYTHON"), help="(default: COOPMPI_TORCH_PYTHON)")
    parser.add_argument("--methods", nargs="*", choices=(*COOPMPI, *TORCH), default=METHODS, metavar="METHOD")
    parser.add_argument("--seeds", nargs="*", type=int, default=(1, 2, 3), metavar="SEED")
    parser.add_argument("--epochs", nargs="*", type=int, default=(2, 5, 10))
    parser.add_argument("--folder", type=Path, default=Path("epochs"), help="what is finished lies there and is not repeated")
    options = parser.parse_args(arguments)
    if not options.torch_python:
        parser.exit(2, "give --torch-python ENV/bin/python or set COOPMPI_TORCH_PYTHON, as for slow-network\n")
    marks = [ceil(epochs * SAMPLES / RANKS / BATCH / EVERY) for epochs in options.epochs]  # evaluations
    steps = EVERY * max(marks)
    options.folder.mkdir(exist_ok=True)
    folder = options.folder.absolute()
    trainings = Trainings(folder, options.torch_python, steps, 0.0)
    results = Results(folder / f"results-{steps}.jsonl")

    def outcome(network, method, seed, lr):
        if results.get(method, seed, lr) is None:
            results.put((method, seed, lr), trainings.train(network, method, seed, lr))
            print(f"{method}, seed {seed}, lr {lr}: loss {results.get(method, seed, lr)['loss']:.4f}", file=sys.stderr, flush=True)
        return results.get(method, seed, lr)

    rows = []
    with hosts(RANKS, RATE) as network:
        for method in options.methods:
            lr = min(LRS, key=lambda lr: nan_to_num(outcome(network, method, 0, lr)["loss"], nan=inf))
            runs = [outcome(network, method, seed, lr) for seed in options.seeds]
            cells = [_of([run["losses"][mark] for run in runs], ".4f") for mark in marks]
            rows.append((method, f"{lr:g}{' (edge)' if lr in (LRS[0], LRS[-1]) else ''}", *cells,
                         _of([run["accuracy"] for run in runs], ".2%"), f"{mean(run['bytes'] for run in runs) / 1e6:.3f}"))
    table((f"{RANKS} ranks, batch {BATCH}, {len(options.seeds)} seeds", "lr", *(f"training loss, {count} epochs" for count in options.epochs),
           "held out, correct", "MB per step"), rows)


def _of(values, shape):
    return f"{mean(values):{shape}} ({min(values):{shape}} to {max(values):{shape}})"
