"""How far a sweep is."""

from datetime import datetime, timedelta
from math import inf
from time import monotonic

from coopmpi.report.console import Bar
from coopmpi.sweep.plan import Job, Plan

LIVE_PATIENCE = 0.2  # seconds between updates of a live line
PATIENCE, LINES = 60.0, 100  # seconds between two lines of a log at most; how many lines tell of runs


class Progress:
    """One live line on a terminal of that many columns, plain dated lines into a log (0)."""

    def __init__(self, columns: int):
        self.bar = Bar(columns) if columns else None
        self.started, self.shown = monotonic(), -inf
        self.before = self.told = None  # runs that an earlier process had done; that the last line of a log told of

    def show(self, plan: Plan, running: list[Job]):
        done, total = len(plan.results), plan.total
        if self.before is None:
            self.before = done
        since = monotonic() - self.shown
        if self.bar and since > LIVE_PATIENCE:
            self.shown = monotonic()
            names = [f"{job.method} {job.role if job.role == 'tuning' else f'seed {job.seed}'}" for job in running]
            self.bar.show(done, total, "  ".join(["runs", *self._parts(plan, done, total), ", ".join(names)]))
        elif not self.bar and done != self.told and (since > PATIENCE or done - (self.told or 0) >= total / LINES or self.told is None):
            self.shown, self.told = monotonic(), done
            print("  ".join([f"{datetime.now():%Y-%m-%d %H:%M:%S} {done}/{total} runs", *self._parts(plan, done, total)]), flush=True)

    def close(self):
        if self.bar:
            self.bar.close()

    def _parts(self, plan, done, total):
        failed = sum(bool(result.failure) for result in plan.results.values())
        if failed:
            yield f"{failed} failed"
        if done > self.before:
            left = (monotonic() - self.started) / (done - self.before) * (total - done)
            yield f"ETA {timedelta(seconds=round(left))}"
