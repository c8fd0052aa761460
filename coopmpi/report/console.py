"""Progress on rank 0: one live line on a terminal, plain dated lines into a log."""

from datetime import datetime, timedelta
from time import monotonic

LIVE_PATIENCE = 0.2  # seconds between updates of a live line
PATIENCE = 1.0  # least seconds between two lines of a log
FIGURES = {"loss": ".4g", "accuracy": ".2%", "consensus": ".3g", "virtual seconds": ".5g"}


class Silent:
    """Nobody watches: every rank but 0, and --quiet.

    waiting: share of the time so far in which workers were blocked on communication.
    """

    def stepped(self, done, wall_time, waiting):
        pass

    def evaluated(self, done, wall_time, figures):
        pass

    def close(self):
        pass


class Log(Silent):
    """Plain dated lines: step, speed, share of time spent waiting for the network, time left, and the figures."""

    def __init__(self, steps):
        self.steps = steps
        self._shown, self._figures, self._waiting = -PATIENCE, {}, 0.0

    def stepped(self, done, wall_time, waiting):
        self._waiting = waiting

    def evaluated(self, done, wall_time, figures):
        self._figures = figures
        if monotonic() - self._shown > PATIENCE or done in (0, self.steps):
            self._shown = monotonic()
            print(f"{datetime.now():%Y-%m-%d %H:%M:%S} step {done}/{self.steps}  {self._line(done, wall_time)}", flush=True)

    def _line(self, done, wall_time):
        parts = [f"{name} {self._figures[name]:{form}}" for name, form in FIGURES.items() if name in self._figures]
        if done:
            pace = wall_time / done
            left = timedelta(seconds=round(pace * (self.steps - done)))
            parts += [f"{1 / pace:.4g} steps/s", f"waiting {self._waiting:.0%}", f"ETA {left}"]
        return "  ".join(parts)


class Live(Log):
    """The same as one line with a bar that stays where it is, on a terminal of that many columns."""

    def __init__(self, steps, columns):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        super().__init__(steps)
        # no refreshing thread: it would take its time from the training
        line = TextColumn("{task.completed}/{task.total}  {task.fields[line]}", table_column=Column(no_wrap=True))
        self._progress = Progress(BarColumn(10), line, auto_refresh=False,
                                  console=Console(force_terminal=True, width=columns, highlight=False))
        self._bar = self._progress.add_task("", total=steps, line="")
        self._progress.start()

    def stepped(self, done, wall_time, waiting):
        self._waiting = waiting
        if monotonic() - self._shown > LIVE_PATIENCE:
            self._show(done, wall_time)

    def evaluated(self, done, wall_time, figures):
        self._figures = figures
        if done in (0, self.steps):
            self._show(done, wall_time)

    def _show(self, done, wall_time):
        self._shown = monotonic()
        self._progress.update(self._bar, completed=done, line=self._line(done, wall_time), refresh=True)

    def close(self):
        self._progress.stop()


def watcher(steps, columns):
    """Live on a terminal of that many columns, Log where there is none (0)."""
    return Live(steps, columns) if columns else Log(steps)


def summary(assembly, world, outcome, output):
    """The closing table."""
    from rich.console import Console
    from rich.table import Table

    config, figures = assembly.config, outcome.figures
    whose = "the virtual" if assembly.clocks else "rank 0's"
    rows = {"algorithm": config.algorithm.name, "workers": f"{config.workers} on {world.size} rank{'s' * (world.size > 1)}",
            "steps": str(outcome.steps)}
    rows |= {name: f"{figures[name]:{form}}" for name, form in FIGURES.items() if name in figures}
    rows |= {"time": f"{outcome.wall_time:.2f} s", "speed": f"{outcome.steps / outcome.wall_time:.4g} steps/s",
             "waiting": f"{outcome.waiting:.1%} of {whose} time",
             "sent": f"{outcome.sent / 1e6:.3g} MB per worker", "result": str(output),
             "next": f"coopmpi inspect {output}"}
    table = Table(show_header=False, box=None, padding=(0, 2))
    for name, value in rows.items():
        table.add_row(name, value)
    Console(highlight=False).print(table)
