"""What a run will cost, before it starts: a rehearsal of two cycles of rounds, with shapes in place of numbers."""

from collections import Counter
from typing import NamedTuple

import numpy as np

from coopmpi.device.hollow import Hollow, HollowCodec, HollowProblem
from coopmpi.device.host import Host
from coopmpi.drivers.driver import Driver
from coopmpi.drivers.solo import Solo
from coopmpi.local.periods import Every
from coopmpi.run.assemble import halves_of, period_of
from coopmpi.step import Context, State

LONGEST_PERIOD = 200  # steps that stand for a longer period: local steps send nothing
RANDOM_ROUNDS = 100  # that stand for all rounds where graphs are drawn
WORDS = {"exchange": "to neighbours", "average": "all-reduce", "group average": "all-reduce in a group",
         "reduce": "packet to the owners", "gather": "range to all", "reduce and gather": "all-reduce of 16-bit numbers"}


class Cost(NamedTuple):
    """Per rank: bytes of memory by what they hold. Per worker and round: steps, bytes sent, messages."""

    memory: dict[str, float]
    tau: int
    bytes_sent: float
    messages: str


class Rehearsal(Solo):
    """A world of many ranks in which nothing is sent; what transfers allocate, they do."""

    def __init__(self, rank, size):
        self.rank, self.size = rank, size

    def all_sum(self, source, target, device):
        return self.done

    def group_sum(self, rows, members, out, device, number, ordered):
        others = sum(count if ordered else 1 for rank, count in members if rank != self.rank)
        own = out.shape[0] // len(members)
        device.empty((others, own), out.dtype), device.empty((1, own), out.dtype)
        return self.done


def estimate(assembly) -> Cost:
    """The Cost of an assembled run on this rank. Where a trigger decides who speaks, all do."""
    # the same run with shapes in place of numbers
    real, config = assembly.driver, assembly.config
    algorithm, device, tau = config.algorithm.unconditional(), Hollow(), period_of(config).tau_from(0)
    rehearsed = min(tau, LONGEST_PERIOD)
    mixing = real.wiring.mixing
    problem = HollowProblem(real.task, config.dtype)
    driver = Driver(config.workers, problem, mixing, device,
                    Rehearsal(real.world.rank, real.world.size), config.deterministic, halves=halves_of(config, device))
    codec = assembly.context.codec and HollowCodec(assembly.context.codec, device)
    context = Context(config.workers, driver.hosted, config.steps, config.optimizer, config.schedule, device,
                      assembly.context.tensors, config.seed, codec, mixing, driver.halves is not None)
    state = State(assembly.slots, problem.initial(), driver)
    context.rounds = Every(tau=rehearsed).rounds(state)

    # its traffic, added up over two cycles of rounds
    rounds = 2 * ((mixing.cycle or RANDOM_ROUNDS) if mixing else 1)
    sent, messages = 0.0, Counter()
    for k in range(rehearsed * rounds):
        driver.step(algorithm, state, context, k)
        sent += driver.sent.mean()
        for traffic in driver.traffics:
            messages[traffic.kind] += traffic.links.degree.mean() if traffic.links else 1

    # its memory; scratch of chained sums is 1-D and stays small, all else has a row per worker
    slots = sum(getattr(state, s.name).nbytes for s in assembly.slots if s.kind not in ("ticket", "host"))
    held = device.pool.nbytes_of(lambda array: array.ndim == 2)
    memory = {"slots": slots, "exchange": held - slots}
    if codec or driver.halves:
        memory["compression"] = _workspace(assembly, len(real.hosted), "ranges" in vars(context) or driver.halves)
    saving = config.checkpoint
    if saving is not None and (saving.every_steps or saving.every_minutes):
        memory["a checkpoint being written"] = slots
    memory |= real.task.memory()
    text = " + ".join(f"{number / rounds:.3g} {WORDS[kind]}" for kind, number in messages.items())
    return Cost(memory, tau, sent / rounds, text)


def _workspace(assembly, b, in_ranges):
    """Bytes that packing and unpacking need beside packets and models: found by doing it once."""
    device, config = Host(), assembly.config
    codec = config.compress.bind(assembly.context.tensors, config.dtype, device, config.seed)
    codec = codec.ranges(config.workers) if in_ranges else codec
    x = np.zeros((b, assembly.driver.task.dimension), config.dtype)
    packed = codec.encode(x, range(b), 0)
    codec.decode(packed, range(b), 0, x)
    if not in_ranges:
        codec.add(packed, range(b), 0, x)
    return device.pool.nbytes_of(lambda array: array is not packed)
