"""Communication graphs: who receives whose model.

A registered graph is a choice of the user; `bind` puts it on m workers and gives a topology:
`PeriodicGrid` and `Hub` answer by formula, `Adjacency` holds the whole graph.
"""

from math import ceil, isqrt, log, log2
from typing import Annotated, ClassVar

import numpy as np
from msgspec import Meta

from coopmpi.errors import UserError
from coopmpi.registry import Part, register
from coopmpi.streams import Purpose, stream

ATTEMPTS = 100  # draws of a random graph before its parameters are held responsible for being disconnected

Probability = Annotated[float, Meta(gt=0, le=1)]
Share = Annotated[float, Meta(gt=0, le=1)]
Degree = Annotated[int, Meta(ge=1)]
Shape = tuple[Annotated[int, Meta(ge=1)], Annotated[int, Meta(ge=1)]]


class Topology:
    """Who receives from whom among `workers`, in round t = 0 .. cycle - 1. Base of the three below."""

    workers: int
    cycle = 1  # rounds until the same graph comes again; None: graphs are drawn at random
    directed = False
    regular = True  # every worker receives from, and sends to, the same number of others
    weight = None  # of every link, where the graph prescribes it
    grid = None  # shape of the periodic grid on which all workers look alike, if there is one

    def phase(self, t):
        """Which graph it is in round t, whatever number it is: the `t` of the methods below is a phase."""
        return t % self.cycle

    def sources(self, i, t):
        """Workers other than i that i receives from in round t, ascending."""
        raise NotImplementedError

    def receivers(self, j, t):
        """Workers other than j that receive from j in round t, ascending."""
        return self.sources(j, t)

    def degree(self, i, t):
        """How many workers i receives from in round t."""
        return len(self.sources(i, t))

    def mean_degree(self, i):
        """The same, averaged over all rounds."""
        return sum(self.degree(i, t) for t in range(self.cycle)) / self.cycle

    def averages(self):
        """The phases in which everybody is linked with everybody else."""
        return {t for t in range(self.cycle) if self.regular and self.degree(0, t) == self.workers - 1}


class PeriodicGrid(Topology):
    """Workers on a periodic grid, numbered in C order; in round t each sends along all of rounds[t].

    grid: (m,) is a circle, (rows, columns) a torus, (2, 2, ..., 2) a hypercube. rounds: per round a list of
    hops, each with one step per axis. Hops that lead to the same worker count once.
    """

    def __init__(self, grid, rounds):
        self.grid = grid
        self.workers = int(np.prod(grid))
        self.cycle = len(rounds)
        self._hops = [np.array(hops, dtype=np.int64).reshape(len(hops), len(grid)).T for hops in rounds]
        self.directed = any(self.sources(0, t) != self.receivers(0, t) for t in range(self.cycle))

    def _reached(self, start, steps):
        place = np.array(np.unravel_index(start, self.grid))[:, None]
        reached = np.unique(np.ravel_multi_index(tuple(place + steps), self.grid, mode="wrap"))
        return tuple(reached[reached != start].tolist())

    def sources(self, i, t):
        return self._reached(i, -self._hops[t])

    def receivers(self, j, t):
        return self._reached(j, self._hops[t])


class Hub(Topology):
    """Worker 0 linked with all others."""

    def __init__(self, workers):
        self.workers = workers
        self.regular = workers <= 2

    def sources(self, i, t):
        return tuple(range(1, self.workers)) if i == 0 else (0,)

    def degree(self, i, t):
        return self.workers - 1 if i == 0 else 1


class Adjacency(Topology):
    """Any connected graph, from a sparse m x m matrix: i receives from j where entry (i, j) is stored.

    The diagonal is ignored. Raises UserError, with `what` in front, if the graph is not connected.
    """

    def __init__(self, matrix, what):
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

    def sources(self, i, t):
        return self._others(self._incoming, i)

    def receivers(self, j, t):
        return self._others(self._outgoing, j)

    def degree(self, i, t):
        return int(self._incoming.indptr[i + 1] - self._incoming.indptr[i])


class Graph(Part):
    """Base of all graphs. Fields are keys of the [mixing] table."""

    name: ClassVar[str]

    def bind(self, workers, seed):
        """The topology on this many workers; UserError if there is none."""
        raise NotImplementedError


@register("graph", "complete")
class Complete(Graph):
    """All workers linked with each other."""

    def bind(self, workers, seed):
        return PeriodicGrid((workers,), [[(hop,) for hop in range(1, workers)]])


@register("graph", "ring")
class Ring(Graph):
    """A circle: each worker linked with the one before and the one after."""

    def bind(self, workers, seed):
        return PeriodicGrid((workers,), [[(1,), (-1,)]])


