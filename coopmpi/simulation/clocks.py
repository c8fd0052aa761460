"""Virtual time for `coopmpi simulate`: one clock per worker, advanced with every request that the driver answers.

Requests come in the same order on every worker, so that following them tells when each worker would be done.
"""

from collections.abc import Callable

import numpy as np

from coopmpi.simulation.network import Network
from coopmpi.step.traffic import Traffic
from coopmpi.streams import Purpose, stream


class Clocks:
    """The virtual clocks of a run that one driver carries out for all m workers; float64 seconds.

    A gradient takes what the compute model says. What is sent leaves at the sender's clock; worker i has it when
    the last of its sources' messages has arrived: max_j (departure_j + latency_ij + bytes / rate). An average is
    there for all that take part at max_j departure_j + its cost. A worker that needs it earlier waits. With an egress limit
    a worker's messages of one round share it and leave together, and those of its next round queue behind them.

    compute_seconds: k -> seconds (m,) of the gradients of step k; network: see coopmpi.simulation.network.
    """

    def __init__(self, workers: int, compute_seconds: Callable, network: Network, seed: int):
        self.compute_seconds, self.network, self.seed = compute_seconds, network, seed
        self.now = np.zeros(workers)
        self._computed, self._waited = np.zeros(workers), np.zeros(workers)
        self._free = np.zeros(workers)  # when what a worker has sent so far is out, under an egress limit
        self._transfers = 0

    @property
    def time(self) -> float:
        """The latest clock."""
        return float(self.now.max())

    def account(self) -> tuple[np.ndarray, np.ndarray]:
        """Seconds that each worker (m,) has computed, and waited, since the last account."""
        account = self._computed, self._waited
        self._computed, self._waited = np.zeros_like(self.now), np.zeros_like(self.now)
        return account

    def compute(self, k: int):
        """Every worker computes its gradient of step k."""
        seconds = self.compute_seconds(k)
        self.now = self.now + seconds
        self._computed += seconds

    def post(self, traffic: Traffic) -> np.ndarray:
        """When (m,) each worker has what it receives, if this is sent now."""
        departure = np.maximum(self.now, self._free)
        self._transfers += 1
        if traffic.kind == "exchange":
            return self._exchange(departure, traffic)
        if traffic.kind in ("reduce", "gather", "reduce and gather"):
            return self._all_to_all(departure, traffic)
        return self._average(departure, traffic)

    def wait(self, arrival: np.ndarray):
        """No worker goes on before what was posted has arrived."""
        later = np.maximum(self.now, arrival)
        self._waited += later - self.now
        self.now = later

    def _average(self, departure, traffic):
        workers, group = len(departure), traffic.group
        # a group begins when its last worker is ready
        last = (departure + self._jitter(workers)).reshape(-1, group).max(axis=1)
        done = np.repeat(last + self.network.average(workers, group, traffic.nbytes), group)
        if self.network.egress:
            self._free[:] = done  # nothing else is sent meanwhile
        return done

    def _all_to_all(self, departure, traffic):
        # everybody needs something of everybody: the most that one has to send or to receive, over the slowest link
        workers, most = len(departure), max(traffic.sent.max(), traffic.nbytes.max())
        rounds = 2 if traffic.kind == "reduce and gather" else 1
        done = np.full(workers, (departure + self._jitter(workers)).max() + self.network.all_to_all(workers, rounds, most))
        if self.network.egress:
            self._free[:] = done
        return done

    def _exchange(self, departure, traffic):
        sources, targets, _ = traffic.links
        latency, per_byte = self.network.links(sources, targets)
        transmission = np.broadcast_to(traffic.nbytes, departure.shape)[sources] * per_byte
        if self.network.egress:
            out = traffic.sent / self.network.egress
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
