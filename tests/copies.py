"""One rank of a run with remembered copies; prints a digest of each copy: python copies.py TABLES.json."""

import hashlib
import json
import sys
from pathlib import Path

from coopmpi import config
from coopmpi.drivers.mpi.world import connect
from coopmpi.run.assemble import assemble
from coopmpi.run.session import begin

world = connect()
assembly = assemble(config.resolve(json.loads(Path(sys.argv[1]).read_text())), world)
trainer = begin(assembly, world, sys.argv[1] + ".h5")
trainer.train()
driver, copies = trainer.driver, trainer.state.copies
owners = [*driver.hosted, *driver.wiring.audience.remote]
digests = {owner: hashlib.sha256(copy.tobytes()).hexdigest() for owner, copy in zip(owners, copies)}
sent = trainer.log.sent / driver.wiring.audience.links.degree.sum() / trainer.context.codec.nbytes
sys.stdout.write(json.dumps([digests, sent]) + "\n")
