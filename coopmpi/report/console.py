"""Progress on rank 0: a live view on a terminal, plain dated lines into a log, reports to a parent that draws."""

import json
from dataclasses import asdict
from datetime import datetime
from math import inf
from time import monotonic

from coopmpi.drivers.mpi.launch import PROGRESS_MARK
from coopmpi.report.progress import Progress
from coopmpi.sinks.sink import Sink

LIVE_PATIENCE = 0.2  # seconds between two views
LINES = 200  # of a log at most
MINUTE = 60.0  # seconds between two lines of a log, as long as there are lines left
GROWTH = 0.1  # at the start they come sooner: after this share of the time so far ...
PATIENCE = 1.0  # ... but not within so many seconds


class Watcher(Sink):
    """Keeps a Progress, and shows it now and then."""

    def __post_init__(self):
        self.progress, self.quiet = Progress(None), ""
        self.began, self.shown = monotonic(), -inf

    def open(self, about):
        self.progress = Progress(about.steps)

    def look(self, progress, quiet):
        """Show how far a run elsewhere is; quiet: since when nothing was heard of it."""
        self.progress, self.quiet = progress, quiet
        self.show_if_due()

    def steps(self, rows):
        self.progress.add(rows)
        self.show_if_due()

    def evaluation(self, step, wall_time, figures):
        self.progress.evaluate(step, wall_time, figures)
        self.show_if_due(at_once=step in (0, self.progress.total))

    def event(self, step, wall_time, kind, text):
        if kind == "target":
            self.reached(step, text)

    def show_if_due(self, at_once=False):
        """Show it if there was time enough since it was shown."""
        now = monotonic()
        if at_once or now - self.shown >= self.spacing(now):
            self.shown = now
            self.show()

    def spacing(self, now) -> float:
        """Seconds that lie between the last time it was shown and the next."""
        return LIVE_PATIENCE

    def show(self):
        raise NotImplementedError

    def reached(self, step, text):
        """A target has ended the run."""
        self.show()


class Log(Watcher):
    """Plain dated lines: at least one every minute while steps are done, at most LINES in all."""

    def __post_init__(self):
        super().__post_init__()
        self.printed, self.told = 0, 0  # lines; up to which step

    def spacing(self, now):
        lines = LINES - self.printed - 2  # the last ones are for the end
        if lines <= 0:
            return inf
        return min(max(PATIENCE, GROWTH * (now - self.began)), max(MINUTE, (self.progress.left or 0.0) / lines))

    def show(self):
        self.line(self.quiet, *(text for _, text in self.progress.said()), self.progress.end())

    def reached(self, step, text):
        self.line(f"target reached: {text}")

    def close(self, status):
        if self.told < self.progress.done:
            self.show()

    def line(self, *texts):
        """Print a line."""
        self.printed, self.told = self.printed + 1, self.progress.done
        print("  ".join([f"{datetime.now():%Y-%m-%d %H:%M:%S} step {self.progress.steps}", *filter(None, texts)]), flush=True)


class Live(Watcher):
    """The view on this process's terminal."""

    def __post_init__(self):
        from coopmpi.report.view import Display

        super().__post_init__()
        self.display = Display()

    def show(self):
        self.display.show(self.progress, self.quiet)

    def close(self, status):
        self.display.close()


class Relayed(Watcher):
    """Tells a parent process, which draws the view: mpirun passes on whole lines only."""

    def show(self):
        self.tell(asdict(self.progress))

    def close(self, status):
        self.tell(None)

    def tell(self, report):
        print(f"{PROGRESS_MARK.decode()}{json.dumps(report)}", flush=True)


def watcher(columns: int, relayed: bool = False) -> Sink:
    """Live on a terminal, Log where there is none (0 columns); relayed: a parent process draws."""
    if relayed:
        return Relayed()
    return Live() if columns else Log()
