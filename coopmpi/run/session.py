"""One training run from its assembly to its closed result file."""

from dataclasses import dataclass

import numpy as np

from coopmpi import config as description
from coopmpi.errors import Interrupted, NumericalFailure
from coopmpi.run.assemble import Assembly, together
from coopmpi.run.feed import Feed
from coopmpi.run.loop import Trainer
from coopmpi.run.saving import restore, save_models, save_state
from coopmpi.sinks.sink import About

_STATUS = {type(None): "finished", Interrupted: "interrupted", NumericalFailure: "failed"}  # of the result file


@dataclass
class Outcome:
    """What a finished run has come to, on rank 0."""

    steps: int
    figures: dict
    wall_time: float  # seconds
    waiting: float  # share of that, or of the virtual time, in which rank 0 was blocked on communication
    sent: float  # bytes per worker, mean over the workers of rank 0


def train(assembly: Assembly, world, output, sinks=(), checkpoint=None) -> Outcome:
    """Train and write the result file; from a checkpoint of an earlier run, continue it.

    sinks: further takers of results on rank 0. Raises the same CoopError on all ranks, or ends them all.
    """
    trainer = begin(assembly, world, output, sinks, checkpoint)
    feed = trainer.feed
    try:
        # signals are noted until the file is closed; NaN and Inf are looked for, so NumPy need not warn of them
        with trainer.ballot, np.errstate(all="ignore"):
            for note in assembly.notes if checkpoint is None else ():
                feed.event(0, 0.0, "note", note)
            stopped = _run(trainer)
            if trainer.numbers and not isinstance(stopped, NumericalFailure):
                save_models(assembly.driver, trainer.state.x, feed)
            if trainer.numbers and isinstance(stopped, Interrupted):
                save_state(assembly.driver, (trainer.state, trainer.own_state), trainer.done, feed.result)
            _close(feed, _STATUS[type(stopped)], trainer, stopped)
    except BaseException as error:
        # only this rank is here
        try:
            _close(feed, "failed", trainer, error)
        finally:
            world.abort(error)
        raise
    if stopped is not None:
        raise stopped
    log, hosted = trainer.log, assembly.driver.hosted
    return Outcome(trainer.done, trainer.figures, trainer.trained, trainer.waiting, log.sent / len(hosted))


def begin(assembly: Assembly, world, output, sinks=(), checkpoint=None) -> Trainer:
    """The Trainer at the start, or where the checkpoint stands, with its result file and sinks open on rank 0."""
    feed = Feed()
    if world.rank == 0:
        from coopmpi.record.writer import Writer

        feed = Feed(Writer(output), sinks)
    # what goes wrong in setting up is told before there is a file
    done, trained = (checkpoint.step, checkpoint.wall_time) if checkpoint else (0, 0.0)
    trainer = together(world, lambda: Trainer(assembly, feed, done, trained))
    together(world, lambda: feed.begin(about(assembly, world), checkpoint))
    if checkpoint is not None:
        restore(assembly.driver, (trainer.state, trainer.own_state), checkpoint)
        checkpoint.close()
    return trainer


def _run(trainer):
    """Train to the end; what stopped all ranks alike, or None."""
    try:
        trainer.train()
    except (Interrupted, NumericalFailure) as error:
        return error


def about(assembly: Assembly, world) -> About:
    """What sinks are told of a run."""
    config, task = assembly.config, assembly.driver.task
    attributes = {"ranks": world.size, "mpi": world.name, "device": assembly.context.device.name}
    return About(description.dump(config), config.workers, config.steps, task.dimension, config.dtype, assembly.mode, attributes,
                 task.layout if task.has_layout else (), task.figures, (*assembly.slots, *task.slots))


def _close(feed, status, trainer, error=None):
    result = feed.result
    if error is not None and not (result and result.broken):
        feed.event(trainer.done, trainer.stopwatch.seconds, status, str(error) or type(error).__name__)
    feed.close(status)
