"""Virtual time for `coopmpi simulate`: one clock per worker, advanced with every request that the driver answers.

Requests come in the same order on every worker, so that following them tells when each worker would be done.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from coopmpi.simulation.compute import FREE, Prices
from coopmpi.simulation.network import Figures, Network
from coopmpi.step.traffic import Links, Traffic
from coopmpi.streams import Purpose, stream

MOST_KEPT = 100  # roads: random graphs have another in every round


class Due(NamedTuple):
    """A communication under way: when (m,) each worker has what it receives, and what it has to go through then."""

    arrival: np.ndarray
    unpack: Figures  # numbers
    mix: Figures


class Road(NamedTuple):
    """The links of a round, and what they cost: an entry per link, or per worker (m,). Seconds, and seconds per byte."""

    links: Links
    key: np.ndarray  # of each link, ascending
    latency: Figures
    carry: np.ndarray  # while a message leaves, together with the sender's others of the round
    out: np.ndarray  # (m,) at the sender's port, of all its messages, per byte of each
    into: np.ndarray  # at the receiver's port
    queues: bool  # can a message still be on its link when the sender's port is free again?
    received: np.ndarray  # (m,) messages to each worker


class Clocks:
    """The virtual clocks of a run that one driver carries out for all m workers; float64 seconds.

    A gradient takes what the compute model says, other work what the prices say. A message queues at its sender's port
    and on its link, and at its receiver's port. An average begins when all that take part are ready and their ports
    are free, and keeps these until it is there. A worker that needs earlier what has not arrived waits. The formulas
    are in docs/simulate.md.

    compute_seconds: k -> seconds (m,) of the gradients of step k; network: a bound one, see coopmpi.simulation.network;
    beside: how many times as long a gradient takes while a transfer is under way.
    """

    def __init__(self, workers: int, compute_seconds: Callable, network: Network, seed: int, prices: Prices = FREE, beside: float = 1.0):
        self.compute_seconds, self.network, self.seed, self.prices, self.beside = compute_seconds, network, seed, prices, beside
        self.now = np.zeros(workers)
        self._computed, self._waited = np.zeros(workers), np.zeros(workers)
        # when each worker's port has done with what is sent, and with what is received, so far
        self._out, self._in = np.zeros(workers), np.zeros(workers)
        self._busy = np.zeros(workers)  # until when something that was posted is on its way to each
        self._leaving = []  # [(road, when its links have done with it)]
        self._transfers = 0
        self._roads, self._averages = {}, {}

    @property
    def time(self) -> float:
        """The latest clock."""
        return float(self.now.max())

    def account(self) -> tuple[np.ndarray, np.ndarray]:
        """Seconds that each worker (m,) has computed gradients, and waited, since the last account."""
        account = self._computed, self._waited
        self._computed, self._waited = np.zeros_like(self.now), np.zeros_like(self.now)
        return account

    def compute(self, k: int):
        """Every worker computes its gradient of step k."""
        seconds = self.compute_seconds(k)
        if self.beside > 1:
            # of its seconds, those that are done while a transfer is under way, and what these take longer
            slowed = np.minimum(seconds, np.maximum(self._busy - self.now, 0.0) / self.beside)
            seconds = seconds + (self.beside - 1) * slowed
        self.now = self.now + seconds
        self._computed += seconds

    def work(self, compress: Figures = 0.0, unpack: Figures = 0.0, mix: Figures = 0.0, optimizer: Figures = 0.0):
        """Every worker goes through so many numbers, one figure for all or (m,), beside its gradient."""
        prices = self.prices
        self.now = self.now + (prices.compress * compress + prices.unpack * unpack + prices.mix * mix
                               + prices.optimizer * optimizer)

    def post(self, traffic: Traffic, numbers: int, packed: bool) -> Due:
        """Every worker sends a row of so many numbers now (gather: its range of them), compressed first if it is to be packed."""
        if packed:
            self.work(compress=numbers / len(self.now) if traffic.kind == "gather" else numbers)
        self._transfers += 1
        due = self._due(traffic, numbers, packed)
        self._busy = np.maximum(self._busy, due.arrival)
        return due

    def _due(self, traffic, numbers, packed):
        if traffic.kind == "exchange":
            arrival, rows = self._exchange(traffic), self.rows(traffic.links)
            return Due(arrival, rows * numbers if packed else 0.0, 0.0 if packed else rows * numbers)
        if traffic.kind in ("average", "group average"):
            return Due(self._average(traffic), 0.0, numbers)
        return self._through_owners(traffic, numbers)

    def wait(self, due: Due):
        """No worker goes on before what was posted has arrived; then it unpacks the rows or adds them up."""
        later = np.maximum(self.now, due.arrival)
        self._waited += later - self.now
        self.now = later
        self.work(unpack=due.unpack, mix=due.mix)

    def rows(self, links: Links) -> np.ndarray:
        """How many rows each worker (m,) adds up after an exchange over these links: its own, and those it receives."""
        return self._road(links).received + 1

    def _average(self, traffic):
        workers, group = len(self.now), traffic.group
        begin = np.maximum(self.now, np.maximum(self._out, self._in))
        for road, left in self._leaving:
            np.maximum.at(begin, road.links.sources, left)
        # a group begins when its last worker is ready
        last = (begin + self._jitter(workers)).reshape(-1, group).max(axis=1)
        size = group, traffic.nbytes
        if size not in self._averages:
            self._averages[size] = self.network.average(workers, *size)
        done = np.repeat(last + self._averages[size], group)
        if self.network.queues:
            self._out = self._in = done  # nothing else is sent or received meanwhile
        return done

    def _through_owners(self, traffic, numbers):
        # everybody needs something of everybody: the most that one has to send or to receive, over the slowest link
        workers, both = len(self.now), traffic.kind == "reduce and gather"
        begin = np.maximum(self.now, np.maximum(self._out, self._in))
        most = max(traffic.sent.max(), traffic.nbytes.max())
        done = (begin + self._jitter(workers)).max() + self.network.to_all(workers, 2 if both else 1, most)
        if both:
            # an owner unpacks its range of all workers, and packs it
            done += self.prices.unpack * numbers + self.prices.compress * numbers / workers
        done = np.full(workers, done)
        if self.network.queues:
            self._out = self._in = done
        return Due(done, numbers, 0.0)

    def _exchange(self, traffic):
        road, nbytes = self._road(traffic.links), traffic.nbytes
        sources, targets, _ = road.links
        each = nbytes[sources] if np.ndim(nbytes) else nbytes

        # at the sender's port and on the link
        ready = np.maximum(self.now, self._out)
        self._out = ready + nbytes * road.out
        begin, carried = ready[sources], each * road.carry
        if road.queues or self._leaving:
            begin = self._behind_earlier(road, begin, carried)

        # the first byte and the last one at the receiver
        first, last = np.full(len(ready), np.inf), self.now.copy()
        begin += road.latency + self._jitter(len(sources))
        np.minimum.at(first, targets, begin)
        begin += carried
        np.maximum.at(last, targets, begin)
        if not self.network.queues:
            return last

        # at the receiver's port
        into, receives = np.bincount(targets, each * road.into, len(last)), road.received > 0
        self._in = np.where(receives, np.maximum(self._in, first) + into, self._in)
        return np.where(receives, np.maximum(last, self._in), last)

    def _behind_earlier(self, road, begin, carried):
        """When each message starts to leave: at `begin`, but behind those of earlier rounds on its link."""
        for earlier, left in self._leaving:
            if earlier is not road:
                place = np.searchsorted(earlier.key, road.key)
                place[place == len(left)] = 0
                left = np.where(earlier.key[place] == road.key, left[place], 0.0)
            begin = np.maximum(begin, left)
        now = self.now.min()
        self._leaving = [(earlier, left) for earlier, left in self._leaving if earlier is not road and left.max() > now]
        if road.queues:
            self._leaving.append((road, begin + carried))
        return begin

    def _road(self, links):
        if id(links) not in self._roads:
            if len(self._roads) >= MOST_KEPT:
                self._roads.clear()
            self._roads[id(links)] = self._priced(links)
        return self._roads[id(links)]

    def _priced(self, links):
        (sources, targets, degree), network, workers = links, self.network, len(self.now)
        latency, line = network.links(sources, targets)
        line = np.broadcast_to(line, sources.shape)
        port = line if network.egress is None else np.broadcast_to(1 / network.egress, sources.shape)
        # messages that leave together share the port evenly, a short one is through earlier
        out = np.bincount(sources, port, workers)
        share = np.minimum(out[sources], degree[sources] * port)
        into = line if network.ingress is None else np.broadcast_to(1 / network.ingress, sources.shape)
        return Road(links, sources * workers + targets, latency, np.maximum(line, share), out, into, bool((line > share).any()),
                    np.bincount(targets, minlength=workers))

    def _jitter(self, messages):
        if not self.network.jitter:
            return 0.0
        drawn = stream(self.seed, Purpose.NETWORK, step=self._transfers).standard_exponential(messages)
        return self.network.jitter * drawn
