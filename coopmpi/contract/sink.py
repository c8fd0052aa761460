"""The rules for sinks."""

import os
import tempfile
from contextlib import contextmanager

import numpy as np

from coopmpi.sinks.sink import About, StepRows

WORKERS, STEPS = 3, 10


class Trial:
    """make() gives a fresh sink of the same keys."""

    def __init__(self, make):
        self.make = make

    @contextmanager
    def folder(self):
        """A working directory for the files that a sink may write."""
        before = os.getcwd()
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            try:
                yield
            finally:
                os.chdir(before)


def about(mode="train"):
    return About("workers = 3\n", WORKERS, STEPS, 5, "float32", mode, {"ranks": 1, "mpi": "none", "device": "cpu"},
                 (("x", (5,), 0),), {"loss": ("1", "held-out loss")})


def rows(first, n, workers=(WORKERS,), numbers=True, virtual=False):
    ones, each = np.ones(n), np.ones((n, *workers))
    return StepRows(first, first + ones.cumsum(), np.full(n, 8), 0.1 * ones, 0 * ones, each if numbers else None, each, each, each,
                    ones.cumsum() if virtual else None)


def takes_a_whole_run(trial):
    """It takes everything that a run tells: steps, rounds, evaluations, events, models."""
    with trial.folder():
        _run(trial.make())


def _run(sink):
    sink.open(about())
    sink.evaluation(0, 0.0, {"loss": 2.0, "consensus": 0.0})
    sink.steps(rows(0, 6))
    sink.rounds([(6, 0.1, 0.2, 0.05, 40.0)])
    sink.event(6, 6.0, "note", "something \u00e9 happened")
    sink.steps(rows(6, 4))
    sink.evaluation(STEPS, 10.0, {"loss": float("nan"), "consensus": 1.0})
    for worker in range(WORKERS):
        sink.final(worker, np.ones(5, np.float32))
    sink.final_mean(np.ones(5, np.float32))
    sink.final_own("buffers", None, np.ones(2, np.float32))
    sink.close("finished")


def goes_on_with_an_interrupted_run(trial):
    """`reopen` goes on where a run was interrupted, in what an earlier `open` has begun."""
    with trial.folder():
        first = trial.make()
        first.open(about())
        first.steps(rows(0, 8))
        first.close("interrupted")
        second = trial.make()
        second.reopen(about(), 6)
        second.steps(rows(6, 4))
        second.close("finished")


def takes_simulations(trial):
    """It takes simulations, and simulations of time alone, which have no losses and means where workers are many."""
    for mode, numbers, workers in (("simulate", True, (WORKERS,)), ("time-only", False, (WORKERS,)), ("time-only", False, ())):
        with trial.folder():
            sink = trial.make()
            sink.open(about(mode))
            sink.steps(rows(0, STEPS, workers, numbers, virtual=True))
            sink.evaluation(STEPS, 10.0, {"virtual_time": 10.0})
            sink.close("finished")


def takes_an_empty_run(trial):
    """It takes a run that fails before its first step."""
    with trial.folder():
        sink = trial.make()
        sink.open(about())
        sink.event(0, 0.0, "failed", "")
        sink.close("failed")


RULES = (takes_a_whole_run, goes_on_with_an_interrupted_run, takes_simulations, takes_an_empty_run)
