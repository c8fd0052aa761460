"""Messages under way. Each is posted without blocking, moved on by `progress`, and waited for one by one."""

import threading
import time
from collections import deque

PACE = 2e-4  # seconds between two MPI calls of a Mover: a socket's buffer holds what arrives meanwhile
PIECE = 32768  # bytes that Open MPI and MPICH send over TCP without asking the receiver first


class Rows:
    """A neighbour exchange: rows sent to and received from other ranks.

    Rows to other nodes travel in pieces: of two large messages that go opposite ways between two ranks, MPI moves one after
    the other over TCP. sends: (rank, row, whether its worker is silent, so that its messages are empty); receives: (rank, row);
    near: ranks on this node.
    """

    def __init__(self, comm, tag, sends, receives, device, status, near):
        self._comm, self._tag, self._device, self._status, self._near = comm, tag, device, status, near
        # receives are posted first, so that no message has to be buffered
        incoming = [(device.incoming(row), row, peer) for peer, row in receives]
        self._waiting = deque((deque(comm.Irecv(piece, source=peer, tag=tag) for piece in self._pieces(buffer, peer)),
                               buffer, row, peer) for buffer, row, peer in incoming)
        self._outgoing = [(device.outgoing(row), peer, silent) for peer, row, silent in sends]
        self._posted, self._sends = 0, deque()
        self._post_ready()

    def _pieces(self, buffer, peer):
        size = buffer.nbytes if peer in self._near else PIECE
        step = max(1, size // buffer.itemsize)
        return [buffer[start:start + step] for start in range(0, len(buffer), step)]

    def _post_ready(self):
        for row, peer, silent in self._outgoing[self._posted:]:
            if not row.ready:
                break
            self._posted += 1
            self._sends += [self._comm.Isend(piece[:0] if silent else piece, dest=peer, tag=self._tag)
                            for piece in self._pieces(row.buffer, peer)]

    @property
    def arrived(self):
        """Have all rows been received?"""
        return not self._waiting

    def progress(self):
        self._post_ready()
        while self._waiting and self._complete(self._waiting[0][0]):
            self._receive()
        sent = self._complete(self._sends)
        return not self._waiting and sent and self._posted == len(self._outgoing)

    def wait(self):
        for row, *_ in self._outgoing[self._posted:]:
            row.wait()
        self._post_ready()
        while self._waiting:
            for request in self._waiting[0][0]:
                request.Wait(self._status)
            self._receive()
        for request in self._sends:
            request.Wait()

    def missing(self):
        return sorted({peer for *_, peer in tuple(self._waiting)})

    def _complete(self, requests):
        """Are they all complete? Those that are need no further look."""
        while requests and requests[0].Test(self._status):
            requests.popleft()
        return not requests

    def _receive(self):
        """Take in a row; the status is that of its last message."""
        _, buffer, row, _ = self._waiting.popleft()
        if self._status.count:
            self._device.arrived(buffer, row)
        else:
            row[:] = 0  # a silent worker


class GroupSum:
    """out (n,) = the sum of rows that several ranks hold, in two rounds of messages between all of them.

    Every rank adds up one range of the numbers, in ascending order of the ranks, and sends the result to the others.
    members: (rank, how many rows it contributes), ascending. ordered: rows are added one by one, so that the sum does
    not depend on which rank holds which; otherwise each rank contributes the sum of its own. tags: of the two rounds
    of messages; near: ranks on this node.
    """

    def __init__(self, comm, tags, rows, members, out, device, status, near, ordered):
        self._comm, self._tags, self._out, self._device, self._status, self._near = comm, tags, out, device, status, near
        if not ordered and len(rows) > 1:
            rows = device.sum(rows, device.empty((1, out.shape[0]), out.dtype))
        n, d = len(members), out.shape[0]
        ranks = [rank for rank, _ in members]
        self._me = ranks.index(comm.rank)
        self._peers = [(rank, slice(i * d // n, (i + 1) * d // n)) for i, rank in enumerate(ranks)]
        own = self._peers[self._me][1]

        # the rows of all ranks, in the range that this rank adds up
        counts = [count if ordered else 1 for _, count in members]
        others = sum(counts) - counts[self._me]
        arriving = device.empty((others, own.stop - own.start), out.dtype)
        self._parts, receives, rest = [], [], list(arriving)
        for rank, count in zip(ranks, counts):
            if rank == comm.rank:
                self._parts += [row[own] for row in rows]
            else:
                parts, rest = rest[:count], rest[count:]
                self._parts += parts
                receives += [(rank, part) for part in parts]
        sends = [(rank, row[span], False) for rank, span in self._peers if rank != comm.rank for row in rows]
        self._first, self._second = Rows(comm, tags[0], sends, receives, device, status, near), None

    def progress(self):
        self._first.progress()
        if self._second is None and self._first.arrived:
            self._add_up()
        return self._second is not None and self._second.progress()

    def wait(self):
        self._first.wait()
        if self._second is None:
            self._add_up()
        self._second.wait()

    def missing(self):
        return (self._second or self._first).missing()

    def _add_up(self):
        # an array of its own: a device may still copy it for sending while others' ranges are written into `out`
        own = self._out[self._peers[self._me][1]]
        total = self._device.empty((1, own.shape[0]), own.dtype)
        own[...] = self._device.sum(self._parts, total)[0]
        others = [(rank, self._out[span]) for rank, span in self._peers if rank != self._comm.rank]
        sends = [(rank, total[0], False) for rank, _ in others]
        self._second = Rows(self._comm, self._tags[1], sends, others, self._device, self._status, self._near)


class Collective:
    """A nonblocking collective from one array into another.

    The constructor posts it, after waiting for the source: all ranks must post theirs in the same order.
    """

    def __init__(self, post, source, target, device):
        self._device, self._target = device, target
        self._buffer = device.incoming(target)
        self._outgoing = device.outgoing(source)
        self._outgoing.wait()
        self._request = post(self._outgoing.buffer, self._buffer)

    def progress(self):
        if self._request is not None and self._request.Test():
            self._arrive()
        return self._request is None

    def missing(self):
        return []

    def wait(self):
        if self._request is not None:
            self._request.Wait()
            self._arrive()

    def _arrive(self):
        self._request = None
        self._device.arrived(self._buffer, self._target)


class Mover:
    """A context in which a thread calls MPI again and again: MPI moves data only while it is called.

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
            time.sleep(PACE)  # first, so that short gradients are not disturbed
            if self._wanted.is_set():
                self._comm.Iprobe()
