"""What an algorithm is: a `step` generator that yields requests, and slots that hold its state.

An algorithm never communicates. At each `yield` it asks for something and a driver answers, so that the same
file runs over MPI, in one process, and on a virtual clock. Every array has a leading worker axis: (b, d) for
the b workers that live on this rank, (1, d) for what all workers share.
"""

from coopmpi.step.algorithm import Algorithm
from coopmpi.step.context import Context
from coopmpi.step.requests import Advance, Finish, Gather, Grad, Mean, Mix, Now, Packed, Recall, Reduce, Start
from coopmpi.step.slots import MODEL, Slot, State

__all__ = ["MODEL", "Advance", "Algorithm", "Context", "Finish", "Gather", "Grad", "Mean", "Mix", "Now", "Packed", "Recall",
           "Reduce", "Slot", "Start", "State"]
