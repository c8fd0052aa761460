"""How all ranks stop at the same step."""

import signal
from math import inf

from coopmpi.errors import Interrupted

VOTE_SECONDS = 0.5  # how often the ranks ask each other whether to stop


class Ballot:
    """Lets all ranks stop at the same step: for a signal that any of them got, or a NaN that any has met.

    A vote is posted without blocking and counted at the next one, about half a second later; its interval in
    steps is itself part of the vote, so that all ranks agree on it. As a context it notes signals, which would
    otherwise end the process.
    """

    SIGNALS = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)

    def __init__(self, world, log):
        self.world, self.log = world, log
        self.signal = None
        self._next, self._outcome = 1, None

    def __enter__(self):
        self._before = {number: signal.signal(number, self._note) for number in self.SIGNALS}
        return self

    def __exit__(self, *error):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number, frame):
        self.signal = signal.Signals(number)

    def stops(self, done, wall_time):
        """Called after every step: True when all ranks stop here."""
        if done < self._next:
            return False
        stop, interval = False, 1
        if self._outcome is not None:
            stop, interval = self._outcome()
        reason = self.log.failure is not None or self.signal is not None
        pace = wall_time / done
        self._outcome = self.world.vote([reason, min(1000, VOTE_SECONDS / max(pace, 1e-6))])
        self._next = done + max(1, int(interval))
        return bool(stop)

    def agree(self, done, steps):
        """After the loop: raise what stopped it, on all ranks alike."""
        if self._outcome is not None:
            self._outcome()
        # the first NaN of all ranks is the cause, later ones are its spread
        first = -self.world.vote([-self.log.failed_at])()[0]
        error = None
        if self.log.failed_at == first < inf:
            error = self.log.failure
        elif first == inf and self.signal is not None and done < steps:
            error = Interrupted(f"stopped by {self.signal.name} after step {done}")
        self.world.agree(error)
