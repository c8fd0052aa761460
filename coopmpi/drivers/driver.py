"""Answers the requests of an algorithm for the workers of one rank.

The same driver serves one process that hosts all workers and every rank of an MPI job: what differs is the
world it is given (coopmpi.drivers.solo or coopmpi.drivers.mpi.world), which moves rows between ranks.
"""

from time import perf_counter

import numpy as np

from coopmpi.drivers.placement import Placement, Plan
from coopmpi.step import Finish, Grad, Mean, Mix, Start


class MixTicket:
    """A neighbour exchange under way; its value is W x for the local rows."""

    def __init__(self, driver, x, plan):
        self.driver, self.x, self.plan = driver, x, plan
        sends = [(peer, x[row]) for peer, rows in plan.sends.items() for row in rows]
        self.arrived = driver.device.empty((plan.remote, x.shape[1]), x.dtype) if plan.remote else x[:0]
        sources = [peer for peer, workers in plan.receives.items() for _ in workers]
        self.transfer = driver.world.exchange(sends, list(zip(sources, self.arrived)), driver.device)

    def value(self):
        self.driver.wait(self.transfer)
        b, x, arrived = self.x.shape[0], self.x, self.arrived
        out = self.driver.device.empty(x.shape, x.dtype)
        for i, (sources, weights) in enumerate(self.plan.rows):
            rows = [x[j] if j < b else arrived[j - b] for j in sources]
            self.driver.device.weighted_sum(rows, weights, out[i])
        return out


class MeanTicket:
    """An average over all workers under way; its value is the mean, repeated in `copies` rows."""

    def __init__(self, driver, x, copies):
        self.driver, self.x, self.copies = driver, x, copies
        device, world = driver.device, driver.world
        self.out = device.empty((1, x.shape[1]), x.dtype)
        self.rows = x
        if driver.deterministic and world.size > 1:
            # the rows of all workers come here and are added in ascending order
            self.rows = device.empty((driver.workers, x.shape[1]), x.dtype)
            self.transfer = world.all_gather(x, self.rows, driver.placement, device.staging)
        elif world.size > 1:
            local = x if x.shape[0] == 1 else self.add(x, device.empty(self.out.shape, x.dtype))
            self.transfer = world.all_sum(local, self.out, device.staging)
        else:
            self.transfer = world.done

    def add(self, rows, out):
        self.driver.device.weighted_sum(list(rows), [1.0] * rows.shape[0], out[0])
        return out

    def value(self):
        self.driver.wait(self.transfer)
        if self.driver.deterministic or self.driver.world.size == 1:
            self.add(self.rows, self.out)
        device = self.driver.device
        device.xp.multiply(self.out, 1 / self.driver.workers, out=self.out)
        return device.repeat(self.out, self.copies)


class Driver:
    """Runs the generators of an algorithm on this rank and accounts for time and traffic."""

    def __init__(self, workers, task, mixing, device, world, deterministic=False):
        self.workers, self.task, self.mixing = workers, task, mixing
        self.device, self.world, self.deterministic = device, world, deterministic
        self.placement = Placement(workers, world.size)
        self.hosted = self.placement.hosted(world.rank)
        self._plans = {}
        self._tickets = []
        self._answers = {Grad: self.grad, Mix: self.mix, Mean: self.mean, Start: self.start, Finish: self.finish}
        self.at(0)

    def at(self, k):
        """Point the driver at step k and start its account: seconds waited, marks around the gradient, bytes sent."""
        self.k = k
        self.waited = 0.0
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
        begin = self.device.clock()
        loss, gradient = self.task.gradient(x, self.k)
        self.computing = begin, self.device.clock()
        self.progress()
        return loss, gradient

    def mix(self, x, round):
        return self.post_mix(x, round).value()

    def mean(self, x):
        return self.post_mean(x).value()

    def start(self, request):
        ticket = self.post_mix(*request) if type(request) is Mix else self.post_mean(*request)
        self._tickets.append(ticket)
        return ticket

    def finish(self, ticket):
        self._tickets.remove(ticket)
        return ticket.value()

    def post_mix(self, x, round):
        if self.mixing.average(round):
            return self.post_mean(x, x.shape[0])  # W = J
        plan = self.plan(round)
        self.sent += plan.degree * (x.shape[1] * x.dtype.itemsize)
        return MixTicket(self, x, plan)

    def post_mean(self, x, rows=1):
        # what a ring all-reduce sends: 2 (m - 1) / m vectors
        self.sent += 2 * (self.workers - 1) / self.workers * (x.shape[1] * x.dtype.itemsize)
        return MeanTicket(self, x, rows)

    def plan(self, round):
        phase = round % self.mixing.cycle
        if phase not in self._plans:
            self._plans[phase] = Plan(self.mixing, phase, self.placement, self.world.rank)
        return self._plans[phase]

    def wait(self, transfer):
        begin = perf_counter()
        transfer.wait()
        self.waited += perf_counter() - begin

    def progress(self):
        """Let transfers that are under way move on: MPI moves data only while it is called."""
        for ticket in self._tickets:
            ticket.transfer.progress()
