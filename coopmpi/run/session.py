"""One training run from its assembly to its closed result file."""

from dataclasses import dataclass

import numpy as np

from coopmpi import config as description
from coopmpi.errors import CoopError, Interrupted, NumericalFailure, RankLost
from coopmpi.record import checkpoint
from coopmpi.run.assemble import Assembly, together
from coopmpi.run.feed import Feed
from coopmpi.run.loop import Trainer
from coopmpi.run.saving import Saver, restore_newest, save_models
from coopmpi.run.watchdog import Watchdog
from coopmpi.sinks.sink import About

ALL_MODELS = 1e9  # bytes up to which they are recorded by default
ALL_WORKERS = 4096  # up to which each has its column by default
_STATUS = {type(None): "finished", Interrupted: "interrupted", NumericalFailure: "failed"}  # of the result file


@dataclass
class Outcome:
    """What a finished run has come to, on rank 0."""

    steps: int
    figures: dict
    wall_time: float  # seconds
    waiting: float  # share of that, or of the virtual time, in which rank 0 was blocked on communication
    sent: float  # bytes per worker, mean over the workers of rank 0
    reached: str  # the target of [stop] that ended it, if one did


def train(assembly: Assembly, world, output, sinks=(), overwrite=False, resume=False, survival=None) -> Outcome:
    """Train and write the result file; resume: go on from its newest checkpoint.

    sinks: further takers of results on rank 0. survival: what outlives the loss of ranks, a coopmpi.run.survival.Survival.
    Raises the same CoopError on all ranks, RankLost where some are lost, or ends them all.
    """
    trainer = begin(assembly, world, output, sinks, overwrite, resume, survival)
    feed, saver, keep_final = trainer.feed, trainer.saver, assembly.mode == "train" and assembly.config.checkpoint.keep_final
    try:
        # signals are noted until the file is closed; NaN and Inf are looked for, so NumPy need not warn of them
        with trainer.ballot, Watchdog(assembly.driver), np.errstate(all="ignore"):
            for note in () if resume else assembly.notes:
                feed.event(0, 0.0, "note", note)
            stopped = _run(trainer)
            if isinstance(stopped, NumericalFailure):
                feed.drop_after(trainer.ballot.failed_at)
            if trainer.numbers and not isinstance(stopped, NumericalFailure):
                save_models(assembly.driver, trainer.state.x, feed, all_models(assembly))
            if saver and (isinstance(stopped, Interrupted) or (stopped is None and keep_final)):
                saver.save_now(trainer.done, trainer.trained)
            if world.tolerant:
                world.confirm()  # all are here until the end
            _close(feed, _STATUS[type(stopped)], trainer, stopped)
            if saver:
                saver.wait()
            if world.tolerant:
                world.confirm()  # rank 0, too
            if world.rank == 0 and stopped is None and not keep_final:
                checkpoint.remove(output)
    except BaseException as error:
        if world.is_loss(error):
            survival.note(trainer)
            raise RankLost("ranks were lost") from error
        # only this rank is here
        try:
            _close(feed, "failed", trainer, error)
        finally:
            world.abort(error)
        if isinstance(error, SystemExit):
            raise CoopError(f"the run was ended by sys.exit({error.code}) in somebody's own code, which is a failure") from error
        raise
    if isinstance(stopped, Interrupted):
        raise Interrupted(f"{stopped}; its state is saved: coopmpi resume {output}") if saver else stopped
    if stopped is not None:
        raise stopped
    log, hosted = trainer.log, assembly.driver.hosted
    return Outcome(trainer.done, trainer.figures, trainer.trained, trainer.waiting, log.sent / len(hosted), trainer.reached)


def begin(assembly: Assembly, world, output, sinks=(), overwrite=False, resume=False, survival=None) -> Trainer:
    """The Trainer at the start, or where its newest checkpoint stands, with its result file and sinks open on rank 0."""
    if survival is not None and survival.losses:
        return survival.begin_again(assembly, world, together(world, assembly.start), about(assembly, world))
    feed = Feed()
    if world.rank == 0:
        from coopmpi.record.writer import Writer

        feed = Feed(Writer(output, overwrite), sinks)
    if survival is not None and world.rank == 0:
        survival.feed = feed  # it may be open already when a rank is lost in the following
    # what goes wrong in setting up is told before there is a file
    states, step, trained = together(world, assembly.start), None, 0.0
    if resume:
        from coopmpi.record.reader import run_of

        found = restore_newest(assembly.driver, states, output, run_of(output))
        step, trained = found.step, found.wall_time
    together(world, lambda: feed.begin(about(assembly, world), step))
    saver = None
    if assembly.mode == "train":
        run = world.from_first(feed.result.run if feed.result else "")
        saver = Saver(assembly.driver, states, output, run, assembly.config.checkpoint.keep)
    trainer = Trainer(assembly, feed, states, step or 0, trained, saver)
    if survival is not None:
        survival.watch(trainer)
    return trainer


def _run(trainer):
    """Train to the end; what stopped all ranks alike, or None."""
    try:
        trainer.train()
    except (Interrupted, NumericalFailure) as error:
        return error


def all_models(assembly: Assembly) -> bool:
    """Are the models of all workers to be in the result file, or their mean alone?"""
    chosen, task = assembly.config.record.final, assembly.driver.task
    return chosen == "all" if chosen else assembly.config.workers * task.dimension * task.dtype.itemsize <= ALL_MODELS


def per_worker(config) -> bool:
    """Is the result file to have a column per worker in the series of the steps?"""
    chosen = config.record.per_worker
    return chosen == "all" if chosen else config.workers <= ALL_WORKERS


def about(assembly: Assembly, world) -> About:
    """What sinks are told of a run."""
    config, task = assembly.config, assembly.driver.task
    own = tuple((slot.name, slot.columns, slot.dtype or config.dtype) for slot in task.slots)
    attributes = {"ranks": world.size, "mpi": world.name, "device": assembly.context.device.name,
                  "node_ranks": world.local_size, "node_cores": world.local_cores}
    if task.steps_per_epoch is not None:
        attributes["steps_per_epoch"] = task.steps_per_epoch
    if task.class_names:
        attributes["classes"] = list(task.class_names)
    figures = dict(task.figures)
    for slot in config.record.slots:
        figures |= {f"{slot}_{name}": (unit, f"{said}; of {slot} in place of the mean model") for name, (unit, said) in task.figures.items()}
    return About(description.dump(config), config.workers, config.steps, task.dimension, config.dtype, assembly.mode, attributes,
                 task.layout if task.has_layout else (), figures, task.chance, own, all_models(assembly), per_worker(config))


def _close(feed, status, trainer, error=None):
    result = feed.result
    if error is not None and not (result and result.broken):
        feed.event(trainer.done, trainer.stopwatch.seconds, status, str(error) or type(error).__name__)
    feed.close(status)
