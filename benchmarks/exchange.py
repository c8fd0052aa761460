"""Mix on a ring of 2 ranks against bare preposted messages plus one pass of additions; on hosts, how much of the line is used.

The hosts (root only) are four network namespaces; what is measured there is an exchange by pairs, one on a ring and an average.
"""

import argparse
import os
import subprocess
import sys
from time import perf_counter

import numpy as np

from benchmarks.hosts import hosts
from benchmarks.timing import Timing, table
from coopmpi.drivers.mpi.launch import mpirun

SIZES = {"10 MB": 10**7, "100 MB": 10**8}
HOSTS, NUMBERS = 4, 1_333_770  # float32, an mlp 784-1024-512-10


def main(arguments):
    parser = argparse.ArgumentParser(prog="python -m benchmarks exchange", description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--rates", type=int, nargs="*", default=(100, 1000), metavar="MBIT", help="of the hosts' links, Mbit/s "
                        "(default: 100 1000)")
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.rank is not None:
        _measure_lines(options.repeats, options.rank) if options.rank else _measure_copies(options.repeats)
        return
    _run(*mpirun(2, lambda text: None), options.repeats, 0)
    try:
        for rate in options.rates:
            with hosts(HOSTS, rate) as network:
                _run(*network.mpirun(), options.repeats, rate)
    except PermissionError as error:
        print(f"hosts left out: {error}")


def _run(command, environment, repeats, rate):
    again = [sys.executable, "-m", "benchmarks", "exchange", "--rank", str(rate), "--repeats", str(repeats)]
    subprocess.run([*command, *again], env=environment | {"OMP_NUM_THREADS": "1"}, check=True)


def _mixer(world, graph):
    """A driver of one worker per rank that mixes on a graph."""
    from coopmpi.device.host import Host
    from coopmpi.drivers.driver import Driver
    from coopmpi.topology.mixing import mixing_table

    driver = Driver(world.size, None, mixing_table(graph=graph).bind(world.size, 0), Host(), world)
    # what is an average on this graph is to travel between neighbours all the same
    driver.wiring.averages = lambda round: False
    return driver


def _measure_copies(repeats):
    from coopmpi.drivers.mpi.world import connect
    from coopmpi.step import Mix

    driver = _mixer(connect(), "ring")
    from mpi4py import MPI

    comm, rows = MPI.COMM_WORLD, []
    for label, nbytes in SIZES.items():
        x = np.ones((1, nbytes // 4), np.float32)
        arrived, out = np.empty_like(x), np.empty_like(x)

        def bare():
            receive, send = comm.Irecv(arrived, source=1 - comm.rank), comm.Isend(x, dest=1 - comm.rank)
            receive.Wait()
            send.Wait()
            np.add(x, arrived, out=out)

        def mix():
            driver.ask(Mix(x, 0))

        timings = _interleaved({"bare": bare, "Mix": mix}, repeats, comm)
        for name, timing in timings.items():
            rows.append((label, name, f"{timing.seconds * 1e3:.1f}", f"{1 / timing.ratio:.2f}"))
    if comm.rank == 0:
        table(("per worker", "", "ms (median)", "speed against bare"), rows)


def _measure_lines(repeats, rate):
    from coopmpi.drivers.mpi.world import connect
    from coopmpi.step import Mean, Mix

    world = connect()
    from mpi4py import MPI

    pairs, ring = _mixer(world, "one-peer-exponential"), _mixer(world, "ring")
    x = np.ones((1, NUMBERS), np.float32)
    # each rank sends so many times its x, and receives as much
    copies = {"pairs": 1, "ring": 2, "average": 2 * (world.size - 1) / world.size}
    timings = _interleaved({"pairs": lambda: pairs.ask(Mix(x, 1)), "ring": lambda: ring.ask(Mix(x, 0)),
                            "average": lambda: ring.ask(Mean(x))}, repeats, MPI.COMM_WORLD)
    if world.rank == 0:
        rows = [(name, f"{1e3 * timing.seconds:.1f}", f"{copies[name] * 8e-6 * x.nbytes / rate / timing.seconds:.0%}")
                for name, timing in timings.items()]
        print(f"\nload {os.getloadavg()[0]:.1f}")
        table((f"{x.nbytes / 1e6:.2f} MB per rank, {world.size} hosts, {rate} Mbit/s", "ms (median)", "of the line, each way"), rows)


def _interleaved(candidates, repeats, comm):
    """As benchmarks.timing.interleaved, with the ranks starting each candidate together; the slower rank counts."""
    seconds = {name: [] for name in candidates}
    for _ in range(repeats + 2):
        for name, run in candidates.items():
            comm.Barrier()
            begin = perf_counter()
            run()
            seconds[name].append(max(comm.allgather(perf_counter() - begin)))
    first = np.array(next(iter(seconds.values()))[2:])
    return {name: Timing(np.median(t[2:]), np.median(np.array(t[2:]) / first)) for name, t in seconds.items()}
