"""Who receives from whom: `PeriodicGrid` and `Hub` answer by formula, `Adjacency` holds the whole graph."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from coopmpi.errors import UserError

if TYPE_CHECKING:
    import scipy.sparse


class Topology:
    """Who receives from whom among `workers`, in round t = 0 .. cycle - 1. Base of the three below."""

    workers: int
    cycle = 1  # rounds until the same graph comes again; None: graphs are drawn at random
    directed = False
    regular = True  # every worker receives from, and sends to, the same number of others
    weight = None  # of every link, where the graph prescribes it
    grid = None  # shape of the periodic grid on which all workers look alike, if there is one

    def phase(self, t: int) -> int:
        """Which graph round t has, for every t >= 0: the `t` of the methods below is a phase."""
        return t % self.cycle

    def sources(self, i: int, t: int) -> Sequence[int]:
        """Workers other than i that i receives from in round t, ascending."""
        raise NotImplementedError

    def receivers(self, j: int, t: int) -> Sequence[int]:
        """Workers other than j that receive from j in round t, ascending."""
        return self.sources(j, t)

    def links(self, t: int) -> tuple[np.ndarray, np.ndarray]:
        """(sources, targets) of all links of round t, int64; by ascending source, then by ascending target."""
        receivers = [self.receivers(j, t) for j in range(self.workers)]
        sources = np.repeat(np.arange(self.workers), [len(targets) for targets in receivers])
        return sources, np.fromiter((i for targets in receivers for i in targets), np.int64, len(sources))

    def degree(self, i: int, t: int) -> int:
        """How many workers i receives from in round t."""
        return len(self.sources(i, t))

    def mean_degree(self, i: int) -> float:
        """How many workers i receives from, averaged over all rounds."""
        return sum(self.degree(i, t) for t in range(self.cycle)) / self.cycle

    def averages(self) -> set[int]:
        """The phases in which everybody is linked with everybody else."""
        return {t for t in range(self.cycle) if self.regular and self.degree(0, t) == self.workers - 1}


class PeriodicGrid(Topology):
    """Workers on a periodic grid, numbered in C order; in round t each sends along all of rounds[t].

    grid: (m,) is a circle, (rows, columns) a torus, (2, 2, ..., 2) a hypercube. rounds: per round a list of
    hops, each with one step per axis. Hops that lead to the same worker count once.
    """

    def __init__(self, grid: tuple[int, ...], rounds: Sequence[ArrayLike]) -> None:
        self.grid = grid
        self.workers = int(np.prod(grid))
        self.cycle = len(rounds)
        self._hops = [np.array(hops, dtype=np.int64).reshape(len(hops), len(grid)).T for hops in rounds]
        self.directed = any(self.sources(0, t) != self.receivers(0, t) for t in range(self.cycle))

    def _reached(self, start, steps):
        place = np.array(np.unravel_index(start, self.grid))[:, None]
        reached = np.unique(np.ravel_multi_index(tuple(place + steps), self.grid, mode="wrap"))
        return tuple(reached[reached != start].tolist())

    def sources(self, i: int, t: int) -> tuple[int, ...]:
        return self._reached(i, -self._hops[t])

    def receivers(self, j: int, t: int) -> tuple[int, ...]:
        return self._reached(j, self._hops[t])

    def links(self, t: int) -> tuple[np.ndarray, np.ndarray]:
        # all workers look alike: the hops that lead worker 0 to different others do so everywhere
        others = np.array(self.receivers(0, t), np.int64)
        places = np.array(np.unravel_index(np.arange(self.workers), self.grid))[:, :, None]
        steps = np.array(np.unravel_index(others, self.grid))[:, None]
        targets = np.sort(np.ravel_multi_index(tuple(places + steps), self.grid, mode="wrap"), axis=1)
        return np.repeat(np.arange(self.workers), len(others)), targets.ravel()


class Hub(Topology):
    """Worker 0 linked with all others."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.regular = workers <= 2

    def sources(self, i: int, t: int) -> tuple[int, ...]:
        return tuple(range(1, self.workers)) if i == 0 else (0,)

    def degree(self, i: int, t: int) -> int:
        return self.workers - 1 if i == 0 else 1


class Adjacency(Topology):
    """Any connected graph, from a sparse m x m matrix: i receives from j where entry (i, j) is stored.

    The diagonal is ignored. Raises UserError, with `what` in front, if the graph is not connected.
    """

    def __init__(self, matrix: "scipy.sparse.sparray", what: str) -> None:
        from scipy import sparse

        links = sparse.coo_array(matrix)
        off_diagonal = links.row != links.col
        row, col = links.row[off_diagonal], links.col[off_diagonal]
        self.workers = links.shape[0]
        self._incoming = sparse.csr_array((np.ones(row.size), (row, col)), shape=links.shape)
        self._outgoing = self._incoming.T.tocsr()
        for links in (self._incoming, self._outgoing):
            links.sum_duplicates()
            links.sort_indices()
        self._require_connected(what)
        self.directed = (self._incoming != self._outgoing).nnz > 0
        degrees = np.concatenate([np.diff(self._incoming.indptr), np.diff(self._outgoing.indptr)])
        self.regular = bool(degrees.min() == degrees.max())

    def _require_connected(self, what):
        from scipy.sparse import csgraph

        components, label = csgraph.connected_components(self._incoming, connection="strong")
        if components > 1:
            stray = int(np.flatnonzero(label != label[0])[0])
            raise UserError(f"{what} is not connected: nothing leads from worker 0 to worker {stray} and back, so "
                            f"they never agree ({components} separate parts; 1 is allowed)")

    @staticmethod
    def _others(links, worker):
        return tuple(links.indices[links.indptr[worker]:links.indptr[worker + 1]].tolist())

    def sources(self, i: int, t: int) -> tuple[int, ...]:
        return self._others(self._incoming, i)

    def receivers(self, j: int, t: int) -> tuple[int, ...]:
        return self._others(self._outgoing, j)

    def links(self, t: int) -> tuple[np.ndarray, np.ndarray]:
        sources = np.repeat(np.arange(self.workers), np.diff(self._outgoing.indptr))
        return sources, self._outgoing.indices.astype(np.int64)

    def degree(self, i: int, t: int) -> int:
        return int(self._incoming.indptr[i + 1] - self._incoming.indptr[i])
