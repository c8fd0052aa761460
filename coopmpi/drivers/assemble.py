"""Puts a run together from its description: parts checked against each other, nothing allocated too early."""

from dataclasses import dataclass

from coopmpi import array
from coopmpi.config import Config
from coopmpi.drivers.driver import Driver
from coopmpi.drivers.placement import Placement
from coopmpi.errors import CoopError, UserError
from coopmpi.parts.periods import Every
from coopmpi.step import MODEL, Run
from coopmpi.tasks.problem import Place

DEFAULT_STEPS = 2000


@dataclass
class Assembly:
    """Everything a Trainer needs, checked and ready, on one rank."""

    config: Config  # with workers and steps filled in
    run: Run
    driver: Driver
    slots: tuple
    eval_every: int


def together(world, work):
    """What `work()` gives; a CoopError that any rank meets in it is raised on all ranks alike."""
    result, error = None, None
    try:
        result = work()
    except CoopError as found:
        error = found
    except MemoryError as found:
        error = CoopError(f"not enough memory: {found}")
    world.agree(error)
    return result


def assemble(config, world):
    """The Assembly of this rank; a UserError that any rank meets is raised on all of them."""
    import msgspec

    workers = config.workers or world.size
    period = config.period if config.algorithm.uses_period else Every(tau=1)

    def parts():
        if world.size > workers:
            raise UserError(f"more ranks than workers: {world.size} ranks for workers = {workers}; "
                            "every rank hosts at least one")
        mixing = config.mixing.bind(workers, config.seed) if config.algorithm.uses_mixing else None
        config.algorithm.check(workers, mixing, config)
        return mixing, array.choose(config.device, world.local_rank, config.device_buffers)

    def data():
        hosted = Placement(workers, world.size).hosted(world.rank)
        return config.task.prepare(Place(workers, hosted, config.seed, config.dtype, device, world))

    mixing, device = together(world, parts)
    problem = together(world, data)

    steps = config.steps or DEFAULT_STEPS
    if config.epochs is not None:
        steps = problem.steps(config.epochs, workers)
    config = msgspec.structs.replace(config, workers=workers, steps=steps, epochs=None)
    run = Run(workers, steps, config.optimizer, config.schedule, period, device)
    driver = Driver(workers, problem, mixing, device, world, config.deterministic)
    slots = (MODEL, *config.algorithm.slots, *config.optimizer.slots)
    return Assembly(config, run, driver, slots, config.record.eval_every or max(1, steps // 20))
