"""Which rank hosts which workers."""


class RankLayout:
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
