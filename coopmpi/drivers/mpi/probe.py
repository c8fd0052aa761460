"""What the MPI library here is and can do. `python -m coopmpi.drivers.mpi.probe` prints it as JSON.

Initialising a broken MPI may abort or hang, so `probe` does it in a process of its own.
"""

import json
import os
import subprocess
import sys

import numpy as np

from coopmpi.drivers.mpi.launch import find_mpirun
from coopmpi.errors import CoopError

PATIENCE = 30  # seconds
LEVELS = ("single", "funneled", "serialized", "multiple")


def facts():
    """library, version, mpi4py, thread_level, ulfm: of the MPI of this process, initialised if it is not yet."""
    import mpi4py

    from coopmpi.drivers.mpi.library import MPI

    library, version = MPI.get_vendor()
    levels = (MPI.THREAD_SINGLE, MPI.THREAD_FUNNELED, MPI.THREAD_SERIALIZED, MPI.THREAD_MULTIPLE)
    return {"library": library, "version": ".".join(map(str, version)), "mpi4py": mpi4py.__version__,
            "thread_level": LEVELS[levels.index(MPI.Query_thread())], "ulfm": _has_ulfm(MPI)}


def _has_ulfm(mpi):
    """Can a communicator be revoked? Is_revoked alone proves nothing: mpi4py answers it for every library."""
    comm = mpi.COMM_SELF.Dup()
    comm.Set_errhandler(mpi.ERRORS_RETURN)
    try:
        comm.Revoke()
        return bool(comm.Is_revoked())
    except (NotImplementedError, AttributeError, mpi.Exception):
        return False
    finally:
        comm.Free()


def probe():
    """`facts` of a fresh process; CoopError with the last line it wrote if it fails."""
    command = [sys.executable, "-m", "coopmpi.drivers.mpi.probe"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired as error:
        raise CoopError(f"MPI did not start within {PATIENCE} seconds") from error
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "nothing was said").splitlines()[-1]
        raise CoopError(f"MPI cannot be started (exit status {done.returncode}): {last}")
    return json.loads(done.stdout.splitlines()[-1])


def mpirun():
    """(path, what it says of its version) of the mpirun that `coopmpi train -n` starts; None without one."""
    path = find_mpirun()
    if path is None:
        return None
    done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=PATIENCE, check=False)
    lines = [" ".join(line.split()) for line in done.stdout.splitlines() if any(c.isdigit() for c in line)]
    return path, lines[0] if lines else "of unknown version"


def rank_layout(world):
    """How the ranks of a running job lie on its nodes and cores; every rank calls it.

    nodes; ranks_per_node and cores_per_rank: (least, most); shared: all ranks may use the same cores.
    """
    cores = sorted(os.sched_getaffinity(0))
    mine = np.array([world.local_size, len(cores), cores[0], cores[-1]])
    most, least = world.vote(mine)().astype(int).tolist(), (-world.vote(-mine)()).astype(int).tolist()
    nodes = world.sum([world.local_rank == 0])
    return {"nodes": int(nodes[0]), "ranks_per_node": (least[0], most[0]), "cores_per_rank": (least[1], most[1]),
            "shared": least[2:] == most[2:]}


if __name__ == "__main__":
    print(json.dumps(facts()))
