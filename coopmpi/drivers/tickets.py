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
    asked_by = "an evaluation"  # or the name of a request
    due = None  # when it arrives by the virtual clocks, and what work follows

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
        sends = [(peer, rows[i], i in silent) for peer, local in schedule.sends.items() for i in local]
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


class HalvesMixTicket(PackedMixTicket):
    """x + W q - q for the local rows, q = x as 16-bit numbers: what rounding takes from x stays, and the mean is kept."""

    def __init__(self, driver, x: Array, packed: Packed, schedule: ExchangeSchedule, weights: RowWeights):
        super().__init__(driver, packed, schedule, weights)
        self.x = x

    def value(self):
        mixed, device = super().value(), self.driver.device
        own = self.driver.unpack(self.packed, self.packed.rows, self.schedule.hosted)
        return device.combine((1.0, -1.0, 1.0), (self.x, own, mixed), device.empty(mixed.shape, mixed.dtype))


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
                self.packed.codec.add(rows, workers, self.packed.round, copies)
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
        if self.driver.workers > 1:
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


class ReduceTicket(Ticket):
    """For each local worker the range that it owns, added up from all workers' packets: one message from rank to rank."""

    def __init__(self, driver, packed: Packed):
        self.packed, self.layout = packed, driver.rank_layout
        device, world, places = driver.device, driver.world, driver.wiring.bytes_of
        mine, others = places(packed.codec, world.rank), [rank for rank in range(world.size) if rank != world.rank]
        sends = [(rank, _flat(device, packed.rows[:, places(packed.codec, rank)]), False) for rank in others]
        # (workers of a rank, bytes of the ranges that are owned here)
        self.parts = {rank: device.empty((len(self.layout.hosted(rank)), mine.stop - mine.start), "uint8") for rank in others}
        receives = [(rank, part.reshape(-1)) for rank, part in self.parts.items()]
        self.parts[world.rank] = packed.rows[:, mine]
        super().__init__(driver, world.exchange(sends, receives, device, driver.posted))

    def value(self):
        device, ranges, hosted = self.driver.device, self.packed.codec, self.driver.hosted
        out = device.empty((len(hosted), ranges.width), ranges.dtype)
        for row, owner in zip(out, hosted):
            codec, span, place = ranges.codecs[owner], ranges.spans[owner], _within(ranges, hosted, owner)
            n = span.stop - span.start
            row[:] = 0
            # in ascending order of the workers, wherever they live
            for rank, part in sorted(self.parts.items()):
                self._add(codec, part[:, place], self.layout.hosted(rank), row[:n])
        return out

    def _add(self, codec, packets, workers, row):
        """row (n,) += what the workers' packets hold, one after the other; many short ones are unpacked at once."""
        device, at_once = self.driver.device, max(1, self.driver.device.chunk // max(1, len(row)))
        for start in range(0, len(workers), at_once):
            some, who = packets[start:start + at_once], workers[start:start + at_once]
            if at_once == 1:
                codec.add(some, who, self.packed.round, row[None])
            else:
                values = codec.decode(some, who, self.packed.round, device.empty((len(who), len(row)), row.dtype))
                row[...] = device.sum([row, *values], device.empty((1, len(row)), row.dtype))[0]


class GatherTicket(Ticket):
    """The model that the owners of the ranges have packed: one message from rank to rank."""

    def __init__(self, driver, packed: Packed, number: int, part: int = 0):
        self.packed, ranges, world, self.arrived = packed, packed.codec.ranges, driver.world, {}
        for rank in range(world.size):
            place = driver.wiring.bytes_of(ranges, rank)
            self.arrived[rank] = driver.device.empty((1, place.stop - place.start), "uint8")
        mine = self.arrived[world.rank]
        for row, owner in zip(packed.rows, driver.hosted):
            place = _within(ranges, driver.hosted, owner)
            mine[0, place] = row[:place.stop - place.start]
        others = [rank for rank in self.arrived if rank != world.rank]
        super().__init__(driver, world.exchange([(rank, mine[0], False) for rank in others],
                                                [(rank, self.arrived[rank][0]) for rank in others], driver.device, number, part))

    def value(self):
        own, layout, ranges = self.packed.codec, self.driver.rank_layout, self.packed.codec.ranges
        out = self.driver.device.empty((1, ranges.spans[-1].stop), own.dtype)
        for rank, packets in self.arrived.items():
            for owner in layout.hosted(rank):
                packet = packets[:, _within(ranges, layout.hosted(rank), owner)]
                own.decode_range(packet, owner, self.packed.round, out[:, ranges.spans[owner]])
        return out


class HalvesMeanTicket(Ticket):
    """The mean over all workers, (1, n): x - near travels as 16-bit numbers to the owners of ranges, and so do their means."""

    def __init__(self, driver, x: Array, near: Array | None, ranges):
        device, self.near = driver.device, near
        if near is not None:
            x = device.combine((1.0, -1.0), (x, near), device.empty(x.shape, x.dtype))
        packed = Packed(ranges, ranges.encode(x, driver.hosted, 0), 0)
        super().__init__(driver, ThroughOwners(driver, ReduceTicket(driver, packed)))

    def value(self):
        away = self.transfer.down.value()
        return away if self.near is None else self.driver.device.xp.add(away, self.near, out=away)


class ThroughOwners:
    """Transfers of a mean: what the owners of the ranges have added up, they pack and send on."""

    def __init__(self, driver, up: ReduceTicket):
        self._driver, self._up, self._number = driver, up, driver.posted
        self.down: GatherTicket | None = None

    def progress(self):
        if self.down is None and self._up.transfer.progress():
            self._send_on()
        return self.down is not None and self.down.transfer.progress()

    def wait(self):
        if self.down is None:
            self._up.transfer.wait()
            self._send_on()
        self.down.transfer.wait()

    def missing(self):
        return (self.down or self._up).transfer.missing()

    def _send_on(self):
        driver, total, packed = self._driver, self._up.value(), self._up.packed
        driver.device.xp.multiply(total, 1 / driver.workers, out=total)
        own = packed.codec.own
        self.down = GatherTicket(driver, Packed(own, own.encode(total, driver.hosted, 0), 0), self._number, part=1)


def _within(ranges, owners, owner):
    """Where the packet of one owner lies among those of all owners on its rank."""
    place, start = ranges.places[owner], ranges.places[owners.start].start
    return slice(place.start - start, place.stop - start)


def _flat(device, block):
    """The numbers of a block (b, n), one row after the other."""
    message = device.empty(block.shape, block.dtype)
    message[...] = block
    return message.reshape(-1)


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
