"""The step record on its way to rank 0: gathered in blocks, handed over without blocking."""

from math import inf
from time import perf_counter

import numpy as np

from coopmpi.errors import NumericalFailure
from coopmpi.sinks.sink import StepRows

BLOCK = 64  # steps after which a block is handed over ...
PATIENCE = 1.0  # ... or seconds, whichever comes first
COLUMNS = ("loss", "compute_time", "wait_time", "bytes_sent")


class StepLog:
    """Collects what each step of this rank's workers did; rank 0 writes the rows that all ranks have sent.

    Losses stay on the device until a block is complete: recording costs no synchronisation per step.
    """

    def __init__(self, driver, feed, first=0):
        self.driver, self.feed, self.clocks = driver, feed, driver.clocks
        self.waited, self.sent = 0.0, 0.0  # totals: seconds of this rank, bytes of its workers
        self.failed_at, self.failure = inf, None  # step of this rank's first NaN or Inf, and its NumericalFailure
        self._losses, self._marks, self._rest, self._walls, self._rounds = [], [], [], [], []
        self._first = first
        self._handed_over = perf_counter()
        self._table = Table(driver.rank_layout, first) if driver.world.rank == 0 else None

    @property
    def written(self) -> int:
        """On rank 0: up to which step the rows of all ranks have been handed on."""
        return self._table.written

    def add(self, loss, wall_time, tau):
        """Record the step that the driver has just done."""
        driver = self.driver
        computing, waited, virtual_time = driver.computing, driver.waited, None
        if self.clocks:
            (computing, waited), virtual_time = self.clocks.account(), self.clocks.time
        self._losses.append(loss.copy())
        self._marks.append(computing)
        self._rest.append((waited, driver.sent))
        self._walls.append((wall_time, tau, virtual_time))
        if self._table is not None and not self.clocks:
            self._rounds += [(driver.k + 1, *passage) for passage in driver.rounds]
        self.waited += waited.mean() if self.clocks else waited
        self.sent += self._rest[-1][1].sum()
        if len(self._losses) == BLOCK or perf_counter() - self._handed_over > PATIENCE:
            self.hand_over()

    def hand_over(self):
        """Send what has been gathered to rank 0, and on rank 0 write what has arrived."""
        n, device = len(self._losses), self.driver.device
        if n:
            block = np.empty((n, len(self.driver.hosted), len(COLUMNS)))
            block[:, :, 0] = device.to_host(device.xp.stack(self._losses))
            for i, (marks, (waited, sent)) in enumerate(zip(self._marks, self._rest)):
                block[i, :, 1], block[i, :, 2], block[i, :, 3] = self._computed(marks), waited, sent
            self._look_for_nan("loss", block[:, :, 0], self._first + 1)
            if self._table is None:
                self.driver.world.hand_over(self._first, block)
            else:
                self._table.put(0, self._first, block, self._walls)
            self._first += n
            self._losses, self._marks, self._rest, self._walls = [], [], [], []
        if self._table is not None:
            for rank, first, block in self.driver.world.handed_over():
                self._table.put(rank, first, block)
            self._table.write(self.feed)
            if self._rounds:
                self.feed.rounds(self._rounds)
                self._rounds = []
        self._handed_over = perf_counter()

    def _computed(self, marks):
        """Seconds of a step's gradient from two marks of the device's clock; virtual clocks give seconds (b,)."""
        if self.clocks:
            return marks
        return self.driver.device.seconds(*marks) if marks else 0.0

    def close(self, end, models):
        """Hand over the rest; rank 0 waits until all rows before step `end` are written.

        The last step changes the models (b, d) after the last loss was computed, so the models are checked, too.
        """
        self.hand_over()
        device = self.driver.device
        sound = [bool(device.to_host(device.xp.isfinite(row).all())) for row in models]
        self._look_for_nan("model", np.where(sound, 0, np.nan)[None], end)
        while self._table is not None and self._table.written < end:
            self.hand_over()
        self.driver.world.hand_over_done()

    def _look_for_nan(self, what, values, step):
        """Note the first of values (n, b), one row per step from `step` on, that is not finite."""
        if self.failure is None and not np.isfinite(values).all():
            row, column = np.argwhere(~np.isfinite(values))[0]
            self.failed_at = step + row
            self.failure = NumericalFailure(
                f"the {what} of worker {self.driver.hosted[column]} became {values[row, column]} at step "
                f"{self.failed_at}; a smaller [optimizer] lr usually helps")


class Table:
    """Rows that have arrived on rank 0 but are not complete yet."""

    def __init__(self, rank_layout, first):
        self._placement = rank_layout
        self._reached = np.full(rank_layout.ranks, first)
        self.written = first
        self._rows = np.empty((BLOCK, rank_layout.workers, len(COLUMNS)))
        self._walls = []

    def put(self, rank, first, block, walls=()):
        end = first + len(block)
        while end - self.written > len(self._rows):
            self._rows = np.concatenate([self._rows, np.empty_like(self._rows)])
        hosted = self._placement.hosted(rank)
        self._rows[first - self.written:end - self.written, hosted.start:hosted.stop] = block
        self._reached[rank] = end
        self._walls.extend(walls)

    def write(self, feed):
        """Hand on the steps that all ranks have reached."""
        n = int(self._reached.min()) - self.written
        if n > 0:
            wall_time, tau, virtual_time = zip(*self._walls[:n])
            virtual_time = None if virtual_time[0] is None else np.array(virtual_time)
            series = np.moveaxis(self._rows[:n].copy(), 2, 0)
            feed.steps(StepRows(self.written, np.array(wall_time), np.array(tau), *series, virtual_time))
            self._walls = self._walls[n:]
            self._rows[:-n] = self._rows[n:].copy()
            self.written += n
