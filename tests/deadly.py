"""A textbook problem whose process kills itself: at a step, or in a function of coopmpi; tests copy it to where they run."""

import importlib
import os
import signal
import time
from pathlib import Path

from coopmpi.contract.textbook import Textbook
from coopmpi.record import checkpoint
from coopmpi.run import ballot, snapshots

RANK = int(os.environ.get("OMPI_COMM_WORLD_RANK", 0))  # at the start: that of the process


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def arm(path, call, late):
    """Die in the function `module:name` or `module:Class.name`, when it is called so often; late: when it has returned."""
    module, _, name = path.partition(":")
    *owners, name = name.split(".")
    place = importlib.import_module(module)
    for owner in owners:
        place = getattr(place, owner)
    inner, calls = getattr(place, name), 0

    def deadly(*arguments, **options):
        nonlocal calls
        calls += 1
        if calls == call and not late:
            die()
        result = inner(*arguments, **options)
        if calls == call:
            die()
        return result

    setattr(place, name, deadly)


armed = set()


def damage_checkpoints():
    """Turn a bit in the last row of every file: what is read before it is sound."""
    for path in Path().glob("run.h5.state/step-*/rank-*.state"):
        content = bytearray(path.read_bytes())
        length, _ = checkpoint.FOOT.unpack(content[-checkpoint.FOOT.size:])
        content[-checkpoint.FOOT.size - length - 1] ^= 1
        path.write_bytes(content)


def task(place, steps=(), calls=(), pause=0.0, numbers=60, damage=False):
    """steps: [[rank, step], ...] at which that rank dies; calls: [[rank, function, which call, late], ...]; damage: before it
    dies at a step, it damages all checkpoints."""
    ballot.VOTE_SECONDS, snapshots.MOST = 0.005, 100.0  # snapshots in runs that are as short as in tests
    problem = Textbook(place, numbers, noise=0.1)
    inner = problem.gradient
    for i, (rank, path, call, late) in enumerate(calls):
        if rank == RANK and i not in armed:
            armed.add(i)
            arm(path, call, late)

    def gradient(x, step):
        if [RANK, step] in [list(pair) for pair in steps]:
            if damage:
                damage_checkpoints()
            die()
        time.sleep(pause)
        return inner(x, step)

    problem.gradient = gradient
    return problem
