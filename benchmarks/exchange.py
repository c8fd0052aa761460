"""Mix on a ring of 2 ranks against bare preposted messages plus one pass of additions."""

import argparse
import subprocess
import sys
from time import perf_counter

import numpy as np

from benchmarks.timing import Timing, table

SIZES = {"10 MB": 10**7, "100 MB": 10**8}


def main(arguments):
    parser = argparse.ArgumentParser(prog="python -m benchmarks exchange", description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--rank", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.rank:
        _measure(options.repeats)
        return
    from coopmpi.drivers.mpi.launch import mpirun

    command, environment = mpirun(2, lambda text: None)
    again = [sys.executable, "-m", "benchmarks", "exchange", "--rank", "--repeats", str(options.repeats)]
    subprocess.run([*command, *again], env=environment, check=True)


def _measure(repeats):
    from coopmpi.device.host import Host
    from coopmpi.drivers.driver import Driver
    from coopmpi.drivers.mpi.world import connect
    from coopmpi.step import Mix
    from coopmpi.topology.mixing import mixing_table

    world, device = connect(), Host()
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    driver = Driver(2, None, mixing_table(graph="ring", weights="metropolis").bind(2, 0), device, world)
    # two workers on a ring average: their rows are to travel all the same
    driver.wiring.averages = lambda round: False
    rows = []
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
