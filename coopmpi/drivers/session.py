"""One training run from its assembly to its closed result file."""

from dataclasses import dataclass

from coopmpi import config as description
from coopmpi.drivers.loop import Trainer
from coopmpi.errors import CoopError, Interrupted, NumericalFailure


@dataclass
class Outcome:
    """What a finished run has come to, on rank 0."""

    steps: int
    figures: dict
    wall_time: float  # seconds
    waited: float  # seconds that rank 0 was blocked on communication
    sent: float  # bytes per worker, mean over the workers of rank 0


def train(assembly, world, output, watcher):
    """Train and write the result file. Raises the same CoopError on all ranks, or ends them all."""
    writer = _open(assembly, world, output)
    trainer = Trainer(assembly, writer, watcher)
    try:
        trainer.train()
    except (Interrupted, NumericalFailure) as error:
        # all ranks are here
        if isinstance(error, Interrupted):
            trainer.save(writer)
        _close(writer, "interrupted" if isinstance(error, Interrupted) else "failed", trainer, error)
        raise
    except BaseException as error:
        # only this rank is here
        _close(writer, "failed", trainer, error)
        world.abort(error)
        raise
    finally:
        watcher.close()
    trainer.save(writer)
    _close(writer, "finished", trainer)
    log, hosted = trainer.log, assembly.driver.hosted
    return Outcome(trainer.done, trainer.figures, trainer.trained, log.waited, log.sent / len(hosted))


def _open(assembly, world, output):
    writer, error = None, None
    if world.rank == 0:
        from coopmpi.record.writer import Writer

        problem, config = assembly.driver.task, assembly.config
        try:
            writer = Writer(output, description.dump(config), config.workers, problem.dimension, config.dtype,
                            attributes={"ranks": world.size, "mpi": world.name, "device": assembly.run.device.name},
                            layout=getattr(problem, "layout", ()))
        except CoopError as found:
            error = found
    world.agree(error)
    return writer


def _close(writer, status, trainer, error=None):
    if writer is not None and not writer.broken:
        if error is not None:
            writer.event(trainer.done, trainer.wall_time, status, str(error) or type(error).__name__)
        writer.close(status)
