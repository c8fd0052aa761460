"""How much of the communication is hidden behind local steps: blocking algorithms against overlapped ones.

Two ranks, on shared memory and on two hosts made of network namespaces (root only). Local steps are matrix products,
as many as make the transfer alone take a given share of the tau local steps between two rounds.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np

from benchmarks.timing import table

# overlapped algorithm -> (its table, the blocking one, tau)
PAIRS = {
    "overlap-local-sgd": ({}, {"kind": "local-sgd"}, 8),
    "overlap-dpa": ({}, {"kind": "dpa"}, 8),
    "easgd": ({"overlap": True}, {"kind": "easgd"}, 8),
    "d-psgd": ({}, {"kind": "dpa"}, 1),
}
SHARES = (0.3, 0.9)
FEATURES = 256  # of the products: some 0.3 ms each
NETWORK = "10.77.{}"  # of the two hosts, and a digit for this process


def main(arguments):
    parser = argparse.ArgumentParser(prog="python -m benchmarks overlap", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="measured per case (default: %(default)s)")
    parser.add_argument("--shared-mb", type=float, default=16, help="model on shared memory (default: %(default)s)")
    parser.add_argument("--tcp-mb", type=float, default=2, help="model on TCP (default: %(default)s)")
    parser.add_argument("--rate", default="100mbit", help="of each host's link (default: %(default)s)")
    parser.add_argument("--only", choices=("shared", "tcp"))
    parser.add_argument("--rank", type=float, metavar="MB", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.rank:
        _measure(options.rank, options.rounds)
        return
    rank = [sys.executable, "-m", "benchmarks", "overlap", "--rounds", str(options.rounds), "--rank"]
    if options.only != "tcp":
        from coopmpi.drivers.mpi.launch import mpirun

        command, environment = mpirun(2, lambda text: None)
        _run(f"shared memory, {options.shared_mb:g} MB", [*command, *rank, str(options.shared_mb)], environment)
    if options.only != "shared":
        try:
            with two_hosts(options.rate) as (command, environment):
                _run(f"TCP, {options.rate}, {options.tcp_mb:g} MB", [*command, *rank, str(options.tcp_mb)], environment)
        except PermissionError as error:
            print(f"TCP left out: {error}")


def _run(title, command, environment):
    print(f"\n{title}; load before {os.getloadavg()[0]:.1f}", flush=True)
    subprocess.run(command, env=environment | {"OMP_NUM_THREADS": "1"}, check=True)
    print(f"load after {os.getloadavg()[0]:.1f}", flush=True)


@contextmanager
def two_hosts(rate):
    """(command, environment) that start a rank on each of two hosts joined by links of that rate."""
    from coopmpi.drivers.mpi.launch import mpirun

    number = os.getpid() % 250
    bridge, hosts = f"cm{os.getpid()}", [f"cm{os.getpid()}{side}" for side in "ab"]
    net = NETWORK.format(number)
    try:
        _ip("link", "add", bridge, "type", "bridge")
        _ip("addr", "add", f"{net}.254/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        for i, host in enumerate(hosts, start=1):
            _ip("netns", "add", host)
            _ip("link", "add", f"v{host}", "type", "veth", "peer", "name", "eth0", "netns", host)
            _ip("link", "set", f"v{host}", "master", bridge, "up")
            for arguments in (["addr", "add", f"{net}.{i}/24", "dev", "eth0"], ["link", "set", "eth0", "up"],
                              ["link", "set", "lo", "up"]):
                _ip("-n", host, *arguments)
            for end in (["tc", "-n", host, "qdisc", "add", "dev", "eth0"], ["tc", "qdisc", "add", "dev", f"v{host}"]):
                subprocess.run([*end, "root", "tbf", "rate", rate, "burst", "128kb", "latency", "100ms"], check=True)
        with tempfile.TemporaryDirectory() as folder:
            agent = Path(folder, "agent")
            # drops the leading options, takes the host's name, and runs the rest there
            agent.write_text('#!/bin/sh\nwhile [ "${1#-}" != "$1" ]; do shift; done\nhost=$1; shift\n'
                             'exec ip netns exec "$host" unshare --uts sh -c "hostname $host; $*"\n')
            agent.chmod(0o700)
            (program, *_), environment = mpirun(2, lambda text: None)
            yield [program, "--prtemca", "plm_ssh_agent", str(agent), "--prtemca", "prte_if_include", f"{net}.0/24",
                   "--host", ",".join(f"{host}:1" for host in hosts), "-n", "2", "--bind-to", "none",
                   "--mca", "pml", "ob1", "--mca", "btl", "tcp,self", "--mca", "btl_tcp_if_include", f"{net}.0/24",
                   "-x", "PATH", "-x", "OMP_NUM_THREADS"], environment
    finally:
        for arguments in (*(["link", "del", f"v{host}"] for host in hosts), *(["netns", "del", host] for host in hosts),
                          ["link", "del", bridge]):
            subprocess.run(["ip", *arguments], check=False, capture_output=True)


def _ip(*arguments):
    if os.geteuid():
        raise PermissionError("network namespaces take root")
    done = subprocess.run(["ip", *arguments], check=False, capture_output=True, text=True)
    if done.returncode:
        raise PermissionError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


class Products:
    """A task whose gradient is so many matrix products, and zero."""

    def __init__(self, dimension):
        self.dimension, self.count = dimension, 0
        self._a = np.random.default_rng(0).standard_normal((FEATURES, FEATURES), np.float32)
        self._out, self._gradient = np.empty_like(self._a), np.zeros((1, dimension), np.float32)

    def initial(self):
        return np.zeros(self.dimension, np.float32)

    def gradient(self, x, k):
        for _ in range(self.count):
            np.matmul(self._a, self._a, out=self._out)
        return np.zeros(1, np.float32), self._gradient


class Local:
    """Steps of one algorithm on this rank, driven as a training run does."""

    def __init__(self, world, task, algorithm, tau):
        from coopmpi import config
        from coopmpi.array import Host
        from coopmpi.drivers.driver import Driver
        from coopmpi.step import MODEL, Run, State

        parts = config.resolve({"workers": 2, "steps": 1, "algorithm": algorithm, "period": {"tau": tau}})
        # two workers on a ring have W = J: half as much of it is not taken for an average, so that rows travel
        mixing = parts.mixing.bind(2, 0).lazy()
        self.driver = driver = Driver(2, task, mixing, Host(), world)
        self.algorithm, self.tau, self.k = parts.algorithm, tau, 0
        self.run = Run(2, driver.hosted, 1, parts.optimizer, parts.schedule, parts.period, driver.device,
                       [("x", (task.dimension,), 0)], 0, mixing=mixing)
        self.state = State((MODEL, *self.algorithm.slots), task.initial(), driver)

    def round(self):
        """tau steps: (seconds, seconds waited for the transfer)."""
        begin, waited = perf_counter(), 0.0
        for _ in range(self.tau):
            self.run.at(self.k)
            self.driver.at(self.k)
            loss = self.driver.drive(self.algorithm.step(self.state, self.run))
            self.driver.drive(self.run.rounds.after_step(self.k, loss, self.run))
            waited += self.driver.waited
            self.k += 1
        return perf_counter() - begin, waited


def _measure(megabytes, rounds):
    from coopmpi.drivers.mpi.world import connect

    world = connect()
    task = Products(int(megabytes * 1e6) // 4)
    rows = []
    for name, (keys, blocking, tau) in PAIRS.items():
        candidates = {"blocking": Local(world, task, blocking, tau),
                      "overlapped": Local(world, task, {"kind": name} | keys, tau)}
        for share in SHARES:
            rows.append((name, tau, f"{share:.0%}", *_case(world, task, candidates, tau, share, rounds)))
    if world.rank == 0:
        table(("algorithm", "tau", "share", "transfer alone, ms", "local steps, ms", "waited, blocking",
               "waited, overlapped", "hidden", "round, blocking", "round, overlapped", "saved"), rows)


def _case(world, task, candidates, tau, share, rounds):
    """Cells of a row; every figure is the median over the rounds of the slower rank's."""
    blocking = candidates["blocking"]
    task.count = 0
    alone = _medians(world, {"": blocking}, rounds)[""][1]
    task.count = 20
    each = _medians(world, {"": lambda: task.gradient(None, 0)}, 9)[""] / task.count
    task.count = max(1, round(alone / share / tau / each))
    steps = tau * _medians(world, {"": lambda: task.gradient(None, 0)}, 5)[""]
    found = _medians(world, candidates, rounds)
    (round_b, waited_b), (round_o, waited_o) = found["blocking"], found["overlapped"]
    ms = [f"{1e3 * seconds:.1f}" for seconds in (alone, steps, waited_b, waited_o)]
    return (*ms, f"{1 - waited_o / alone:.0%}", f"{1e3 * round_b:.1f}", f"{1e3 * round_o:.1f}",
            f"{(round_b - round_o) / alone:.0%}")


def _medians(world, candidates, rounds):
    """{name: median seconds}, or medians of what a Local's round gives; ranks start together, candidates take turns."""
    found = {name: [] for name in candidates}
    for _ in range(rounds + 2):
        for name, run in candidates.items():
            world.sum([0.0])
            if isinstance(run, Local):
                figures = run.round()
            else:
                begin = perf_counter()
                run()
                figures = (perf_counter() - begin,)
            found[name].append(world.vote(figures)())
    medians = {name: np.median(figures[2:], axis=0) for name, figures in found.items()}
    return {name: figures[0] if len(figures) == 1 else tuple(figures) for name, figures in medians.items()}
