"""MPI, initialised as coopmpi needs it."""

import mpi4py

mpi4py.rc.thread_level = "multiple"  # the main thread makes all MPI calls, except those of a Mover

from mpi4py import MPI  # noqa: E402 (initialises MPI)

__all__ = ["MPI"]
