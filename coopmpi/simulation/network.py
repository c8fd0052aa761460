"""What communication costs on a virtual clock: the choices of `[network] kind` for `coopmpi simulate`.

Bytes, seconds, bytes per second. A message costs its link's latency + bytes / bandwidth, and has to share ports.
"""

from collections.abc import Callable
from itertools import accumulate
from math import ceil, log2
from operator import mul
from pathlib import Path
from typing import Annotated, ClassVar

import msgspec
import numpy as np
from msgspec import Meta

from coopmpi.errors import UserError, quoted, unknown
from coopmpi.ranges import LARGEST_RUN, Count, File, NonNegative, Positive, Seconds, file_or
from coopmpi.registry import Part, register

LONGEST = 1e9  # seconds of a latency or an average in a file
Row = tuple[NonNegative, Seconds]  # bytes, and what they take
Figures = float | np.ndarray  # one for all, or one for each link, worker or group
Read = Callable[[str, str], np.ndarray]  # (path, dataset) -> the numbers in a user's file


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
    """Base. jitter: mean of an exponential delay that is added to every message.

    queues: do messages wait for each other on links and at ports? egress, ingress: bytes per second of a worker's port
    in either direction, None: each message goes through it at the rate of its link.
    """

    name: ClassVar[str]
    queues: ClassVar[bool] = True
    jitter: Seconds = 0.0

    def bind(self, workers: int, read: Read) -> "Network":
        """This network with its files read, for so many workers; UserError if they hold something else.

        read(path, dataset) gives the numbers in a user's file.
        """
        return self

    def links(self, sources: np.ndarray, targets: np.ndarray) -> tuple[Figures, Figures]:
        """(latency in seconds, seconds per byte) of the links sources[e] -> targets[e], two arrays or numbers."""
        raise NotImplementedError

    def average(self, workers: int, group: int, nbytes: float) -> np.ndarray:
        """Seconds (workers / group,) of all-reduces of so many bytes within groups of consecutive workers, each from
        the moment when its last worker has joined in."""
        raise NotImplementedError

    def to_all(self, workers: int, rounds: int, nbytes: float) -> float:
        """Seconds of so many rounds in which everybody sends to everybody; nbytes: the most that one sends or receives in all."""
        raise NotImplementedError


