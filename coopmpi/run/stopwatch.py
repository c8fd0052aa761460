"""The clock of a training run: it stands still during evaluations and writing."""

from contextlib import contextmanager
from time import perf_counter


class Stopwatch:
    """seconds: training time so far; already: of an earlier part of the run."""

    def __init__(self, already: float = 0.0):
        self._started, self._paused = perf_counter() - already, 0.0

    @property
    def seconds(self) -> float:
        return perf_counter() - self._started - self._paused

    @contextmanager
    def pause(self):
        """What is done in here does not count."""
        begin = perf_counter()
        try:
            yield
        finally:
            self._paused += perf_counter() - begin
