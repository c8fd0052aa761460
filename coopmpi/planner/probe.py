"""Measure what a machine needs: gradients of the user's own task, messages of each pattern, and all other work, on all ranks at once."""

from collections.abc import Callable
from datetime import UTC, datetime
from itertools import count
from socket import gethostname
from statistics import fmean, median
from time import perf_counter, sleep

import msgspec
import numpy as np

from coopmpi import __version__, registry
from coopmpi.drivers.driver import Driver
from coopmpi.errors import UserError
from coopmpi.local.periods import Every
from coopmpi.planner.machine import About, Machine
from coopmpi.planner.pilot import timed_steps
from coopmpi.run.assemble import Assembly
from coopmpi.run.measure import NEVER, measured
from coopmpi.step import Finish, Grad, Mean, Mix, Start
from coopmpi.topology.graphs import exponential_hops
from coopmpi.topology.mixing import mixing_table

GRADIENTS = 5.0  # seconds of training steps
FEWEST, MOST = 12, 100  # of them
NUMBERS = 4000  # in the trace, of all workers
ROUNDS, LEAST = 15, 3  # of a message; even where they take long
PAUSE = 0.005  # seconds before a message, as a gradient takes: what a link may send at once is available again
BESIDE = 0.3  # gradients: a shorter transfer does not slow them
Tell = Callable[[str], None]


