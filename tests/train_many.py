"""Trains many runs in one MPI job, to save starts: python train_many.py RUNS.json FOLDER."""

import json
import sys
from pathlib import Path

from coopmpi import config
from coopmpi.drivers.mpi.world import connect
from coopmpi.run.assemble import assemble
from coopmpi.run.session import train

runs, folder = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
world = connect()
for name, tables in runs.items():
    train(assemble(config.resolve(tables), world), world, folder / f"{name}.h5")
