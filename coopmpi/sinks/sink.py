"""The interface of everything that takes results: the HDF5 file, the console, and sinks of a user's own."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import msgspec
import numpy as np


@dataclass(frozen=True)
class About:
    """What a run is."""

    config: str  # the resolved run description, TOML
    workers: int
    steps: int
    dimension: int  # d
    dtype: str
    mode: str  # "train", "simulate", or "time-only": no losses, figures and models then
    attributes: Mapping[str, object] = field(default_factory=dict)  # ranks, mpi, device, steps_per_epoch where the task tells it
    layout: tuple = ()  # (name, shape, offset) of the tensors in a model, where there are such
    figures: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # {name: (unit, description)} of evaluations
    chance: Mapping[str, float] = field(default_factory=dict)  # {name: figure of a model that has learnt nothing}
    own: tuple = ()  # (name, columns, dtype) of state of the task's own, as the buffers of a module
    all_models: bool = True  # are the models of all workers handed over at the end, or their mean alone?
    per_worker: bool = True  # does the result file hold a column per worker, or what a step comes to over all workers?


class StepRows(NamedTuple):
    """What happened in n consecutive steps: 1-D series of n numbers, and arrays (n, m) with a column per worker."""

    first: int  # steps done before the first of these n
    wall_time: np.ndarray  # seconds since training began, without evaluation and writing
    tau: np.ndarray  # period in force
    lr: np.ndarray  # learning rate, as the schedule has it
    pause_time: np.ndarray  # seconds since the step before that wall_time leaves out
    loss: np.ndarray | None  # (n, m), mini-batch losses; None where no numbers are computed
    compute_time: np.ndarray  # (n, m) seconds
    wait_time: np.ndarray  # (n, m) seconds
    bytes_sent: np.ndarray  # (n, m)
    virtual_time: np.ndarray | None  # seconds, of a simulation

    def means(self) -> dict[str, np.ndarray]:
        """The series that there are, (n,) each: means over the workers."""
        series = {name: column for name, column in self._asdict().items() if name != "first" and column is not None}
        return {name: column if np.ndim(column) == 1 else column.mean(axis=1, dtype=float) for name, column in series.items()}


class Sink(msgspec.Struct, kw_only=True, dict=True, forbid_unknown_fields=True):
    """Base of all sinks; each method does nothing unless it is overridden. There are sinks on rank 0 only.

    Fields are the keys of its [[sinks]] table. A sink that raises is dropped with a message, the run goes on.
    """

    name: ClassVar[str]

    def open(self, about: About):
        """A run begins."""

    def reopen(self, about: About, step: int):
        """A run goes on that was interrupted after so many steps: what this sink holds of later steps is void."""
        self.open(about)

    def steps(self, rows: StepRows):
        """Some steps are done; every step comes once, in order."""

    def rounds(self, rows: list[tuple[int, float, float, float, float]]):
        """Transfers of rank 0 that travelled beside gradients: (step, posted, finished, waited, bytes), seconds."""

    def evaluation(self, step: int, wall_time: float, figures: Mapping[str, float]):
        """Figures of the mean model after so many steps, those of About.figures and "consensus"; simulations: also
        "virtual_time"."""

    def event(self, step: int, wall_time: float, kind: str, text: str):
        """Something happened: a note, an interruption, a failure, ..."""

    def final(self, worker: int, row: np.ndarray):
        """The model (d,) of a worker at the end; one worker after the other."""

    def final_mean(self, row: np.ndarray):
        """The mean (d,) of the workers' models at the end."""

    def final_own(self, name: str, worker: int | None, row: np.ndarray):
        """A row of About.own at the end: a worker's, or what goes with the mean model (None)."""

    def close(self, status: str):
        """The run is over: "finished", "interrupted" or "failed"."""
