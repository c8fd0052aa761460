"""Communications under way: each has its Traffic, and turns what has arrived into the answer of its request."""

from time import perf_counter

from coopmpi.drivers.exchange_schedule import ExchangeSchedule, RowWeights
from coopmpi.step.requests import Array, Packed
from coopmpi.step.traffic import Traffic


class Ticket:
    """Base. traffic: what it moves; transfer: the messages under way."""

    traffic: Traffic
    posted = 0.0  # when, on the driver's stopwatch
    paused = 0.0  # the pauses of that which do not delay it
    completed: float | None = None  # when, by perf_counter, it was found complete
    waited = 0.0  # seconds for which it has blocked the rank so far
    due = None  # when it arrives, by the virtual clocks

    def __init__(self, driver, transfer):
        self.driver, self.transfer = driver, transfer

    def progress(self):
        """Let the transfer move on, and see whether it is complete."""
        if self.completed is None and self.transfer.progress():
            self.completed = perf_counter()

    def value(self) -> Array:
        """The answer of the request, once the transfer is complete."""
        raise NotImplementedError


class Exchange(Ticket):
    """Base of neighbour exchanges: rows travel to the workers that need them; what arrives joins the local rows."""

    def __init__(self, driver, rows: Array, schedule: ExchangeSchedule, silent=()):
        self.rows, self.schedule = rows, schedule
        # a silent worker's message is empty, and stands for zeros
        sends = [(peer, rows[i, :0] if i in silent else rows[i])
                 for peer, local in schedule.sends.items() for i in local]
        remote = len(schedule.remote)
        self.arrived = driver.device.empty((remote, rows.shape[1]), rows.dtype) if remote else rows[:0]
        sources = [peer for peer, workers in schedule.receives.items() for _ in workers]
        super().__init__(driver, driver.world.exchange(sends, list(zip(sources, self.arrived)), driver.device,
                                                      driver.posted))


class MixTicket(Exchange):
    """W x for the local rows."""

    def __init__(self, driver, x: Array, schedule: ExchangeSchedule, weights: RowWeights):
        super().__init__(driver, x, schedule)
        self.weights = weights

    def value(self):
        device, x = self.driver.device, self.rows
        return device.mix(x, self.arrived, self.weights, device.empty(x.shape, x.dtype))


class PackedMixTicket(Exchange):
    """W x for the local rows, from packed rows, which are unpacked where they arrive."""

    def __init__(self, driver, packed: Packed, schedule: ExchangeSchedule, weights: RowWeights):
        super().__init__(driver, packed.rows, schedule)
        self.packed, self.weights = packed, weights

    def value(self):
        device, packed, schedule = self.driver.device, self.packed, self.schedule
        local = self.driver.unpack(packed, packed.rows, schedule.hosted)
        arrived = self.driver.unpack(packed, self.arrived, schedule.remote)
        return device.mix(local, arrived, self.weights, device.empty(local.shape, local.dtype))


class AdvanceTicket(Exchange):
    """The copies, each advanced by what its owner has packed: increments go to everybody who remembers a copy."""

    def __init__(self, driver, copies: Array, packed: Packed, schedule: ExchangeSchedule):
        super().__init__(driver, packed.rows, schedule, packed.silent)
        self.copies, self.packed = copies, packed

    def value(self):
        schedule, b = self.schedule, len(self.schedule.hosted)
        for copies, rows, workers in ((self.copies[:b], self.packed.rows, schedule.hosted),
                                      (self.copies[b:], self.arrived, schedule.remote)):
            if len(workers):
                copies += self.driver.unpack(self.packed, rows, workers)
        return self.copies


class MeanTicket(Ticket):
    """The mean over all workers, repeated in `copies` rows.

    MPI's all-reduce computes it; where the order of additions must not depend on the ranks, it is the sum of a group.
    """

    def __init__(self, driver, x: Array, copies: int = 1):
        self.x, self.copies = x, copies
        device, world = driver.device, driver.world
        self.out = device.empty((1, x.shape[1]), x.dtype)
        if driver.deterministic or world.size == 1:
            everybody, = driver.wiring.groups(driver.workers)
            transfer = driver.group_sum(x, everybody, self.out[0])
        else:
            local = x if x.shape[0] == 1 else device.sum(x, device.empty(self.out.shape, x.dtype))
            transfer = world.all_sum(local, self.out, device.staging)
        super().__init__(driver, transfer)

    def value(self):
        device = self.driver.device
        device.xp.multiply(self.out, 1 / self.driver.workers, out=self.out)
        return device.repeat(self.out, self.copies)


class GroupMeanTicket(Ticket):
    """For each local worker the mean over its group of `size` consecutive workers."""

    def __init__(self, driver, x: Array, size: int):
        self.x, self.size, self.groups = x, size, driver.wiring.groups(size)
        self.out = driver.device.empty((len(self.groups), x.shape[1]), x.dtype)
        transfers = [driver.group_sum(x[group.rows], group, row) for group, row in zip(self.groups, self.out)]
        super().__init__(driver, Several(transfers))

    def value(self):
        device = self.driver.device
        device.xp.multiply(self.out, 1 / self.size, out=self.out)
        if len(self.x) == 1:
            return self.out
        rows = device.empty(self.x.shape, self.x.dtype)
        for group, mean in zip(self.groups, self.out):
            rows[group.rows] = mean
        return rows


class PackedMeanTicket(Ticket):
    """The mean of packed rows: every rank gets all packets, unpacks them and adds them in ascending order."""

    def __init__(self, driver, packed: Packed):
        self.packed = packed
        self.rows, transfer = driver.gather(packed.rows)
        super().__init__(driver, transfer)

    def value(self):
        driver, device = self.driver, self.driver.device
        total = None
        for worker in range(driver.workers):
            row = driver.unpack(self.packed, self.rows[worker:worker + 1], [worker])
            total = row if total is None else device.xp.add(total, row, out=total)
        return device.xp.multiply(total, 1 / driver.workers, out=total)


class Several:
    """Transfers that are complete when all of them are."""

    def __init__(self, transfers):
        self._transfers = transfers

    def progress(self):
        return all([transfer.progress() for transfer in self._transfers])

    def wait(self):
        for transfer in self._transfers:
            transfer.wait()

    def missing(self):
        return sorted({rank for transfer in self._transfers for rank in transfer.missing()})
