"""What is left of a job when ranks are lost: communicators of the survivors, by the fault-tolerance extension of MPI (ULFM).

Between a loss and the next agreement nothing but Revoke, Shrink, Agree and waits for single requests is safe: a collective
in which a rank dies may return with garbage.
"""

import os
from time import monotonic

import numpy as np

from coopmpi.drivers.mpi.library import MPI
from coopmpi.errors import RankLost

COMMUNICATORS = 4  # that a World works with
GRACE = 1.0  # seconds in which an agreement may still come about when a rank is known to be lost
_left = []  # agreements that nobody waits for any more, with the array that MPI may still write to


class Watched(MPI.Request):
    """A request whose wait ends when a rank is lost: what is on its way to or from that rank may never become complete."""

    def __new__(cls, request, comm):
        watched = super().__new__(cls, request)
        watched.comm = comm
        return watched

    def __init__(self, request, comm):
        pass

    def Wait(self, status=None):
        while not self.Test(status):
            if is_hurt([self.comm]):
                raise RankLost("a rank was lost while messages were under way")
            os.sched_yield()

    def complete(self):
        """Wait, whatever has become of it on a communicator that is revoked."""
        try:
            super().Wait()
        except MPI.Exception:
            pass  # revoked, or its peer is lost: it is complete all the same


class Tracked:
    """A communicator whose open requests are known, so that they can be completed before their arrays are dropped."""

    def __init__(self, comm):
        self.comm, self.rank, self.size = comm, comm.rank, comm.size
        self._open, self._many = [], 100

    def Isend(self, *arguments, **options):
        return self._kept(self.comm.Isend(*arguments, **options))

    def Irecv(self, *arguments, **options):
        return self._kept(self.comm.Irecv(*arguments, **options))

    def Iallreduce(self, *arguments, **options):
        return self._kept(self.comm.Iallreduce(*arguments, **options))

    def Iallgatherv(self, *arguments, **options):
        return self._kept(self.comm.Iallgatherv(*arguments, **options))

    def Iprobe(self, *arguments, **options):
        return self.comm.Iprobe(*arguments, **options)

    def _kept(self, request):
        if len(self._open) == self._many:
            self._open = [other for other in self._open if other]  # a completed request is false
            self._many = 100 + 2 * len(self._open)
        self._open.append(Watched(request, self.comm))
        return self._open[-1]

    def drain(self):
        """Wait for all open requests of a revoked communicator, whatever becomes of them."""
        for request in self._open:
            request.complete()
        self._open = []


def available() -> bool:
    """Was this job started so that it outlives the loss of ranks?"""
    return os.environ.get("OMPI_MCA_mpi_ft_enable") == "1"


def tells_of_a_loss(error: BaseException) -> bool:
    """Is it an error of MPI that a lost rank causes?"""
    losses = (MPI.ERR_PROC_FAILED, MPI.ERR_PROC_FAILED_PENDING, MPI.ERR_REVOKED)
    return isinstance(error, MPI.Exception) and error.Get_error_class() in losses


def is_hurt(comms) -> bool:
    """Is a rank lost, as far as this rank knows?"""
    return any(comm.Is_revoked() or comm.Get_failed().size > 0 for comm in comms)


def confirm(comm):
    """Wait until all ranks of comm are here. RankLost or MPI.Exception where one is lost.

    An agreement goes on when its communicator is revoked, and a rank that has noticed the loss earlier never comes to it. Nor
    does one that waits for a message of the lost rank, which MPI may forget to end. Where all have agreed, some may have left.
    """
    flag, hurt_since = np.ones(1, np.intc), None
    request = comm.Iagree(flag)
    while not request.Test():
        if hurt_since is None and comm.Get_failed().size:
            hurt_since = monotonic()
        if comm.Is_revoked() or (hurt_since is not None and monotonic() - hurt_since > GRACE):
            _left.append((request, flag))
            raise RankLost("a rank was lost before all had confirmed")
        os.sched_yield()


def shrunk(comms):
    """As many communicators of the ranks that are left; all survivors call it. Free of losses when it returns.

    Agreements of one communicator are matched in their order, and Shrink is made of them: comms[0], where a confirmation may
    have been left, is not the one that is shrunk.
    """
    base = comms[1]
    while True:
        found = [base.Shrink() for _ in comms]
        # a loss in between gives communicators of different sizes, or an agreement that fails
        alike = len({comm.size for comm in found}) == 1 and not is_hurt(found)
        try:
            if found[0].Agree(int(alike)):
                return found
        except MPI.Exception:
            pass  # another rank was lost in the agreement itself
        base = found[0]


def ranks_in(comm, of) -> list[int]:
    """The ranks of communicator `of` that are ranks of `comm`, in the order of comm."""
    group, before = comm.Get_group(), of.Get_group()
    return MPI.Group.Translate_ranks(group, list(range(comm.size)), before)
