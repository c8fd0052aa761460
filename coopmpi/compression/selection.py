"""Which numbers of a vector to keep, and how to put them back."""

import numpy as np

from coopmpi.device.host import Host
from coopmpi.device.pool import Array


def largest(device: Host, x: Array, k: int) -> Array:
    """Indices (b, k) int64, ascending, of the k largest magnitudes in each row of x (b, n); of equal ones the first.

    The bits of a number without its sign are ordered as magnitudes are, with NaN above all.
    """
    # magnitudes as integers
    xp, (b, n) = device.xp, x.shape
    kind = f"int{8 * x.itemsize}"
    size = xp.bitwise_and(x.view(kind), np.iinfo(kind).max, out=device.empty(x.shape, kind))

    # the k-th largest of each row
    ordered = device.empty(x.shape, kind)
    ordered[...] = size
    ordered.partition(n - k, axis=1)
    least = ordered[:, n - k, None]

    # True at all that are at least as large
    kept = xp.greater_equal(size, least, out=device.empty(x.shape, "bool"))
    if int(xp.count_nonzero(kept)) > b * k:
        # several are as large as the smallest one kept: of these the first ones
        larger, equal = size > least, size == least
        places = k - xp.count_nonzero(larger, axis=1)[:, None]
        kept = larger | (equal & (xp.cumsum(equal, axis=1) <= places))

    # positions in the flat array -> indices in each row
    return xp.flatnonzero(kept).reshape(b, k) - n * xp.arange(b)[:, None]


def scatter(device: Host, indices: Array, numbers: Array, out: Array) -> None:
    """out (b, n) = 0 but for the numbers (b, k) at these indices (b, k) of its rows."""
    out[...] = 0
    out[device.xp.arange(out.shape[0])[:, None], indices] = numbers
