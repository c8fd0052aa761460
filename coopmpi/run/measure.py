"""What a worker's computing takes on this machine: a [compute] table for `coopmpi simulate`, from a run's own model."""

from functools import partial
from itertools import count
from statistics import fmean
from time import perf_counter

import msgspec
import tomli_w

from coopmpi import registry
from coopmpi.drivers.driver import Driver
from coopmpi.drivers.solo import Solo
from coopmpi.local.periods import Every
from coopmpi.run.assemble import assemble
from coopmpi.run.cost import Rehearsal
from coopmpi.step import Advance
from coopmpi.step.requests import Packed
from coopmpi.topology.mixing import mixing_table

# a model of a million numbers, where no run description is given
BUILTIN = {"workers": 2, "task": {"data": "teacher", "features": 784, "samples": 2000, "hidden": [1024, 256]}}
NEVER = 10**12  # steps to a round
STEPS = 10  # that the model goes before something is measured
LEAST, MOST, ENOUGH = 9, 1000, 5.0  # rounds; seconds after which the rest is left out


def measured(config, local_rank: int = 0) -> tuple[str, dict]:
    """(what was measured, {key of the table: seconds of a gradient, or per number}); compressors have keys (key, kind).

    config: the run, of which the work of a rank with one worker is measured; local_rank: chooses a GPU of the node.
    """
    # nothing is sent: this is rank 0 of a job of which the other ranks are not there
    config = msgspec.structs.replace(config, workers=max(config.workers or 1, 2), period=Every(tau=NEVER),
                                     algorithm=registry.build("algorithm", {"kind": "local-sgd"}))
    world = Rehearsal(0, config.workers)
    world.local_rank = local_rank
    assembly = assemble(config, world)
    task, device = assembly.driver.task, assembly.context.device
    jobs = _jobs(assembly)
    # one after the other: caches are as cold as in a step, and what slows the machine for a while slows all jobs
    rounds, end = [], perf_counter() + ENOUGH
    while len(rounds) < LEAST or (len(rounds) < MOST and perf_counter() < end):
        rounds.append({key: _seconds(device, job) / numbers for key, (job, numbers) in jobs.items()})
    # not the median: where ranks share cores, a short job is mostly not interrupted, but then for as long as others compute
    found = {key: fmean(times[key] for times in rounds) for key in jobs}
    found["optimizer"] = max(0.0, found["optimizer"] - found.pop("copy"))
    found["seconds"] = max(0.0, found["seconds"] - task.dimension * found["optimizer"])
    return f"a model of {task.dimension} numbers in {len(task.layout)} tensors, {config.dtype}, {device.name}", found


def table(what: str, found: dict) -> str:
    """The [compute] table as TOML, rounded to what such a measurement is good for."""
    keys = {"kind": "constant"}
    for key, seconds in found.items():
        name, *kind = (key,) if isinstance(key, str) else key
        place = keys.setdefault(name, {}) if kind else keys
        place[kind[0] if kind else name] = float(f"{seconds:.3g}")
    return f"# measured on {what}\n{tomli_w.dumps({'compute': keys})}"


def _jobs(assembly):
    """{key of the table, or (key, kind) of a compressor: (what is measured, how many numbers it goes through)}."""
    config, context, task, device = assembly.config, assembly.context, assembly.driver.task, assembly.context.device
    (state, _), steps, d = assembly.start(), count(), task.dimension

    def local_step():
        assembly.driver.step(config.algorithm, state, context, next(steps))

    for _ in range(STEPS):
        before = context.copy(state.x)
        local_step()
    # what the last step has moved the model by: numbers of the size that is compressed
    away = context.combine((1.0, -1.0), (state.x, before))
    gradient, x = context.copy(away), context.copy(state.x)

    def copy():
        gradient[...] = away

    def descend():
        copy()  # the optimiser may overwrite it
        context.descend(state, x, gradient)

    jobs = {"seconds": (local_step, 1), "copy": (copy, d), "optimizer": (descend, d),
            "mix": (lambda: context.combine((0.5, 0.25, 0.25), (x, before, away)), 3 * d)}
    # a packet is decoded and added to a copy
    driver = Driver(1, task, mixing_table().bind(1, 0), device, Solo())
    copies = device.xp.zeros_like(away)
    compressors = {kind: part() for kind, part in registry.parts("compress").items()} | {config.compress.name: config.compress}
    for kind, compressor in compressors.items():
        codec = compressor.bind(task.layout, config.dtype, device, config.seed)
        packed = Packed(codec, context.copy(codec.encode(away, range(1), 0)), 0)
        jobs["compress", kind] = partial(codec.encode, away, range(1), 0), d
        jobs["unpack", kind] = partial(driver.ask, Advance(copies, packed)), d
    return jobs


def _seconds(device, job):
    device.synchronize()
    begin = perf_counter()
    job()
    device.synchronize()
    return perf_counter() - begin
