"""What one candidate comes to: its time without numbers, and its losses, both on the virtual clocks of a machine."""

from typing import Any, NamedTuple

import numpy as np

from coopmpi import config
from coopmpi.drivers.solo import Solo
from coopmpi.errors import Interrupted, NumericalFailure
from coopmpi.run.assemble import assemble
from coopmpi.run.loop import Trainer
from coopmpi.sinks.sink import Sink


class Target(NamedTuple):
    """What a run is to reach: a figure of the mean model, at most `value`, or at least where it rises."""

    figure: str
    value: float

    @property
    def rises(self) -> bool:
        return self.figure == "accuracy"

    def met(self, value: float) -> bool:
        return value >= self.value if self.rises else value <= self.value

    def worse(self, value: float) -> float:
        """A number that is the larger the further a figure is from good; inf for NaN."""
        return np.inf if np.isnan(value) else -value if self.rises else value


class Forecast(NamedTuple):
    """Of steps of a run: seconds is the virtual time after each, shares are means over the workers, of all time."""

    seconds: np.ndarray
    gradient: float
    network: float
    sent: float  # bytes per worker and step

    @property
    def per_step(self) -> float:
        return float(self.seconds[-1] / len(self.seconds))

    @property
    def other(self) -> float:
        """Share of compressors, sums and the optimiser."""
        return max(0.0, 1.0 - self.gradient - self.network)


class Curve(NamedTuple):
    """Evaluations of a run: steps, figures, virtual seconds. end: "target", "late" (stopped, as others were there), "steps" or "diverged"."""

    steps: list[int]
    values: list[float]
    seconds: list[float]
    end: str

    @property
    def reached(self) -> bool:
        return self.end == "target"

    def at(self, step: int) -> float:
        """The figure at the last evaluation up to that step; NaN before the first."""
        found = [value for at, value in zip(self.steps, self.values) if at <= step]
        return found[-1] if found else np.nan


def forecast(tables: dict, steps: int) -> Forecast:
    """The time of so many steps. What follows numbers, such as triggers, has to be simulated in full: see `full`."""
    return _timed({key: value for key, value in tables.items() if key not in ("stop", "epochs")} | {"steps": steps}, "time-only")


def full(tables: dict, steps: int) -> Forecast:
    """The same with all numbers."""
    run = {key: value for key, value in tables.items() if key not in ("stop", "epochs")}
    return _timed(run | {"steps": steps, "record": {"eval_every": steps}}, "simulate")


def _timed(tables, mode):
    notes = Times()
    _train(tables, notes, mode)
    seconds, computed, waited, sent = (np.concatenate(column) for column in zip(*notes.blocks))
    return Forecast(seconds, float(computed.sum() / seconds[-1]), float(waited.sum() / seconds[-1]), float(sent.mean()))


def curve(tables: dict, target: Target, cap: Any = None) -> Curve:
    """Train on virtual clocks until the target is reached, or these show more than the seconds in cap.value, which may fall meanwhile."""
    notes = Evaluations(target=target, cap=cap)
    try:
        _train(tables, notes, "simulate")
        end = "target" if notes.values and target.met(notes.values[-1]) else "steps"
    except Interrupted:
        end = "late"
    except NumericalFailure:
        end = "diverged"
    return Curve(notes.steps_done, notes.values, notes.seconds, end)


def _train(tables, notes, mode):
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1), np.errstate(all="ignore"):
        Trainer(assemble(config.resolve(tables), Solo(), mode), notes).train()


class Times(Sink):
    """Notes the clocks of all steps."""

    def __post_init__(self):
        self.blocks = []

    def steps(self, rows):
        self.blocks.append((rows.virtual_time, rows.compute_time.mean(axis=1), rows.wait_time.mean(axis=1), rows.bytes_sent.mean(axis=1)))


class Evaluations(Sink):
    """Notes evaluations, and ends the run when its time is over."""

    target: Any
    cap: Any

    def __post_init__(self):
        self.steps_done, self.values, self.seconds = [], [], []

    def evaluation(self, step, wall_time, figures):
        self.steps_done.append(step)
        self.values.append(figures[self.target.figure])
        self.seconds.append(figures.get("virtual_time", wall_time))
        if self.cap is not None and step and not self.target.met(self.values[-1]) and self.seconds[-1] > self.cap.value:
            raise Interrupted("others have reached the target")
