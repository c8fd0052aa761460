"""What a run will cost, before it starts: a rehearsal of one cycle of rounds with models of a single number.

All that an algorithm allocates and sends grows linearly with d, so counting at d = 1 is enough.
"""

from dataclasses import dataclass

import numpy as np

from coopmpi.array import Host
from coopmpi.drivers.driver import Driver
from coopmpi.drivers.solo import Solo
from coopmpi.step import Mean, Mix, Run, Start, State
from coopmpi.tasks.problem import Problem


@dataclass
class Cost:
    """Per rank: bytes of memory by what they hold. Per worker and round: steps, bytes sent, messages."""

    memory: dict
    tau: int
    bytes_sent: float
    messages: str


class Stillness(Problem):
    """A problem of one number and no gradient."""

    dimension = 1

    def __init__(self, b, dtype):
        self.answer = np.zeros(b, dtype), np.zeros((b, 1), dtype)

    def initial(self):
        return np.zeros(1, self.answer[0].dtype)

    def gradient(self, x, step):
        return self.answer


class Rehearsal(Solo):
    """A world of many ranks in which nothing is sent."""

    def __init__(self, rank, size):
        self.rank, self.size = rank, size

    def all_sum(self, source, target, device):
        return self.done

    def all_gather(self, source, target, placement, device):
        return self.done


def estimate(assembly):
    """The Cost of an assembled run on this rank."""
    real, config, problem = assembly.driver, assembly.config, assembly.driver.task
    device, requests = Host(), []
    driver = Driver(config.workers, Stillness(len(real.hosted), config.dtype), real.mixing, device,
                    Rehearsal(real.world.rank, real.world.size), config.deterministic)
    run = Run(config.workers, config.steps, config.optimizer, config.schedule, assembly.run.period, device)
    state = State(assembly.slots, driver.task.initial(), driver)
    sent = 0.0
    cycle = real.mixing.cycle if real.mixing else 1
    for k in range(2 * run.tau * cycle):
        run.at(k)
        driver.at(k)
        driver.drive(_noting(config.algorithm.step(state, run), requests))
        sent += driver.sent.mean()
    d = problem.dimension
    slots = sum(getattr(state, s.name).nbytes for s in assembly.slots if s.kind != "ticket") * d
    # scratch of chained sums is 1-D and stays small; all else has a row per worker
    held = device.pool.nbytes_of(lambda array: array.ndim == 2) * d
    memory = {"slots": slots, "exchange": held - slots} | problem.memory()
    rounds = 2 * cycle
    return Cost(memory, run.tau, sent / rounds * d, _messages(requests, driver, rounds))


def _noting(generator, requests):
    """The generator itself; what it asks to be communicated is noted as (type, round), without the arrays."""
    answer = None
    while True:
        try:
            request = generator.send(answer)
        except StopIteration as stop:
            return stop.value
        asked = request.request if type(request) is Start else request
        if type(asked) in (Mix, Mean):
            requests.append((type(asked), getattr(asked, "round", None)))
        answer = yield request


def _messages(requests, driver, rounds):
    neighbours = averages = 0
    for kind, round in requests:
        if kind is Mean or driver.mixing.average(round):
            averages += 1
        else:
            neighbours += driver.plan(round)[0].degree.mean()
    parts = [f"{neighbours / rounds:.3g} to neighbours"] if neighbours else []
    parts += [f"{averages / rounds:.3g} all-reduce"] if averages else []
    return " + ".join(parts)
