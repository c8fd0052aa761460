"""Puts a run together from its description: parts checked against each other, nothing allocated too early."""

from dataclasses import dataclass

from coopmpi.compression.halves import Halves
from coopmpi.config import Config
from coopmpi.device.choice import choose
from coopmpi.device.hollow import Hollow, HollowCodec, HollowProblem
from coopmpi.drivers.driver import Driver
from coopmpi.drivers.rank_layout import RankLayout
from coopmpi.errors import CoopError, UserError, unknown
from coopmpi.inputs import read_numbers
from coopmpi.local.periods import Every
from coopmpi.run.stop import MINUTES, Stop
from coopmpi.simulation.clocks import Clocks
from coopmpi.step import MODEL, Context, Slot, State
from coopmpi.tasks.problem import Objective, Place

DEFAULT_STEPS = 2000
EVALUATIONS = 20  # over a run
MODES = ("train", "simulate", "time-only")  # on ranks; on virtual clocks; on virtual clocks without any numbers


@dataclass
class Assembly:
    """Everything that a training loop needs, checked and ready, on one rank."""

    mode: str  # one of MODES
    config: Config  # with workers and steps filled in
    context: Context
    driver: Driver
    slots: tuple[Slot, ...]
    eval_every: int  # steps between evaluations ...
    eval_before: int  # ... and how many steps they come before its multiples
    stop: Stop  # looked at in evaluations
    clocks: Clocks | None  # in a simulation
    notes: tuple[str, ...]  # what the user should know of this combination

    def start(self) -> tuple[State, State]:
        """The state at the beginning: of the algorithm, optimiser and period, and of the task's own slots."""
        driver = self.driver
        state = State(self.slots, driver.task.initial(), driver)
        self.context.rounds = period_of(self.config).rounds(state)
        return state, driver.task.start(driver)


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


def period_of(config: Config):
    """The period in force: rounds after every step, where the algorithm does not use the [period] table."""
    return config.period if config.algorithm.uses_period else Every(tau=1)


def checked_mixing(config: Config, ranks: int, simulated: bool):
    """The MixingMatrix of a run on so many ranks, or None; UserError if its parts cannot work together."""
    workers = config.workers or ranks
    if ranks > workers:
        raise UserError(f"more ranks than workers: {ranks} ranks for workers = {workers}; every rank hosts at least one")
    period_of(config).check(config.deterministic, simulated)
    mixing = None
    if config.algorithm.uses_mixing:
        mixing = config.algorithm.bind_mixing(config.mixing, workers, config.seed)
    config.algorithm.check(workers, mixing, config)
    return mixing


def halves_of(config: Config, device) -> Halves | None:
    """How whole vectors travel as 16-bit numbers; None: they do not, or the algorithm compresses by itself."""
    if config.algorithm.uses_compress or not config.compress.halves:
        return None
    if isinstance(device, Hollow):
        return Halves(config.compress, config.workers, config.dtype, device, lambda codec: HollowCodec(codec, device))
    return Halves(config.compress, config.workers, config.dtype, device)


