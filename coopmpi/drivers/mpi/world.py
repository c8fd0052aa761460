"""The ranks of an MPI job."""

import json
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections import deque
from contextlib import nullcontext
from functools import cached_property

import numpy as np

from coopmpi.drivers.mpi import survivors
from coopmpi.drivers.mpi.launch import launched_rank, launched_ranks
from coopmpi.drivers.mpi.library import MPI
from coopmpi.drivers.mpi.transfer import Collective, GroupSum, Mover, Rows
from coopmpi.drivers.solo import Done
from coopmpi.errors import CoopError, RankLost, UserError, kind_of_error

FORWARDING = 0.2  # seconds: mpirun passes on what a failing rank writes to stderr before MPI_Abort, and then drops the rest
HEAD_START = 2.0  # seconds for the first process to say what is wrong: srun may end it when another one fails
IDLE = 0.02  # seconds between two looks of a rank that has nothing to do
MOST_TAGS = 32766  # every MPI allows at least these tags; an even number, since a communication may take two


class World:
    """The ranks of a job seen from this one; implements what coopmpi.drivers.solo.Solo describes.

    tolerant: does it outlive the loss of ranks? A lost rank is an MPI.Exception then, `hurt` says so, and `survivors` makes the
    world of those that are left. comms: what it works with, by default made from MPI_COMM_WORLD; before: the world it follows.
    """

    done = Done()

    def __init__(self, tolerant=False, comms=None, before=None):
        self.tolerant = tolerant
        if comms is None:
            world = MPI.COMM_WORLD
            self._node = on_one_node(world)
            self.local_rank, self.local_size = self._node.rank, self._node.size
            self.local_cores = len(set().union(*self._node.allgather(os.sched_getaffinity(0))))
            comms = [world.Dup() for _ in range(survivors.COMMUNICATORS)]
            self._silent = MPI.COMM_SELF.Dup()  # never revoked
            self.node_data, self.losses = [], 0
        else:
            # what belongs to this process stays with it
            self.local_rank, self.local_size, self.local_cores = before.local_rank, before.local_size, before.local_cores
            self._silent = before._silent
            self._node = before._node  # of the ranks at the start
            self.node_data, self.losses = before.node_data, before.losses + 1
        self._comms = comms
        # rows, averages and bookkeeping each have a communicator, so that their order never mixes
        self._rows, self._averages, self._control, self._record = map(survivors.Tracked, comms) if tolerant else comms
        self.rank, self.size = comms[0].rank, comms[0].size
        self._near = frozenset(survivors.ranks_in(self._node, comms[0]))  # on this node
        self.name = MPI.Get_library_version().split(",")[0].strip().splitlines()[0]
        self.lost = []  # ranks of the world before that are gone
        self._pending, self._inbox, self._loads = [], Inbox(self._record), 0
        # the first rank of each node collects what its ranks have to say; after a loss all say it to rank 0
        collector = survivors.ranks_in(self._node, MPI.COMM_WORLD)[0] if before is None else 0
        self._above, self.below = self._hierarchy(collector)

    @property
    def hurt(self) -> bool:
        """Has this job lost a rank, as far as this one knows?"""
        return self.tolerant and survivors.is_hurt(self._comms)

    def is_loss(self, error: BaseException) -> bool:
        """Does this error come from a lost rank? What the communicators know of it may come later than the error."""
        return self.tolerant and (isinstance(error, RankLost) or survivors.tells_of_a_loss(error) or self.hurt)

    def survivors(self) -> "World":
        """The world of the ranks that are left; all of them call it."""
        for comm in self._comms:
            comm.Revoke()
        for tracked in (self._rows, self._averages, self._control, self._record):
            tracked.drain()
        comms = survivors.shrunk(self._comms)
        world = World(True, comms, self)
        world.lost = sorted(set(range(self.size)) - set(survivors.ranks_in(comms[0], self._comms[0])))
        return world

    def swap(self, sends, receives):
        """Send arrays [(rank, array)] and fill those of [(rank, array)], which come in the same order from each rank."""
        requests = [self._control.Irecv(array, source=rank) for rank, array in receives]
        requests += [self._control.Isend(array, dest=rank) for rank, array in sends]
        for request in requests:
            request.Wait()

    def confirm(self):
        """All ranks are here: what they have done until now is known to be complete. RankLost or MPI.Exception where one is lost."""
        survivors.confirm(self._comms[0])

    @cached_property
    def moving(self):
        return Mover(self._silent) if MPI.Query_thread() == MPI.THREAD_MULTIPLE else nullcontext()

    def exchange(self, sends, receives, device, number, part=0):
        if not sends and not receives:
            return self.done
        return Rows(self._rows, 2 * number % MOST_TAGS + part, sends, receives, device, MPI.Status(), self._near)

    def group_sum(self, rows, members, out, device, number, ordered):
        tags = 2 * number % MOST_TAGS, 2 * number % MOST_TAGS + 1
        return GroupSum(self._rows, tags, rows, members, out, device, MPI.Status(), self._near, ordered)

    def all_sum(self, source, target, device):
        """target = sum over the ranks of source: a transfer under way."""
        return Collective(self._averages.Iallreduce, source, target, device)

    def sum(self, values):
        return self._reduce(values, MPI.SUM)()

    def vote(self, values):
        return self._reduce(values, MPI.MAX)

    def _reduce(self, values, operation):
        mine = np.array(values, float, order="C")
        result = np.empty_like(mine)
        request = self._control.Iallreduce(mine, result, operation)

        def outcome(_keep=mine):
            request.Wait()
            return result

        return outcome

    def texts(self, text: str) -> list[str]:
        """What every rank gives, in the order of the ranks."""
        mine = np.frombuffer(text.encode(), np.uint8)
        counts = np.zeros(self.size)
        counts[self.rank] = mine.size
        counts = self.sum(counts).astype(int)
        everything = np.empty(counts.sum(), np.uint8)
        self._control.Iallgatherv(mine, (everything, counts.tolist())).Wait()
        return [bytes(part).decode() for part in np.split(everything, np.cumsum(counts)[:-1])]

    def from_first(self, value):
        return json.loads(self.texts(json.dumps(value) if self.rank == 0 else "")[0])

    def wait_for_first(self):
        """Return when rank 0 is here, too; the others leave their cores to it meanwhile."""
        here = np.zeros(1)
        request = self._control.Iallreduce(here.copy(), here, MPI.SUM)
        while not request.Test():
            time.sleep(IDLE)

    def agree(self, error):
        errors = self.texts("" if error is None else json.dumps([type(error).__name__, str(error)]))
        met = [rank for rank, found in enumerate(errors) if found]
        if met:
            kind, message = json.loads(errors[met[0]])
            some = "" if len(met) == self.size else f" (rank {', '.join(map(str, met))} of {self.size})"
            raise kind_of_error(kind)(message + some)

    def collect(self, rows, rank_layout):
        if self.rank:
            for row in rows:
                self._control.Isend(row, dest=0).Wait()
            return
        yield from rows
        row = np.empty_like(rows[0])
        for rank in range(1, self.size):
            for _ in rank_layout.hosted(rank):
                self._control.Irecv(row, source=rank).Wait()
                yield row

    def _hierarchy(self, collector):
        """(the rank above this one, `below` as in Solo), where this rank has that collector."""
        collectors, teams = np.zeros(self.size), {}
        collectors[self.rank] = collector
        for rank, first in enumerate(self.sum(collectors).astype(int).tolist()):
            teams.setdefault(first, []).append(rank)
        below = {rank: [rank] for rank in teams.get(self.rank, ())}
        if self.rank == 0:
            below |= {first: team for first, team in teams.items() if first}
        return (0 if below else collector), below

    def hand_over(self, message):
        self._pending = [item for item in self._pending if not item[0].Test()]
        self._pending.append((self._record.Isend(message, dest=self._above), message))

    def handed_over(self):
        for rank, _, message in self._inbox.arrived():
            yield rank, message

    def hand_over_done(self):
        for request, _ in self._pending:
            request.Wait()
        self._pending.clear()

    def on_node(self, load, publish, attach):
        """One rank per node loads and publishes to a folder; all attach to it, and the folder is unlinked.

        After a loss every survivor has what it attached before, in the same order.
        """
        self._loads += 1
        if self._loads <= len(self.node_data):
            return self.node_data[self._loads - 1]
        folder, error = None, None
        if self.local_rank == 0:
            folder = tempfile.mkdtemp(prefix="coopmpi-")
            try:
                publish(load(), folder)
            except CoopError as problem:
                error = problem
        try:
            self.agree(error)
            folder = self._node.bcast(folder)
            data = attach(folder)
            self._node.Barrier()  # all ranks have mapped the files: these may be unlinked
            if self.tolerant:
                self.node_data.append(data)
            return data
        finally:
            if self.local_rank == 0:
                shutil.rmtree(folder)

    def abort(self, error):
        """End all ranks because of an error that only this rank met."""
        if isinstance(error, CoopError):
            status, text = error.status, str(error)
        else:
            status, text = 1, "".join(traceback.format_exception(error)).rstrip()
        where = f"rank {self.rank} on {MPI.Get_processor_name()}"
        sys.stdout.flush()
        print(f"coopmpi: {where} failed and ends the run: {text}", file=sys.stderr, flush=True)
        time.sleep(FORWARDING)
        MPI.COMM_WORLD.Abort(status)
        os._exit(status)  # MPICH returns from Abort before it ends the process


