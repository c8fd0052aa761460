"""Where arrays live: NumPy on the host or CuPy on a GPU. The only file that imports cupy."""

import sys
from collections import defaultdict
from time import perf_counter

import numpy as np

from coopmpi.errors import UserError

CHUNK = 32768  # numbers per pass of a chained sum: the partial sums stay in the cache


class Pool:
    """Large arrays that are handed out again once nobody refers to them.

    Fresh memory costs a page fault per 4 KiB, often more than the arithmetic done in it.
    """

    def __init__(self, new):
        self._new = new
        self._arrays = defaultdict(list)
        probe = [object()]
        self._unused = next(sys.getrefcount(a) for a in probe)

    def empty(self, shape, dtype):
        arrays = self._arrays[shape, np.dtype(dtype)]
        for array in arrays:
            if sys.getrefcount(array) == self._unused:
                return array
        array = self._new(shape, dtype)
        arrays.append(array)
        return array

    def nbytes_of(self, counts):
        """Bytes of the arrays made so far for which `counts(array)` holds."""
        return sum(a.nbytes for arrays in self._arrays.values() for a in arrays if counts(a))


class Outgoing:
    """A row on its way out that MPI may read at once."""

    ready = True

    def __init__(self, buffer):
        self.buffer = buffer

    def wait(self):
        """Return when `buffer` holds the row."""


class Host:
    """The CPU: arrays are numpy.ndarray, and MPI reads them where they are."""

    name = "cpu"
    xp = np

    def __init__(self):
        self.pool = Pool(self.xp.empty)

    def empty(self, shape, dtype):
        """An array with arbitrary content, recycled where possible."""
        return self.pool.empty(shape, dtype)

    def asarray(self, host_array):
        """The array on this device, from NumPy."""
        return self.xp.asarray(host_array)

    def to_host(self, array):
        """The array as numpy.ndarray."""
        return np.asarray(array)

    def clock(self):
        """A mark in time that costs no synchronisation; `seconds` turns two of them into a duration."""
        return perf_counter()

    def seconds(self, start, end):
        return end - start

    def synchronize(self):
        """Return when everything asked of the device has been done."""

    def repeat(self, row, copies):
        """(1, d) -> (copies, d); the row itself when one is enough."""
        if copies == 1:
            return row
        rows = self.empty((copies, row.shape[1]), row.dtype)
        rows[:] = row
        return rows

    def outgoing(self, row):
        """What MPI reads when it sends the row."""
        return Outgoing(row)

    def incoming(self, row):
        """Where MPI writes what will become the row."""
        return row

    def arrived(self, buffer, row):
        """Bring what MPI wrote into `buffer` to the row it was meant for."""

    def weighted_sum(self, rows, weights, out):
        """out = weights[0] rows[0] + weights[1] rows[1] + ..., added in that order; 1-D arrays.

        Number by number the operations are the same wherever the rows come from, so results do not
        depend on placement. `out` must not be one of the rows.
        """
        xp, n = self.xp, out.shape[0]
        chunk = CHUNK if xp is np else n
        part = self.empty((min(chunk, n),), out.dtype)
        for start in range(0, n, chunk):
            span = slice(start, min(start + chunk, n))
            total, term = out[span], part[: span.stop - start]
            xp.multiply(rows[0][span], weights[0], out=total)
            for row, weight in zip(rows[1:], weights[1:]):
                xp.multiply(row[span], weight, out=term)
                xp.add(total, term, out=total)


def choose(device, local_rank=0, buffers="staged"):
    """The device that `device = "auto" | "cpu" | "gpu"` means for this rank."""
    if device == "cpu":
        return Host()
    try:
        from coopmpi import gpu
        count = gpu.count()
    except ImportError as error:
        gpu, count, why = None, 0, f"CuPy cannot be imported ({error})"
    else:
        why = "CuPy sees no GPU"
    if count:
        return gpu.Gpu(local_rank % count, buffers)
    if device == "gpu":
        raise UserError(f'device = "gpu": {why}; allowed here: "cpu" or "auto". `coopmpi doctor` tells more')
    return Host()
