"""How far a run is: what the live view, the log and `coopmpi watch` show, and what it is worked out from."""

from dataclasses import dataclass, field
from datetime import timedelta

SMOOTHED = 100  # steps whose mini-batch losses are averaged
LONGEST = 10**9  # seconds that are told to be left
# figures of an evaluation that have a form of their own, in the order in which they are shown
FORMS = {"loss": ".4g", "accuracy": ".2%", "consensus": ".3g"}
HIDDEN = ("train_loss", "virtual_time")  # in the file; shown by itself
LEAST = 9  # importance of what is left out first


@dataclass
class Progress:
    """Sums and latest values of a run of `total` steps (None: nobody knows how many), in numbers that travel as JSON."""

    total: int | None
    done: int = 0
    losses: list = field(default_factory=list)  # of the latest steps, means over the workers
    figures: dict = field(default_factory=dict)  # of the latest evaluation
    lr: float | None = None
    tau: int | None = None
    wall_time: float = 0.0
    virtual_time: float | None = None  # in a simulation
    waited: float = 0.0  # seconds, mean over the workers, as what follows
    sent: float = 0.0  # bytes
    paused: float = 0.0  # seconds of evaluation and writing
    origin: tuple = (0, 0.0, 0.0)  # steps, wall and virtual time that were behind an interrupted run when it went on

    def add(self, rows):
        """Take in the StepRows of the next steps."""
        if not self.done and rows.first:
            self.origin = (rows.first, float(rows.wall_time[0]), _last(rows.virtual_time, 0) or 0.0)
        self.done, self.wall_time, self.virtual_time = rows.first + len(rows.tau), _last(rows.wall_time), _last(rows.virtual_time)
        self.tau, self.lr = int(rows.tau[-1]), _last(rows.lr)
        if rows.loss is not None:
            self.losses = (self.losses + _means(rows.loss[-SMOOTHED:]).tolist())[-SMOOTHED:]
        self.waited += float(_means(rows.wait_time).sum())
        self.sent += float(_means(rows.bytes_sent).sum())
        self.paused += float(rows.pause_time.sum())

    def evaluate(self, step, wall_time, figures):
        """Take in the figures of an evaluation after so many steps."""
        self.figures, self.done, self.wall_time = dict(figures), max(self.done, step), max(self.wall_time, wall_time)

    @property
    def left(self) -> float | None:
        """Seconds until the end, if evaluations go on to take what they took; None: nobody knows."""
        steps, before, _ = self.origin
        if self.total is None or self.done <= steps:
            return None
        return min((self.wall_time - before + self.paused) / (self.done - steps) * (self.total - self.done), LONGEST)

    @property
    def waiting(self) -> float | None:
        """Share of the time that the workers have waited; None: nothing is known yet."""
        time = self.wall_time - self.origin[1] if self.virtual_time is None else self.virtual_time - self.origin[2]
        return self.waited / time if time > 0 and self.done else None

    @property
    def steps(self) -> str:
        """Steps so far, of how many."""
        return str(self.done) if self.total is None else f"{self.done}/{self.total}"

    def said(self) -> list[tuple[int, str]]:
        """[(importance, text)] of all there is to say, in the order in which it is shown; 0 is the most important."""
        found = []
        if self.losses:
            count = len(self.losses)
            found.append((0, f"batch loss {sum(self.losses) / count:.4g} (mean of {count} step{'s' * (count > 1)})"))
        found += [(1 if name in ("loss", "accuracy") else LEAST if name == "consensus" else 6, f"{name} {self.figures[name]:{form}}")
                  for name, form in ordered(self.figures)]
        if self.lr is not None:
            found += [(4, f"lr {self.lr:.3g}"), (4, f"tau {self.tau}")]
        if self.done and self.wall_time:
            found.append((3, f"{self.done / self.wall_time:.4g} steps/s"))
        if self.waiting is not None:
            found.append((2, f"waiting {self.waiting:.0%}"))
        if self.virtual_time is not None:
            found.append((5, f"virtual time {self.virtual_time:.5g} s"))
        if self.tau is not None:
            found.append((8, f"{self.sent / 1e6:.3g} MB sent"))
        return found

    def end(self) -> str:
        """When it will be over, in words; empty: nobody knows."""
        return "" if self.left is None else f"ETA {timedelta(seconds=round(self.left))}"


def ordered(figures):
    """[(name, form)] of the figures that are shown: those with a form of their own first."""
    known = [(name, form) for name, form in FORMS.items() if name in figures]
    return known + [(name, ".4g") for name in figures if name not in FORMS and name not in HIDDEN]


def _last(values, place=-1):
    return None if values is None else float(values[place])


def _means(values):
    """Over the workers; simulations of many give such means themselves."""
    return values.mean(axis=1) if values.ndim == 2 else values
