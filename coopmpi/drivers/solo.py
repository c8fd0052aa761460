"""The world of a single process: it hosts all workers, and nothing has to travel."""

import os
from contextlib import nullcontext

import numpy as np


class Done:
    """A transfer that is complete from the start."""

    def missing(self):
        """The ranks from which something is still to come, where that is known."""
        return []

    def progress(self):
        """Let it move on; is it complete, so that `wait` would return at once?"""
        return True

    def wait(self):
        pass


class Solo:
    """One rank, no MPI. The interface that coopmpi.drivers.mpi.world implements for many.

    local_rank, local_size, local_cores: among the ranks of this node, their number, the cores that they may use.
    """

    rank, size, local_rank, local_size, local_cores = 0, 1, 0, 1, len(os.sched_getaffinity(0))
    tolerant = hurt = False  # there is nobody who could be lost
    name = "one process, no MPI"
    done = Done()
    moving = nullcontext()  # a context in which transfers under way go on while the main thread computes

    def exchange(self, sends, receives, device, number, part=0):
        """Send rows [(rank, row, silent)] and receive into rows [(rank, row)]: a transfer under way.

        silent: is its worker silent, so that the row arrives as zeros? number: of the communication, the same on all ranks
        and another for each that is under way; part: 0 or 1, where it consists of two exchanges.
        """
        return self.done

    def sum(self, values):
        """Sum of a small float64 array over the ranks."""
        return np.asarray(values, float)

    def vote(self, values):
        """Elementwise maximum over the ranks, under way: call what is returned for the result."""
        return lambda: np.asarray(values, float)

    def from_first(self, value):
        """What rank 0 gives: a text, or None."""
        return value

    def wait_for_first(self):
        """Return when rank 0 is here, too; the others leave their cores to it meanwhile."""

    def agree(self, error):
        """Raise the error that any rank met while setting up, on all ranks alike."""
        if error is not None:
            raise error

    def is_loss(self, error):
        """Does this error come from a lost rank?"""
        return False

    def abort(self, error):
        """End all ranks because of an error that only this rank met."""

    def collect(self, rows, rank_layout):
        """On rank 0, the rows (b, d) of all ranks one by one, in ascending worker index; nothing elsewhere."""
        yield from rows

    below = {0: [0]}  # {rank: ranks}: whose bookkeeping a message from that rank to this one holds, its own included

    def hand_over(self, message):
        """Send bytes (uint8) to the rank above, towards rank 0; does not block."""

    def handed_over(self):
        """(rank, bytes) of what has arrived from the ranks below."""
        return ()

    def hand_over_done(self):
        """Return when everything handed over has left this rank."""

    def on_node(self, load, publish, attach):
        """What `load` gives, held once per node: see coopmpi.drivers.mpi.world."""
        return load()
