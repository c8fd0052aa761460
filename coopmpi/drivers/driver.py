"""Answers the requests of an algorithm for the workers of one rank. The only file that tells requests apart.

The same driver serves one process that hosts all workers, every rank of an MPI job, and a run without numbers: what
differs is the world (coopmpi.drivers.solo or coopmpi.drivers.mpi.world), which moves rows between ranks, and the
device, which may hold arrays that have a shape only (coopmpi.device.hollow).
"""

from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from time import perf_counter
from types import GeneratorType
from typing import Any, NamedTuple

import numpy as np

import coopmpi

from coopmpi.drivers import tickets
from coopmpi.drivers.rank_layout import Group, RankLayout
from coopmpi.drivers.stopwatch import Stopwatch
from coopmpi.drivers.tickets import Ticket
from coopmpi.drivers.wiring import Wiring
from coopmpi.errors import Misuse, UserError, located
from coopmpi.step.requests import Advance, Array, Finish, Gather, Grad, Mean, Mix, Now, Packed, Recall, Reduce, Requests, Start

LONG = 2e-3  # seconds of a gradient during which it is worth moving messages
PACKAGE = str(Path(coopmpi.__file__).parent)


class Waiting(NamedTuple):
    """What a rank is blocked on: since when (perf_counter), at which step, by which ticket; None: all ranks."""

    since: float
    step: int
    ticket: Any = None


