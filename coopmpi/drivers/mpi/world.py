"""The ranks of an MPI job. The only file that imports mpi4py."""

import os
import shutil
import sys
import tempfile
import time
import traceback
from contextlib import nullcontext
from functools import cached_property

import mpi4py
import numpy as np

from coopmpi.drivers.mpi.launch import launched_rank, launched_ranks
from coopmpi.drivers.mpi.transfer import Collective, GroupSum, Mover, Rows
from coopmpi.drivers.solo import Done
from coopmpi.errors import CoopError, UserError

mpi4py.rc.thread_level = "multiple"  # the main thread makes all MPI calls, except those of a Mover

from mpi4py import MPI  # noqa: E402 (initialises MPI)

FORWARDING = 0.2  # seconds: mpirun passes on what a failing rank writes to stderr before MPI_Abort, and then drops the rest
HEAD_START = 2.0  # seconds for the first process to say what is wrong: srun may end it when another one fails
MOST_TAGS = 32766  # every MPI allows at least these tags; an even number, since a communication may take two


class World:
    """MPI_COMM_WORLD seen from this rank; implements what coopmpi.drivers.solo.Solo describes."""

    done = Done()

    def __init__(self):
        comm = MPI.COMM_WORLD
        self.rank, self.size = comm.rank, comm.size
        node = comm.Split_type(MPI.COMM_TYPE_SHARED)
        self.local_rank, self.local_size = node.rank, node.size
        self._node = node
        self.name = MPI.Get_library_version().split(",")[0].strip().splitlines()[0]
        # rows, averages and bookkeeping each have a communicator, so that their order never mixes
        self._rows, self._averages, self._control, self._record = (comm.Dup() for _ in range(4))
        self._silent = comm.Dup()
        self._pending = []

    @cached_property
    def moving(self):
        return Mover(self._silent) if MPI.Query_thread() == MPI.THREAD_MULTIPLE else nullcontext()

    def exchange(self, sends, receives, device, number):
        if not sends and not receives:
            return self.done
        return Rows(self._rows, 2 * number % MOST_TAGS, sends, receives, device, MPI.Status())

    def group_sum(self, rows, members, out, device, number, ordered):
        tags = 2 * number % MOST_TAGS, 2 * number % MOST_TAGS + 1
        return GroupSum(self._rows, tags, rows, members, out, device, MPI.Status(), ordered)

    def all_sum(self, source, target, device):
        """target = sum over the ranks of source: a transfer under way."""
        return Collective(self._averages.Iallreduce, source, target, device)

    def all_gather(self, source, target, rank_layout, device):
        """target = the rows of all ranks stacked in ascending worker index: a transfer under way."""
        counts = [len(rank_layout.hosted(rank)) * source.shape[1] for rank in range(self.size)]

        def post(sending, receiving):
            return self._averages.Iallgatherv(sending, (receiving, counts))

        return Collective(post, source, target, device)

    def sum(self, values):
        total = np.array(values, float)
        self._control.Allreduce(MPI.IN_PLACE, total, MPI.SUM)
        return total

    def vote(self, values):
        mine, result = np.array(values, float), np.empty(len(values))
        request = self._control.Iallreduce(mine, result, MPI.MAX)

        def outcome(_keep=mine):
            request.Wait()
            return result

        return outcome

    def from_first(self, value):
        return self._control.bcast(value)

    def agree(self, error):
        errors = self._control.allgather(None if error is None else (type(error), str(error)))
        met = [rank for rank, found in enumerate(errors) if found]
        if met:
            kind, message = errors[met[0]]
            some = "" if len(met) == self.size else f" (rank {', '.join(map(str, met))} of {self.size})"
            raise kind(message + some)

    def collect(self, rows, rank_layout):
        if self.rank:
            for row in rows:
                self._control.Send(row, dest=0)
            return
        yield from rows
        row = np.empty_like(rows[0])
        for rank in range(1, self.size):
            for _ in rank_layout.hosted(rank):
                self._control.Recv(row, source=rank)
                yield row

    def hand_over(self, first, block):
        self._pending = [item for item in self._pending if not item[0].Test()]
        message = np.concatenate([[first, *block.shape], block.ravel()])
        self._pending.append((self._record.Isend(message, dest=0), message))

    def handed_over(self):
        status = MPI.Status()
        while self._record.Iprobe(status=status):
            message = np.empty(status.Get_count(MPI.DOUBLE))
            self._record.Recv(message, source=status.source)
            first, *shape = map(int, message[:4])
            yield status.source, first, message[4:].reshape(shape)

    def hand_over_done(self):
        for request, _ in self._pending:
            request.Wait()
        self._pending.clear()

    def on_node(self, load, publish, attach):
        """One rank per node loads and publishes to a folder; all attach to it, and the folder is unlinked."""
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


def connect():
    """The world this process was started into; UserError when launcher and MPI do not know each other."""
    world = World()
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