def assemble(config: Config, world, mode="train") -> Assembly:
    """The Assembly of this rank; a UserError that any rank meets is raised on all of them.

    mode: one of MODES. In the last two, this rank hosts all workers; in the last one, shapes stand in place of models,
    and no data are read.
    """
    import msgspec

    simulated, numbers = mode != "train", mode != "time-only"
    workers = config.workers or world.size
    period = period_of(config)

    def parts():
        mixing = checked_mixing(config, world.size, simulated)
        if not numbers:
            _require_fixed_requests(config)
        device = config.task.device(choose(config.device, world.local_rank, config.device_buffers)) if numbers else Hollow()
        return mixing, device

    mixing, device = together(world, parts)
    clocks = together(world, lambda: _clocks(config, workers)) if simulated else None
    hosted = RankLayout(workers, world.size).hosted(world.rank)
    place = Place(workers, hosted, config.seed, config.dtype, device, world)
    objective = together(world, lambda: _objective(config.task, place, numbers))
    stop = together(world, lambda: _stop(config.stop, objective, numbers))

    steps = config.steps or DEFAULT_STEPS
    if config.epochs is not None:
        steps = objective.steps(config.epochs)
    schedule = config.schedule
    if schedule.warmup_epochs:
        schedule = msgspec.structs.replace(schedule, warmup=objective.steps(schedule.warmup_epochs), warmup_epochs=None)
    config = msgspec.structs.replace(config, workers=workers, steps=steps, epochs=None, schedule=schedule)
    halves = halves_of(config, device)
    driver = Driver(workers, objective, mixing, device, world, config.deterministic, clocks, halves)
    codec = None
    if config.algorithm.uses_compress:
        codec = config.compress.bind(objective.layout, config.dtype, device, config.seed)
        codec = codec if numbers else HollowCodec(codec, device)
    context = Context(workers, driver.hosted, steps, config.optimizer, config.schedule, device, objective.layout,
                      config.seed, codec, mixing, halves is not None, clocks)
    slots = (MODEL, *config.algorithm.bound_slots(context), *config.optimizer.slots, *period.slots)
    together(world, lambda: _require_models(config, slots))
    unused = ("plan", "checkpoint", "survive") if simulated else ("plan", "compute", "network")
    config = msgspec.structs.replace(config, **dict.fromkeys(unused))
    return Assembly(mode, config, context, driver, slots, *_evaluations(config, period, steps), stop, clocks, _notes(config, objective))


def _evaluations(config, period, steps):
    """(eval_every, eval_before). Left to us, a step before a round: there the models are furthest apart, after an average equal."""
    if config.record.eval_every:
        return config.record.eval_every, 0
    every, tau = max(1, steps // EVALUATIONS), period.tau_from(0)
    return (every - every % tau, 1) if 1 < tau <= every else (every, 0)


def _clocks(config, workers):
    compute, algorithm = config.compute, config.algorithm
    packs = algorithm.uses_compress or config.compress.halves
    prices = compute.prices(config.compress.name if packs else algorithm.compresses_like)
    seconds = compute.bind(workers, config.seed, read_numbers)
    return Clocks(workers, seconds, config.network.bind(workers, read_numbers), config.seed, prices, compute.beside)


def _objective(task, place, numbers):
    name = f"[task] {getattr(task, 'function', task.name)}"
    if numbers:
        return Objective(task.prepare(place), place, name)
    return Objective(HollowProblem(task.outline(place), place.dtype), place, name)


def follows_numbers(config: Config) -> str:
    """What a run sends that depends on losses or models, in words, so that its time cannot be told without them; empty: nothing."""
    for part in (config.algorithm, period_of(config)):
        if why := part.follows_numbers():
            return f"what {part.name} sends depends on them: {why}"
    return ""


def _require_fixed_requests(config):
    if why := follows_numbers(config):
        raise UserError(f"--time-only computes no numbers, but {why}; simulate it in full")


def _require_models(config, slots):
    """UserError if [record] slots are to be evaluated that are no models."""
    models = [slot.name for slot in slots if slot.kind == "replica" and slot.rows == 1 and slot.start == "model"]
    for name in config.record.slots:
        if name not in models:
            raise unknown(f"model among the slots of {config.algorithm.name}", name, models, where="[record] slots: ")


def _stop(targets, objective, numbers):
    if not numbers and set(targets) - {MINUTES}:
        raise UserError(f"--time-only computes no numbers; [stop] may give {MINUTES} there, given {', '.join(targets)}")
    return Stop(targets, objective.figures if objective.evaluates else {}, objective.rising)


def _notes(config, objective):
    """What is not an error, but may surprise."""
    notes = objective.notes
    each = config.algorithm.uses_compress and config.compress.name != "none" or config.algorithm.per_tensor
    if each and not objective.has_layout:
        what = config.compress.name if config.algorithm.uses_compress else config.algorithm.name
        notes += (f"{what} takes the tensors of a model one by one, but the task names none (`layout`): the model counts as "
                  f"one vector of {objective.dimension} numbers",)
    return notes
