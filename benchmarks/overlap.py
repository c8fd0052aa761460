"""How much of the communication is hidden behind local steps, by blocking algorithms and by overlapped ones.

Two ranks, on shared memory and on two hosts made of network namespaces (root only). A gradient leaves the core
idle, as one on a GPU does, or is matrix products on the core; it lasts as long as makes the transfer alone take a
given share of the tau local steps between two rounds.
"""

import argparse
import os
import subprocess
import sys
from contextlib import nullcontext
from time import perf_counter, sleep

import numpy as np

from benchmarks.descriptions import read
from benchmarks.hosts import hosts
from benchmarks.timing import table
from coopmpi.device.host import Host
from coopmpi.drivers.mpi.launch import mpirun
from coopmpi.drivers.solo import Solo

PAIRS = (  # overlapped, blocking, does it have a period
    ({"kind": "overlap-local-sgd"}, {"kind": "local-sgd"}, True),
    ({"kind": "overlap-dpa"}, {"kind": "dpa"}, True),
    ({"kind": "easgd", "overlap": True}, {"kind": "easgd"}, True),
    ({"kind": "d-psgd"}, {"kind": "dpa"}, False),
)
SHARES = (0.3, 0.9)
TRIES, CLOSE = 8, 0.05  # a case is repeated until its share is as close as that to the wanted one
FEATURES = 128  # of the products


