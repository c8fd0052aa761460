"""Event triggers: every worker adapts its threshold to its own distances in past rounds."""

from math import exp

import numpy as np

from coopmpi.device.host import Host
from coopmpi.device.pool import Array

PACE = 0.2  # the most by which ln c changes in a round
START = 1e-4  # times the first distance: low, so that all send until their copies are close
# c is at most ROOM / share times the smallest distance: a worker that sends every 1 / share rounds is moved by noise
# alone to 1 / share times the squared distance of one round
ROOM = 2.0


def thresholds(sized: Array, device: Host) -> np.ndarray:
    """c (b,) of the local workers, float64 on the host; 0 before the first round. sized: a worker slot (b, 2)."""
    return device.to_host(sized[:, 0]).astype(np.float64)


def resize(sized: Array, s: np.ndarray, share: float, device: Host) -> None:
    """The next c from the distances s (b,) of a round, float64 on the host, in place:

        c <- START s at first, later c <- min( c exp(PACE (1[s > c] - share)), ROOM / share min over rounds s )

    So c tends to the value that s exceeds in this share of the rounds (0.5: the median), also where that changes.
    Of T rounds a worker sends in the share + ln(c_T / c_1) / (PACE T), or in more where c was at its bound: without
    messages s grows, and where so few messages cannot keep the copies close, s and c would grow without end.
    c is the first number of a worker's row, the smallest s the second.
    """
    # of each worker, (b,)
    c, smallest = device.to_host(sized).astype(np.float64).T
    first = c == 0
    smallest = np.where(first, s, np.minimum(s, smallest))

    # c exp(PACE (1[s > c] - share)), within its bound
    moved = c * np.where(s > c, exp(PACE * (1 - share)), exp(-PACE * share))
    c = np.where(first, START * s, np.minimum(moved, ROOM / share * smallest))
    sized[:] = device.asarray(np.stack([c, smallest], axis=1).astype(sized.dtype))
