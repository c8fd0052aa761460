"""Which rank hosts which workers, and what has to travel between ranks in one communication round."""

from collections import defaultdict

import numpy as np


class Placement:
    """m workers on n ranks in contiguous blocks; the first m % n ranks host one more."""

    def __init__(self, workers, ranks):
        self.workers, self.ranks = workers, ranks
        self._size, self._more = divmod(workers, ranks)

    def hosted(self, rank):
        """The workers of a rank, a range."""
        start = rank * self._size + min(rank, self._more)
        return range(start, start + self._size + (rank < self._more))

    def rank_of(self, worker):
        larger = self._more * (self._size + 1)
        if worker < larger:
            return worker // (self._size + 1)
        return self._more + (worker - larger) // self._size


class Plan:
    """One rank's part in X <- W X.

    sends: {rank: local rows it needs}; receives: {rank: workers whose rows it sends}, both ascending.
    rows: per local worker the sources in ascending worker index, local row or (b + position among the
    received rows), and their weights. degree (b,): to how many workers each local worker sends.
    """

    def __init__(self, mixing, round, placement, rank):
        hosted = placement.hosted(rank)
        first, b = hosted.start, len(hosted)
        weighted = [mixing.row(i, round) for i in hosted]

        # a row travels once to each rank that needs it
        remote = sorted({j for row in weighted for j, _ in row if j not in hosted})
        self.receives = defaultdict(list)
        for j in remote:
            self.receives[placement.rank_of(j)].append(j)
        self.sends = defaultdict(list)
        self.degree = np.zeros(b)
        for i in hosted:
            receivers = mixing.receivers(i, round)
            self.degree[i - first] = len(receivers)
            for peer in sorted({placement.rank_of(j) for j in receivers} - {rank}):
                self.sends[peer].append(i - first)

        arrived = {j: b + position for position, j in enumerate(remote)}
        self.rows = [([arrived.get(j, j - first) for j, _ in row], [w for _, w in row]) for row in weighted]
        self.remote = len(remote)
