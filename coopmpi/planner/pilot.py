"""A few real steps on the ranks of a job, timed."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

import msgspec
import numpy as np

from coopmpi import config
from coopmpi.run.assemble import Assembly, assemble
from coopmpi.run.loop import Trainer
from coopmpi.run.session import begin
from coopmpi.vocabulary import Record, Saving

SECONDS = 5.0  # of one pilot, about
FEWEST, MOST = 12, 400  # steps


@contextmanager
def passing_run(assembly: Assembly, world, sinks=()) -> Iterator[Trainer]:
    """The Trainer of a run whose result file nobody keeps."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = begin(assembly, world, Path(folder, "run.h5"), sinks)
        yield trainer
        trainer.feed.close("finished")


def timed_steps(resolved, world, warm: int, steps: int) -> tuple[Assembly, np.ndarray]:
    """(the run, seconds (steps,) of this rank's steps after `warm` ones), recording included, evaluations and checkpoints not."""
    quiet = {"steps": warm + steps + 1, "epochs": None, "stop": {}, "sinks": (), "checkpoint": Saving(every_minutes=0.0),
             "record": Record(eval_every=10**9, final="mean")}
    assembly = assemble(msgspec.structs.replace(resolved, **quiet), world)
    times = []
    with passing_run(assembly, world) as trainer:
        trainer.begin()
        while not trainer.ended:
            before = perf_counter()
            trainer.driver.compute(trainer.step())
            times.append(perf_counter() - before)
        trainer.end()
    return assembly, np.array(times[warm:-1])  # the last one has an evaluation in it


def pilot(tables: dict, world, forecast: float, steps: float) -> float:
    """Seconds per step of a run on these ranks, over whole periods; forecast: what they are thought to be; steps: of the whole run, as
    periods may shrink later."""
    resolved = config.resolve(tables)
    tau = resolved.period.tau_from(0) if resolved.algorithm.uses_period else 1
    rounds = max(2, round(np.clip(SECONDS / forecast, FEWEST, min(MOST, max(FEWEST, steps))) / tau))
    _, seconds = timed_steps(resolved, world, 2 * tau, rounds * tau)
    return float(world.vote([seconds.mean()])()[0])
