"""One copy of the data per node: one rank decodes it, all map the same file, nothing stays behind."""

import json

import pytest

from tests.runs import coopmpi

pytestmark = pytest.mark.mpi

RANK = """
import json, sys
import numpy as np
from coopmpi.drivers.mpi.world import connect
from coopmpi.tasks.data import node_copy
from coopmpi.tasks.data.sets import load

world, loads = connect(), []

def decode():
    loads.append(world.rank)
    return load("digits", "classify", "float32", 0)

data = world.on_node(decode, node_copy.publish, node_copy.attach)
maps = sorted({line.split()[4] for line in open("/proc/self/maps") if "x_train.npy" in line})
sys.stdout.write(json.dumps([loads, maps, float(data.x_train.sum()), bool(data.x_train.flags.writeable)]) + "\\n")
"""


def test_ranks_of_a_node_share_one_map(tmp_path):
    status, out, err = coopmpi(ranks=3, main=("-c", RANK), environment={"TMPDIR": str(tmp_path)})
    assert status == 0, err
    loads, maps, sums, writeable = zip(*map(json.loads, out.split("\n")[:3]))
    assert sorted(sum(loads, [])) == [0]
    assert len({tuple(inodes) for inodes in maps}) == 1 and len(maps[0]) == 1
    assert len(set(sums)) == 1 and not any(writeable)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("coopmpi-")]
