"""Seconds to the same training loss on four hosts with slow links: coopmpi, PyTorch, decent-dp; predicted and measured steps.

The hosts are network namespaces (root only) that share the cores of this machine. All train the same mlp 784-1024-512-10 on 5,000
MNIST digits, from the same initial model, over the same batches, with momentum 0.9. PyTorch has an environment of its own:

    python3 -m venv ENV; ENV/bin/pip install torch==2.13.0 mlxtend decent-dp

What is finished lies in --folder and is not repeated: a run that was cut off, or is to have more methods, seeds or rates, goes on.
"""

import argparse
import os
import subprocess
import sys
from math import nan
from pathlib import Path
from statistics import median

import tomli_w

from benchmarks._trainings import ALONE, COOPMPI, LRS, RANKS, TORCH, UNPREDICTED, Results, Trainings
from benchmarks.hosts import hosts
from benchmarks.timing import table

METHODS = (*COOPMPI, *TORCH)


def main(arguments):
    parser = argparse.ArgumentParser(prog="python -m benchmarks slow-network", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-python", metavar="PATH", default=os.environ.get("COOPMPI_TORCH_PYTHON"),
                        help="interpreter of that environment (default: COOPMPI_TORCH_PYTHON)")
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=METHODS, metavar="METHOD", help=", ".join(METHODS))
    parser.add_argument("--rates", nargs="*", type=int, default=(100, 1000), metavar="MBIT", help="(default: 100 1000)")
    parser.add_argument("--seeds", nargs="*", type=int, default=(1, 2, 3), metavar="SEED", help="(default: 1 2 3)")
    parser.add_argument("--lr", type=float, help=f"of all; default: the best of {LRS} with seed 0, of each")
    parser.add_argument("--steps", type=int, default=320, help="at most in a run (default: %(default)s)")
    parser.add_argument("--target", type=float, default=0.1, help="training loss of the mean model (default: %(default)s)")
    parser.add_argument("--folder", default="slow-network", help="(default: %(default)s)")
    options = parser.parse_args(arguments)
    if not options.torch_python:
        parser.exit(2, "the digits come from mlxtend: give --torch-python ENV/bin/python or set COOPMPI_TORCH_PYTHON, with ENV "
                       "made by\n    python3 -m venv ENV; ENV/bin/pip install torch==2.13.0 mlxtend decent-dp\n")
    bench = Bench(options)
    try:
        bench.run()
    except PermissionError as error:
        parser.exit(2, f"no hosts: {error}\n")
    finally:
        bench.report()


