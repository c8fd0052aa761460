"""Rank 0 as the receiver of the rows of many ranks: blocks that one other process sends in their names."""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from benchmarks.timing import table
from coopmpi.device.host import Host
from coopmpi.drivers.rank_layout import RankLayout
from coopmpi.drivers.stopwatch import Stopwatch
from coopmpi.run.feed import Feed
from coopmpi.run.step_log import StepLog, block_of, row_type
from coopmpi.sinks.sink import About

AIM = 0.01  # of the time of rank 0


def main(arguments):
    parser = argparse.ArgumentParser(prog="python -m benchmarks recording", description=__doc__)
    parser.add_argument("--ranks", type=int, default=1024, help="that are played, a worker each")
    parser.add_argument("--node", type=int, default=8, help="ranks of a node")
    parser.add_argument("--step", type=float, default=10.0, help="milliseconds of a step")
    parser.add_argument("--blocks", type=int, default=20, help="of as many steps as are handed over together")
    parser.add_argument("--rank", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.rank:
        _measure(options)
        return
    from coopmpi.drivers.mpi.launch import mpirun

    command, environment = mpirun(2, lambda text: None)
    again = [sys.executable, "-m", "benchmarks", "recording", "--rank", *arguments]
    subprocess.run([*command, *again], env=environment, check=True)


def _measure(options):
    from mpi4py import MPI

    comm, rows = MPI.COMM_WORLD, []
    options.together = block_of(options.ranks)
    for what, node in (("every rank sends to rank 0", 1), (f"nodes of {options.node} ranks", options.node)):
        below = {rank: [rank] for rank in range(node)}
        below |= {first: list(range(first, first + node)) for first in range(node, options.ranks, node)}
        for per_worker in ("all", "summary"):
            comm.Barrier()
            if comm.rank:
                _play(comm, below, options)
            else:
                seconds = _receive(comm, below, options, per_worker)
                rows.append((what, per_worker, len(below) - 1, *(f"{100 * share:.2f} %" for share in seconds)))
    if comm.rank == 0:
        table((f"{options.ranks} ranks, steps of {options.step:g} ms", "record.per_worker", f"messages per {options.together} steps",
               "rank 0's own time", "processor time of the writing thread"), rows)


def _play(comm, below, options):
    """Send what all other ranks would send, at their pace."""
    from mpi4py import MPI

    row = row_type(simulated=False)
    begin, requests = time.perf_counter(), []
    for number in range(options.blocks):
        for rank, ranks in below.items():
            if rank:
                block = np.ones((len(ranks), options.together), row)
                message = np.concatenate([np.array([number * options.together]).view(np.uint8), block.ravel().view(np.uint8)])
                requests.append(comm.Isend(message, dest=0, tag=rank))
        time.sleep(max(0.0, begin + (number + 1) * options.together * options.step / 1e3 - time.perf_counter()))
    MPI.Request.Waitall(requests)


def _receive(comm, below, options, per_worker):
    """Shares of the time that rank 0 spends on its record, and the writing thread's processor."""
    from coopmpi.drivers.mpi.world import Inbox
    from coopmpi.record.writer import Writer

    inbox = Inbox(comm)
    workers, steps = options.ranks, options.blocks * options.together
    driver = SimpleNamespace(
        rank_layout=RankLayout(workers, workers), hosted=range(1), device=Host(), clocks=None, computing=(), waited=0.0,
        sent=np.ones(1), rounds=[], k=0, stopwatch=Stopwatch(), world=SimpleNamespace(
            rank=0, below=below, handed_over=lambda: ((tag, message) for _, tag, message in inbox.arrived())))
    with tempfile.TemporaryDirectory() as folder:
        feed = Feed(Writer(Path(folder, "run.h5")))
        feed.begin(About("", workers, steps, 1, "float32", "train", {"ranks": workers, "mpi": "", "device": "cpu"},
                         all_models=False, per_worker=per_worker == "all"))
        log, loss, busy, begin = StepLog(driver, feed), np.ones(1, np.float32), 0.0, time.perf_counter()
        for k in range(steps):
            time.sleep(max(0.0, begin + (k + 1) * options.step / 1e3 - time.perf_counter()))
            started = time.thread_time()
            log.add(loss, k * options.step / 1e3, 1, 0.1)
            busy += time.thread_time() - started
        whole = time.perf_counter() - begin
        while log.behind(steps):
            log.hand_over()
        feed.settle()
        writing = feed._thread.submit(time.thread_time).result()
        feed.close("finished")
    return busy / whole, writing / whole

