"""Puts a run together from its description: parts checked against each other, nothing allocated too early."""

from dataclasses import dataclass

from coopmpi.config import Config
from coopmpi.device.choice import choose
from coopmpi.drivers.driver import Driver
from coopmpi.drivers.rank_layout import RankLayout
from coopmpi.errors import CoopError, UserError
from coopmpi.inputs import read_numbers
from coopmpi.local.periods import Every
from coopmpi.simulation.clocks import Clocks
from coopmpi.step import MODEL, Context
from coopmpi.tasks.problem import Place

DEFAULT_STEPS = 2000


@dataclass
class Assembly:
    """Everything a Trainer needs, checked and ready, on one rank."""

    config: Config  # with workers and steps filled in
    context: Context
    driver: Driver
    slots: tuple
    eval_every: int
    clocks: Clocks | None  # in a simulation


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


def assemble(config, world, simulated=False):
    """The Assembly of this rank; a UserError that any rank meets is raised on all of them.

    simulated: with virtual clocks; this rank hosts all workers then.
    """
    import msgspec

    workers = config.workers or world.size
    period = config.period if config.algorithm.uses_period else Every(tau=1)

    def parts():
        if world.size > workers:
            raise UserError(f"more ranks than workers: {world.size} ranks for workers = {workers}; "
                            "every rank hosts at least one")
        mixing = None
        if config.algorithm.uses_mixing:
            mixing = config.algorithm.bind_mixing(config.mixing, workers, config.seed)
        config.algorithm.check(workers, mixing, config)
        return mixing, choose(config.device, world.local_rank, config.device_buffers)

    def data():
        hosted = RankLayout(workers, world.size).hosted(world.rank)
        return config.task.prepare(Place(workers, hosted, config.seed, config.dtype, device, world))

    mixing, device = together(world, parts)
    compute = config.compute.bind(workers, config.seed, read_numbers) if simulated else None
    problem = together(world, data)

    steps = config.steps or DEFAULT_STEPS
    if config.epochs is not None:
        steps = problem.steps(config.epochs, workers)
    config = msgspec.structs.replace(config, workers=workers, steps=steps, epochs=None)
    clocks = Clocks(workers, compute, config.network, config.seed) if simulated else None
    driver = Driver(workers, problem, mixing, device, world, config.deterministic, clocks)
    codec, tensors = None, getattr(problem, "layout", None) or [("x", (problem.dimension,), 0)]
    if config.algorithm.uses_compress:
        codec = config.compress.bind(tensors, config.dtype, device, config.seed)
    context = Context(workers, driver.hosted, steps, config.optimizer, config.schedule, period, device, tensors, config.seed,
              codec, mixing)
    slots = (MODEL, *config.algorithm.bound_slots(mixing), *config.optimizer.slots)
    if not simulated:
        config = msgspec.structs.replace(config, compute=None, network=None)
    return Assembly(config, context, driver, slots, config.record.eval_every or max(1, steps // 20), clocks)