def probe(config, world, seconds: float, tell: Tell) -> Machine:
    """The Machine that the ranks of a job are, as far as this run needs it; on all ranks alike.

    seconds: that it may take, of which most are for messages; tell: of progress.
    """
    require_ranks(config, world.size)
    begin_at = perf_counter()
    config = msgspec.structs.replace(config, workers=world.size, algorithm=registry.build("algorithm", {"kind": "local-sgd"}),
                                     period=Every(tau=NEVER))
    tell("prices of compressors, sums and the optimiser, while all ranks are busy")
    _, prices = measured(config, world.local_rank)
    prices = dict(zip(prices, (world.sum(list(prices.values())) / world.size).tolist()))
    tell("gradients")
    assembly, trace = _trace(config, world, prices)
    messages = Messages(assembly, world, prices["mix"])
    tell("messages to neighbours")
    end = begin_at + seconds
    hops, links = messages.links(end)
    tell("averages, and messages to all")
    averages, to_all = messages.averages(end), messages.to_all(end)
    tell("gradients beside an average")
    beside, hidden = messages.beside(float(trace.mean()))
    compute = {"kind": "trace", "factor": 1.0, "beside": beside} | _table(prices) | {"times": _rounded(trace[:max(8, NUMBERS // world.size)])}
    network = {"kind": "measured", "workers": world.size, "hops": hops, "latency": [one[0] for one in links],
               "bandwidth": [one[1] for one in links], "allreduce": averages, "all_to_all": to_all}
    return Machine(about=_about(assembly, world, trace, hidden), compute=compute, network=network)


def require_ranks(config, ranks: int):
    """UserError unless so many ranks can tell of this run."""
    if ranks < 2:
        raise UserError("probe measures messages between ranks, given 1 rank; start it with -n N, mpirun or srun")
    if config.workers not in (None, ranks):
        raise UserError(f"probe measures one worker on each rank, given workers = {config.workers} on {ranks} ranks: start "
                        f"{config.workers} ranks, or set workers = {ranks}")


def _table(prices):
    """The keys of [compute], a table for each price that depends on the compressor."""
    table = {"optimizer": prices["optimizer"], "mix": prices["mix"]}
    for key in prices:
        if not isinstance(key, str):
            name, kind = key
            table.setdefault(name, {})[kind] = prices[key]
    return table


def _rounded(rows):
    return [[float(f"{seconds:.3g}") for seconds in row] for row in rows.tolist()]


def _trace(config, world, prices) -> tuple[Assembly, np.ndarray]:
    """(the run, seconds (steps, m) of local steps without what the optimiser takes), recording included."""
    steps = int(np.clip(GRADIENTS / max(prices["seconds"], 1e-6), FEWEST, MOST))
    assembly, seconds = timed_steps(config, world, FEWEST // 2, steps)
    everyone = np.zeros((world.size, steps))
    everyone[world.rank] = np.maximum(seconds - assembly.driver.task.dimension * prices["optimizer"], 0.0)
    return assembly, np.array(world.sum(everyone)).T


class Messages:
    """Transfers of the run's own drivers between all ranks at the same time. mix: seconds per number that is added up."""

    def __init__(self, assembly: Assembly, world, mix: float):
        self.assembly, self.world, self.mix = assembly, world, mix
        self.task, self.device = assembly.driver.task, assembly.context.device
        self.dimension, self.dtype = self.task.dimension, self.task.dtype

    def links(self, end: float) -> tuple[list[int], list[tuple[float, float]]]:
        """(hops, (latency in seconds, bytes per second) of the links over each)."""
        hops = [hop for hop in exponential_hops(self.world.size) if hop <= max(1, self.world.size // 2)]
        driver, found = self._driver("one-peer-exponential"), []
        for number, _ in enumerate(hops):
            times = [self._seconds(lambda x: driver.ask(Mix(x, number)), size, end, rows=2) for size in (1, self.dimension)]
            latency, whole = times[0], max(times[1], 1e-9)
            found.append((latency, self.dimension * self.dtype.itemsize / max(whole - latency, whole / 100)))
        return hops, found

    def averages(self, end: float) -> list[list[float]]:
        """Rows (bytes, seconds) of averages of up to a model's numbers."""
        driver = self._driver("ring")
        return self._rows(lambda x: driver.ask(Mean(x)), self.dimension, 1, end, rows=1)

    def to_all(self, end: float) -> list[list[float]]:
        """Rows (bytes that a rank sends to all others together, seconds)."""
        driver, others = self._driver("complete"), self.world.size - 1
        driver.wiring.averages = lambda round: False  # what is an average on this graph is to travel between neighbours all the same
        return self._rows(lambda x: driver.ask(Mix(x, 0)), max(2, self.dimension // others), others, end, rows=others + 1)

    def beside(self, gradient: float) -> tuple[float, float]:
        """(how many times as long gradients take beside an average, the share of that which is over when they are)."""
        driver, x, steps = self.assembly.driver, self._x(self.dimension), count()
        (state, _), bare = self.assembly.start(), self._seconds(lambda x: driver.ask(Mean(x)), self.dimension, perf_counter(), rows=1)
        if bare < BESIDE * gradient:
            return 1.0, 1.0
        gradients = int(np.clip(bare / gradient, 1, FEWEST))

        def work(started):
            ticket = (yield Start(Mean(x))) if started else None
            before = perf_counter()
            for _ in range(gradients):
                driver.at(next(steps))
                yield Grad(state.x)
            computed, before = perf_counter() - before, perf_counter()
            if started:
                yield Finish(ticket)
            return computed, perf_counter() - before

        found = {False: [], True: []}
        for _ in range(LEAST):
            for started, times in found.items():
                self._meet()
                times.append(driver.drive(work(started)))
        alone, (busy, waited) = fmean(one[0] for one in found[False]), map(fmean, zip(*found[True]))
        slower, hidden = max(1.0, busy / alone), min(1.0, max(0.0, 1 - waited / bare))
        return tuple((self.world.sum([slower, hidden]) / self.world.size).tolist())

    def _driver(self, graph):
        """A driver of one worker per rank that mixes on a graph."""
        mixing = mixing_table(graph=graph).bind(self.world.size, 0)
        return Driver(self.world.size, self.task, mixing, self.device, self.world)

    def _x(self, numbers):
        x = self.device.empty((1, numbers), self.dtype)
        x[...] = 1
        return x

    def _rows(self, run, largest, copies, end, rows):
        """[bytes, seconds] for up to `largest` numbers, of which each rank sends so many copies."""
        # about a factor of four apart
        sizes = sorted({1, *(max(1, largest >> shift) for shift in range(0, 14, 2))})
        return [[float(copies * size * self.dtype.itemsize), self._seconds(run, size, end, rows)] for size in sizes]

    def _seconds(self, run, numbers, end, rows):
        """Median over rounds of the slowest rank's seconds, without the sum of `rows` rows; few rounds when it is late."""
        x, times = self._x(numbers), []
        while len(times) < LEAST or (len(times) < ROUNDS and self.world.from_first(perf_counter() < end)):
            sleep(PAUSE)
            self._meet()
            before = perf_counter()
            run(x)
            self.device.synchronize()
            times.append(float(self.world.vote([perf_counter() - before])()[0]))
        return max(0.0, median(times) - self.mix * rows * numbers)

    def _meet(self):
        self.world.sum([0.0])


def _about(assembly, world, trace, hidden):
    names = sorted(set(world.texts(gethostname())))
    half = len(trace) // 2
    first, second = trace[:half].mean(), trace[half:].mean()
    task = assembly.driver.task
    return About(name=names[0] if len(names) == 1 else f"{names[0]} ... {names[-1]}", ranks=world.size, nodes=len(names),
                 model=f"{task.dimension} numbers in {len(task.layout)} tensors, {task.dtype}, {assembly.context.device.name}",
                 parameters=task.dimension, date=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", versions=f"coopmpi {__version__}, {world.name}",
                 noise=float(f"{abs(second - first) / trace.mean():.2g}"), hidden=float(f"{hidden:.2g}"))
