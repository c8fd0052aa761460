"""The clock of a training run: it stands still during evaluations and writing."""

from time import perf_counter


class Stopwatch:
    """seconds: training time so far; paused: time that does not count; already: seconds of an earlier part of the run."""

    def __init__(self, already: float = 0.0):
        self._started, self.paused = perf_counter() - already, 0.0

    @property
    def seconds(self) -> float:
        return perf_counter() - self._started - self.paused

    def advance(self, seconds: float):
        """So much of what was paused counts after all."""
        self.paused -= seconds
