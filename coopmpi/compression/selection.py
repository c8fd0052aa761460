"""Which numbers of a vector to keep, and how to put them back."""

import numpy as np


def largest(device, x, k):
    """Indices (b, k), ascending, of the k numbers of largest magnitude in each row; of equal ones the first.

    The bits of a number without its sign are ordered as magnitudes are, with NaN above all.
    """
    xp, (b, n) = device.xp, x.shape
    kind = f"int{8 * x.itemsize}"
    size = xp.bitwise_and(x.view(kind), np.iinfo(kind).max, out=device.empty(x.shape, kind))
    ordered = device.empty(x.shape, kind)
    ordered[...] = size
    ordered.partition(n - k, axis=1)
    least = ordered[:, n - k, None]

    kept = xp.greater_equal(size, least, out=device.empty(x.shape, "bool"))
    if int(xp.count_nonzero(kept)) > b * k:
        # too many are as large as the least of them
        larger, equal = size > least, size == least
        places = k - xp.count_nonzero(larger, axis=1)[:, None]
        kept = larger | (equal & (xp.cumsum(equal, axis=1) <= places))
    return xp.flatnonzero(kept).reshape(b, k) - n * xp.arange(b)[:, None]


def scatter(device, indices, numbers, out):
    """out = 0 but for the numbers (b, k) at these indices of its rows."""
    out[...] = 0
    out[device.xp.arange(out.shape[0])[:, None], indices] = numbers
