"""Arrays on a GPU. MPI sees page-locked copies on the host, or device pointers where it is CUDA-aware."""

import cupy
import numpy as np

from coopmpi.array import Host, Pool


def count():
    """GPUs that this process can use."""
    return cupy.cuda.runtime.getDeviceCount() if cupy.cuda.is_available() else 0


class Gpu(Host):
    """One GPU. Copies for MPI run on a stream of their own, beside the computation.

    buffers = "staged": rows pass through pinned host memory; "direct": MPI gets device pointers, after the
    computation that fills them has been waited for.
    """

    name = "gpu"
    xp = cupy

    def __init__(self, index, buffers):
        self.index, self.direct = index, buffers == "direct"
        cupy.cuda.Device(index).use()
        self.pool = Pool(cupy.empty)
        self.pinned = Pool(_pinned)
        self.copies = cupy.cuda.Stream(non_blocking=True)

    def to_host(self, array):
        return cupy.asnumpy(array)

    def clock(self):
        event = cupy.cuda.Event()
        event.record()
        return event

    def seconds(self, start, end):
        end.synchronize()
        return cupy.cuda.get_elapsed_time(start, end) / 1000

    def synchronize(self):
        cupy.cuda.get_current_stream().synchronize()

    def outgoing(self, row):
        return Pointer(row) if self.direct else Staged(self, row)

    def incoming(self, row):
        return row if self.direct else self.pinned.empty(row.shape, row.dtype)

    def arrived(self, buffer, row):
        if not self.direct:
            row.set(buffer)  # on the current stream: later kernels see the row

    def descend(self, x, lr, direction):
        x -= cupy.multiply(direction, lr, out=self.empty(x.shape, x.dtype))

    def weighted_sum(self, rows, weights, out):
        part = self.empty(out.shape, out.dtype)
        cupy.multiply(rows[0], weights[0], out=out)
        for row, weight in zip(rows[1:], weights[1:]):
            cupy.multiply(row, weight, out=part)
            cupy.add(out, part, out=out)


class Pointer:
    """A row that a CUDA-aware MPI reads on the device once the computation of it is done."""

    def __init__(self, row):
        self.buffer = row
        self._computed = cupy.cuda.Event(disable_timing=True)
        self._computed.record()

    @property
    def ready(self):
        return self._computed.done

    def wait(self):
        self._computed.synchronize()


class Staged:
    """A row on its way through pinned memory: copied beside the computation, sent when it is there."""

    def __init__(self, device, row):
        self._row = row  # not to be recycled before it is copied
        self.buffer = device.pinned.empty(row.shape, row.dtype)
        computed = cupy.cuda.Event(disable_timing=True)
        computed.record()
        device.copies.wait_event(computed)
        row.get(stream=device.copies, out=self.buffer, blocking=False)
        self._copied = cupy.cuda.Event(disable_timing=True)
        self._copied.record(device.copies)

    @property
    def ready(self):
        return self._copied.done

    def wait(self):
        self._copied.synchronize()


def _pinned(shape, dtype):
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer(cupy.cuda.alloc_pinned_memory(size), dtype, int(np.prod(shape))).reshape(shape)
