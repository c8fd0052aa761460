"""One rank that asks for means over groups of all sizes; rank 0 prints {case: rows of all workers}: group_means.py."""

import json
import sys

import numpy as np

from coopmpi.device.host import Host
from coopmpi.drivers.driver import Driver
from coopmpi.drivers.mpi.world import connect
from coopmpi.step import Finish, Mean, Start
from tests.test_group_mean import CASES, M, numbers

world, found = connect(), {}
for name, (group, d, deterministic) in CASES.items():
    driver = Driver(M, None, None, Host(), world, deterministic)
    x = numbers(d)[driver.hosted.start:driver.hosted.stop]

    def two_at_once(x=x, group=group):
        # two communications under way at the same time must not be taken for each other
        first = yield Start(Mean(x, group))
        second = yield Start(Mean(2 * x, group))
        return (yield Finish(second)).copy(), (yield Finish(first)).copy()

    double, rows = driver.drive(two_at_once())
    assert np.array_equal(double, 2 * rows)
    assert (driver.sent == 2 * 2 * (group - 1) / group * 4 * d).all()
    everything = [row.copy() for row in world.collect(np.ascontiguousarray(rows), driver.rank_layout)]
    if world.rank == 0:
        found[name] = [row.tolist() for row in np.array(everything)]
if world.rank == 0:
    sys.stdout.write(json.dumps(found) + "\n")
