"""A rank on each of several hosts: rank 0 prints as JSON what bare messages take.

latency (s) and bandwidth (bytes/s) of a link while all ranks send to the next one and receive from the one before;
averages: (bytes, seconds) of all-reduces over all.
"""

import json
from statistics import median
from time import perf_counter, sleep

import numpy as np
from mpi4py import MPI

ROUNDS = 21
PAUSE = 0.005  # seconds before each, as a gradient takes: what a link may send at once is available again
LARGE = 1_333_770  # float32
comm = MPI.COMM_WORLD
out = np.empty(LARGE, np.float32)


def shift(data):
    comm.Sendrecv(data, (comm.rank + 1) % comm.size, 0, out[:data.size], (comm.rank - 1) % comm.size, 0)


def average(data):
    comm.Iallreduce(data, out[:data.size]).Wait()


def seconds(run, data):
    """Median over the rounds of the slowest rank's."""
    times = []
    for _ in range(ROUNDS):
        sleep(PAUSE)
        comm.Barrier()
        begin = perf_counter()
        run(data)
        times.append(comm.allreduce(perf_counter() - begin, MPI.MAX))
    return median(times)


small, large = np.zeros(2, np.float32), np.zeros(LARGE, np.float32)
latency, whole = seconds(shift, small), seconds(shift, large)
sizes = (2, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000, LARGE)
averages = [(numbers * 4, seconds(average, large[:numbers])) for numbers in sizes]
if comm.rank == 0:
    print(json.dumps({"latency": latency, "bandwidth": large.nbytes / (whole - latency), "averages": averages}))
