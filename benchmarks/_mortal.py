"""The textbook problem in processes that can be found and killed: each rank writes its process number into a file."""

import os
import time

from coopmpi.contract.textbook import Textbook
from coopmpi.run import ballot, snapshots


def task(place, pause=0.0, numbers=60, often=True):
    """often: votes and snapshots come as often as runs of a few seconds need."""
    if often:
        ballot.VOTE_SECONDS, snapshots.MOST = 0.05, 0.2
    name = f"pid-{os.environ.get('OMPI_COMM_WORLD_RANK', 0)}"
    with open(f"new-{name}", "w", encoding="utf-8") as file:
        file.write(str(os.getpid()))
    os.replace(f"new-{name}", name)  # who finds it finds the number in it
    problem = Textbook(place, numbers, noise=0.1 if numbers < 100_000 else 0.0)  # drawing takes long
    inner = problem.gradient

    def gradient(x, step):
        time.sleep(pause)
        return inner(x, step)

    problem.gradient = gradient
    return problem