class Driver:
    """Runs the generators of an algorithm on this rank, and accounts for time and traffic."""

    def __init__(self, workers: int, task, mixing, device, world, deterministic=False, clocks=None, halves=None):
        # who takes part
        self.workers, self.task, self.device, self.world = workers, task, device, world
        self.deterministic, self.clocks = deterministic, clocks  # virtual clocks, in a simulation
        self.halves = halves  # coopmpi.compression.halves.Halves, where whole vectors travel as 16-bit numbers
        self.rank_layout = RankLayout(workers, world.size)
        self.hosted = self.rank_layout.hosted(world.rank)
        self.wiring = Wiring(self.rank_layout, world.rank, mixing)

        # time, and what is under way
        self.stopwatch = Stopwatch()
        self._ahead = 0.0  # seconds by which it was moved forward since the ranks met: others have not waited for them
        self.posted = 0  # communications, the same number on all ranks
        self.waiting: Waiting | None = None
        self._under_way = []
        self._gradient_seconds = 0.0  # of the host, last time

        # request types are told apart by these tables
        self._posts = {Mix: self._post_mix, Mean: self._post_mean, Reduce: self._post_reduce, Gather: self._post_gather,
                       Advance: self._post_advance}
        self._answers = {Recall: self.recall, Start: self.start, Finish: self.finish, Now: self.now}
        self._answers |= {kind: self.ask for kind in self._posts}
        self.at(0)

    def at(self, k: int):
        """Point the driver at step k and start its account.

        waited: seconds blocked on communication; rounds: (posted, finished, waited, bytes) of each ticket that is
        finished in this step; computing: marks around the gradient; traffics: what was posted.
        """
        self.k = k
        self.waited, self.rounds = 0.0, []
        self.computing = None
        self.traffics = []

    @property
    def sent(self) -> np.ndarray:
        """Bytes that each local worker has sent in this step, (b,)."""
        return sum((traffic.sent for traffic in self.traffics), np.zeros(len(self.hosted)))

    def step(self, algorithm, state, context, k: int) -> Array:
        """Step k of the algorithm, and what the period does after it; the losses (b,)."""
        return self.compute(self.advance(algorithm, state, context, k))

    def advance(self, algorithm, state, context, k: int) -> Generator[Grad, tuple[Array, Array], Array]:
        """The same for somebody who computes the gradients: it yields each Grad and is sent losses (b,) and gradients (b, d)."""
        context.at(k)
        self.at(k)
        generator = algorithm.step(state, context)
        if not isinstance(generator, GeneratorType):
            raise located(algorithm.step, "step() never yields: write `yield` before each request, and `yield from` before "
                          "context.local_step(state)")
        loss = yield from self._answered(generator)
        if getattr(loss, "shape", None) != (len(self.hosted),) or loss.dtype != state.x.dtype:
            raise located(algorithm.step, f"step() must return the losses of the workers, of shape ({len(self.hosted)},) and "
                          f"dtype {state.x.dtype}, {_returned(loss)}")
        yield from self._answered(context.rounds.after_step(k, loss, state, context))
        return loss

    def drive(self, generator: Requests):
        """Answer a generator's requests until it returns; its return value."""
        return self.compute(self._answered(generator))

    def compute(self, generator):
        """Answer the Grad requests of a generator with those of the task; its return value."""
        answer = None
        while True:
            try:
                request = generator.send(answer)
            except StopIteration as stop:
                return stop.value
            try:
                answer = self.task.gradient(request.x, self.k)
            except BaseException:
                generator.close()  # ends what goes on beside the gradient
                raise

    def _answered(self, generator: Requests):
        """Answer all requests but Grad, which is yielded on, until the generator returns; its return value."""
        answer = None
        while True:
            try:
                request = generator.send(answer)
            except StopIteration as stop:
                return stop.value
            try:
                answer = (yield from self._gradient(request)) if type(request) is Grad else self.answer(request)
            except Misuse as error:
                raise located(_asking(generator), str(error)) from None
            del request  # the algorithm may set its models anew

    def answer(self, request):
        """The answer of one request other than Grad; Misuse for what is none, or asks for what cannot be."""
        answer = self._answers.get(type(request))
        if answer is None:
            raise Misuse(f"unknown request {request!r:.80}; a step may yield "
                         f"{', '.join(sorted(kind.__name__ for kind in (*self._answers, Grad)))}")
        return answer(request)

    def _gradient(self, request: Grad):
        """Let somebody else compute the losses (b,) and gradients (b, d), which are the answer."""
        self._require_rows(request, request.x, self.task.dimension)
        begin, host_begin = self.device.clock(), perf_counter()
        # a thread moves messages meanwhile where that pays
        with self.world.moving if self._under_way and self._gradient_seconds > LONG else nullcontext():
            answer = yield request
        self.computing, self._gradient_seconds = (begin, self.device.clock()), perf_counter() - host_begin
        if self.clocks:
            self.clocks.compute(self.k)
        self.progress()
        return answer

    # what is answered at once
    def now(self, request: Now) -> float:
        return self.clocks.time if self.clocks else self.stopwatch.seconds

    def recall(self, request: Recall) -> Array:
        self._require_mixing(request)
        b, copies = len(self.hosted), request.copies
        if self.clocks:
            self.clocks.work(mix=copies.shape[1] * self.clocks.rows(self.wiring.schedule(request.round).links))
        out = self.device.empty((b, copies.shape[1]), copies.dtype)
        return self.device.mix(copies[:b], copies[b:], self.wiring.recalled(request.round), out)

    # what is communicated
    def ask(self, request: Mix | Mean | Reduce | Gather | Advance) -> Array:
        return self._value(self.post(request))

    def start(self, request: Start) -> Ticket:
        ticket = self.post(request.request)
        self._under_way.append(ticket)
        return ticket

    def finish(self, request: Finish) -> Array:
        ticket, before = request.ticket, self.waited
        if ticket not in self._under_way:
            raise Misuse(f"Finish takes the ticket of a Start, once; given {ticket!r:.60}")
        self._under_way.remove(ticket)
        value = self._value(ticket)
        ticket.waited += self.waited - before
        self.rounds.append((ticket.posted, self.stopwatch.seconds, ticket.waited, ticket.traffic.sent.sum()))
        return value

    def post(self, request: Mix | Mean | Reduce | Gather | Advance) -> Ticket:
        """Start the communication that a request asks for."""
        if type(request) not in self._posts:
            raise Misuse(f"Start takes one of {', '.join(kind.__name__ for kind in self._posts)}; given {request!r:.60}")
        if type(request) in (Mix, Advance):
            self._require_mixing(request)
        if type(request) in (Mix, Mean):
            self._require_rows(request, request.x)
        if type(request) in (Reduce, Gather):
            self._require_ranges(request)
        halves = self._as_halves(request)
        traffic = self._traffic_of_halves(request) if halves else request.traffic(self.wiring)
        self.traffics.append(traffic)
        self.posted += 1
        posted = self.stopwatch.seconds
        # it travels behind those under way, so what they are late is added to its way
        paused = self.stopwatch.paused - max([self._late(other) for other in self._under_way], default=0.0)
        ticket = self._post_halves(request) if halves else self._posts[type(request)](request, traffic)
        ticket.traffic, ticket.asked_by = traffic, type(request).__name__
        ticket.posted, ticket.paused = posted, paused
        if self.clocks:
            row = request.x if type(request) in (Mix, Mean) else request.packed
            numbers = self.task.dimension if type(row) is Packed else row.shape[1]
            ticket.due = self.clocks.post(traffic, numbers, halves or type(row) is Packed)
        return ticket

    def _as_halves(self, request) -> bool:
        """Do the numbers of this request travel as 16-bit numbers?"""
        if self.halves is None or type(request) not in (Mix, Mean) or type(request.x) is Packed:
            return False
        return type(request) is Mix or not (request.exact or request.group)

    def _traffic_of_halves(self, request):
        n = request.x.shape[1]
        if type(request) is Mean:
            return self.wiring.through_owners(self.halves.ranges(n))
        return self.wiring.exchange(request.round, self.halves.codec(n).nbytes)

    def _post_halves(self, request):
        n, round = request.x.shape[1], getattr(request, "round", 0)
        if type(request) is Mean:
            return tickets.HalvesMeanTicket(self, request.x, request.near, self.halves.ranges(n))
        codec = self.halves.codec(n)
        packed = Packed(codec, codec.encode(request.x, self.hosted, 0), 0)
        return tickets.HalvesMixTicket(self, request.x, packed, self.wiring.schedule(round), self.wiring.weights(round))

    def _post_mix(self, request, traffic):
        x, round = request
        if traffic.kind == "average":
            return tickets.MeanTicket(self, x, copies=x.shape[0])
        kind = tickets.PackedMixTicket if type(x) is Packed else tickets.MixTicket
        return kind(self, x, self.wiring.schedule(round), self.wiring.weights(round))

    def _post_mean(self, request, traffic):
        if request.group is not None:
            return tickets.GroupMeanTicket(self, request.x, request.group)
        return tickets.MeanTicket(self, request.x)

    def _post_reduce(self, request, traffic):
        return tickets.ReduceTicket(self, request.packed)

    def _post_gather(self, request, traffic):
        return tickets.GatherTicket(self, request.packed, self.posted)

    def _post_advance(self, request, traffic):
        return tickets.AdvanceTicket(self, request.copies, request.packed, self.wiring.audience)

    def _value(self, ticket):
        begin = perf_counter()
        self._complete(ticket)
        late = self._late(ticket)
        self.stopwatch.advance(late)
        self._ahead += late
        self.waited += perf_counter() - begin + late
        if self.clocks:
            self.clocks.wait(ticket.due)
        return ticket.value()

    def _late(self, ticket):
        """How far ahead of the clock the moment lies at which a transfer is due, if it is complete now.

        It took completed - begun, so it is due that long after it was posted, whatever was paused meanwhile:
        posted + (completed - begun) - seconds = (paused since it was posted) - (now - completed)
        """
        ago = 0.0 if ticket.completed is None else perf_counter() - ticket.completed
        return max(0.0, self.stopwatch.paused - ticket.paused - ago)

    def _complete(self, ticket):
        """Block until a transfer is complete."""
        self.waiting = Waiting(perf_counter(), self.k, ticket)
        ticket.transfer.wait()
        self.waiting = None
        if ticket.completed is None:
            ticket.completed = perf_counter()

    # what requests may ask
    def _require_rows(self, request, x, columns=None):
        """Misuse unless x has a row for each local worker, of so many numbers."""
        if type(x) is Packed and type(request) is Mix:
            return
        shape = getattr(x, "shape", None)
        if shape is None or len(shape) != 2 or shape[0] != len(self.hosted) or columns not in (None, shape[1]):
            given = f"an array of shape {shape}" if shape is not None else f"{x!r:.60}"
            raise Misuse(f"{type(request).__name__} takes an array with a row for each of the {len(self.hosted)} workers on "
                         f"this rank, ({len(self.hosted)}, {columns or 'n'}); given {given}")

    def _require_ranges(self, request):
        attribute = "codecs" if type(request) is Reduce else "ranges"
        if type(request.packed) is not Packed or not hasattr(request.packed.codec, attribute):
            whose = "context.ranges" if type(request) is Reduce else "context.ranges.own"
            raise Misuse(f"{type(request).__name__} takes a Packed of {whose}, given {request.packed!r:.60}")

    def _require_mixing(self, request):
        if self.wiring.mixing is None:
            raise Misuse(f"{type(request).__name__} needs the [mixing] table: say uses_mixing = True in the class")

    # for tickets
    def group_sum(self, rows: Array, group: Group, out: Array):
        """out = the sum over a group of workers, of which `rows` are hosted here: a transfer under way."""
        if len(group.members) == 1:
            self.device.sum(rows, out[None])
            return self.world.done
        return self.world.group_sum(rows, group.members, out, self.device, self.posted, self.deterministic)

    def unpack(self, packed: Packed, rows: Array, workers) -> Array:
        """The dense values (k, d) of packed rows (k, nbytes) that came from `workers`."""
        out = self.device.empty((len(workers), packed.codec.dimension), packed.codec.dtype)
        if len(workers):
            packed.codec.decode(rows, workers, packed.round, out)
        return out

    def progress(self):
        """Let transfers that are under way move on: MPI moves data only while it is called."""
        for ticket in self._under_way:
            begin = perf_counter()
            ticket.progress()
            seconds = perf_counter() - begin
            ticket.waited += seconds
            self.waited += seconds

    # for the trainer
    def mean(self, x: Array) -> Array:
        """The mean over all workers, (1, n), outside of any step: on nobody's account."""
        self.posted += 1
        ticket = tickets.MeanTicket(self, x)
        self._complete(ticket)
        return ticket.value()

    @contextmanager
    def pause(self):
        """The clock stands still in here. Transfers under way go on, so it is seen which were complete before."""
        for ticket in self._under_way:
            ticket.progress()
        begin = perf_counter()
        try:
            yield
            for ticket in self._under_way:
                ticket.progress()
        finally:
            self.stopwatch.paused += perf_counter() - begin

    def meet(self):
        """Wait for the other ranks, and until transfers under way have left the network to an evaluation.

        Only the waiting for the last rank is training time; a rank counts as having come later by what its clock is ahead.
        """
        self.device.synchronize()
        with self.pause():
            begin = perf_counter()
            for ticket in self._under_way:
                self._complete(ticket)
            self.waiting = Waiting(begin, self.k)
            self.world.sum([0.0])
            here = perf_counter() - begin - self._ahead
            of_the_last = -self.world.vote([-here])()[0]
            self.waiting = None
        self.stopwatch.advance(here - of_the_last)
        self.waited += here - of_the_last
        self._ahead = 0.0

    def nothing_left(self, algorithm: str):
        """UserError if a transfer was started that nobody has finished at the end of the run."""
        if self._under_way:
            kinds = ", ".join(sorted({ticket.traffic.kind for ticket in self._under_way}))
            raise UserError(f"algorithm {algorithm}: {len(self._under_way)} transfers were started and never finished "
                            f"({kinds}); every Start needs its Finish, at the latest in the algorithm's `finish`")


def _asking(generator):
    """The frame that yielded the last request: of generators inside each other the innermost outside of this package."""
    frames = []
    while isinstance(generator, GeneratorType):
        frames.append(generator.gi_frame)
        generator = generator.gi_yieldfrom
    own = [frame for frame in frames if not frame.f_code.co_filename.startswith(PACKAGE)]
    return (own or frames)[-1]


def _returned(loss):
    if loss is None:
        return "but it returned nothing: end it with `return loss`"
    if isinstance(loss, GeneratorType):
        return f"but it returned a generator: write `loss = yield from {loss.__name__}(...)`"
    return f"given {getattr(loss, 'shape', loss)!r:.60} of {getattr(loss, 'dtype', type(loss).__name__)}"
