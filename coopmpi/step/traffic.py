"""What a posted request moves. The driver, its account, virtual clocks, /rounds and the dry run all read it here."""

from typing import NamedTuple

import numpy as np


class Links(NamedTuple):
    """Over which links the local workers send in one round, by ascending source, then by ascending target."""

    sources: np.ndarray  # int64, one entry per link
    targets: np.ndarray
    degree: np.ndarray  # (b,) float64: over how many links each local worker sends


class Traffic(NamedTuple):
    """One communication, as if every worker had a rank of its own.

    kind: "exchange": a message along every link; "average": all workers add up vectors, as a ring all-reduce counts
    it; "group average": the same among `group` consecutive workers; "reduce" and "gather": every worker sends to all others,
    part of a packet or what it owns; "reduce and gather": one after the other.
    nbytes: of one message, a number or (b,), 0 for silent workers (exchange); what each local worker receives, (b,) (reduce,
    gather, both); of one worker's vector (averages).
    sent: bytes that each local worker sends in all, (b,) float64.
    """

    kind: str
    nbytes: float | np.ndarray
    sent: np.ndarray
    links: Links | None = None  # of an exchange
    group: int | None = None  # workers that average


def exchange(links: Links, nbytes) -> Traffic:
    """A message of nbytes, a number or (b,), along every link."""
    return Traffic("exchange", nbytes, links.degree * nbytes, links)


def average(local: int, group: int, nbytes: float, workers: int) -> Traffic:
    """Groups of workers average vectors: 2 (g - 1) / g of them are sent by each of the `local` workers."""
    kind = "average" if group == workers else "group average"
    return Traffic(kind, nbytes, np.full(local, 2 * (group - 1) / group * nbytes), group=group)


def reduce(sizes: np.ndarray, local: slice) -> Traffic:
    """Every worker sends the parts of its packet to their owners; sizes (m,): bytes of the parts, of which one stays."""
    return Traffic("reduce", ((len(sizes) - 1) * sizes)[local], (sizes.sum() - sizes)[local], group=len(sizes))


def gather(sizes: np.ndarray, local: slice) -> Traffic:
    """Every owner sends its part, of sizes (m,) bytes, to all others."""
    return Traffic("gather", (sizes.sum() - sizes)[local], ((len(sizes) - 1) * sizes)[local], group=len(sizes))


def reduce_and_gather(sizes: np.ndarray, local: slice) -> Traffic:
    """The parts of all packets to their owners, and what these make of them to all."""
    up, down = reduce(sizes, local), gather(sizes, local)
    return Traffic("reduce and gather", up.nbytes + down.nbytes, up.sent + down.sent, group=len(sizes))
