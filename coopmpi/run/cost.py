"""What a run will cost, before it starts: a rehearsal of two cycles of rounds with miniature models.

All that an algorithm allocates and sends grows linearly from there: mostly from models of a single number.
"""

from dataclasses import dataclass
from math import prod

import numpy as np

from coopmpi.device.host import Host
from coopmpi.drivers.driver import Driver
from coopmpi.drivers.solo import Solo
from coopmpi.local.periods import Every
from coopmpi.step import Advance, Context, Mean, Mix, Start, State, relay
from coopmpi.tasks.problem import Problem

RANDOM_ROUNDS = 100  # that stand for all rounds where graphs are drawn


@dataclass
class Cost:
    """Per rank: bytes of memory by what they hold. Per worker and round: steps, bytes sent, messages."""

    memory: dict
    tau: int
    bytes_sent: float
    messages: str


class Slope(Problem):
    """A problem that always goes down."""

    def __init__(self, b, dimension, dtype):
        self.dimension = dimension
        self.answer = np.zeros(b, dtype), np.zeros((b, dimension), dtype)

    def initial(self):
        return np.zeros(self.dimension, self.answer[0].dtype)

    def gradient(self, x, step):
        self.answer[1][:] = 1
        return self.answer


class StillCodec:
    """Packets of one byte, at the price of the real ones."""

    def __init__(self, codec, scale, device):
        self.nbytes, self.dtype, self.device = codec.nbytes / scale, codec.dtype, device

    def encode(self, x, workers, round):
        return self.device.empty((len(x), 1), np.uint8)

    def decode(self, packed, workers, round, out):
        out[:] = 0
        return out


class Rehearsal(Solo):
    """A world of many ranks in which nothing is sent."""

    def __init__(self, rank, size):
        self.rank, self.size = rank, size

    def all_sum(self, source, target, device):
        return self.done

    def all_gather(self, source, target, rank_layout, device):
        return self.done


def estimate(assembly):
    """The Cost of an assembled run on this rank."""
    real, config, problem = assembly.driver, assembly.config, assembly.driver.task
    device, requests = Host(), []
    tensors = config.algorithm.miniature(assembly.context.tensors)
    dimension = sum(prod(shape) for _, shape, _ in tensors)
    scale = problem.dimension / dimension
    driver = Driver(config.workers, Slope(len(real.hosted), dimension, config.dtype), real.mixing, device,
                    Rehearsal(real.world.rank, real.world.size), config.deterministic)
    codec = assembly.context.codec and StillCodec(assembly.context.codec, scale, device)
    context = Context(config.workers, driver.hosted, config.steps, config.optimizer, config.schedule,
              Every(tau=assembly.context.tau), device, tensors, config.seed, codec, real.mixing)
    state = State(assembly.slots, driver.task.initial(), driver)
    sent = 0.0
    cycle = (real.mixing.cycle or RANDOM_ROUNDS) if real.mixing else 1
    for k in range(2 * context.tau * cycle):
        context.at(k)
        driver.at(k)
        loss = driver.drive(_noting(config.algorithm.step(state, context), requests))
        driver.drive(context.rounds.after_step(k, loss, context))
        sent += driver.sent.mean()
    sizes = [(getattr(state, s.name).nbytes, s.columns) for s in assembly.slots if s.kind != "ticket"]
    narrow = sum(nbytes for nbytes, columns in sizes if columns)  # does not grow with the model
    slots = sum(nbytes for nbytes, columns in sizes if not columns) * scale + narrow
    # scratch of chained sums is 1-D and stays small; all else has a row per worker
    held = device.pool.nbytes_of(lambda array: array.ndim == 2 and array.dtype != np.uint8) * scale - narrow * (scale - 1)
    held += device.pool.nbytes_of(lambda array: array.dtype == np.uint8) * (codec.nbytes * scale if codec else 0)
    memory = {"slots": slots, "exchange": held - slots}
    if codec:
        memory["compression"] = _workspace(assembly, len(real.hosted))
    memory |= problem.memory()
    rounds = 2 * cycle
    return Cost(memory, context.tau, sent / rounds * scale, _messages(requests, driver, rounds))


def _workspace(assembly, b):
    """Bytes that packing and unpacking need beside packets and models: found by doing it once."""
    device, config = Host(), assembly.config
    codec = config.compress.bind(assembly.context.tensors, config.dtype, device, config.seed)
    x = np.zeros((b, assembly.driver.task.dimension), config.dtype)
    packed = codec.encode(x, range(b), 0)
    codec.decode(packed, range(b), 0, x)
    return device.pool.nbytes_of(lambda array: array is not packed)


def _noting(generator, requests):
    """The generator itself; what it asks to be communicated is noted as (type, round), without the arrays."""
    def note(request):
        asked = request.request if type(request) is Start else request
        if type(asked) in (Mix, Mean, Advance):
            requests.append((type(asked), getattr(asked, "round", None)))
        return (yield request)

    return relay(generator, note)


def _messages(requests, driver, rounds):
    neighbours = averages = 0
    for kind, round in requests:
        if kind is Advance:
            neighbours += driver.audience.degree.mean()
        elif kind is Mean or driver.mixing.average(round):
            averages += 1
        else:
            neighbours += driver.schedule(round)[0].degree.mean()
    parts = [f"{neighbours / rounds:.3g} to neighbours"] if neighbours else []
    parts += [f"{averages / rounds:.3g} all-reduce"] if averages else []
    return " + ".join(parts)
