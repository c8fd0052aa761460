"""Is a plan's search right, and what does it save? Its choice against all others, on virtual clocks and on other seeds.

Takes the machine files that `python -m benchmarks plan probe` leaves in --folder. What is finished lies there and is not repeated.
"""

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from json import loads
from math import exp, log
from multiprocessing import get_context
from shutil import copy
from statistics import fmean

from msgspec.structs import replace

from benchmarks._planned import EVERY, LONGEST, RANKS, TASKS, Bench
from benchmarks.timing import table
from coopmpi.planner.candidates import candidates
from coopmpi.planner.curves import Target, curve
from coopmpi.planner.machine import load, text
from coopmpi.planner.plan import slower_network
from coopmpi.vocabulary import Family

LRS = tuple(0.02 * 2**k for k in range(6))  # 0.02 to 0.64
PERIODS = (1, 4, 16, 64)
FRESH = 3  # seeds


def main(arguments):
    parser = argparse.ArgumentParser(prog="python -m benchmarks search", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("regret", "share", "again"), help="regret: seconds of the choice over those of the fastest, on other "
                        "seeds; share: worker-steps of a plan over those of trying everything; again: seconds of a plan, and of one whose curves are known")
    parser.add_argument("--digits", required=True, metavar="PATH")
    parser.add_argument("--tasks", nargs="*", default=TASKS, choices=TASKS, metavar="TASK", help=", ".join(TASKS))
    parser.add_argument("--rates", nargs="*", type=int, default=(100, 1000), metavar="MBIT", help="(default: 100 1000)")
    parser.add_argument("--seeds", type=int, nargs="*", default=(11, 12), metavar="SEED", help="of regret (default: 11 12)")
    parser.add_argument("--folder", default="plan-benchmark", help="(default: %(default)s)")
    options = parser.parse_args(arguments)
    getattr(BruteForce(options), options.part)()


class BruteForce(Bench):
    """All candidates with all learning rates."""

    def regret(self):
        """On the seed of brute force its choice is the luckiest of hundreds; on FRESH further seeds both choices are two of many."""
        rows = []
        for task in self.options.tasks:
            for rate in self.options.rates:
                choice = self.plan(task, rate)["choices"][0]
                for seed in self.options.seeds:
                    key = ("regret", rate, task, seed)
                    if self.results.get(*key) is None:
                        self.results.put(key, self._against_all(task, rate, choice["tables"], seed))
                    label, chosen, best, fresh = self.results.get(*key)
                    ratios = [one / other for one, other in fresh]
                    rows.append((task, rate, seed, choice["label"], label or "the same", f"{chosen / best:.2f}", f"{exp(fmean(map(log, ratios))):.2f}",
                                 f"{min(ratios):.2f} to {max(ratios):.2f}"))
                    print(f"coopmpi: {' '.join(map(str, rows[-1]))}", file=sys.stderr, flush=True)
        table(("task", "Mbit/s", "seed", "choice of the plan", "fastest on this seed", "seconds, ratio there", "on fresh seeds", "least to most"), rows)

    def _against_all(self, task, rate, chosen, seed):
        """(whose run is the fastest of all candidates, seconds of the choice, of the fastest, [both on a fresh seed, ...])."""
        tables, target = self._tables(task, rate, seed), Target("train_loss", TASKS[task][1])
        label, best, least = "", chosen, self._seconds(tables | chosen | {"seed": seed}, target)
        time = least
        with _pool(time) as pool:  # no run takes longer than the least so far
            runs = [(one, run, pool.submit(_run, run, target)) for one, run in self._all(tables, target, Family(periods=PERIODS))]
            for one, run, found in runs:
                if found.result().reached and found.result().seconds[-1] < least:
                    label, best, least = one, run, found.result().seconds[-1]
        fresh = [[self._seconds(tables | each | {"seed": seed + 100 * k}, target) for each in (chosen, best)] for k in range(1, FRESH + 1)]
        return label, time, least, fresh

    def _seconds(self, tables, target):
        """To the target; where that is not reached, of all steps."""
        return curve(tables | {"stop": {"train_loss": target.value}}, target).seconds[-1]

    def share(self):
        """Of the plan's own first candidates, each to the target or its last step."""
        rows = []
        for task in self.options.tasks:
            if self.results.get("share", task) is None:
                tables, target = self._tables(task, self.options.rates[0], 0), Target("train_loss", TASKS[task][1])
                with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
                    runs = [pool.submit(curve, run, target) for _, run in self._all(tables, target, Family())]
                    self.results.put(("share", task), RANKS * sum(run.result().steps[-1] for run in runs))
            everything = self.results.get("share", task)
            for rate in self.options.rates:
                trained = self.plan(task, rate)["worker_steps"]
                rows.append((task, rate, f"{trained:,}", f"{everything:,}", f"{trained / everything:.0%}"))
        table(("task", "Mbit/s", "worker-steps of the plan", "of everything", ""), rows)

    def again(self):
        """Seconds of a plan, and of the next one, for a network ten times slower, that takes the curves of the first."""
        rows = []
        for task in self.options.tasks:
            for rate in self.options.rates:
                first, measured = self.plan(task, rate), load(self.machine(rate, task))
                edited, known = self.folder / "machine-edited.toml", self.folder / "plan-again.h5"
                edited.write_text(text(replace(measured, network=slower_network(measured, 10)["network"])), encoding="utf-8")
                copy(self.folder / f"plan-{task}-{rate}.h5", known)
                second = loads(self.planned(([], {}), task, edited, known))
                rows.append((task, rate, f"{first['took']:.1f}", f"{second['took']:.1f}", f"{second['worker_steps']:,}"))
        table(("task", "Mbit/s", "s", "s of the next plan", "its worker-steps"), rows)

    def _tables(self, task, rate, seed):
        return self.common(task) | {"steps": LONGEST, "seed": seed, "record": {"eval_every": EVERY, "final": "mean"}} | load(self.machine(rate, task)).tables()

    def _all(self, tables, target, family):
        """(label, tables) of all that fits, with every learning rate."""
        fits, _ = candidates(tables, family)
        stop = {"stop": {"train_loss": target.value}}
        return [(f"{one.label}, lr {lr:g}", tables | one.tables | stop | {"optimizer": {"kind": "sgd", "lr": lr, "momentum": 0.9}}) for one in fits for lr in LRS]


def _pool(seconds):
    """Processes in which no run takes longer than the least so far, which is `seconds` at the beginning."""
    context = get_context("spawn")
    return ProcessPoolExecutor(mp_context=context, initializer=_begin, initargs=(context.Value("d", seconds),))


_best = None  # in a process of a pool: seconds of the fastest so far


def _begin(best):
    global _best
    _best = best


def _run(tables, target):
    found = curve(tables, target, _best)
    if found.reached:
        with _best.get_lock():
            _best.value = min(_best.value, found.seconds[-1])
    return found
