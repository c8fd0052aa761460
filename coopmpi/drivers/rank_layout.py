"""Which rank hosts which workers."""

from typing import NamedTuple


class Group(NamedTuple):
    """Consecutive workers that average, seen from one rank that hosts some of them."""

    rows: slice  # the local rows that belong to it
    members: list[tuple[int, int]]  # (rank, how many of the group's workers it hosts), ascending


class RankLayout:
    """m workers on n ranks in contiguous blocks; the first m % n ranks host one more."""

    def __init__(self, workers: int, ranks: int):
        self.workers, self.ranks = workers, ranks
        self._size, self._more = divmod(workers, ranks)

    def hosted(self, rank: int) -> range:
        """The workers of a rank."""
        start = rank * self._size + min(rank, self._more)
        return range(start, start + self._size + (rank < self._more))

    def rank_of(self, worker: int) -> int:
        larger = self._more * (self._size + 1)
        if worker < larger:
            return worker // (self._size + 1)
        return self._more + (worker - larger) // self._size

    def groups(self, size: int, rank: int) -> list[Group]:
        """The groups of `size` consecutive workers, the last one possibly smaller, that this rank has a part in."""
        hosted, found = self.hosted(rank), []
        for start in range(hosted.start // size * size, hosted.stop, size):
            end = min(start + size, self.workers)
            ranks = range(self.rank_of(start), self.rank_of(end - 1) + 1)
            members = [(r, len(_overlap(self.hosted(r), start, end))) for r in ranks]
            own = _overlap(hosted, start, end)
            found.append(Group(slice(own.start - hosted.start, own.stop - hosted.start), members))
        return found


def _overlap(workers: range, start: int, end: int) -> range:
    return range(max(workers.start, start), min(workers.stop, end))
