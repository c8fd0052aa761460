"""Which numbers of a vector to keep."""

import numpy as np

from coopmpi.device.host import Host
from coopmpi.device.pool import Array

STRIDE = 61  # every so many-th number of a long row makes the sample


def largest(device: Host, x: Array, k: int) -> Array:
    """Indices (b, k) int64, ascending, of the k largest magnitudes in each row of x (b, n); of equal ones the first.

    The bits of a number without its sign are ordered as magnitudes are, with NaN above all.
    """
    bits = x.view(f"int{8 * x.itemsize}")
    if bits.shape[1] <= device.chunk // 8:
        return _of_all_rows(device, bits, k)
    indices = device.empty((len(bits), k), "int64")
    for row, kept in zip(bits, indices):
        few = _candidates(device, row, k)
        kept[...] = few if len(few) == k else few[_of_all_rows(device, row[few][None], k)[0]]
    return indices


def _of_all_rows(device, bits, k):
    # magnitudes as integers
    xp, (b, n), kind = device.xp, bits.shape, bits.dtype
    size = _magnitudes(xp, bits, device.empty(bits.shape, kind))

    # the k-th largest of each row
    ordered = device.empty(bits.shape, kind)
    ordered[...] = size
    ordered.partition(n - k, axis=1)
    least = ordered[:, n - k, None]

    # True at all that are at least as large
    kept = xp.greater_equal(size, least, out=device.empty(bits.shape, "bool"))
    if int(xp.count_nonzero(kept)) > b * k:
        # several are as large as the smallest one kept: of these the first ones
        larger, equal = size > least, size == least
        places = k - xp.count_nonzero(larger, axis=1)[:, None]
        kept = larger | (equal & (xp.cumsum(equal, axis=1) <= places))

    # positions in the flat array -> indices in each row
    return xp.flatnonzero(kept).reshape(b, k) - n * xp.arange(b)[:, None]


def _candidates(device, bits, k):
    """Indices, ascending, of k or somewhat more numbers of one row (n,), with the k largest among them.

    They are above a bound that a sample gives, or the first ones that equal it: no pass over the row but the
    comparisons, and few candidates also where most numbers are the same.
    """
    xp, n = device.xp, len(bits)
    sample = xp.sort(_magnitudes(xp, bits[::STRIDE]))
    share = len(sample) * k / n
    rank = int(share + 3 * share**0.5 + 3)  # three standard deviations more than k numbers stand for
    while True:
        bound = sample[-rank] if rank <= len(sample) else -1
        larger = _where(device, bits, xp.greater, bound, n)
        if len(larger) >= k:
            return larger
        equal = _where(device, bits, xp.equal, bound, k - len(larger))
        if len(larger) + len(equal) >= k:
            return xp.sort(xp.concatenate([larger, equal[:k - len(larger)]]), kind="stable")  # two ascending ones
        rank *= 2  # the sample was misleading


def _where(device, bits, compare, bound, enough):
    """Indices of the numbers (n,) whose magnitude compares so with the bound; no more once there are `enough`."""
    xp, found, count = device.xp, [], 0
    for start in range(0, len(bits), device.chunk):
        part = bits[start:start + device.chunk]
        size = _magnitudes(xp, part, device.empty(part.shape, part.dtype))
        found.append(xp.flatnonzero(compare(size, bound, out=device.empty(part.shape, "bool"))) + start)
        count += len(found[-1])
        if count >= enough:
            break
    return xp.concatenate(found)


def _magnitudes(xp, bits, out=None):
    """Numbers as integers of the same order as their magnitudes, from their bits."""
    return xp.bitwise_and(bits, np.iinfo(bits.dtype).max, out=out)
