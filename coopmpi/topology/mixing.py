"""The mixing matrix W of a run: X <- W X, row i says what worker i receives and how much of it counts."""

from pathlib import Path

import numpy as np

from coopmpi import registry
from coopmpi.errors import UserError, unknown
from coopmpi.topology import files
from coopmpi.topology.graphs import Adjacency, Degree, Graph, Probability, Shape, Share, Topology
from coopmpi.topology.weights import WEIGHTS, chirp, rest_on_diagonal

TOLERANCE = 1e-6  # how far the rows and columns of a given W may be from summing to 1


class MixingMatrix:
    """A doubly stochastic m x m matrix W, or a sequence of them that rounds t = 0, 1, ... go through.

    topology: the links, without the diagonal. averages: the phases in which W = J. cycle: rounds until the
    sequence starts again, None if never; fixed: W is always the same. symmetric: W = W^T. agrees: X <- W X brings
    the workers together in the end. description: one line for people.
    """

    doubly_stochastic = True
    agrees = True
    auxiliary = 0  # variables that belong to no worker

    def __init__(self, topology, row, averages, symmetric, description):
        self.topology = topology
        self.workers, self.cycle = topology.workers, topology.cycle
        self.fixed = self.cycle == 1
        self.symmetric = symmetric
        self.description = description
        self._row, self._averages = row, averages

    def phase(self, t):
        """A key for the matrix of round t: rounds with equal keys have equal matrices."""
        return self.topology.phase(t)

    @property
    def whole(self):
        """A MixingMatrix that goes through every link that any round may use, in one cycle."""
        if self.cycle is not None:
            return self
        return weighed_evenly(self.topology.base, self.topology.weight, self.description)

    def row(self, i, t):
        """((j, w_ij), ...) ascending in j, what worker i adds up in round t; j == i is left out if w_ii = 0."""
        return self._row(i, self.phase(t))

    def receivers(self, j, t):
        """The workers other than j that need j's model in round t, ascending."""
        return self.topology.receivers(j, self.phase(t))

    def average(self, t):
        """Is W the averaging matrix J = 11^T / m in round t, so that an all-reduce does the same?"""
        return self.phase(t) in self._averages

    def lazy(self):
        """The MixingMatrix (I + W) / 2: it mixes half as much, and has no negative eigenvalues."""
        def row(i, t):
            halves = {j: w / 2 for j, w in self._row(i, t)}
            halves[i] = halves.get(i, 0.0) + 0.5
            return tuple(sorted(halves.items()))

        alone = {0} if self.workers == 1 else set()
        return type(self)(self.topology, row, alone, self.symmetric, f"{self.description}, lazy")

    def matrix(self, t):
        """W of round t as scipy.sparse.csr_array, float64."""
        from scipy import sparse

        rows = [self.row(i, t) for i in range(self.workers)]
        counts = np.cumsum([0] + [len(row) for row in rows])
        columns = np.fromiter((j for row in rows for j, _ in row), np.int64, counts[-1])
        values = np.fromiter((w for row in rows for _, w in row), np.float64, counts[-1])
        return sparse.csr_array((values, columns, counts), shape=(self.workers, self.workers))


class Mixing(registry.Part):
    """The [mixing] table. graph: a registered name, a file, or package.module:Class.

    A file that holds a weighted matrix is W itself; `weights` does not apply then.
    """

    graph: str = "ring"
    weights: str = "metropolis"  # metropolis | uniform | best-constant
    shape: Shape | None = None  # torus
    probability: Probability | None = None  # erdos-renyi
    degree: Degree | None = None  # random-regular
    base: str | None = None  # matcha
    budget: Share | None = None  # matcha
    directed: bool | None = None  # an edge list in a file: "i j" is i sends to j, not the other way round
    lazy: bool = False  # (I + W) / 2 instead of W

    def bind(self, workers, seed):
        """The MixingMatrix on this many workers, the same for the same seed; UserError if it cannot be."""
        mixing = self._bind(workers, seed)
        if self.lazy and mixing.topology.weight is not None:
            raise UserError(f"[mixing] lazy = true: graph = {self.graph!r} chooses its weights; leave it out")
        return mixing.lazy() if self.lazy else mixing

    def push_sum(self, workers, seed):
        """The PushSum on this many workers; `weights` does not apply, senders choose."""
        from coopmpi.topology import push_sum

        if self.weights != "metropolis":
            raise UserError(f"[mixing] weights = {self.weights!r} plays no part in push-sum: every sender divides its "
                            f"model evenly, or as a matrix in a file says; leave it out")
        links, what = self.links(workers, seed)
        mixing = push_sum.evenly(links, what) if isinstance(links, Topology) else push_sum.given(links, what)
        return mixing.lazy() if self.lazy else mixing

    def _bind(self, workers, seed):
        links, what = self.links(workers, seed)
        if not isinstance(links, Topology):
            return given(links, what)
        mixing = self._weigh(links, what)
        if ":" in self.graph and mixing.cycle:
            for t in range(mixing.cycle):
                require_doubly_stochastic(mixing.matrix(t), f"[mixing] graph = {self.graph!r}")
        return mixing

    def links(self, workers, seed):
        """(the topology, or the weighted sparse matrix of a file; its description)."""
        if self.weights not in WEIGHTS:
            raise unknown("weights", self.weights, WEIGHTS, where="[mixing] ")
        if self.graph not in registry.parts("graph") and Path(self.graph).is_file():
            self._refuse_keys_except(("directed",), "a graph from a file")
            return self._from_file(workers)
        topology = self._graph_class()(**self._graph_keys()).bind(workers, seed)
        return topology, f"{self.graph} of {workers} worker{'s' * (workers != 1)}"

    def _graph_class(self):
        known = registry.parts("graph")
        if self.graph not in known and ":" not in self.graph:
            error = unknown("graph", self.graph, known, where="[mixing] ")
            raise UserError(f"{error}, or a file: there is none of this name")
        cls = registry.find("graph", self.graph)
        if not (isinstance(cls, type) and issubclass(cls, Graph)):
            raise UserError(f"[mixing] graph = {self.graph!r} must be a subclass of coopmpi.topology.graphs.Graph, "
                            f"found {cls!r}")
        return cls

    def _graph_keys(self):
        own = self._graph_class().__struct_fields__
        self._refuse_keys_except(own, f"graph = {self.graph!r}")
        return {key: getattr(self, key) for key in own}

    def _refuse_keys_except(self, own, what):
        for key in ("shape", "probability", "degree", "base", "budget", "directed"):
            if getattr(self, key) is not None and key not in own:
                graphs = registry.parts("graph").items()
                takes = [repr(name) for name, cls in graphs if key in cls.__struct_fields__]
                raise UserError(f"[mixing] {key} = {getattr(self, key)!r} does not go with {what}; it belongs to "
                                f"graph = {', '.join(takes) or 'a file'}")

    def _from_file(self, workers):
        matrix, weighted = files.read(self.graph, bool(self.directed))
        size = matrix.shape[0]
        if size != workers:
            raise UserError(f"[mixing] graph = {self.graph!r} is for {size} workers, but there are {workers}; "
                            f"set workers = {size} or give another graph")
        if weighted:
            return matrix, self.graph
        return Adjacency(matrix, self.graph), f"{self.graph}, {size} workers"

    def _weigh(self, topology, what):
        if topology.weight is not None:
            return weighed_evenly(topology, topology.weight, what)
        edge = WEIGHTS[self.weights](topology)
        # on a complete graph all three weights give J
        return MixingMatrix(topology, rest_on_diagonal(topology, edge), topology.averages(),
                            symmetric=not topology.directed, description=f"{what}, {self.weights} weights")


