"""Event triggers whose threshold every worker sizes from what it has seen itself."""

from math import exp

import numpy as np

PACE = 0.2  # the most that a round changes ln c by
START = 1e-4  # of the first distance: low, so that copies catch up before anybody is silent
ROOM = 2.0  # c may be ROOM / share times the smallest distance: noise of 1 / share rounds moves 1 / share times it


def thresholds(sized, device):
    """c (b,) of the local workers, float64 on the host; 0 before the first round. sized: a worker slot (b, 2)."""
    return device.to_host(sized[:, 0]).astype(np.float64)


def resize(sized, s, share, device):
    """The next c from the distances s (b,) of a round, float64 on the host, in place:

        c <- START s at first, later c <- min( c exp(PACE (1[s > c] - share)), ROOM / share min over rounds s )

    So c goes to the value that s exceeds in this share of the rounds (0.5: the median), and follows when it moves.
    Of T rounds a worker speaks in the share + ln(c_T / c_1) / (PACE T), or in more where the bound was met:
    silence makes s grow, and where so few messages cannot keep the copies close, c would follow without end.
    c is the first number of a worker's row, the smallest s the second.
    """
    c, smallest = device.to_host(sized).astype(np.float64).T
    first = c == 0
    smallest = np.where(first, s, np.minimum(s, smallest))
    moved = c * np.where(s > c, exp(PACE * (1 - share)), exp(-PACE * share))
    c = np.where(first, START * s, np.minimum(moved, ROOM / share * smallest))
    sized[:] = device.asarray(np.stack([c, smallest], axis=1).astype(sized.dtype))
