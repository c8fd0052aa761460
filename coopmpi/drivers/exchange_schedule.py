"""What has to travel between ranks in one communication round."""

from collections import defaultdict
from collections.abc import Iterator

from coopmpi.drivers.rank_layout import RankLayout
from coopmpi.topology.matrix import MixingMatrix


class ExchangeSchedule:
    """One rank's part in exchanging rows over the links of one communication round, or of several together.

    sends: {rank: local rows it needs}; receives: {rank: workers whose rows it sends}, both ascending; remote: the
    workers whose rows come from other ranks; links: those over which the local workers send.
    """

    def __init__(self, mixing: MixingMatrix, rounds: list[int], layout: RankLayout, rank: int):
        self.hosted = layout.hosted(rank)
        self.links = mixing.links(rounds, self.hosted)
        self.receives, self.sends = defaultdict(list), defaultdict(list)
        self.remote = []
        if layout.ranks > 1:
            self._find_peers(mixing, rounds, layout, rank)

    def _find_peers(self, mixing, rounds, layout, rank):
        # a row travels once to each rank that needs it
        needed = {j for t in rounds for i in self.hosted for j, _ in mixing.row(i, t)}
        self.remote = sorted(needed - set(self.hosted))
        for j in self.remote:
            self.receives[layout.rank_of(j)].append(j)
        for row, i in enumerate(self.hosted):
            receivers = {j for t in rounds for j in mixing.receivers(i, t)}
            for peer in sorted({layout.rank_of(j) for j in receivers} - {rank}):
                self.sends[peer].append(row)
        self.sends = dict(sorted(self.sends.items()))

    def weights(self, mixing: MixingMatrix, round: int) -> "RowWeights":
        """What the local workers' rows of W X are made of in that round."""
        return RowWeights(self.hosted, self.remote, mixing, round)


class RowWeights:
    """Per local worker (sources, weights), ascending: a source is a local row, or b + its place among the remote rows.

    Computed at the first iteration: not at all where nothing is added up.
    """

    def __init__(self, hosted: range, remote: list[int], mixing: MixingMatrix, round: int):
        self._hosted, self._remote, self._mixing, self._round = hosted, remote, mixing, round
        self._rows = None

    def __iter__(self) -> Iterator[tuple[list[int], list[float]]]:
        if self._rows is None:
            position = {j: len(self._hosted) + place for place, j in enumerate(self._remote)}
            self._rows = [self._row(i, position) for i in self._hosted]
        return iter(self._rows)

    def _row(self, i, position):
        row = self._mixing.row(i, self._round)
        return [position.get(j, j - self._hosted.start) for j, _ in row], [weight for _, weight in row]
