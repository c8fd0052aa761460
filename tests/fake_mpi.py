"""Communicators that connect threads of this process, for transfers: they know which requests were waited for.

A message is copied at the last moment, when its send is completed: a buffer that was given away before that arrives as
whatever it holds by then. Nothing here keeps a buffer alive.
"""

import threading
import weakref
from collections import defaultdict, deque

import numpy as np

PATIENCE = 10  # seconds after which a blocked rank counts as hanging


class Status:
    """What mpi4py fills in: `count` bytes."""

    count = 0


class Buffer:
    """Where a message lies, without holding on to it."""

    def __init__(self, array):
        base = array if array.base is None else array.base
        self._base = weakref.ref(base)
        self._offset = array.__array_interface__["data"][0] - base.__array_interface__["data"][0]
        self._shape, self._dtype = array.shape, array.dtype

    def array(self):
        base = self._base()
        assert base is not None, "the buffer of an open request is gone"
        return np.ndarray(self._shape, self._dtype, base.data, self._offset)


class Request:
    """A send or a receive. `done`: its owner has seen it complete."""

    def __init__(self, network, array):
        self.network, self.buffer = network, Buffer(array)
        self.matched = None  # the other side, where it has been posted
        self.complete = self.done = False
        self.nbytes = 0

    def Test(self, status=None):
        with self.network.changed:
            self._advance()
            if self.complete:
                self._seen(status)
            return self.complete

    def Wait(self, status=None):
        with self.network.changed:
            self._advance()
            assert self.network.changed.wait_for(lambda: self._advance() or self.complete, PATIENCE), "hangs"
            self._seen(status)

    def _seen(self, status):
        self.done = True
        if status is not None:
            status.count = self.nbytes

    def _advance(self):
        return self.complete


class Receive(Request):
    """Takes its message as late as possible: when its owner asks for it."""

    def _advance(self):
        send = self.matched
        if send is not None and not self.complete:
            sent = send.buffer.array()
            if sent.size:
                self.buffer.array()[...] = sent
            self.nbytes, self.complete, send.complete = sent.nbytes, True, True
            self.network.changed.notify_all()
        return self.complete


class Send(Request):
    """Complete when the receiver has taken the message, as in a rendezvous."""


class Network:
    """The ranks' communicators: `comms`, one for each."""

    def __init__(self, ranks):
        self.changed = threading.Condition()
        self.sends, self.receives = defaultdict(deque), defaultdict(deque)
        self.requests = [[] for _ in range(ranks)]
        self.comms = [Comm(self, rank, ranks) for rank in range(ranks)]

    def post(self, rank, request, key, own, others):
        with self.changed:
            self.requests[rank].append(request)
            if others[key]:
                other = others[key].popleft()
                request.matched, other.matched = other, request
            else:
                own[key].append(request)
            self.changed.notify_all()
        return request

    def run(self, work):
        """work(comm) on a thread for each rank; their results, or the first error."""
        results = [None] * len(self.comms)

        def one(rank):
            try:
                results[rank] = work(self.comms[rank])
            except BaseException as error:
                results[rank] = error

        threads = [threading.Thread(target=one, args=(rank,), daemon=True) for rank in range(len(self.comms))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(3 * PATIENCE)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return results


class Comm:
    """messages: {rank: numbers in each message sent to it}."""

    def __init__(self, network, rank, size):
        self.network, self.rank, self.size = network, rank, size
        self.messages = defaultdict(list)

    def Isend(self, array, dest, tag):
        network = self.network
        self.messages[dest].append(array.size)
        return network.post(self.rank, Send(network, array), (self.rank, dest, tag), network.sends, network.receives)

    def Irecv(self, array, source, tag):
        network = self.network
        return network.post(self.rank, Receive(network, array), (source, self.rank, tag), network.receives, network.sends)

    def open_requests(self):
        """Those of this rank that nobody has seen complete."""
        return [request for request in self.network.requests[self.rank] if not request.done]
