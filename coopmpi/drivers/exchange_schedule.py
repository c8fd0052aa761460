"""What has to travel between ranks in one communication round."""

from collections import defaultdict

import numpy as np


class ExchangeSchedule:
    """One rank's part in exchanging rows over the links of one communication round, or of several together.

    sends: {rank: local rows it needs}; receives: {rank: workers whose rows it sends}, both ascending; remote: the
    workers whose rows come from other ranks. degree (b,): to how many workers each local worker sends.
    """

    def __init__(self, mixing, rounds, rank_layout, rank):
        self.hosted = hosted = rank_layout.hosted(rank)
        # a row travels once to each rank that needs it
        sources = {j for t in rounds for i in hosted for j, _ in mixing.row(i, t)}
        self.remote = sorted(sources - set(hosted))
        self.receives = defaultdict(list)
        for j in self.remote:
            self.receives[rank_layout.rank_of(j)].append(j)
        self.sends = defaultdict(list)
        self.degree = np.zeros(len(hosted))
        for row, i in enumerate(hosted):
            receivers = {j for t in rounds for j in mixing.receivers(i, t)}
            self.degree[row] = len(receivers)
            for peer in sorted({rank_layout.rank_of(j) for j in receivers} - {rank}):
                self.sends[peer].append(row)
        self._position = {j: len(hosted) + place for place, j in enumerate(self.remote)}

    def weights(self, mixing, round):
        """Per local worker the sources of its row of W, ascending, and their weights.

        A source is a local row, or b + its place among the received rows.
        """
        found = []
        for i in self.hosted:
            row = mixing.row(i, round)
            found.append(([self._position.get(j, j - self.hosted.start) for j, _ in row], [w for _, w in row]))
        return found
