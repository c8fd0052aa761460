"""The step record of a simulation of time alone: what the virtual clocks say, and no losses."""

from math import inf

import numpy as np

from coopmpi.run.step_log import BLOCK
from coopmpi.sinks.sink import MANY, StepRows


class TimeLog:
    """Takes the place of a StepLog in the one process that hosts all workers; of many workers it keeps means only."""

    failed_at, failure = inf, None  # no numbers, no NaN

    def __init__(self, driver, feed):
        self.driver, self.feed, self.clocks = driver, feed, driver.clocks
        self.waited, self.sent = 0.0, 0.0  # totals: mean seconds of the workers, bytes of all
        self._steps, self._written = [], 0

    def add(self, loss, wall_time, tau):
        """Record the step that the driver has just done; its loss is a shape."""
        series = *self.clocks.account(), self.driver.sent  # (m,) each
        self.waited += series[1].mean()
        self.sent += series[2].sum()
        if self.driver.workers > MANY:
            series = [values.mean() for values in series]
        self._steps.append((wall_time, tau, self.clocks.time, *series))
        if len(self._steps) == BLOCK:
            self.hand_over()

    def hand_over(self):
        """Hand on what has been gathered."""
        if self._steps:
            wall_time, tau, virtual_time, *series = map(np.array, zip(*self._steps))
            self.feed.steps(StepRows(self._written, wall_time, tau, None, *series, virtual_time))
            self._written += len(self._steps)
            self._steps = []

    def close(self, end, models):
        self.hand_over()