def weighed_evenly(topology, weight, what):
    """The MixingMatrix I - weight L, L the Laplacian of an undirected topology."""
    row = rest_on_diagonal(topology, lambda i, j, t: weight)
    return MixingMatrix(topology, row, topology.averages(), True, f"{what}, all links with weight {weight:.4g}")


def given(matrix, what):
    """The MixingMatrix whose W is this sparse matrix as it stands; UserError if it cannot mix."""
    require_doubly_stochastic(matrix, what)
    require_no_growth(matrix, what)
    topology = Adjacency(matrix, what)
    m = topology.workers
    # none of the m x m entries is missing then
    averages = {0} if np.allclose(matrix.data, 1 / m, rtol=1e-12, atol=0) else set()
    symmetric = bool(abs(matrix - matrix.T).max() <= 1e-12)
    mixing = MixingMatrix(topology, lambda i, t: row_of(matrix, i), averages, symmetric,
                          f"{what}, {m} workers, weights from the file")
    mixing.agrees = agrees(matrix)
    return mixing


def row_of(matrix, i):
    """((j, w_ij), ...) of a scipy.sparse.csr_array, in the order in which it holds them."""
    entries = slice(matrix.indptr[i], matrix.indptr[i + 1])
    return tuple(zip(matrix.indices[entries].tolist(), matrix.data[entries].tolist()))


def agrees(matrix):
    """Has no eigenvalue of this doubly stochastic matrix modulus 1, but the one of consensus?"""
    from scipy.sparse import csgraph

    parts, _ = csgraph.connected_components(matrix, connection="strong")
    if parts == 1 and matrix.data.min() >= 0 and matrix.diagonal().max() > 0:
        return True  # Perron and Frobenius
    moduli = np.sort(abs(np.linalg.eigvals(matrix.toarray())))
    return bool((moduli[:-1] < 1 - TOLERANCE).all())


def smallest_eigenvalue(mixing):
    """Of a fixed symmetric MixingMatrix."""
    from scipy.sparse.linalg import eigsh

    matrix = mixing.matrix(0)
    if mixing.workers <= 500:
        return float(np.linalg.eigvalsh(matrix.toarray())[0])
    return float(eigsh(matrix, k=1, which="SA", v0=np.cos(np.arange(mixing.workers)), return_eigenvectors=False)[0])


def require_no_growth(matrix, what):
    """UserError if mixing by this doubly stochastic matrix can increase the disagreement."""
    # without negative entries ||W||_2 = 1 follows from the sums
    if matrix.data.min() < 0:
        from scipy.sparse.linalg import svds

        norm = svds(matrix, k=1, v0=chirp(matrix.shape[0]), return_singular_vectors=False)[0]
        if norm > 1 + TOLERANCE:
            raise UserError(f"{what} has negative entries and makes disagreement grow: ||W||_2 = {norm:.6g}, "
                            f"allowed is 1")


def require_doubly_stochastic(matrix, what):
    """UserError unless all rows and columns sum to 1 within TOLERANCE."""
    for axis, line in ((1, "row"), (0, "column")):
        sums = np.asarray(matrix.sum(axis=axis)).ravel()
        worst = int(np.argmax(abs(sums - 1)))
        if abs(sums[worst] - 1) > TOLERANCE:
            raise UserError(f"{what} is not doubly stochastic: {line} {worst} sums to {sums[worst]:.8g}, allowed "
                            f"is 1 within {TOLERANCE:g} (plain links go into an edge list, without weights)")
