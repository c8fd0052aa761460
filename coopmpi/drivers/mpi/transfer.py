"""Messages under way. Each is posted without blocking, moved on by `progress`, and waited for one by one."""

import threading
import time
from collections import deque

PACE = 2e-4  # seconds between two looks of a Mover: a socket's buffer holds what arrives meanwhile


class Rows:
    """A neighbour exchange: rows sent to and received from other ranks."""

    def __init__(self, comm, tag, sends, receives, device, status):
        self._comm, self._tag, self._device, self._status = comm, tag, device, status
        # receives are posted first, so that no message has to be buffered
        incoming = [(peer, device.incoming(row), row) for peer, row in receives]
        self._waiting = deque((comm.Irecv(buffer, source=peer, tag=tag), buffer, row) for peer, buffer, row in incoming)
        self._outgoing = [(peer, device.outgoing(row)) for peer, row in sends]
        self._sends = []
        self._post_ready()

    def _post_ready(self):
        while len(self._sends) < len(self._outgoing):
            peer, row = self._outgoing[len(self._sends)]
            if not row.ready:
                break
            self._sends.append(self._comm.Isend(row.buffer, dest=peer, tag=self._tag))

    def progress(self):
        self._post_ready()
        while self._waiting and self._waiting[0][0].Test(self._status):
            self._receive()
        for request in self._sends:
            request.Test()

    def wait(self):
        for _, row in self._outgoing[len(self._sends):]:
            row.wait()
        self._post_ready()
        while self._waiting:
            self._waiting[0][0].Wait(self._status)
            self._receive()
        for request in self._sends:
            request.Wait()

    def _receive(self):
        _, buffer, row = self._waiting.popleft()
        if self._status.count:
            self._device.arrived(buffer, row)
        else:
            row[:] = 0  # a silent worker


class Collective:
    """A nonblocking collective from one array into another.

    It is posted at once, after waiting for the source: all ranks must post theirs in the same order.
    """

    def __init__(self, post, source, target, device):
        self._device, self._target = device, target
        self._buffer = device.incoming(target)
        self._outgoing = device.outgoing(source)
        self._outgoing.wait()
        self._request = post(self._outgoing.buffer, self._buffer)

    def progress(self):
        self._request.Test()

    def wait(self):
        self._request.Wait()
        self._device.arrived(self._buffer, self._target)


class Mover:
    """A context in which a thread enters MPI now and then: MPI moves data only while it is called.

    Nothing may ever be sent over `comm`. Needs MPI_THREAD_MULTIPLE.
    """

    def __init__(self, comm):
        self._comm = comm
        self._wanted = threading.Event()
        threading.Thread(target=self._move, name="coopmpi-mover", daemon=True).start()

    def __enter__(self):
        self._wanted.set()

    def __exit__(self, *error):
        self._wanted.clear()

    def _move(self):
        while self._wanted.wait():
            time.sleep(PACE)  # first, so that short gradients are left alone
            if self._wanted.is_set():
                self._comm.Iprobe()
