"""The step record of a simulation of time alone: what the virtual clocks say, and no losses."""

from math import inf

import numpy as np

from coopmpi.sinks.sink import StepRows

BLOCK, NUMBERS = 64, 1 << 18  # steps after which rows are handed on, fewer where these have more numbers than that


class TimeLog:
    """Takes the place of a StepLog in the one process that hosts all workers."""

    failed_at, failure = inf, None  # no numbers, no NaN

    def __init__(self, driver, feed):
        self.driver, self.feed, self.clocks = driver, feed, driver.clocks
        self.waited, self.sent = 0.0, 0.0  # totals: mean seconds of the workers, bytes of all
        self._block = max(1, min(BLOCK, NUMBERS // driver.workers))
        self._steps, self._written, self._paused = [], 0, driver.stopwatch.paused

    def add(self, loss, wall_time, tau, lr):
        """Record the step that the driver has just done; its loss is a shape."""
        series = *self.clocks.account(), self.driver.sent  # (m,) each
        self.waited += series[1].mean()
        self.sent += series[2].sum()
        paused = self.driver.stopwatch.paused
        self._steps.append((wall_time, tau, lr, paused - self._paused, self.clocks.time, *series))
        self._paused = paused
        if len(self._steps) == self._block:
            self.hand_over()

    def look(self):
        """There is no NaN."""

    def hand_over(self):
        """Hand on what has been gathered."""
        if self._steps:
            wall_time, tau, lr, pause_time, virtual_time, *series = map(np.array, zip(*self._steps))
            self.feed.steps(StepRows(self._written, wall_time, tau, lr, pause_time, None, *series, virtual_time))
            self._written += len(self._steps)
            self._steps = []

    def close(self, end, models):
        self.hand_over()