class Inbox:
    """Messages of any length from any rank, which are not waited for: a sender may be busy computing while its message is cut off."""

    def __init__(self, comm):
        self._comm, self._coming = comm, deque()

    def arrived(self):
        """(rank, tag, bytes) of each message that is complete, in the order in which the messages began."""
        status = MPI.Status()
        while self._comm.Iprobe(status=status):
            message = np.empty(status.Get_count(MPI.BYTE), np.uint8)
            request = self._comm.Irecv(message, source=status.source, tag=status.tag)
            self._coming.append((request, status.source, status.tag, message))
        while self._coming and self._coming[0][0].Test():
            yield self._coming.popleft()[1:]


def on_one_node(world):
    """The communicator of the ranks that share this one's memory."""
    return world.Split_type(MPI.COMM_TYPE_SHARED)


def connect(tolerant=False):
    """The world this process was started into; UserError when launcher and MPI do not know each other.

    tolerant: it is to outlive the loss of ranks; UserError where the job was not started that way.
    """
    if tolerant and not survivors.available():
        raise UserError("--survive needs Open MPI with fault tolerance: mpirun --with-ft ulfm --mca pml ob1 ..., as "
                        "coopmpi train -n N --survive starts it")
    world = World(tolerant)
    variable, ranks = launched_ranks()
    if world.size == 1 and ranks > 1:
        if launched_rank():
            time.sleep(HEAD_START)
        raise UserError(
            f"the launcher started {ranks} processes ({variable}={ranks}), but MPI sees one rank alone in each: "
            f"the launcher and {world.name} do not speak the same protocol; allowed: {_launcher()}"
        )
    return world


def _launcher():
    """How ranks of the MPI library in use are started."""
    if "SLURM_JOB_ID" not in os.environ:
        return "the mpirun of the same installation (coopmpi train -n N takes it)"
    if MPI.get_vendor()[0] == "Open MPI":
        return "mpirun --bind-to none coopmpi ... inside sbatch or salloc, without srun"
    return "srun --mpi=pmi2 coopmpi ..."
