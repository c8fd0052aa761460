"""One rank of a run that takes snapshots; rank 0 prints the median seconds of one, and how seldom 1 % of the time allows them."""

import sys
from statistics import median

from coopmpi import config
from coopmpi.drivers.mpi.world import connect
from coopmpi.run.assemble import assemble
from coopmpi.run.snapshots import MOST, Snapshots

world = connect(tolerant=True)
assembly = assemble(config.resolve(config.load(None, sys.argv[1:])), world)
states, snapshots, costs = assembly.start(), Snapshots(1.0, 1), []
for step in range(12):
    world.sum([0.0])
    snapshots.take(assembly.driver, states, step, 0.0)
    costs.append(snapshots.cost)
if world.rank == 0:
    print(median(costs[2:]), median(costs[2:]) / MOST)
