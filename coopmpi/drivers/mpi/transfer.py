"""Messages under way. Each is posted without blocking, moved on by `progress`, and waited for one by one."""


class Rows:
    """A neighbour exchange: rows sent to and received from other ranks."""

    def __init__(self, comm, tag, sends, receives, device):
        self._comm, self._tag, self._device = comm, tag, device
        # receives are posted first, so that no message has to be buffered
        self._incoming = [(device.incoming(row), row, peer) for peer, row in receives]
        self._receives = [comm.Irecv(buffer, source=peer, tag=tag) for buffer, _, peer in self._incoming]
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
        for request in self._receives:
            request.Test()
        for request in self._sends:
            request.Test()

    def wait(self):
        for _, row in self._outgoing[len(self._sends):]:
            row.wait()
        self._post_ready()
        for request, (buffer, row, _) in zip(self._receives, self._incoming):
            request.Wait()
            self._device.arrived(buffer, row)
        for request in self._sends:
            request.Wait()


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