@register("network", "delay")
class Delay(Network, frozen=True, kw_only=True):
    """A round takes a fixed time, whatever its size: the D of the runtime model of AdaComm [Wang & Joshi 2019]."""

    queues: ClassVar[bool] = False
    egress: ClassVar[None] = None
    ingress: ClassVar[None] = None
    seconds: Seconds = 1.0

    def links(self, sources: np.ndarray, targets: np.ndarray) -> tuple[Figures, Figures]:
        return self.seconds, 0.0

    def average(self, workers: int, group: int, nbytes: float) -> np.ndarray:
        return np.full(workers // group, self.seconds)

    def to_all(self, workers: int, rounds: int, nbytes: float) -> float:
        return self.seconds


class Wires(Network, frozen=True, kw_only=True):
    """Base of networks with links. allreduce: a formula, or rows (bytes, seconds) as measured, here or in a file."""

    allreduce: file_or(*ALLREDUCE) | tuple[Row, ...] = "ring"
    egress: Positive | None = None
    ingress: Positive | None = None

    def __post_init__(self):
        if isinstance(self.allreduce, str) and self.allreduce not in ALLREDUCE and not Path(self.allreduce).suffix:
            error = unknown("allreduce", self.allreduce, ALLREDUCE, where="[network] ")
            raise UserError(f"{error}, or a file: .npy, .h5 or text")

    def bind(self, workers: int, read: Read) -> "Wires":
        if self.allreduce in ALLREDUCE:
            return self
        return msgspec.structs.replace(self, allreduce=_measured("allreduce", self.allreduce, read))

    def slowest(self, first: np.ndarray, group: int) -> tuple[Figures, Figures]:
        """(latency, bandwidth) of the slowest link among the workers from each of `first` on; numbers or arrays."""
        raise NotImplementedError

    def average(self, workers: int, group: int, nbytes: float) -> np.ndarray:
        first = np.arange(0, workers, group)
        if not isinstance(self.allreduce, str):
            return np.full(len(first), _interpolated(self.allreduce, nbytes) if group > 1 else 0.0)
        latency, bandwidth = self.slowest(first, group)
        return ALLREDUCE[self.allreduce](group, latency, nbytes / self._port(bandwidth)) * np.ones(len(first))

    def to_all(self, workers: int, rounds: int, nbytes: float) -> float:
        if workers == 1:
            return 0.0
        latency, bandwidth = self.slowest(np.array([0]), workers)
        return float(np.max(rounds * latency + nbytes / self._port(bandwidth)))

    def _port(self, bandwidth: Figures) -> Figures:
        """Bytes per second of a worker's port, both ways."""
        return np.minimum(bandwidth, min(self.egress or np.inf, self.ingress or np.inf))


@register("network", "links")
class Links(Wires, frozen=True, kw_only=True):
    """Full duplex links, all alike, or each as a file says: (m, m) numbers, entry (i, j) of the link from i to j."""

    latency: Seconds | File = 1e-4
    bandwidth: Positive | File = 1.25e8

    def bind(self, workers: int, read: Read) -> "Links":
        return msgspec.structs.replace(super().bind(workers, read), latency=_per_link("latency", self.latency, workers, read),
                                       bandwidth=_per_link("bandwidth", self.bandwidth, workers, read))

    def links(self, sources: np.ndarray, targets: np.ndarray) -> tuple[Figures, Figures]:
        latency, bandwidth = (each[sources, targets] if isinstance(each, np.ndarray) else each
                              for each in (self.latency, self.bandwidth))
        return latency, 1 / bandwidth

    def slowest(self, first: np.ndarray, group: int) -> tuple[Figures, Figures]:
        return _worst(self.latency, first, group, np.max), _worst(self.bandwidth, first, group, np.min)


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
        super().__post_init__()
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

    def slowest(self, first: np.ndarray, group: int) -> tuple[Figures, Figures]:
        level = self.level(first, first + group - 1)
        return np.take(self.latency, level), np.take(self.bandwidth, level)


@register("network", "measured")
class Measured(Wires, frozen=True, kw_only=True):
    """A network as `coopmpi probe` finds it among so many `workers`, all of which send at the same time.

    hops: 1, and further distances between the numbers of two workers on a circle; latency and bandwidth: of the links over each
    of them; one in between costs what the next shorter one does. all_to_all: rows (bytes that a worker sends to all others
    together, seconds). For other numbers of workers, rows are scaled as the messages of a ring, or of ports, would be.
    """

    workers: Annotated[int, Meta(ge=2, le=LARGEST_RUN)]
    hops: tuple[Count, ...] = (1,)
    latency: tuple[Seconds, ...] = (1e-4,)
    bandwidth: tuple[Positive, ...] = (1.25e8,)
    all_to_all: tuple[Row, ...]

    def __post_init__(self):
        super().__post_init__()
        if not self.hops or self.hops[0] != 1 or list(self.hops) != sorted(set(self.hops)):
            raise UserError(f"[network] hops must rise, from 1 on; given {list(self.hops)}")
        for key in ("latency", "bandwidth"):
            if len(getattr(self, key)) != len(self.hops):
                raise UserError(f"[network] {key} must have a number for each of the hops {list(self.hops)}, "
                                f"given {list(getattr(self, key))}")

    def bind(self, workers: int, read: Read) -> "Measured":
        rows = _measured("all_to_all", self.all_to_all, read)
        return msgspec.structs.replace(super().bind(workers, read), all_to_all=rows)

    def links(self, sources: np.ndarray, targets: np.ndarray) -> tuple[Figures, Figures]:
        hop = np.abs(targets - sources)
        hop = np.where(hop < self.workers, np.minimum(hop, self.workers - hop), self.hops[-1])  # more workers than were measured
        place = np.searchsorted(self.hops, np.maximum(hop, 1), side="right") - 1
        return np.take(self.latency, place), 1 / np.take(self.bandwidth, place)

    def slowest(self, first: np.ndarray, group: int) -> tuple[Figures, Figures]:
        within = max(1, int(np.searchsorted(self.hops, group)))  # hops shorter than the group
        return max(self.latency[:within]), min(self.bandwidth[:within])

    def average(self, workers: int, group: int, nbytes: float) -> np.ndarray:
        if isinstance(self.allreduce, str) or group == 1:
            return super().average(workers, group, nbytes)
        first, seconds = self.allreduce[0, 1], _interpolated(self.allreduce, nbytes)
        messages, share = (group - 1) / (self.workers - 1), (1 - 1 / group) / (1 - 1 / self.workers)
        return np.full(workers // group, first * messages + (seconds - first) * share)

    def to_all(self, workers: int, rounds: int, nbytes: float) -> float:
        rows = self.all_to_all
        first, seconds = rows[0, 1], _interpolated(rows, nbytes / rounds)
        return rounds * float(first * (workers - 1) / (self.workers - 1) + seconds - first) if workers > 1 else 0.0


# numbers in files
def _read(key, path, read):
    try:
        return read(path, key)
    except UserError as error:
        raise UserError(f"[network] {key}: {error}") from error


def _per_link(key, given, workers, read):
    """A number as it is; of a file its (m, m) numbers, with those on the diagonal, which are no links, left out of account."""
    if not isinstance(given, str):
        return given
    found = _read(key, given, read)
    if found.shape != (workers, workers):
        raise UserError(f"[network] {key} = {quoted(given)} must hold a number for each link from worker i to worker j, shape "
                        f"({workers}, {workers}), found {found.shape}")
    lowest = 0 if key == "latency" else np.nextafter(0, 1)
    largest = LONGEST if key == "latency" else np.finfo(float).max
    wrong = ~((found >= lowest) & (found <= largest))
    np.fill_diagonal(wrong, False)
    if wrong.any():
        i, j = np.argwhere(wrong)[0]
        allowed = f"from 0 to {LONGEST:g} seconds" if key == "latency" else "finite and above 0, bytes per second"
        raise UserError(f"[network] {key} = {quoted(given)}: numbers must be {allowed}, from worker {i} to {j} there is "
                        f"{found[i, j]:g}")
    return found


def _worst(given, first, group, worst):
    """The number that `worst` picks of those of all links among the workers of each group."""
    if not isinstance(given, np.ndarray):
        return given
    blocks = (given[start:start + group, start:start + group][~np.eye(group, dtype=bool)] for start in first)
    return np.array([worst(block) if group > 1 else 1.0 for block in blocks])


def _measured(key, given, read):
    """Rows (bytes, seconds), ascending in bytes, of a file or of the run description itself."""
    named = isinstance(given, str)
    found = _read(key, given, read) if named else np.array(given, dtype=float)
    where = f"[network] {key} = {quoted(given)}" if named else f"[network] {key}"
    if found.ndim != 2 or found.shape[1] != 2 or len(found) < 2:
        raise UserError(f"{where} must hold two or more rows (bytes, seconds), shape (rows, 2), found {found.shape}")
    if not ((found >= 0) & (found <= [np.finfo(float).max, LONGEST])).all():
        raise UserError(f"{where}: bytes and seconds must be numbers >= 0, seconds up to "
                        f"{LONGEST:g}; the least there is {found.min():g}, the largest {found.max():g}")
    if not (np.diff(found[:, 0]) > 0).all():
        raise UserError(f"{where}: bytes must rise from row to row, found {quoted(found[:, 0].tolist())}")
    return found


def _interpolated(table, nbytes):
    """Seconds of so many bytes: linear between two rows; below all rows the first one's, above at the last two rows' rate."""
    sizes, seconds = table.T
    rate = (seconds[-1] - seconds[-2]) / (sizes[-1] - sizes[-2])
    return np.interp(nbytes, sizes, seconds) + max(rate, 0.0) * max(nbytes - sizes[-1], 0.0)
