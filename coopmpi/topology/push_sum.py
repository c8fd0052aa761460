"""Push-sum: averaging over directed graphs, in which every sender chooses its weights."""

from typing import TYPE_CHECKING, Any

import numpy as np

from coopmpi.errors import UserError
from coopmpi.topology.links import Adjacency, Topology
from coopmpi.topology.matrix import TOLERANCE, MixingMatrix, row_of

if TYPE_CHECKING:
    import scipy.sparse


class PushSum(MixingMatrix):
    """Matrices P whose columns sum to 1: X <- P X keeps the sum of the models, but they go to unequal multiples of
    their mean.

    These multiples are known from w <- P w, w_0 = 1: x_i / w_i goes to the mean [Kempe, Dobra & Gehrke, FOCS 2003].
    w depends on the graph alone, so every rank follows all of it and only x travels.
    """

    doubly_stochastic = False

    def __init__(self, *arguments: Any) -> None:  # those of MixingMatrix
        super().__init__(*arguments)
        self._matrices = {}
        self._mass = 0, np.ones(self.workers)

    def mass(self, t: int) -> np.ndarray:
        """w (m,), float64, before round t; its sum is m."""
        if self.topology.regular:
            return np.ones(self.workers)
        reached, w = self._mass if self._mass[0] <= t else (0, np.ones(self.workers))
        for r in range(reached, t):
            phase = self.phase(r)
            if phase not in self._matrices:
                self._matrices[phase] = self.matrix(r)
            w = self._matrices[phase] @ w
        self._mass = t, w
        return w


def evenly(topology: Topology, what: str) -> PushSum:
    """The PushSum in which worker j keeps, and sends to each of its receivers, 1 / (number of receivers + 1)."""
    def row(i, t):
        return tuple((j, 1 / (len(topology.receivers(j, t)) + 1)) for j in sorted({i, *topology.sources(i, t)}))

    symmetric = topology.regular and not topology.directed
    return PushSum(topology, row, topology.averages(), symmetric, f"{what}, push-sum weights")


def from_matrix(matrix: "scipy.sparse.csr_array", what: str) -> PushSum:
    """The PushSum whose P is this sparse matrix as it stands; UserError if its columns do not divide a model."""
    sums = np.asarray(matrix.sum(axis=0)).ravel()
    worst = int(np.argmax(abs(sums - 1)))
    if abs(sums[worst] - 1) > TOLERANCE or matrix.data.min() < 0 or matrix.diagonal().min() <= 0:
        raise UserError(f"{what} is no matrix for push-sum: columns sum to 1, entries are at least 0, on the "
                        f"diagonal above 0; here column {worst} sums to {sums[worst]:.8g}, the smallest entry is "
                        f"{matrix.data.min():g}, on the diagonal {matrix.diagonal().min():g}")
    topology = Adjacency(matrix, what)
    topology.regular = False  # equal degrees say nothing about weights
    symmetric = bool(abs(matrix - matrix.T).max() <= 1e-12)
    return PushSum(topology, lambda i, t: row_of(matrix, i), set(), symmetric, f"{what}, weights from the file")
