"""How all ranks stop, or save their state, at the same step."""

import signal
from math import inf
from time import perf_counter
from typing import NamedTuple

from coopmpi.errors import Interrupted
from coopmpi.run.deadline import Deadline

VOTE_SECONDS = 0.5  # how often the ranks ask each other ...
EARLY = 1 / 8  # ... at the start sooner, after this share of the time so far: most runs that diverge do so soon ...
COSTLY = 0.05  # ... but not so often that votes take more than this share of the time


class Outcome(NamedTuple):
    """What all ranks do after this step."""

    stop: bool = False
    save: bool = False  # take a checkpoint
    snapshot: bool = False  # and one in memory
    saved: int = -1  # newest step of which all ranks have written their state, -1 for none


class Ballot:
    """Lets all ranks stop at the same step: for a signal that any of them got, or a NaN that any has met.

    A vote is posted without blocking and counted at the next one, half a second later or, at the start, sooner; its
    interval in steps is itself part of the vote, so that all ranks agree on it. Where a step takes longer than that, a
    vote is counted at once. As a context it notes signals, which would otherwise end the process.
    """

    SIGNALS = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGXCPU)

    def __init__(self, world, log, deadline: Deadline):
        self.world, self.log, self.deadline = world, log, deadline
        self.signal, self.failed_at = None, None  # step of the first NaN of all ranks
        self._next, self._outcome = 1, None
        self._interval = 1.0  # steps until the next vote, as the ranks have agreed: below 1 where steps are slow
        self._cost = 0.0  # seconds that the last vote took this rank

    def __enter__(self):
        self._before = {number: signal.signal(number, self._note) for number in self.SIGNALS}
        return self

    def __exit__(self, *error):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number, frame):
        self.signal = signal.Signals(number)

    def count(self, done: int, wall_time: float, save: bool = False, saved: int = -1, snapshot: bool = False) -> Outcome:
        """Called after every step. save, snapshot: what this rank wants; saved: the newest step that it has written."""
        if done < self._next:
            return Outcome()
        begin = perf_counter()
        outcome = self._counted() if self._outcome is not None else Outcome()
        self.log.look()
        stop = self.log.failure is not None or self.signal is not None or self.deadline.passed
        pace = wall_time / done
        seconds = min(VOTE_SECONDS, max(EARLY * wall_time, self._cost / COSTLY))
        self._outcome = self.world.vote([stop, min(1000, seconds / max(pace, 1e-6)), save, -saved, snapshot])
        if self._interval < 1:
            outcome = self._counted()
        self._next = done + max(1, int(self._interval))
        self._cost = perf_counter() - begin
        return outcome

    def _counted(self):
        stop, self._interval, save, minus_saved, snapshot = self._outcome()
        self._outcome = None
        return Outcome(bool(stop), bool(save), bool(snapshot), int(-minus_saved))

    def agree(self, done, steps):
        """After the loop: raise what stopped it, on all ranks alike."""
        if self._outcome is not None:
            self._outcome()
        # the first NaN of all ranks is the cause, later ones are its spread
        first = -self.world.vote([-self.log.failed_at])()[0]
        error = None
        self.failed_at = int(first) if first < inf else None
        if self.log.failed_at == first < inf:
            error = self.log.failure
        elif first == inf and done < steps:
            if self.signal is not None:
                error = Interrupted(f"stopped by {self.signal.name} after step {done}")
            elif self.deadline.passed:
                error = Interrupted(f"stopped after step {done}, {self.deadline.margin:g} s before the end of the Slurm job")
        self.world.agree(error)
