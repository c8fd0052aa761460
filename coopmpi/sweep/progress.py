"""How far a sweep is: a view that is drawn anew on a terminal, plain dated lines into a log."""

from datetime import datetime, timedelta
from math import inf
from time import monotonic

from coopmpi.errors import clean
from coopmpi.sweep.grid import values
from coopmpi.sweep.plan import Job, Plan

LIVE_PATIENCE = 0.2  # seconds between two views
PATIENCE, LINES = 60.0, 100  # seconds between two lines of a log at most; how many lines tell of runs
BAR, NAMED = 20, 4  # columns of the bar; runs that are named


class Progress:
    """As a context it gives the cursor back at the end. columns: of the terminal, 0 for a log."""

    def __init__(self, columns: int):
        from rich.console import Console
        from rich.live import Live

        self.live = Live(console=Console(force_terminal=True, width=columns, highlight=False), auto_refresh=False, transient=True) if columns else None
        self.began, self.shown = monotonic(), -inf
        self.before = self.told = None  # runs that an earlier process had done; that the last line of a log told of

    def __enter__(self):
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *error):
        if self.live:
            self.live.stop()

    def show(self, plan: Plan, running: list[Job]):
        """Show it if there was time enough since it was shown."""
        done, since = len(plan.results), monotonic() - self.shown
        if self.before is None:
            self.before = done
        if self.live:
            if since > LIVE_PATIENCE:
                self.shown = monotonic()
                self.live.update(self._view(plan, done, running), refresh=True)
        elif self.told is None or (done > self.told and (since > PATIENCE or done - self.told >= plan.total / LINES)):
            self.shown, self.told = monotonic(), done
            print(f"{datetime.now():%Y-%m-%d %H:%M:%S} {self._line(plan, done)}", flush=True)

    def _line(self, plan, done):
        failed = sum(bool(result.failure) for result in plan.results.values())
        parts = [f"{done}/{plan.total} runs", *([f"{failed} failed"] if failed else [])]
        if done > self.before:
            left = (monotonic() - self.began) / (done - self.before) * (plan.total - done)
            parts.append(f"ETA {timedelta(seconds=round(left))}")
        return "  ".join(parts)

    def _view(self, plan, done, running):
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        top = Table.grid(padding=(0, 2, 0, 0))
        top.add_row(ProgressBar(plan.total, done, width=BAR), Text(self._line(plan, done), no_wrap=True))
        names = [", ".join(filter(None, (job.setting, job.method, "tuning" if job.role == "tuning" else f"seed {job.seed}", values(job.tuned))))
                 for job in running]
        if len(names) > NAMED:
            names[NAMED - 1:] = [f"and {len(names) - NAMED + 1} more"]
        return Group(top, *(Text(f"  {clean(name)}", no_wrap=True, overflow="ellipsis") for name in names))
