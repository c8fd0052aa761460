"""One training run from its assembly to its closed result file."""

from dataclasses import dataclass

import numpy as np

from coopmpi import config as description
from coopmpi.errors import Interrupted, NumericalFailure
from coopmpi.run.assemble import together
from coopmpi.run.loop import Trainer

_STATUS = {type(None): "finished", Interrupted: "interrupted", NumericalFailure: "failed"}  # of the result file


@dataclass
class Outcome:
    """What a finished run has come to, on rank 0."""

    steps: int
    figures: dict
    wall_time: float  # seconds
    waiting: float  # share of that, or of the virtual time, in which rank 0 was blocked on communication
    sent: float  # bytes per worker, mean over the workers of rank 0


def train(assembly, world, output, watcher, checkpoint=None):
    """Train and write the result file; from a checkpoint of an earlier run, continue it.

    Raises the same CoopError on all ranks, or ends them all.
    """
    writer = open_result(assembly, world, output, checkpoint)
    trainer = Trainer(assembly, writer, watcher, checkpoint)
    try:
        # signals are noted until the file is closed; NaN and Inf are looked for, so NumPy need not warn of them
        with trainer.ballot, np.errstate(all="ignore"):
            stopped = _run(trainer)
            if not isinstance(stopped, NumericalFailure):
                trainer.save(writer)
            if isinstance(stopped, Interrupted):
                trainer.save_state(writer)
            _close(writer, _STATUS[type(stopped)], trainer, stopped)
    except BaseException as error:
        # only this rank is here
        try:
            _close(writer, "failed", trainer, error)
        finally:
            world.abort(error)
        raise
    finally:
        watcher.close()
    if stopped is not None:
        raise stopped
    log, hosted = trainer.log, assembly.driver.hosted
    return Outcome(trainer.done, trainer.figures, trainer.trained, trainer.waiting, log.sent / len(hosted))


def _run(trainer):
    """Train to the end; what stopped all ranks alike, or None."""
    try:
        trainer.train()
    except (Interrupted, NumericalFailure) as error:
        return error


def open_result(assembly, world, output, checkpoint=None):
    """The Writer of the result file on rank 0, None elsewhere."""
    def create():
        if world.rank:
            return None
        from coopmpi.record.writer import Writer

        problem, config = assembly.driver.task, assembly.config
        return Writer(output, description.dump(config), config.workers, problem.dimension, config.dtype,
                      attributes={"ranks": world.size, "mpi": world.name, "device": assembly.context.device.name},
                      layout=getattr(problem, "layout", ()), slots=assembly.slots, checkpoint=checkpoint,
                      simulated=assembly.clocks is not None)

    return together(world, create)


def _close(writer, status, trainer, error=None):
    if writer is not None:
        if error is not None and not writer.broken:
            writer.event(trainer.done, trainer.wall_time, status, str(error) or type(error).__name__)
        writer.close(status)