class Bench:
    """All runs that the options ask for, and their tables."""

    def __init__(self, options):
        self.options, folder = options, Path(options.folder).absolute()
        folder.mkdir(exist_ok=True)
        self.results = Results(folder / f"results-{options.steps}-{options.target:g}.jsonl")
        self.trainings = Trainings(folder, options.torch_python, options.steps, options.target)
        self.failed = set()  # methods

    def run(self):
        """Tune at the highest rate, since the rate changes no number; then all methods in turn, seed by seed."""
        options = self.options
        for rate in sorted(options.rates, reverse=True):
            with hosts(RANKS, rate) as network:
                if not options.lr and rate == max(options.rates):
                    self.train(network, rate, [(method, 0, lr) for method in options.methods if method not in ALONE for lr in LRS])
                if self.results.get("machine", rate) is None:
                    self.results.put(("machine", rate), self.trainings.measure(network, f"{rate}"))
                for seed in options.seeds:
                    self.train(network, rate, [(method, seed, self.lr(method)) for method in options.methods if self.lr(method)])

    def train(self, network, rate, wanted):
        """Those of (method, seed, lr) that are not finished yet."""
        todo = [run for run in wanted if self.results.get(run[0], rate, *run[1:]) is None]
        for number, (method, seed, lr) in enumerate(todo, start=1):
            what = f"{number}/{len(todo)}: {method}, {rate} Mbit/s, seed {seed}, lr {lr}"
            try:
                found = self.trainings.train(network, method, seed, lr)
            except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
                print(f"{what} failed: {error.stderr or error}", file=sys.stderr)
                self.failed.add(method)
                continue
            self.results.put((method, rate, seed, lr), found)
            print(f"{what}: loss {found['loss']:.3f} after {found['steps']} steps, {found.get('seconds', nan):.1f} s", file=sys.stderr, flush=True)

    def lr(self, method):
        """The learning rate that came to the target first; None if none has, or if a run failed: the grid would have a hole."""
        if method in self.failed:
            return None
        if self.options.lr or method in ALONE:
            return self.options.lr or LRS[0]
        reached = [(found["steps"], found["loss"], lr) for lr in LRS
                   if (found := self.results.get(method, max(self.options.rates), 0, lr)) and found["reached"]]
        return min(reached)[2] if reached else None

    def finished(self, method, rate):
        """The results of a method, one per seed."""
        found = [self.results.get(method, rate, seed, self.lr(method)) for seed in self.options.seeds]
        return [one for one in found if one]

    # tables
    def report(self):
        for rate in self.options.rates:
            methods = [method for method in self.options.methods if self.finished(method, rate)]
            print(f"\n{rate} Mbit/s, {RANKS} hosts, training loss {self.options.target:g}")
            table(("", "lr", "s/step", "MB/step", "waiting", "steps", "s to the target", "least to most", "against DDP",
                   "of the limit"), [self.row(method, rate) for method in methods])
            self.report_predictions(rate, [method for method in methods if method in COOPMPI and method not in UNPREDICTED])

    def row(self, method, rate):
        runs, lr = self.finished(method, rate), self.lr(method)
        edge = " (edge)" if not self.options.lr and lr in (LRS[0], LRS[-1]) and method not in ALONE else ""
        waiting = [found["waiting"] for found in runs if "waiting" in found]
        cells = [method, f"{lr:g}{edge}", f"{self.seconds_per_step(runs):.4f}", f"{_median(runs, 'bytes') / 1e6:.3f}",
                 f"{median(waiting):.0%}" if waiting else ""]
        if method in ALONE or not all(found["reached"] for found in runs):
            return [*cells, "", "", "", "", ""]
        seconds, ddp, limit = _median(runs, "seconds"), self.finished("ddp", rate), self.limit(rate)
        times = [found["seconds"] for found in runs]
        return [*cells, f"{_median(runs, 'steps'):g}", f"{seconds:.2f}", f"{min(times):.2f} to {max(times):.2f}",
                f"{_median(ddp, 'seconds') / seconds:.1f}x" if ddp else "", f"{limit / seconds:.0%}" if limit else ""]

    def limit(self, rate):
        """Seconds to the target in the fewest steps that a method needs, with nothing sent."""
        alone = self.finished("alone", rate)
        steps = [_median(runs, "steps") for method in METHODS if method not in ALONE
                 if (runs := self.finished(method, rate)) and all(found["reached"] for found in runs)]
        return self.seconds_per_step(alone) * min(steps) if alone and steps else None

    def report_predictions(self, rate, methods):
        machine, rows = self.results.get("machine", rate), []
        if machine is None or not methods:
            return
        for method in methods:
            runs = self.finished(method, rate)
            measured, predicted = self.seconds_per_step(runs), self.trainings.predict(method, machine, int(_median(runs, "steps")))
            rows.append((method, f"{measured:.4f}", f"{predicted:.4f}", f"{predicted / measured - 1:+.0%}"))
        print(f"\n{tomli_w.dumps(machine)}")
        table((f"{rate} Mbit/s", "s/step", "predicted", "off by"), rows)

    @staticmethod
    def seconds_per_step(runs):
        return median(found["seconds"] / found["steps"] for found in runs)


def _median(runs, figure):
    return median(found[figure] for found in runs)
