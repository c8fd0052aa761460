"""Progress on rank 0: one live line on a terminal, plain dated lines into a log."""

import json
from datetime import datetime, timedelta
from time import monotonic

from coopmpi.drivers.mpi.launch import PROGRESS_MARK
from coopmpi.sinks.sink import Sink

LONGEST = 10**9  # seconds that are told to be left
LIVE_PATIENCE = 0.2  # seconds between updates of a live line
PATIENCE = 1.0  # least seconds between two lines of a log
# figures of an evaluation that have a form of their own, in the order in which they are shown
FORMS = {"loss": ".4g", "accuracy": ".2%", "consensus": ".3g", "virtual_time": ".5g"}
HIDDEN = ("train_loss",)  # in the file


class Log(Sink):
    """Plain dated lines: step, mini-batch loss, figures, speed, tau, bytes, share of time spent waiting, time left."""

    def open(self, about):
        self.total, self.simulated = about.steps, about.mode != "train"
        self.done, self.wall_time, self.waited, self.sent = 0, 0.0, 0.0, 0.0
        self.loss = self.tau = None  # of the latest step
        self.time, self.figures = 0.0, {}
        self.shown = -PATIENCE

    def steps(self, rows):
        self.done, self.wall_time, self.tau = rows.first + len(rows.tau), float(rows.wall_time[-1]), int(rows.tau[-1])
        if rows.loss is not None:
            self.loss = float(rows.loss[-1].mean())
        self.waited += float(rows.wait_time.sum(axis=0).mean())
        self.sent += float(rows.bytes_sent.sum(axis=0).mean())
        self.time = self.wall_time if rows.virtual_time is None else float(rows.virtual_time[-1])

    def evaluation(self, step, wall_time, figures):
        self.figures = figures
        self.done, self.wall_time = max(self.done, step), max(self.wall_time, wall_time)
        if monotonic() - self.shown > PATIENCE or step in (0, self.total):
            self.shown = monotonic()
            print(f"{datetime.now():%Y-%m-%d %H:%M:%S} step {step}/{self.total}  {self.line()}", flush=True)

    def event(self, step, wall_time, kind, text):
        if kind == "target":
            print(f"{datetime.now():%Y-%m-%d %H:%M:%S} step {step}/{self.total}  target reached: {text}", flush=True)

    def line(self):
        """Losses, figures, speed and traffic in one line."""
        parts = [f"batch loss {self.loss:.4g}"] if self.loss is not None else []
        parts += [f"{label(name)} {self.figures[name]:{form}}" for name, form in ordered(self.figures)]
        if self.done and self.wall_time:
            pace = self.wall_time / self.done
            left = timedelta(seconds=min(round(pace * (self.total - self.done)), LONGEST))
            parts += [f"{1 / pace:.4g} steps/s", f"waiting {self.waited / self.time if self.time else 0:.0%}", f"ETA {left}"]
        if self.tau is not None:
            parts += [f"tau {self.tau}", f"{self.sent / 1e6:.3g} MB sent"]
        return "  ".join(parts)


class Live(Log):
    """Progress as one line with a bar, rewritten in place, on a terminal of that many columns."""

    columns: int

    def open(self, about):
        super().open(about)
        self.bar = Bar(self.columns)

    def steps(self, rows):
        super().steps(rows)
        if monotonic() - self.shown > LIVE_PATIENCE:
            self.show()

    def evaluation(self, step, wall_time, figures):
        self.figures = figures
        self.done, self.wall_time = max(self.done, step), max(self.wall_time, wall_time)
        if step in (0, self.total):
            self.show()

    def event(self, step, wall_time, kind, text):
        if kind == "target":
            self.show()  # for the last time

    def show(self):
        self.shown = monotonic()
        self.bar.show(self.done, self.total, self.line())

    def close(self, status):
        self.bar.close()


class Relayed(Live):
    """The same for a parent process that draws the line: mpirun passes on whole lines only."""

    columns: int = 0

    def open(self, about):
        Log.open(self, about)

    def show(self):
        self.shown = monotonic()
        self.tell(done=self.done, total=self.total, line=self.line())

    def close(self, status):
        self.tell(status=status)

    def tell(self, **report):
        print(f"{PROGRESS_MARK.decode()}{json.dumps(report)}", flush=True)


class Bar:
    """A bar and a line beside it that stay where they are; drawn from the first `show` to `close`."""

    def __init__(self, columns: int):
        self.columns, self.progress = columns, None

    def show(self, done: int, total: int, line: str):
        if self.progress is None:
            self._start(total)
        self.progress.update(self.task, completed=done, line=line, refresh=True)

    def _start(self, total):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        # without a thread that draws: it would take its time from the training
        text = TextColumn("{task.completed}/{task.total}  {task.fields[line]}", table_column=Column(no_wrap=True))
        self.progress = Progress(BarColumn(10), text, auto_refresh=False,
                                 console=Console(force_terminal=True, width=self.columns, highlight=False))
        self.task = self.progress.add_task("", total=total, line="")
        self.progress.start()

    def close(self):
        """Leave the last line, and give the cursor back."""
        if self.progress is not None:
            self.progress.stop()
            self.progress = None


def ordered(figures):
    """[(name, form)] of the figures that are shown: those with a form of their own first."""
    known = [(name, form) for name, form in FORMS.items() if name in figures]
    return known + [(name, ".4g") for name in figures if name not in FORMS and name not in HIDDEN]


def label(name):
    return "virtual seconds" if name == "virtual_time" else name


def watcher(columns: int, relayed: bool = False) -> Sink:
    """Live on a terminal of that many columns, Log where there is none (0); relayed: a parent process draws."""
    if relayed:
        return Relayed()
    return Live(columns=columns) if columns else Log()


def summary(assembly, world, outcome, output):
    """The closing table."""
    from rich.console import Console
    from rich.table import Table

    config, figures = assembly.config, outcome.figures
    whose = "the virtual" if assembly.clocks else "rank 0's"
    rows = {"algorithm": config.algorithm.name, "workers": f"{config.workers} on {world.size} rank{'s' * (world.size > 1)}",
            "steps": str(outcome.steps)}
    if assembly.stop.targets:
        rows["target"] = outcome.reached or f"not reached: {' or '.join(assembly.stop.rules())}"
    rows |= {label(name): f"{figures[name]:{form}}" for name, form in ordered(figures)}
    rows |= {"time": f"{outcome.wall_time:.2f} s", "speed": f"{outcome.steps / outcome.wall_time:.4g} steps/s",
             "waiting": f"{outcome.waiting:.1%} of {whose} time",
             "sent": f"{outcome.sent / 1e6:.3g} MB per worker", "result": str(output),
             "next": f"coopmpi inspect {output}"}
    table = Table(show_header=False, box=None, padding=(0, 2))
    for name, value in rows.items():
        table.add_row(name, value)
    Console(highlight=False).print(table)
