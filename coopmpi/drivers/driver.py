"""Answers the requests of an algorithm for the workers of one rank.

The same driver serves one process that hosts all workers and every rank of an MPI job: what differs is the
world it is given (coopmpi.drivers.solo or coopmpi.drivers.mpi.world), which moves rows between ranks.
"""

from contextlib import nullcontext
from functools import cached_property
from time import perf_counter

import numpy as np

from coopmpi.drivers.exchange_schedule import ExchangeSchedule
from coopmpi.drivers.rank_layout import RankLayout
from coopmpi.step import Advance, Finish, Grad, Mean, Mix, Now, Packed, Recall, Start

MOST_SCHEDULES = 1000  # that are kept: random graphs have many
LONG = 2e-3  # seconds of a gradient during which it is worth moving messages


class Exchange:
    """Rows on their way to the workers that need them, in one schedule; what arrives joins the local rows."""

    def __init__(self, driver, rows, schedule, silent=()):
        self.driver, self.rows, self.schedule = driver, rows, schedule
        # a silent worker's message is empty, and stands for zeros
        sends = [(peer, rows[i, :0] if i in silent else rows[i]) for peer, local in schedule.sends.items() for i in local]
        self.arrived = driver.device.empty((len(schedule.remote), rows.shape[1]), rows.dtype) if schedule.remote else rows[:0]
        sources = [peer for peer, workers in schedule.receives.items() for _ in workers]
        self.transfer = driver.world.exchange(sends, list(zip(sources, self.arrived)), driver.device)

    def mixed(self, local, arrived, weights):
        """sum_j w_ij x_j for the local workers i, added in ascending j."""
        b, device = len(local), self.driver.device
        out = device.empty(local.shape, local.dtype)
        for i, (sources, row_weights) in enumerate(weights):
            rows = [local[j] if j < b else arrived[j - b] for j in sources]
            device.weighted_sum(rows, row_weights, out[i])
        return out


class MixTicket(Exchange):
    """A neighbour exchange under way; its value is W x for the local rows."""

    def __init__(self, driver, x, schedule, weights):
        super().__init__(driver, x, schedule)
        self.weights = weights

    def value(self):
        self.driver.wait(self.transfer)
        return self.mixed(self.rows, self.arrived, self.weights)


class PackedMixTicket(Exchange):
    """The same for packed rows: they are unpacked where they arrive."""

    def __init__(self, driver, packed, schedule, weights):
        super().__init__(driver, packed.rows, schedule)
        self.packed, self.weights = packed, weights

    def value(self):
        self.driver.wait(self.transfer)
        packed, unpack = self.packed, self.driver.unpack
        local, arrived = unpack(packed, packed.rows, self.schedule.hosted), unpack(packed, self.arrived, self.schedule.remote)
        return self.mixed(local, arrived, self.weights)


class AdvanceTicket(Exchange):
    """Packed increments on their way to everybody who remembers a copy; its value is the advanced copies."""

    def __init__(self, driver, copies, packed, schedule):
        super().__init__(driver, packed.rows, schedule, silent=packed.silent)
        self.copies, self.packed = copies, packed

    def value(self):
        self.driver.wait(self.transfer)
        packed, unpack, b = self.packed, self.driver.unpack, len(self.schedule.hosted)
        for copies, rows, workers in ((self.copies[:b], packed.rows, self.schedule.hosted),
                                      (self.copies[b:], self.arrived, self.schedule.remote)):
            if len(workers):
                copies += unpack(packed, rows, workers)
        return self.copies


class MeanTicket:
    """An average over all workers under way; its value is the mean, repeated in `copies` rows."""

    def __init__(self, driver, x, copies):
        self.driver, self.rows, self.copies = driver, x, copies
        device, world = driver.device, driver.world
        self.out = device.empty((1, x.shape[1]), x.dtype)
        self.ordered = driver.deterministic or world.size == 1
        if not self.ordered:
            local = x if x.shape[0] == 1 else self.add(x, device.empty(self.out.shape, x.dtype))
            self.transfer = world.all_sum(local, self.out, device.staging)
        else:
            # the rows of all workers come here and are added in ascending order
            self.rows, self.transfer = driver.gather(x)

    def add(self, rows, out):
        self.driver.device.weighted_sum(list(rows), [1.0] * rows.shape[0], out[0])
        return out

    def value(self):
        self.driver.wait(self.transfer)
        if self.ordered:
            self.add(self.rows, self.out)
        device = self.driver.device
        device.xp.multiply(self.out, 1 / self.driver.workers, out=self.out)
        return device.repeat(self.out, self.copies)


class PackedMeanTicket:
    """The mean of packed rows: all packets come here, and are unpacked and added in ascending order."""

    def __init__(self, driver, packed):
        self.driver, self.packed = driver, packed
        self.rows, self.transfer = driver.gather(packed.rows)

    def value(self):
        self.driver.wait(self.transfer)
        driver, device = self.driver, self.driver.device
        total = None
        for worker in range(driver.workers):
            row = driver.unpack(self.packed, self.rows[worker:worker + 1], [worker])
            total = row if total is None else device.xp.add(total, row, out=total)
        return device.xp.multiply(total, 1 / driver.workers, out=total)


