"""The search of a plan: train candidates on virtual clocks, cheap steps first, none for longer than the best so far took."""

import gc
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from math import sqrt
from statistics import median_low
from time import monotonic, sleep
from typing import NamedTuple

import numpy as np

from coopmpi import config
from coopmpi.errors import CoopError
from coopmpi.planner.candidates import LONGEST, Candidate, progress_key, without_choice
from coopmpi.planner.curves import Curve, Forecast, Target, curve, forecast, full
from coopmpi.planner.ranks import Ranks
from coopmpi.run.assemble import follows_numbers

SLACK = 1.2  # of the best time: what comes close to it is seen to come close
FACTOR = 2.0  # between learning rates
CLIMBS = 6  # learning rates beyond the first, in each direction
HOPELESS = 1 / 3  # of the best time: who is behind the best's loss at that time when the time is over has no other rates tried
FAILED = 3  # times as long as on the first seed a run counts that diverges on another one; longer ones are stopped
LEAST = 1e-12  # seconds
SHARES = 128  # steps of a forecast, at least

_cap = None  # in a worker process: the seconds that the best has taken so far


class Tried(NamedTuple):
    """A candidate with a learning rate, on a seed."""

    candidate: Candidate
    lr: float
    seed: int
    curve: Curve


class Search:
    """All that a plan tries, and what came out.

    tables: the run description; machine: the tables [compute] and [network], with workers. known: {progress_key: Curve without
    virtual time} of earlier plans, which is added to. deadline: monotonic seconds at which nothing more is begun. tell: of
    progress. ranks: trains in place of this process, a coopmpi.planner.ranks.Ranks; times are only forecast here then.
    """

    def __init__(self, tables: dict, machine: dict, target: Target, known: dict, deadline: float, tell: Callable[[str], None],
                 ranks: Ranks | None = None):
        self.common, self.machine, self.target = without_choice(tables), machine, target
        self.known, self.deadline, self.tell, self.ranks = known, deadline, tell, ranks
        self.tried: list[Tried] = []
        self.forecasts: dict[str, Forecast] = {}  # by label
        self.trained = 0  # worker-steps
        self.left_out: list[Candidate] = []  # not begun, as the time was over
        self._rates = {}  # the best of each algorithm and optimiser
        self._lock = threading.Lock()
        cores = len(os.sched_getaffinity(0))
        context = multiprocessing.get_context("spawn")
        self._best = context.Value("d", np.inf)  # seconds of the best so far, with the slack
        self._pool = ProcessPoolExecutor(cores, context, initializer=_begin, initargs=(self._best,))
        self._threads = ThreadPoolExecutor(1 if ranks else cores)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if error is not None:
            for child in multiprocessing.active_children():
                child.terminate()
        self._threads.shutdown(cancel_futures=True)
        self._pool.shutdown(cancel_futures=True)

    # what is tried
    def run(self, found: list[Candidate]):
        """Try these candidates, then longer and shorter periods around the best of each algorithm that came close."""
        forecasts = list(self._threads.map(self.forecast, found))
        order = sorted(zip(found, forecasts), key=lambda pair: pair[1].per_step)
        self._all(candidate for candidate, _ in order)
        done = {candidate.label for candidate in found}
        while True:
            near = [other for one in self._close() for other in self._neighbours(one.candidate) if other.label not in done]
            near = list({other.label: other for other in near}.values())
            if not near:
                return
            done |= {other.label for other in near}
            list(self._threads.map(self.forecast, near))
            self._all(near)

    def confirm(self, labels: list[str], seeds: int):
        """Try the rates halfway to the neighbours of the best of these candidates, then all that came near it on further seeds."""
        between = [(one.candidate, one.lr * factor) for one in self.ranked() if one.candidate.label in labels for factor in (sqrt(FACTOR), 1 / sqrt(FACTOR))]
        list(self._threads.map(lambda pair: self.attempt(*pair, self.seed), between))
        first = {one.candidate.label: one.curve.seconds[-1] for one in self.ranked()}
        near = [one for one in self._reached() if one.candidate.label in labels and one.curve.seconds[-1] <= SLACK * first[one.candidate.label]]
        self._best.value = FAILED * max(one.curve.seconds[-1] for one in near)
        again = [(one.candidate, one.lr, self.seed + k) for one in near for k in range(1, seeds + 1)]
        list(self._threads.map(lambda run: self.attempt(*run), again))

    # what came out
    def again(self, tried: Tried) -> list[Curve]:
        """Its curves on other seeds."""
        return [one.curve for one in self.tried if one[:2] == tried[:2] and one.seed != self.seed]

    def ranked(self) -> list[Tried]:
        """The best learning rate of each candidate that reached the target on the first seed, the fastest first."""
        best = {}
        for one in sorted(self._reached(), key=lambda one: one.curve.seconds[-1]):
            best.setdefault(one.candidate.label, one)
        return list(best.values())

    def best(self) -> list[Tried]:
        """The same by the mean over all seeds, where there are several; with its curve on the first seed."""
        best = {}
        for one in sorted(self._reached(), key=lambda one: (-len(self.again(one)), self.seconds(one))):
            best.setdefault(one.candidate.label, one)
        return sorted(best.values(), key=self.seconds)

    def seconds(self, tried: Tried) -> float:
        """To the target: geometric mean over the seeds."""
        # a run that has not reached the target takes at least so long
        times = [FAILED * tried.curve.seconds[-1] if one.end == "diverged" else one.seconds[-1] for one in (tried.curve, *self.again(tried))]
        return float(np.exp(np.mean(np.log(np.maximum(times, LEAST)))))

    def _reached(self):
        return [one for one in self.tried if one.seed == self.seed and one.curve.reached]

    @property
    def seed(self) -> int:
        return self.common.get("seed", 0)

    def _all(self, candidates):
        list(self._threads.map(self._climb, candidates))

    def _close(self):
        """Those near the best, of each algorithm the fastest."""
        ranked, seen = self.ranked(), set()
        for one in ranked:
            if one.curve.seconds[-1] > SLACK * ranked[0].curve.seconds[-1]:
                return
            if one.candidate.algorithm not in seen:
                seen.add(one.candidate.algorithm)
                yield one

    def _neighbours(self, candidate):
        tau = candidate.tau
        return [] if tau is None else [candidate.with_tau(other) for other in (tau // 2, 2 * tau) if 1 <= other <= LONGEST]

    # learning rates
    def _climb(self, candidate: Candidate):
        """Try learning rates until the best lies between two others."""
        if monotonic() > self.deadline:
            with self._lock:
                self.left_out.append(candidate)
            return
        start = self._first_rate(candidate)
        middle = self.attempt(candidate, start, self.seed)
        if self._hopeless(middle.curve):
            return
        best = middle
        for factor in (FACTOR, 1 / FACTOR):
            rate, improved = start, False
            for _ in range(CLIMBS):
                rate *= factor
                one = self.attempt(candidate, rate, self.seed)
                if not self._better(one.curve, best.curve):
                    break
                best, improved = one, True
            if improved:
                break
        if best.curve.reached:
            optimizer = config.resolve(self.common | candidate.tables).optimizer.name
            with self._lock:
                self._rates.setdefault((candidate.algorithm, optimizer), best.lr)

    def _first_rate(self, candidate):
        """The best one of this algorithm so far, or the median over others with its optimiser, or what is described."""
        optimizer = config.resolve(self.common | candidate.tables).optimizer
        with self._lock:
            found = self._rates.get((candidate.algorithm, optimizer.name))
            others = [rate for (_, name), rate in self._rates.items() if name == optimizer.name]
        return found or (median_low(others) if others else optimizer.lr)

    def _better(self, one: Curve, other: Curve) -> bool:
        if one.reached or other.reached:
            return one.reached and (not other.reached or one.seconds[-1] < other.seconds[-1])
        if "diverged" in (one.end, other.end):
            return one.end != "diverged"
        step = min(one.steps[-1], other.steps[-1])
        return self.target.worse(one.at(step)) < self.target.worse(other.at(step))

    def _hopeless(self, found: Curve) -> bool:
        ranked = self.ranked()
        if found.reached or found.end == "diverged" or not ranked or not np.isfinite(self._best.value):
            return False
        best = ranked[0].curve
        early = [value for seconds, value in zip(best.seconds, best.values) if seconds <= HOPELESS * best.seconds[-1]]
        return self.target.worse(found.values[-1]) > self.target.worse(early[-1])

    # single runs, in processes of their own
    def tables(self, candidate: Candidate, lr: float | None = None, seed: int | None = None) -> dict:
        """The run description of a candidate, without the machine."""
        tables = self.common | candidate.tables | {"workers": self.machine["workers"]}
        if lr is not None:
            # an algorithm may have an optimiser of its own where none is described
            kind = config.resolve(tables).optimizer.name
            tables |= {"optimizer": tables.get("optimizer", {}) | {"kind": kind, "lr": lr}}
        return tables | ({} if seed is None else {"seed": seed})

    def attempt(self, candidate: Candidate, lr: float, seed: int) -> Tried:
        """Train, or take what is known; noted down."""
        tables = self.tables(candidate, lr, seed)
        tried = Tried(candidate, lr, seed, self._trained(tables, self.machine, candidate.label if seed == self.seed else None))
        with self._lock:
            self.tried.append(tried)
            if tried.curve.reached and seed == self.seed:
                self._best.value = min(self._best.value, SLACK * tried.curve.seconds[-1])
        self._tell(tried)
        return tried

    def _trained(self, tables, machine, label=None) -> Curve:
        """The curve of a run on a machine; label: of a forecast whose times are those of this run."""
        if self.ranks is not None:
            found = self.ranks.curve(tables, self._best.value)
            self.trained += found.steps[-1] * tables["workers"]
            return found
        tables = tables | machine
        key = progress_key(tables | {"target": self.target._asdict()})
        known = None if follows_numbers(config.resolve(tables)) else self.known.get(key)
        if known is not None:
            times = self._times(tables, known.steps[-1], label)
            known = known._replace(seconds=[float(times[step - 1]) if step else 0.0 for step in known.steps])
            # it may have been stopped at a time that is not over yet here
            if known.end != "late" or known.seconds[-1] > self._best.value:
                return known
        found = self._pool.submit(_curve, tables, self.target).result()
        with self._lock:
            self.trained += found.steps[-1] * tables["workers"]
            self.known[key] = found
        return found

    def _times(self, tables, steps, label):
        """Virtual seconds after each step, of at least so many."""
        with self._lock:
            told = self.forecasts.get(label)
        if told is not None and len(told.seconds) >= steps:
            return told.seconds
        return self._pool.submit(forecast, tables, max(1, steps)).result().seconds

    def forecast(self, candidate: Candidate) -> Forecast:
        """Seconds per step and their shares."""
        tables = self.tables(candidate) | self.machine
        steps = max(SHARES, 4 * (candidate.tau or 1))
        found = self._pool.submit(full if follows_numbers(config.resolve(tables)) else forecast, tables, steps).result()
        with self._lock:
            self.forecasts[candidate.label] = found
        return found

    # other machines
    def on(self, machine: dict, chosen: list[Tried]) -> list[tuple[Tried, float]]:
        """With each the seconds of its steps so far on the clocks of another machine; about, where the target was not reached."""

        def seconds(one):
            tables, steps = self.tables(one.candidate, one.lr, one.seed) | machine, max(1, one.curve.steps[-1])
            found = self._pool.submit(forecast, tables, steps if one.curve.reached else min(steps, SHARES // 4)).result()
            return steps * found.per_step

        fixed = [one for one in chosen if not follows_numbers(config.resolve(self.tables(one.candidate)))]
        return list(zip(fixed, self._threads.map(seconds, fixed)))

    def elsewhere(self, machine: dict, tables: dict) -> Curve:
        """A run on another machine, for as long as it takes."""
        self._best.value = np.inf
        return self._trained(tables, machine)

    def _tell(self, tried):
        found = tried.curve
        outcome = {"target": f"{found.seconds[-1]:.4g} s, {found.steps[-1]} steps", "late": f"stopped at {found.values[-1]:.4g}",
                   "steps": f"not reached: {found.values[-1]:.4g}", "diverged": "diverged"}[found.end]
        self.tell(f"{tried.candidate.label}, lr {tried.lr:.3g}: {outcome}")


def _begin(best):
    global _cap
    _cap = best
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent):
    """End this process when its parent is gone, however that ended."""
    while os.getppid() == parent:
        sleep(1)
    os._exit(1)


def _curve(tables, target):
    try:
        return curve(tables | {"stop": {target.figure: target.value}}, target, _cap)
    except CoopError as error:
        raise CoopError(f"{tables['algorithm']['kind']}: {error}") from None
    finally:
        # a run leaves its data behind in cycles; what remains are modules, which the next collection need not look at
        gc.collect()
        gc.freeze()
