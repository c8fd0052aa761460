"""Is a plan's search right, and what does it save? Its choice against all others, on virtual clocks and on other seeds.

Takes the machine files that `python -m benchmarks plan probe` leaves in --folder. What is finished lies there and is not repeated.
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from json import loads
from math import inf
from multiprocessing import get_context
from shutil import copy

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
        rows = []
        for task in self.options.tasks:
            for rate in self.options.rates:
                found = self.plan(task, rate)
                for seed in self.options.seeds:
                    key = ("regret", rate, task, seed)
                    if self.results.get(*key) is None:
                        self.results.put(key, self._fastest(task, rate, found["choices"][0]["tables"], seed))
                    chosen, best, label, lr = self.results.get(*key)
                    rows.append((task, rate, seed, found["choices"][0]["label"], f"{chosen:.3g}", f"{label}, lr {lr:g}" if label else "itself",
                                 f"{best:.3g}", f"{chosen / best:.2f}"))
                    print(rows[-1], flush=True)
        table(("task", "Mbit/s", "seed", "choice of the plan", "s", "fastest on this seed", "s", "ratio"), rows)

    def _fastest(self, task, rate, chosen, seed):
        """(seconds of the choice, least of all candidates, its label, its learning rate); no run takes longer than the least so far."""
        tables, target = self._tables(task, rate, seed), Target("train_loss", TASKS[task][1])
        mine = _run(tables | chosen | {"seed": seed, "stop": {"train_loss": target.value}}, target)
        time = mine.seconds[-1] if mine.reached else inf
        with _pool(time) as pool:
            runs = [(label, lr, pool.submit(_run, run, target)) for label, lr, run in self._all(tables, target, Family(periods=PERIODS))]
            found = [(run.result(), label, lr) for label, lr, run in runs]
        least = min(((run.seconds[-1], label, lr) for run, label, lr in found if run.reached), default=(inf, "", 0.0))
        return time, *min(least, (time, "", 0.0))

    def share(self):
        """Of the plan's own first candidates."""
        rows = []
        for task in self.options.tasks:
            if self.results.get("share", task) is None:
                tables, target = self._tables(task, self.options.rates[0], 0), Target("train_loss", TASKS[task][1])
                with _pool(inf) as pool:
                    runs = [pool.submit(_run, run, target) for _, _, run in self._all(tables, target, Family())]
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
                self.write(self.common(task) | {"steps": LONGEST, "record": {"eval_every": EVERY}})
                second = loads(self.here("plan", "run.toml", "--machine", str(edited), "--train-loss", str(TASKS[task][1]), "--json", "-o", str(known)))
                rows.append((task, rate, f"{first['took']:.1f}", f"{second['took']:.1f}", f"{second['worker_steps']:,}"))
        table(("task", "Mbit/s", "s", "s of the next plan", "its worker-steps"), rows)

    def _tables(self, task, rate, seed):
        return self.common(task) | {"steps": LONGEST, "seed": seed, "record": {"eval_every": EVERY, "final": "mean"}} | load(self.machine(rate, task)).tables()

    def _all(self, tables, target, family):
        """(label, learning rate, tables) of all that fits."""
        fits, _ = candidates(tables, family)
        stop = {"stop": {"train_loss": target.value}}
        return [(one.label, lr, tables | one.tables | stop | {"optimizer": {"kind": "sgd", "lr": lr, "momentum": 0.9}}) for one in fits for lr in LRS]


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
    if _best is not None and found.reached:
        with _best.get_lock():
            _best.value = min(_best.value, found.seconds[-1])
    return found
