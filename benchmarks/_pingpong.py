"""A rank on each of several hosts: rank 0 prints as JSON what bare messages take.

latency (s) and bandwidth (bytes/s) between two of them; averages: (bytes, seconds) of all-reduces over all.
"""

import json
from statistics import median
from time import perf_counter

import numpy as np
from mpi4py import MPI

ROUNDS = 21
LARGE = 1_333_770  # float32
comm = MPI.COMM_WORLD
out = np.empty(LARGE, np.float32)


def back_and_forth(data):
    for turn in range(2):
        if comm.rank < 2:
            comm.Send(data, 1 - comm.rank) if turn == comm.rank else comm.Recv(data, 1 - comm.rank)


def average(data):
    comm.Iallreduce(data, out[:data.size]).Wait()


def seconds(run, data):
    """Median over the rounds of the slowest rank's."""
    times = []
    for _ in range(ROUNDS):
        comm.Barrier()
        begin = perf_counter()
        run(data)
        times.append(comm.allreduce(perf_counter() - begin, MPI.MAX))
    return median(times)


small, large = np.zeros(2, np.float32), np.zeros(LARGE, np.float32)
latency, whole = (seconds(back_and_forth, data) / 2 for data in (small, large))
averages = [(numbers * 4, seconds(average, large[:numbers])) for numbers in (2, 10_000, 100_000, LARGE)]
if comm.rank == 0:
    print(json.dumps({"latency": latency, "bandwidth": large.nbytes / (whole - latency), "averages": averages}))
