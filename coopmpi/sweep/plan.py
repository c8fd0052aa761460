"""Which runs a sweep consists of, and what its tuning chooses: both follow from the runs that are done."""

import hashlib
import json
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from coopmpi import config
from coopmpi.errors import UserError
from coopmpi.sweep import score
from coopmpi.sweep.description import Method, Setting, Sweep
from coopmpi.sweep.grid import beyond, edges, points
from coopmpi.sweep.score import Curve

NAME = 40  # characters of a method's name in that of a file


class Job(NamedTuple):
    """A run of the sweep. Two jobs with the same tables have the same name: one run serves both."""

    setting: str
    method: str
    role: str  # "tuning", "final", or "target": what the method that sets the target ends with at its best
    seed: int
    tuned: dict  # {dotted key: value}
    tables: dict
    name: str


class Result(NamedTuple):
    """What a run came to: its curve, or why it has none."""

    curve: Curve | None
    failure: str = ""


class Plan:
    """The jobs of a sweep as far as they are known, in the order in which they are to be done.

    `add` tells it what a run came to, which may bring further jobs.
    """

    def __init__(self, sweep: Sweep):
        self.sweep, self.jobs, self.results, self.chosen = sweep, [], {}, {}
        self._pairs = [(setting, method) for setting in sweep.settings for method in sweep.methods_in(setting)]
        self._grids = {(setting.name, method.name): sweep.grid(setting, method) for setting, method in self._pairs}
        self._tuning = {}  # (setting, method): its jobs; without any there is nothing to choose
        for setting, method in self._pairs:
            self._tuning[setting.name, method.name] = []
            if self._tuned(setting, method):
                self._tune(setting, method, points(self._grid(setting, method)))
        self._choose()

    def add(self, name: str, result: Result):
        self.results[name] = result
        self._choose()

    @property
    def settled(self) -> bool:
        """Are all jobs known?"""
        return len(self.chosen) == len(self._pairs)

    @property
    def complete(self) -> bool:
        return self.settled and all(job.name in self.results for job in self.jobs)

    def open(self) -> Iterator[Job]:
        """The jobs that are not done, one for each run."""
        yield from {job.name: job for job in self.jobs if job.name not in self.results}.values()

    @property
    def total(self) -> int:
        """The number of runs; what follows the tuning counts as if no two jobs were the same run, and no grid were widened."""
        waiting = [pair for pair in self._pairs if (pair[0].name, pair[1].name) not in self.chosen]
        seeds = len(self.sweep.seeds) * sum(1 + (self.sweep.target(setting) == method.name) for setting, method in waiting)
        return len({job.name for job in self.jobs}) + seeds

    def target(self, job: Job) -> float:
        """The figure that a job's run is to reach: NaN without a target, and where the method that sets it failed."""
        setting = next(setting for setting in self.sweep.settings if setting.name == job.setting)
        target = self.sweep.target(setting)
        if not isinstance(target, str):
            return np.nan if target is None else target
        if job.role == "tuning":
            same = self._tuning[job.setting, target]
        else:
            same = [other for other in self.jobs if (other.setting, other.role, other.seed) == (job.setting, "target", job.seed)]
        best = min(same, key=self._loss)
        return score.eased(self.final(best), self.sweep.score, self.sweep.tolerance(setting))

    def final(self, job: Job) -> float:
        """The figure at the end of a job's run; NaN if it failed."""
        curve = self.results[job.name].curve
        return np.nan if curve is None else score.final(curve, self.sweep.score)

    def took(self, job: Job) -> float:
        """What a job's run took to its target; inf if it failed or never got there."""
        curve = self.results[job.name].curve
        return np.inf if curve is None else score.took(curve, self.sweep.score, self.target(job))

    # tuning
    def _grid(self, setting, method):
        return self._grids[setting.name, method.name]

    def _tuned(self, setting, method):
        """Is there a choice, or a target to be set for the tuning of others?"""
        sets_target = self.sweep.target(setting) == method.name
        return any(len(points(self._grid(setting, other))) > 1 for other in (self.sweep.methods_in(setting) if sets_target else [method]))

    def _tune(self, setting, method, tried):
        jobs = [self._job(setting, method, "tuning", self.sweep.tuning_seed, tuned) for tuned in tried]
        self._tuning[setting.name, method.name] += jobs
        # before what follows the tuning of other methods
        place = next((i for i, job in enumerate(self.jobs) if job.role != "tuning"), len(self.jobs))
        self.jobs[place:place] = jobs

    def _choose(self):
        """Choose where all is known for it, and add the jobs that follow."""
        for setting in self.sweep.settings:
            target = self.sweep.target(setting)
            methods = self.sweep.methods_in(setting)
            # the others need the target
            for method in sorted(methods, key=lambda method: method.name != target):
                if isinstance(target, str) and method.name != target and (setting.name, target) not in self.chosen:
                    break
                if (setting.name, method.name) not in self.chosen:
                    self._choose_for(setting, method, sets_target=method.name == target)

    def _choose_for(self, setting, method, sets_target):
        tuning = self._tuning[setting.name, method.name]
        if any(job.name not in self.results for job in tuning):
            return
        best = lowest = points(self._grid(setting, method))[0]
        if tuning:
            best = min(tuning, key=lambda job: (self.took(job), self._loss(job))).tuned
            lowest = min(tuning, key=self._loss).tuned
            sound = any(not self.results[job.name].failure for job in tuning)
            if sound and self._widened(setting, method, [best, lowest] if sets_target else [best]):
                return
        self.chosen[setting.name, method.name] = best
        for seed in self.sweep.seeds:
            self.jobs.append(self._job(setting, method, "final", seed, best))
            if sets_target:
                self.jobs.append(self._job(setting, method, "target", seed, lowest))

    def _widened(self, setting, method, best):
        """Has the grid got a further value, with its jobs, since one of the best points is at an edge?"""
        grid, tried = self._grid(setting, method), [job.tuned for job in self._tuning[setting.name, method.name]]
        given = self.sweep.grid(setting, method)
        for edge in (edge for point in best for edge in edges(tried, point)):
            value = beyond(grid[edge.key], edge)
            if value is None or len(grid[edge.key]) - len(given[edge.key]) >= self.sweep.widen:
                continue
            new = points(grid | {edge.key: [value]})
            try:
                for tuned in new:
                    config.resolve(self.sweep.description(setting, method, tuned, self.sweep.tuning_seed))
            except UserError:
                continue  # there are no such values
            grid[edge.key] = [*grid[edge.key], value]
            self._tune(setting, method, new)
            return True
        return False

    def _loss(self, job):
        """What tuning makes small at the end."""
        return float(np.nan_to_num(score.loss(self.final(job), self.sweep.score), nan=np.inf))

    def _job(self, setting: Setting, method: Method, role, seed, tuned):
        tables = self.sweep.description(setting, method, tuned, seed)
        same = json.dumps([self.sweep.mode, self.sweep.ranks, tables | {"folder": None}], sort_keys=True, default=str)
        digest = hashlib.blake2b(same.encode(), digest_size=5).hexdigest()
        readable = re.sub(r"[^\w.]+", "-", method.name).strip("-.")[:NAME]
        return Job(setting.name, method.name, role, seed, tuned, tables, f"{readable}-seed-{seed}-{digest}")