@register("graph", "torus")
class Torus(Graph):
    """A grid of rows x columns whose borders are joined; links that coincide (2 rows or columns) count once."""

    shape: Shape | None = None

    def bind(self, workers, seed):
        rows, columns = self.shape or self._most_square(workers)
        if rows * columns != workers:
            raise UserError(f"[mixing] shape = [{rows}, {columns}] is a torus of {rows * columns} workers, but "
                            f"there are {workers}; allowed: rows x columns = {workers}")
        return PeriodicGrid((rows, columns), [[(1, 0), (-1, 0), (0, 1), (0, -1)]])

    @staticmethod
    def _most_square(workers):
        rows = next(r for r in range(isqrt(workers), 0, -1) if workers % r == 0)
        if rows == 1 and workers > 3:
            raise UserError(f"a torus needs workers = rows x columns with at least 2 of each, given the prime "
                            f'{workers}; take {workers - 1} or {workers + 1} workers, or graph = "ring"')
        return rows, workers // rows


@register("graph", "hypercube")
class Hypercube(Graph):
    """Workers linked where their numbers differ in exactly one binary digit."""

    def bind(self, workers, seed):
        digits = workers.bit_length() - 1
        if workers != 2**digits:
            raise UserError(f"a hypercube needs a power of two, given {workers} workers; "
                            f"nearest allowed: {2**digits} or {2 ** (digits + 1)}")
        if workers == 1:
            return PeriodicGrid((1,), [[]])
        return PeriodicGrid((2,) * digits, [np.eye(digits, dtype=np.int64)])


@register("graph", "star")
class Star(Graph):
    """Worker 0 linked with all others, and they with nobody else."""

    def bind(self, workers, seed):
        return Hub(workers)


def exponential_hops(workers):
    """1, 2, 4, ..., 2^(ceil(log2 m) - 1)."""
    return [2**k for k in range(ceil(log2(workers)))]


@register("graph", "exponential")
class Exponential(Graph):
    """Static exponential graph, directed: i sends to i + 1, i + 2, i + 4, ... (Ying et al., NeurIPS 2021)."""

    def bind(self, workers, seed):
        return PeriodicGrid((workers,), [[(hop,) for hop in exponential_hops(workers)]])


@register("graph", "one-peer-exponential")
class OnePeerExponential(Graph):
    """One hop of the exponential graph per round, in turn; averages exactly in one cycle if m is a power of two
    (Ying et al., NeurIPS 2021)."""

    def bind(self, workers, seed):
        return PeriodicGrid((workers,), [[(hop,)] for hop in exponential_hops(workers)] or [[]])


def _first_connected(draw, seed, what, advice):
    """The first connected one of the graphs draw(0), draw(1), ... that networkx makes from our random numbers."""
    import networkx

    for attempt in range(ATTEMPTS):
        graph = draw(int(stream(seed, Purpose.GRAPH, step=attempt).integers(2**32)))
        if networkx.is_connected(graph):
            return Adjacency(networkx.to_scipy_sparse_array(graph, nodelist=range(len(graph))), what)
    raise UserError(f"{what} was disconnected in {ATTEMPTS} draws; {advice}")


@register("graph", "erdos-renyi")
class ErdosRenyi(Graph):
    """Each pair of workers linked with the given probability; drawn again until connected."""

    probability: Probability | None = None  # default 2 ln(m) / m, at most 1

    def bind(self, workers, seed):
        import networkx

        threshold = log(workers) / workers
        probability = self.probability or min(1.0, 2 * threshold) or 1.0
        return _first_connected(
            lambda number: networkx.fast_gnp_random_graph(workers, probability, seed=number), seed,
            f"an erdos-renyi graph of {workers} workers with probability {probability:.4g}",
            f"take a probability well above ln(m) / m = {threshold:.4g}")


@register("graph", "random-regular")
class RandomRegular(Graph):
    """A random graph in which every worker has the same degree; drawn again until connected."""

    degree: Degree | None = None  # default 3, or 4 for an odd number of workers

    def bind(self, workers, seed):
        import networkx

        degree = self.degree or min(4 if workers % 2 else 3, workers - 1)
        if degree >= workers or degree * workers % 2:
            raise UserError(f"a regular graph needs degree < workers and workers x degree even, given degree "
                            f"{degree} and {workers} workers; allowed: {self._allowed(workers)}")
        return _first_connected(
            lambda number: networkx.random_regular_graph(degree, workers, seed=number), seed,
            f"a random graph of {workers} workers with degree {degree}", "take degree 3 or more")

    @staticmethod
    def _allowed(workers):
        if workers <= 3:
            return f"degree {workers - 1}"
        return f"even degrees up to {workers - 1}" if workers % 2 else f"degrees up to {workers - 1}"


@register("graph", "matcha")
class Matcha(Graph):
    """Random matchings of a base graph, the active ones drawn anew in every round (Wang et al., MATCHA, 2019).

    base: a fixed undirected graph, by name or from a file. budget: share of its matchings that are used on average.
    """

    base: str | None = None  # default ring
    budget: Share | None = None  # default 0.5

    def bind(self, workers, seed):
        from coopmpi.topology.matcha import Matchings
        from coopmpi.topology.mixing import Mixing

        base, what = Mixing(graph=self.base or "ring").links(workers, seed)
        if not isinstance(base, Topology) or base.directed or base.cycle != 1:
            raise UserError(f"[mixing] base: matcha needs a fixed undirected graph without weights, given {what}")
        return Matchings(base, self.budget or 0.5, seed)
