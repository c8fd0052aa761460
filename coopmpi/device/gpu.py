"""Arrays on a GPU. MPI sees page-locked copies on the host, or device pointers where it is CUDA-aware."""

import sys
from typing import Any

import cupy
import cupyx
import numpy as np

from coopmpi.device.host import Host
from coopmpi.device.pool import Array, Pool


def count() -> int:
    """GPUs that this process can use."""
    try:
        return cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError:  # no driver, or one too old
        return 0


class Gpu(Host):
    """One GPU. Copies for MPI run on a stream of their own, beside the computation.

    buffers = "staged": rows pass through pinned host memory; "direct": MPI gets device pointers, after the
    computation that uses them has been waited for. Averages are always staged: Open MPI takes no device
    pointers in nonblocking collectives (FAQ, Running CUDA-aware Open MPI).
    """

    name = "gpu"
    xp = cupy
    chunk = sys.maxsize  # one kernel per operation

    def __init__(self, index: int, buffers: str = "staged") -> None:
        cupy.cuda.Device(index).use()
        super().__init__()
        self.index, self.direct = index, buffers == "direct"
        if self.direct:
            self.staging = Gpu(index)
        self.pinned = Pool(cupyx.empty_pinned)
        self.copies = cupy.cuda.Stream(non_blocking=True)
        self._unread = []  # (event, pinned buffer) of rows on their way to the GPU

    def to_host(self, array: Array) -> np.ndarray:
        return cupy.asnumpy(array)

    def clock(self) -> Any:
        event = cupy.cuda.Event()
        event.record()
        return event

    def seconds(self, start: Any, end: Any) -> float:
        end.synchronize()
        return cupy.cuda.get_elapsed_time(start, end) / 1000

    def synchronize(self) -> None:
        cupy.cuda.get_current_stream().synchronize()

    def to_half(self, x: Array, half: Array) -> None:
        half[...] = x

    def from_half(self, half: Array, out: Array) -> None:
        out[...] = half

    def outgoing(self, row: Array) -> "Pointer | Staged":
        return Pointer(row) if self.direct else Staged(self, row)

    def incoming(self, row: Array) -> Array:
        if self.direct:
            self.synchronize()  # kernels may still use what was in the row's memory before
            return row
        self._unread = [(read, buffer) for read, buffer in self._unread if not read.done]
        return self.pinned.empty(row.shape, row.dtype)

    def arrived(self, buffer: Array, row: Array) -> None:
        if not self.direct:
            # asynchronous: later kernels see the row, and the buffer is not to be recycled before it is read
            row.set(buffer)
            self._unread.append((_mark(), buffer))


class Pointer:
    """A row that a CUDA-aware MPI reads on the GPU once the computation of it is done."""

    def __init__(self, row: Array) -> None:
        self.buffer = row
        self._computed = _mark()

    @property
    def ready(self) -> bool:
        return self._computed.done

    def wait(self) -> None:
        self._computed.synchronize()


class Staged:
    """A row on its way through pinned memory: copied beside the computation, sent when it is there."""

    def __init__(self, device: Gpu, row: Array) -> None:
        self._row = row  # not to be recycled before it is copied
        self.buffer = device.pinned.empty(row.shape, row.dtype)
        device.copies.wait_event(_mark())  # computed
        row.get(stream=device.copies, out=self.buffer, blocking=False)
        self._copied = _mark(device.copies)

    @property
    def ready(self) -> bool:
        return self._copied.done

    def wait(self) -> None:
        self._copied.synchronize()


def _mark(stream=None):
    """The event that everything asked of a stream so far is done; default: the current stream."""
    event = cupy.cuda.Event(disable_timing=True)
    event.record(stream)
    return event
