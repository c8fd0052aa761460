"""The step record on its way to rank 0: gathered in blocks, by one rank of each node, handed over without blocking."""

from math import inf
from time import perf_counter

import numpy as np

from coopmpi.device.pool import Pool
from coopmpi.errors import NumericalFailure
from coopmpi.record import schema
from coopmpi.sinks.sink import StepRows

BLOCK, ROWS = 256, 1 << 16  # steps after which a block is handed over, fewer where these have more rows than that of workers ...
PATIENCE = 1.0  # ... or seconds, whichever comes first
COLUMNS = ("loss", "compute_time", "wait_time", "bytes_sent")
FIRST = 8  # bytes in front of a message: after how many steps it begins


def block_of(workers: int) -> int:
    """Steps of a block."""
    return max(1, min(BLOCK, ROWS // workers))


def row_type(simulated: bool) -> np.dtype:
    """A worker's columns of a step, in memory and on the network as in the file."""
    series = schema.SIMULATED if simulated else schema.TRAIN
    return np.dtype([(name, series[name].dtype) for name in COLUMNS])


class StepLog:
    """Collects what each step of this rank's workers did; rank 0 hands on the rows that all ranks have sent.

    Losses stay on the device until a block is complete: recording costs no synchronisation per step.
    """

    def __init__(self, driver, feed, first=0):
        self.driver, self.feed, self.clocks = driver, feed, driver.clocks
        self.waited, self.sent = 0.0, 0.0  # totals: seconds of this rank, bytes of its workers
        self.failed_at, self.failure = inf, None  # step of this rank's first NaN or Inf, and its NumericalFailure
        self._losses, self._marks, self._rest, self._walls, self._rounds = [], [], [], [], []
        self._first, self._paused = first, driver.stopwatch.paused
        self._handed_over = perf_counter()
        self._row = row_type(simulated=bool(self.clocks))
        sources = {rank: [worker for source in ranks for worker in driver.rank_layout.hosted(source)]
                   for rank, ranks in driver.world.below.items()}
        self._block_steps = block_of(driver.rank_layout.workers)
        self._table = Table(sources, self._row.itemsize, first, self._block_steps) if sources else None

    def behind(self, step: int) -> bool:
        """Do rows up to that step still have to come here, to be handed on?"""
        return self._table is not None and self._table.taken < step

    def add(self, loss, wall_time, tau, lr):
        """Record the step that the driver has just done."""
        driver = self.driver
        computing, waited, virtual_time = driver.computing, driver.waited, None
        if self.clocks:
            (computing, waited), virtual_time = self.clocks.account(), self.clocks.time
        self._losses.append(loss.copy())
        self._marks.append(computing)
        self._rest.append((waited, driver.sent))
        if driver.world.rank == 0:
            paused = driver.stopwatch.paused
            self._walls.append((wall_time, tau, lr, paused - self._paused, virtual_time))
            self._paused = paused
            self._rounds += [(driver.k + 1, *passage) for passage in driver.rounds if not self.clocks]
        self.waited += waited.mean() if self.clocks else waited
        self.sent += self._rest[-1][1].sum()
        if len(self._losses) == self._block_steps or perf_counter() - self._handed_over > PATIENCE:
            self.hand_over()

    def look(self):
        """Note a NaN or Inf among the losses that are not handed over yet."""
        if self._losses and self.failure is None:
            self._look_for_nan("loss", self._on_host(self._losses), self._first + 1)

    def hand_over(self):
        """Send on what has been gathered and what has arrived from other ranks; rank 0 hands it to the feed."""
        n, world = len(self._losses), self.driver.world
        if n:
            block = self._block(n)
            if self._table is None:
                world.hand_over(_packed(self._first, block))
            else:
                self._table.put(world.rank, self._first, block)
            self._first += n
            self._losses, self._marks, self._rest = [], [], []
        if self._table is not None:
            for rank, message in world.handed_over():
                self._table.put(rank, int(message[:FIRST].view(np.int64)[0]), message[FIRST:])
            first, block = self._table.take()
            if world.rank == 0:
                self._to_feed(first, block.view(self._row).T)
            elif block.size:
                world.hand_over(_packed(first, block))
        self._handed_over = perf_counter()

    def _block(self, n):
        """What each worker did in the last n steps, (b, n) of COLUMNS."""
        block, losses = np.empty((len(self.driver.hosted), n), self._row), self._on_host(self._losses)
        self._look_for_nan("loss", losses, self._first + 1)
        block["loss"] = losses.T
        for step, marks, (waited, sent) in zip(block.T, self._marks, self._rest):
            step["compute_time"], step["wait_time"], step["bytes_sent"] = self._computed(marks), waited, sent
        return block

    def _on_host(self, losses):
        """(n, b) of the losses (b,) of n steps."""
        device = self.driver.device
        return device.to_host(device.xp.stack(losses))

    def _to_feed(self, first, block):
        n = len(block)
        if n:
            *walls, virtual_time = zip(*self._walls[:n])
            virtual_time = None if virtual_time[0] is None else np.array(virtual_time)
            series = [block[name] for name in COLUMNS]
            self.feed.steps(StepRows(first, *map(np.array, walls), *series, virtual_time))
            self._walls = self._walls[n:]
        if self._rounds:
            self.feed.rounds(self._rounds)
            self._rounds = []

    def _computed(self, marks):
        """Seconds of a step's gradient from two marks of the device's clock; virtual clocks give seconds (b,)."""
        if self.clocks:
            return marks
        return self.driver.device.seconds(*marks) if marks else 0.0

    def close(self, end, models):
        """Hand over the rest; where rows of other ranks arrive, wait for those of all steps before `end`.

        The last step changes the models (b, d) after the last loss was computed, so the models are checked, too.
        """
        self.hand_over()
        device = self.driver.device
        sound = [bool(device.to_host(device.xp.isfinite(row).all())) for row in models]
        self._look_for_nan("model", np.where(sound, 0, np.nan)[None], end)
        while self.behind(end):
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


def _packed(first, block):
    return np.concatenate([np.array([first]).view(np.uint8), block.ravel().view(np.uint8)])


class Table:
    """Rows that have arrived but are not complete yet, as mere bytes, the steps of a worker side by side as in the messages.

    sources: {rank: the workers of which its messages hold rows}; size: bytes of a worker in a row; steps: there is room for at
    first.
    """

    def __init__(self, sources: dict[int, list[int]], size: int, first: int, steps: int):
        workers = sorted(worker for found in sources.values() for worker in found)
        self._places = {rank: _span(np.searchsorted(workers, found)) for rank, found in sources.items()}
        self._widths = {rank: len(found) for rank, found in sources.items()}
        self._reached = dict.fromkeys(sources, first)
        self._size = size
        self.taken = first  # steps of which the rows have been taken
        self._pool = Pool(np.empty)
        self._bytes = self._pool.empty((len(workers), steps * size), np.uint8)

    def put(self, rank, first, block):
        """What a rank has to say of the steps from `first` on: (its workers, n), in any shape and type."""
        block = block.ravel().view(np.uint8).reshape(self._widths[rank], -1)
        begin = (first - self.taken) * self._size
        end = begin + block.shape[1]
        while end > self._bytes.shape[1]:
            self._bytes = np.concatenate([self._bytes, np.empty_like(self._bytes)], axis=1)
        self._bytes[self._places[rank], begin:end] = block
        self._reached[rank] = self.taken + end // self._size

    def take(self):
        """(first, block) of the steps that all ranks have reached, (workers, n size) bytes; n may be 0."""
        first, n = self.taken, min(self._reached.values()) - self.taken
        end, last = n * self._size, (max(self._reached.values()) - first) * self._size
        block, rest = self._bytes[:, :end], self._bytes[:, end:last]
        if n:
            # the block is given away as it is, and comes back when it is written
            self._bytes = self._pool.empty(self._bytes.shape, np.uint8)
            self._bytes[:, :rest.shape[1]] = rest
            self.taken += n
        return first, block


def _span(places):
    """Consecutive places as a slice, which is copied to several times as fast."""
    first, end = places[0], places[-1] + 1
    return slice(first, end) if np.array_equal(places, np.arange(first, end)) else places
