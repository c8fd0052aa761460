"""What communication costs on a virtual clock: the choices of `[network] kind` for `coopmpi simulate`.

Bytes, seconds, bytes per second. A message costs its link's latency + bytes / bandwidth.
"""

from itertools import accumulate
from math import ceil, log2
from operator import mul
from typing import ClassVar, Literal

import numpy as np

from coopmpi.errors import UserError
from coopmpi.ranges import LARGEST_RUN, Count, Positive, Seconds
from coopmpi.registry import Part, register

Figures = float | np.ndarray  # one for all, or one for each link or group


# all-reduce among m workers; transmission: the seconds that all bytes take over one link
def ring(m: int, latency: Figures, transmission: Figures) -> Figures:
    """2 (m - 1) messages of 1/m of the bytes, one after the other [Patarasuk & Yuan 2009]."""
    return 2 * (m - 1) * latency + 2 * (m - 1) / m * transmission


def tree(m: int, latency: Figures, transmission: Figures) -> Figures:
    """Up and down a binary tree with all bytes."""
    return 2 * ceil(log2(m)) * (latency + transmission)


def recursive_doubling(m: int, latency: Figures, transmission: Figures) -> Figures:
    """log2(m) exchanges of all bytes, with partners at distance 1, 2, 4, ... [Thakur et al. 2005]."""
    return ceil(log2(m)) * (latency + transmission)


ALLREDUCE = {"ring": ring, "tree": tree, "recursive-doubling": recursive_doubling}


class Network(Part, frozen=True, kw_only=True):
    """Base. jitter: mean of an exponential delay that is added to every message."""

    name: ClassVar[str]
    jitter: Seconds = 0.0

    def links(self, sources: np.ndarray, targets: np.ndarray) -> tuple[Figures, Figures]:
        """(latency in seconds, seconds per byte) of the links sources[e] -> targets[e], two arrays or numbers."""
        raise NotImplementedError

    def average(self, workers: int, group: int, nbytes: float) -> np.ndarray:
        """Seconds (workers / group,) of all-reduces of so many bytes within groups of consecutive workers, each from
        the moment when its last worker has joined in."""
        raise NotImplementedError


    def all_to_all(self, workers: int, rounds: int, nbytes: float) -> float:
        """Seconds of so many rounds in which everybody sends to everybody; nbytes: the most that one sends or receives in all."""
        raise NotImplementedError


@register("network", "delay")
class Delay(Network, frozen=True, kw_only=True):
    """A round takes a fixed time, whatever its size: the D of the runtime model of AdaComm [Wang & Joshi 2019]."""

    egress: ClassVar[None] = None
    seconds: Seconds = 1.0

    def links(self, sources: np.ndarray, targets: np.ndarray) -> tuple[Figures, Figures]:
        return self.seconds, 0.0

    def average(self, workers: int, group: int, nbytes: float) -> np.ndarray:
        return np.full(workers // group, self.seconds)

    def all_to_all(self, workers: int, rounds: int, nbytes: float) -> float:
        return self.seconds


class Wires(Network, frozen=True, kw_only=True):
    """Base of networks with links. egress: what a worker can send in all, None: as much as its links take."""

    allreduce: Literal["ring", "tree", "recursive-doubling"] = "ring"
    egress: Positive | None = None

    def slowest(self, first: np.ndarray, last: np.ndarray) -> tuple[Figures, Figures]:
        """(latency, bandwidth) of the slowest link among the workers first to last; numbers or arrays."""
        raise NotImplementedError

    def average(self, workers: int, group: int, nbytes: float) -> np.ndarray:
        first = np.arange(0, workers, group)
        latency, bandwidth = self.slowest(first, first + group - 1)
        rate = np.minimum(bandwidth, self.egress or bandwidth)
        return ALLREDUCE[self.allreduce](group, latency, nbytes / rate) * np.ones(len(first))

    def all_to_all(self, workers: int, rounds: int, nbytes: float) -> float:
        latency, bandwidth = self.slowest(np.array([0]), np.array([workers - 1]))
        return float(np.max(rounds * latency + nbytes / np.minimum(bandwidth, self.egress or bandwidth)))


@register("network", "links")
class UniformLinks(Wires, frozen=True, kw_only=True):
    """All links are alike, full duplex, and do not disturb each other: neighbours are served at the same time."""

    latency: Seconds = 1e-4
    bandwidth: Positive = 1.25e8

    def links(self, sources: np.ndarray, targets: np.ndarray) -> tuple[Figures, Figures]:
        return self.latency, 1 / self.bandwidth

    def slowest(self, first: np.ndarray, last: np.ndarray) -> tuple[Figures, Figures]:
        return self.latency, self.bandwidth


@register("network", "hierarchy")
class Hierarchy(Wires, frozen=True, kw_only=True):
    """Nodes, racks, regions, ...: a link is as slow as the highest level that it crosses.

    groups: workers per node, nodes per rack, racks per region, ...; workers are numbered through. latency and
    bandwidth: within a node, within a rack, ..., and beyond the largest group.
    """

    groups: tuple[Count, ...] = (8, 16)
    latency: tuple[Seconds, ...] = (1e-6, 1e-5, 1e-4)
    bandwidth: tuple[Positive, ...] = (1e10, 1.25e9, 1.25e8)

    def __post_init__(self):
        levels = len(self.groups) + 1
        for key, direction in (("latency", 1), ("bandwidth", -1)):
            given = getattr(self, key)
            if len(given) != levels:
                raise UserError(f"[network] {key} needs a value within each of the {levels - 1} groups and one "
                                f"beyond: {levels} values, given {list(given)}")
            if list(given) != sorted(given, reverse=direction < 0):
                raise UserError(f"[network] {key} must not {'fall' if direction > 0 else 'rise'} from level to "
                                f"level, given {list(given)}")

    def level(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """The highest level that each link one[e] -> other[e] between workers crosses; 0: both are on one node."""
        sizes = [min(size, LARGEST_RUN) for size in accumulate(self.groups, mul)]
        return sum((one // size != other // size) * 1 for size in sizes)  # groups lie within each other

    def links(self, sources: np.ndarray, targets: np.ndarray) -> tuple[Figures, Figures]:
        level = self.level(sources, targets)
        return np.take(self.latency, level), 1 / np.take(self.bandwidth, level)

    def slowest(self, first: np.ndarray, last: np.ndarray) -> tuple[Figures, Figures]:
        level = self.level(first, last)
        return np.take(self.latency, level), np.take(self.bandwidth, level)