class Driver:
    """Runs the generators of an algorithm on this rank and accounts for time and traffic."""

    def __init__(self, workers, task, mixing, device, world, deterministic=False):
        self.workers, self.task, self.mixing = workers, task, mixing
        self.device, self.world, self.deterministic = device, world, deterministic
        self.rank_layout = RankLayout(workers, world.size)
        self.hosted = self.rank_layout.hosted(world.rank)
        self.wall_time = perf_counter  # the trainer puts its own clock here
        self._schedules = {}
        self._tickets = []
        self._gradient_seconds = 0.0  # of the host, last time
        self._answers = {Grad: self.grad, Mix: self.mix, Mean: self.mean, Advance: self.advance, Recall: self.recall,
                         Start: self.start, Finish: self.finish, Now: self.now}
        self.at(0)

    def at(self, k):
        """Point the driver at step k and start its account.

        waited: seconds blocked on communication; rounds: (posted, finished, waited) of each ticket that is finished in
        this step; computing: marks around the gradient; sent: bytes.
        """
        self.k = k
        self.waited, self.rounds = 0.0, []
        self.computing = None
        self.sent = np.zeros(len(self.hosted))

    def drive(self, generator):
        """Answer a generator's requests until it returns; its return value."""
        answer = None
        while True:
            try:
                request = generator.send(answer)
            except StopIteration as stop:
                return stop.value
            answer = self._answers[type(request)](*request)

    def grad(self, x):
        begin, host_begin = self.device.clock(), perf_counter()
        with self.world.moving if self._tickets and self._gradient_seconds > LONG else nullcontext():
            loss, gradient = self.task.gradient(x, self.k)
        self.computing, self._gradient_seconds = (begin, self.device.clock()), perf_counter() - host_begin
        self.progress()
        return loss, gradient

    def mix(self, x, round):
        return self.post(Mix(x, round)).value()

    def mean(self, x):
        return self.post(Mean(x)).value()

    def now(self):
        return self.wall_time()

    def advance(self, copies, packed):
        return self.post(Advance(copies, packed)).value()

    def recall(self, copies, round):
        """W copies, from memory: nothing travels."""
        b, weights = len(self.hosted), self.audience.weights(self.mixing, round)
        out = self.device.empty((b, copies.shape[1]), copies.dtype)
        for i, (sources, row_weights) in enumerate(weights):
            self.device.weighted_sum([copies[j] for j in sources], row_weights, out[i])
        return out

    def start(self, request):
        posted = self.wall_time()
        ticket = self.post(request)
        ticket.posted, ticket.waited = posted, 0.0
        self._tickets.append(ticket)
        return ticket

    def finish(self, ticket):
        self._tickets.remove(ticket)
        before = self.waited
        value = ticket.value()
        self.rounds.append((ticket.posted, self.wall_time(), ticket.waited + self.waited - before))
        return value

    def post(self, request):
        """Start the communication that a request asks for: its ticket."""
        if type(request) is Mean:
            return self.post_mean(request.x)
        if type(request) is Advance:
            sending = np.ones(len(self.hosted))
            sending[list(request.packed.silent)] = 0
            self.sent += self.audience.degree * sending * request.packed.nbytes
            return AdvanceTicket(self, request.copies, request.packed, self.audience)
        if self.mixing.average(request.round) and type(request.x) is not Packed:
            return self.post_mean(request.x, request.x.shape[0])  # W = J
        schedule, weights = self.schedule(request.round)
        self.sent += schedule.degree * _nbytes(request.x)
        return (PackedMixTicket if type(request.x) is Packed else MixTicket)(self, request.x, schedule, weights)

    def post_mean(self, x, rows=1):
        if type(x) is Packed:
            self.sent += x.nbytes
            return PackedMeanTicket(self, x)
        # what a ring all-reduce sends: 2 (m - 1) / m vectors
        self.sent += 2 * (self.workers - 1) / self.workers * _nbytes(x)
        return MeanTicket(self, x, rows)

    def gather(self, rows):
        """(all workers' rows, the transfer that brings them)."""
        if self.world.size == 1:
            return rows, self.world.done
        target = self.device.empty((self.workers, rows.shape[1]), rows.dtype)
        return target, self.world.all_gather(rows, target, self.rank_layout, self.device.staging)

    def unpack(self, packed, rows, workers):
        """The dense values (k, d) of packed rows (k, nbytes) that came from `workers`."""
        out = self.device.empty((len(workers), self.task.dimension), packed.codec.dtype)
        if len(workers):
            packed.codec.decode(rows, workers, packed.round, out)
        return out

    @cached_property
    def audience(self):
        """The schedule over the links of all rounds: who ever needs a worker's model remembers a copy of it."""
        whole = self.mixing.whole
        return ExchangeSchedule(whole, range(whole.cycle), self.rank_layout, self.world.rank)

    def schedule(self, round):
        """The ExchangeSchedule of a round, and the weights that go with it."""
        phase = self.mixing.phase(round)
        if phase not in self._schedules:
            if len(self._schedules) >= MOST_SCHEDULES:
                self._schedules.clear()
            schedule = ExchangeSchedule(self.mixing, [round], self.rank_layout, self.world.rank)
            self._schedules[phase] = schedule, schedule.weights(self.mixing, round)
        return self._schedules[phase]

    def wait(self, transfer):
        begin = perf_counter()
        transfer.wait()
        self.waited += perf_counter() - begin

    def progress(self):
        """Let transfers that are under way move on: MPI moves data only while it is called."""
        for ticket in self._tickets:
            begin = perf_counter()
            ticket.transfer.progress()
            seconds = perf_counter() - begin
            ticket.waited += seconds
            self.waited += seconds


def _nbytes(x):
    """Bytes of one worker's row on the wire."""
    return x.nbytes if type(x) is Packed else x.shape[1] * x.dtype.itemsize
