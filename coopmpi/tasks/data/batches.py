"""Which samples each worker takes at each step: a pure function of (seed, worker, step)."""

import numpy as np

from coopmpi.errors import UserError
from coopmpi.streams import Purpose, stream

WINDOW = 256  # samples per worker that are drawn, and assembled, at once (at least)


class Batches:
    """Mini-batches without replacement: a worker goes through its shard in a new random order per pass.

    Batch k is positions k*batch to (k+1)*batch - 1 in the sequence of all passes. Any step
    can be asked for at any time; steps in order are fast. batch = 0: every batch is the whole shard.

    shards: index arrays of the b workers that live here; workers: their global indices; dtype: of the weights;
    longest: length of the longest shard of all ranks, so that padding does not depend on which rank hosts whom.
    """

    def __init__(self, shards, workers, batch, seed, dtype="float64", longest=None):
        if batch < 0:
            raise UserError(f"[task] batch must be 1 or more, or 0 for the whole shard; given {batch}")
        self._shards, self._workers, self._seed = shards, workers, seed
        self.batch = batch
        self._window, self._window_number = None, None
        if batch == 0:
            self._window, self._weights = self._whole(longest or max(map(len, shards)), dtype)
            return
        self._steps = -(-WINDOW // batch)  # steps per window
        self._passes = [-(-WINDOW // len(shard)) for shard in shards]  # passes per group
        self._groups = [(None, None)] * len(shards)  # the last one of each worker: its number and order

    def indices(self, k):
        """Samples of step k, (b, batch) int64, read-only."""
        if self.batch == 0:
            return self._window
        number, row = divmod(k, self._steps)
        if number != self._window_number:
            self._window, self._window_number = self._assemble(number), number
        return self._window[row]

    def weights(self, k):
        """Weight of each sample in its worker's loss, (b, batch): 1/n_i, 0 on padding. None: all 1/batch."""
        return self._weights if self.batch == 0 else None

    def _whole(self, longest, dtype):
        """All shards, padded with their first sample, and the weights."""
        indices = np.stack([np.pad(s, (0, longest - len(s)), constant_values=s[0]) for s in self._shards])
        lengths = np.array([[len(s)] for s in self._shards])
        weights = np.where(np.arange(longest) < lengths, 1 / lengths, 0).astype(dtype)
        indices.setflags(write=False)
        weights.setflags(write=False)
        return indices, weights

    def _assemble(self, number):
        """Batches of the steps number*steps, ..., (number+1)*steps - 1 as one array (steps, b, batch)."""
        length = self._steps * self.batch
        window = np.empty((self._steps, len(self._shards), self.batch), np.int64)
        walk = np.empty(length, np.int64)
        for i in range(len(self._shards)):
            self._walk(i, number * length, walk)
            window[:, i] = walk.reshape(self._steps, self.batch)
        window.setflags(write=False)
        return window

    def _walk(self, i, position, out):
        """Fill `out` with the samples of local worker i from `position` on in the sequence of all its passes."""
        size = self._passes[i] * len(self._shards[i])
        done = 0
        while done < len(out):
            number, offset = divmod(position + done, size)
            piece = self._group(i, number)[offset : offset + len(out) - done]
            out[done : done + len(piece)] = piece
            done += len(piece)

    def _group(self, i, number):
        """Several passes at once, each a permutation of the shard: one stream serves at least WINDOW samples."""
        cached, order = self._groups[i]
        if cached != number:
            passes = np.tile(self._shards[i], (self._passes[i], 1))
            draw = stream(self._seed, Purpose.BATCHES, self._workers[i], number)
            order = draw.permuted(passes, axis=1).ravel()
            self._groups[i] = number, order
        return order
