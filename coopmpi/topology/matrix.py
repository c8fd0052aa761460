"""The mixing matrix W of a run: X <- W X, row i says what worker i receives and how much of it counts."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from coopmpi.errors import UserError
from coopmpi.step.traffic import Links
from coopmpi.topology import spectra
from coopmpi.topology.links import Adjacency, Topology
from coopmpi.topology.weights import Row, rest_on_diagonal

if TYPE_CHECKING:
    import scipy.sparse

TOLERANCE = 1e-6  # how far the rows and columns of a given W may be from summing to 1


class MixingMatrix:
    """A doubly stochastic m x m matrix W, or a sequence of them that rounds t = 0, 1, ... go through.

    topology: the links, without the diagonal. row(i, phase): what the method `row` gives. averages: the phases in
    which W = J. cycle: rounds until the sequence starts again, None if never; fixed: W is always the same. symmetric:
    W = W^T. agrees: X <- W X brings the workers together in the end. description: one line for people.
    """

    doubly_stochastic = True
    auxiliary = 0  # variables that belong to no worker

    def __init__(self, topology: Topology, row: Callable[[int, int], Row], averages: set[int], symmetric: bool,
                 description: str, agrees: bool = True) -> None:
        self.topology = topology
        self.workers, self.cycle = topology.workers, topology.cycle
        self.fixed = self.cycle == 1
        self.symmetric, self.agrees = symmetric, agrees
        self.description = description
        self._row, self._averages = row, averages

    def phase(self, t: int) -> int:
        """A key for the matrix of round t: rounds with equal keys have equal matrices."""
        return self.topology.phase(t)

    @property
    def whole(self) -> "MixingMatrix":
        """A MixingMatrix that goes through every link that any round may use, in one cycle."""
        if self.cycle is not None:
            return self
        return weighed_evenly(self.topology.base, self.topology.weight, self.description)

    def row(self, i: int, t: int) -> Row:
        """((j, w_ij), ...) ascending in j, what worker i adds up in round t; j == i is left out if w_ii = 0."""
        return self._row(i, self.phase(t))

    def receivers(self, j: int, t: int) -> Sequence[int]:
        """The workers other than j that need j's model in round t, ascending."""
        return self.topology.receivers(j, self.phase(t))

    def links(self, rounds: Sequence[int], senders: range) -> Links:
        """The links over which these workers send in one or another of the rounds."""
        if len(senders) == self.workers:
            pairs = [np.stack(self.topology.links(self.phase(t))) for t in rounds]
            sources, targets = pairs[0] if len(pairs) == 1 else np.unique(np.concatenate(pairs, axis=1), axis=1)
        else:
            receivers = [sorted({i for t in rounds for i in self.receivers(j, t)}) for j in senders]
            sources = np.repeat(np.array(senders, np.int64), [len(targets) for targets in receivers])
            targets = np.array([i for targets in receivers for i in targets], np.int64)
        degree = np.bincount(sources - senders.start, minlength=len(senders))
        return Links(sources, targets, degree.astype(np.float64))

    def average(self, t: int) -> bool:
        """Is W the averaging matrix J = 11^T / m in round t, so that an all-reduce does the same?"""
        return self.phase(t) in self._averages

    def lazy(self) -> "MixingMatrix":
        """The MixingMatrix (I + W) / 2: it mixes half as much, and has no negative eigenvalues."""
        def row(i, t):
            halves = {j: w / 2 for j, w in self._row(i, t)}
            halves[i] = halves.get(i, 0.0) + 0.5
            return tuple(sorted(halves.items()))

        alone = {0} if self.workers == 1 else set()
        return type(self)(self.topology, row, alone, self.symmetric, f"{self.description}, lazy")

    def matrix(self, t: int) -> "scipy.sparse.csr_array":
        """W of round t, (m, m) float64."""
        from scipy import sparse

        rows = [self.row(i, t) for i in range(self.workers)]
        counts = np.cumsum([0] + [len(row) for row in rows])
        columns = np.fromiter((j for row in rows for j, _ in row), np.int64, counts[-1])
        values = np.fromiter((w for row in rows for _, w in row), np.float64, counts[-1])
        return sparse.csr_array((values, columns, counts), shape=(self.workers, self.workers))


def weighed_evenly(topology: Topology, weight: float, what: str) -> MixingMatrix:
    """The MixingMatrix I - weight L, L the Laplacian of an undirected topology."""
    row = rest_on_diagonal(topology, lambda i, j, t: weight)
    return MixingMatrix(topology, row, topology.averages(), True, f"{what}, all links with weight {weight:.4g}")


def from_matrix(matrix: "scipy.sparse.csr_array", what: str) -> MixingMatrix:
    """The MixingMatrix whose W is this sparse matrix as it stands; UserError if it cannot mix."""
    require_doubly_stochastic(matrix, what)
    require_no_growth(matrix, what)
    topology = Adjacency(matrix, what)
    m = topology.workers
    # if all numbers are 1 / m, none of the m x m entries is missing
    averages = {0} if np.allclose(matrix.data, 1 / m, rtol=1e-12, atol=0) else set()
    symmetric = bool(abs(matrix - matrix.T).max() <= 1e-12)
    return MixingMatrix(topology, lambda i, t: row_of(matrix, i), averages, symmetric,
                        f"{what}, {m} workers, weights from the file", spectra.reaches_consensus(matrix))


def row_of(matrix: "scipy.sparse.csr_array", i: int) -> Row:
    """((j, w_ij), ...) of a sparse matrix, in the order in which it holds them."""
    entries = slice(matrix.indptr[i], matrix.indptr[i + 1])
    return tuple(zip(matrix.indices[entries].tolist(), matrix.data[entries].tolist()))


def require_no_growth(matrix: "scipy.sparse.csr_array", what: str) -> None:
    """UserError if mixing by this doubly stochastic matrix can increase the disagreement."""
    # without negative entries ||W||_2 = 1 follows from the sums
    if matrix.data.min() < 0:
        norm = spectra.norm(matrix)
        if norm > 1 + TOLERANCE:
            raise UserError(f"{what} has negative entries and makes disagreement grow: ||W||_2 = {norm:.6g}, "
                            f"allowed is 1")


def require_doubly_stochastic(matrix: "scipy.sparse.sparray", what: str) -> None:
    """UserError unless all rows and columns sum to 1 within TOLERANCE."""
    for axis, line in ((1, "row"), (0, "column")):
        sums = np.asarray(matrix.sum(axis=axis)).ravel()
        worst = int(np.argmax(abs(sums - 1)))
        if abs(sums[worst] - 1) > TOLERANCE:
            raise UserError(f"{what} is not doubly stochastic: {line} {worst} sums to {sums[worst]:.8g}, allowed "
                            f"is 1 within {TOLERANCE:g} (plain links go into an edge list, without weights)")