def main(arguments):
    parser = argparse.ArgumentParser(prog="python -m benchmarks overlap", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="measured per case (default: %(default)s)")
    parser.add_argument("--only", choices=("shared", "tcp"))
    parser.add_argument("--gradients", choices=tuple(GRADIENTS), default="elsewhere", help="(default: %(default)s)")
    parser.add_argument("--shared", nargs=2, type=float, metavar=("MB", "TAU"), default=(32, 2), help="(default: 32 2)")
    parser.add_argument("--tcp", nargs=2, type=float, metavar=("MB", "TAU"), default=(2, 8), help="(default: 2 8)")
    parser.add_argument("--rate", type=int, default=400, help="Mbit/s of each host's link (default: %(default)s)")
    parser.add_argument("--no-thread", action="store_true", help="transfers move on only between gradients")
    parser.add_argument("--rank", nargs=2, type=float, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.rank:
        _measure(*options.rank, GRADIENTS[options.gradients], options.rounds, not options.no_thread)
        return
    rank = [sys.executable, "-m", "benchmarks", "overlap", "--rounds", str(options.rounds),
            "--gradients", options.gradients]
    rank += ["--no-thread"] * options.no_thread
    if options.only != "tcp":
        command, environment = mpirun(2, lambda text: None)
        _run("shared memory", [*command, *rank], environment, options.shared)
    if options.only != "shared":
        try:
            with hosts(2, options.rate) as network:
                command, environment = network.mpirun()
                _run(f"TCP, {options.rate} Mbit/s", [*command, *rank], environment, options.tcp)
        except PermissionError as error:
            print(f"TCP left out: {error}")


def _run(title, command, environment, sizes):
    print(f"\n{title}; model of {sizes[0]:g} MB; load {os.getloadavg()[0]:.1f} before", flush=True)
    command = [*command, "--rank", *map(str, sizes)]
    subprocess.run(command, env=environment | {"OMP_NUM_THREADS": "1"}, check=True)
    print(f"load {os.getloadavg()[0]:.1f} after", flush=True)


class Elsewhere:
    """A task whose gradient takes `seconds` that leave the core idle, as those on a GPU do, and is zero."""

    def __init__(self, dimension):
        self.dimension, self.seconds = dimension, 0.0
        self._gradient = np.zeros((1, dimension), np.float32)

    def initial(self):
        return np.zeros(self.dimension, np.float32)

    def gradient(self, x, k):
        sleep(self.seconds)
        return np.zeros(1, np.float32), self._gradient


class Products(Elsewhere):
    """The same on the core: matrix products that take `seconds` where nothing disturbs them."""

    def __init__(self, dimension):
        super().__init__(dimension)
        self._a = np.random.default_rng(0).standard_normal((FEATURES, FEATURES), np.float32)
        self._out = np.empty_like(self._a)
        self._multiply(200)  # warms up
        begin = perf_counter()
        self._multiply(1000)
        self._each = (perf_counter() - begin) / 1000

    def gradient(self, x, k):
        self._multiply(round(self.seconds / self._each))
        return np.zeros(1, np.float32), self._gradient

    def _multiply(self, times):
        for _ in range(times):
            np.matmul(self._a, self._a, out=self._out)


GRADIENTS = {"elsewhere": Elsewhere, "products": Products}


class Still(Solo):
    """One of two ranks between which nothing travels: what a round takes without communication."""

    size = 2

    def all_sum(self, source, target, device):
        return self.done


class Resting(Host):
    """A device that leaves the models as they are: a local step is the products alone."""

    def add_scaled(self, x, factor, y):
        pass


class Local:
    """Steps of one algorithm on this rank, driven as a training run does."""

    def __init__(self, world, task, algorithm, tau):
        from coopmpi import config
        from coopmpi.drivers.driver import Driver
        from coopmpi.step import MODEL, Context, State

        parts = config.resolve(read({"workers": 2, "steps": 1, "algorithm": algorithm, "period": {"tau": tau}}))
        # two workers on a ring have W = J, an average; (I + W) / 2 is none, so that rows travel
        mixing = parts.mixing.bind(2, 0).lazy()
        self.driver = driver = Driver(2, task, mixing, Resting(), world)
        self.algorithm, self.task, self.tau = parts.algorithm, task, tau
        self.seconds, self.k = 0.0, 0
        self.context = Context(2, driver.hosted, 1, parts.optimizer, parts.schedule, driver.device,
                       [("x", (task.dimension,), 0)], 0, mixing=mixing)
        self.state = State((MODEL, *self.algorithm.slots, *parts.period.slots), task.initial(), driver)
        self.context.rounds = parts.period.rounds(self.state)

    def round(self):
        """tau steps: seconds in all, of gradients, and blocked on communication."""
        self.task.seconds = self.seconds
        self._steps()  # starts what the round to be measured has to wait for
        figures = self._steps()
        self.driver.drive(self.algorithm.finish(self.state, self.context))  # leaves nothing under way for others
        return figures

    def _steps(self):
        begin, computed, waited = perf_counter(), 0.0, 0.0
        for _ in range(self.tau):
            self.driver.step(self.algorithm, self.state, self.context, self.k)
            start, end = self.driver.computing
            computed += end - start
            waited += self.driver.waited
            self.k += 1
        return perf_counter() - begin, computed, waited


def _measure(megabytes, tau, gradients, rounds, thread):
    from coopmpi.drivers.mpi.world import connect

    world = connect()
    if not thread:
        world.moving = nullcontext()
    task, rows = gradients(int(megabytes * 1e6) // 4), []
    for overlapped, blocking, periodic in PAIRS:
        period = int(tau) if periodic else 1
        runs = {"alone": Local(world, task, blocking, period), "blocking": Local(world, task, blocking, period),
                "overlapped": Local(world, task, overlapped, period), "still": Local(Still(), task, overlapped, period)}
        for share in SHARES:
            rows.append((overlapped["kind"], period, *_case(world, runs, share, rounds)))
    if world.rank == 0:
        table(("overlapped", "tau", "transfer alone, ms", "of tau local steps", "waited when blocking, ms",
               "waited, ms", "waiting hidden", "round, ms", "if nothing is sent, ms", "time hidden"), rows)


def _case(world, runs, share, rounds):
    """Cells of a row: medians over the rounds of the slower rank's figures."""
    tau = runs["still"].tau
    alone = _medians(world, {"alone": runs["alone"]}, rounds)["alone"][2]
    for _ in range(TRIES):
        for name in ("blocking", "overlapped", "still"):
            runs[name].seconds = alone / share / tau
        found = _medians(world, runs, rounds)
        (_, _, alone), (_, _, blocked), (lasted, _, waited), (least, computed, _) = found.values()
        reached = alone / computed
        if abs(reached / share - 1) < CLOSE:
            break
    ms = [f"{1e3 * seconds:.1f}" for seconds in (alone, blocked, waited, lasted, least)]
    return (ms[0], f"{reached:.0%}", ms[1], ms[2], f"{1 - waited / alone:.0%}", ms[3], ms[4],
            f"{1 - (lasted - least) / alone:.0%}")


def _medians(world, runs, rounds):
    """{name: medians of what its round gives, of the slower rank}; the ranks start together, runs take turns."""
    found = {name: [] for name in runs}
    for _ in range(rounds + 2):
        for name, run in runs.items():
            world.sum([0.0])
            found[name].append(world.vote(run.round())())
    return {name: np.median(figures[2:], axis=0) for name, figures in found.items()}
