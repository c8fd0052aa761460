"""Virtual time for `coopmpi simulate`: one clock per worker, advanced beside the arithmetic.

Requests come in the same order on every worker, so that following them tells when each worker would be done.
"""


import numpy as np

from coopmpi.step import Advance, Finish, Grad, Mean, Mix, Now, Packed, Recall, Start, relay
from coopmpi.streams import Purpose, stream


class Clocks:
    """The virtual clocks of a run that one driver carries out for all m workers; float64 seconds.

    A gradient takes what the compute model says. What is sent leaves at the sender's clock; worker i has it when
    the last of its sources' messages has arrived: max_j (departure_j + latency_ij + bytes / rate). An average is
    there for all at max_j departure_j + its cost. Whoever needs it earlier waits. With an egress limit a worker's
    messages of one round share it and leave together, and those of its next round queue behind them.

    compute: k -> seconds (m,); network: see coopmpi.simulation.network.
    """

    def __init__(self, driver, compute, network, seed):
        self.driver, self.compute, self.network, self.seed = driver, compute, network, seed
        self.now = np.zeros(driver.workers)
        self._computed, self._waited = np.zeros(driver.workers), np.zeros(driver.workers)
        self._free = np.zeros(driver.workers)  # when what a worker has sent so far is out, under an egress limit
        self._arrivals = {}  # ticket: when what it stands for is there (m,)
        self._links = {}  # phase of the mixing matrices, or None for all of them: (sources, targets)
        self._transfers = 0

    @property
    def time(self):
        """The latest clock."""
        return float(self.now.max())

    def beside(self, generator):
        """The same generator; the clocks advance with every request that passes."""
        def advance(request):
            if type(request) is Now:
                return self.time
            before = self.driver.sent.copy()
            answer = yield request
            self._follow(request, answer, self.driver.sent - before)
            return answer

        return relay(generator, advance)

    def account(self):
        """Seconds that each worker (m,) has computed, and waited, since the last account."""
        account = self._computed, self._waited
        self._computed, self._waited = np.zeros_like(self.now), np.zeros_like(self.now)
        return account

    def _follow(self, request, answer, sent):
        if type(request) is Grad:
            seconds = self.compute(self.driver.k)
            self.now = self.now + seconds
            self._computed += seconds
        elif type(request) is Start:
            self._arrivals[answer] = self._arrival(request.request, sent)
        elif type(request) is Finish:
            self._wait(self._arrivals.pop(request.ticket))
        elif type(request) is not Recall:  # from memory
            self._wait(self._arrival(request, sent))

    def _wait(self, arrival):
        later = np.maximum(self.now, arrival)
        self._waited += later - self.now
        self.now = later

    def _arrival(self, request, sent):
        """When (m,) the answer is there if this is asked for now; sent (m,): bytes that each worker sends."""
        departure = np.maximum(self.now, self._free)
        self._transfers += 1
        if self._averages(request):
            return self._average(departure, request.x)
        return self._exchange(departure, sent, *self._links_of(request))

    def _links_of(self, request):
        """(sources, targets): over which links a Mix or an Advance sends."""
        mixing = self.driver.mixing
        if type(request) is Advance:
            mixing = mixing.whole
            key, rounds = None, range(mixing.cycle)
        else:
            key, rounds = mixing.phase(request.round), [request.round]
        if key not in self._links:
            self._links[key] = _links(mixing, rounds)
        return self._links[key]

    def _averages(self, request):
        if type(request) is Mix:
            return type(request.x) is not Packed and self.driver.mixing.average(request.round)
        return type(request) is Mean

    def _average(self, departure, x):
        workers, rows = len(departure), x.rows if type(x) is Packed else x
        done = (departure + self._jitter(workers)).max() + self.network.average(workers, rows[:1].nbytes)
        if self.network.egress:
            self._free[:] = done  # nothing else is sent meanwhile
        return np.full(workers, done)

    def _exchange(self, departure, sent, sources, targets):
        latency, per_byte = self.network.links(sources, targets)
        nbytes = sent / np.maximum(np.bincount(sources, minlength=len(sent)), 1)  # of one message
        transmission = nbytes[sources] * per_byte
        if self.network.egress:
            out = sent / self.network.egress
            transmission = np.maximum(transmission, out[sources])
            self._free = departure + out
        arrival = self.now.copy()
        np.maximum.at(arrival, targets, departure[sources] + latency + transmission + self._jitter(len(sources)))
        return arrival

    def _jitter(self, messages):
        if not self.network.jitter:
            return 0.0
        drawn = stream(self.seed, Purpose.NETWORK, step=self._transfers).standard_exponential(messages)
        return self.network.jitter * drawn


def _links(mixing, rounds):
    """(sources, targets): every link j -> i over which worker i receives in one of the rounds."""
    receivers = [sorted({i for t in rounds for i in mixing.receivers(j, t)}) for j in range(mixing.workers)]
    pairs = [(j, i) for j, targets in enumerate(receivers) for i in targets]
    return np.array(pairs, np.int64).reshape(-1, 2).T
