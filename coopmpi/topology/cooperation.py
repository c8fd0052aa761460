"""The mixing matrices of Cooperative SGD: m workers and v auxiliary variables cooperate through one W.

Each builder gives sparse (m+v) x (m+v) matrices, one per round of a cycle; `Cooperation` is what a run needs.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from coopmpi.errors import UserError
from coopmpi.topology import files
from coopmpi.topology.links import Topology
from coopmpi.topology.matrix import TOLERANCE, MixingMatrix, require_doubly_stochastic, require_no_growth, row_of

if TYPE_CHECKING:
    import scipy.sparse


LONGEST = 10_000  # rounds in a cycle of matrices


class Cooperation(MixingMatrix):
    """(m+v) x (m+v) matrices W in blocks. As a MixingMatrix this is the workers' block: rows need not sum to 1.

    auxiliary: v. from_workers[t] (v, m) and among_auxiliary[t] (v, v): the lower blocks of W in phase t, dense float64.
    Raises UserError unless every W is symmetric, doubly stochastic, and lets no disagreement grow.
    """

    doubly_stochastic = False

    def __init__(self, matrices: Sequence["scipy.sparse.csr_array"], workers: int, description: str) -> None:
        for w in matrices:
            require_doubly_stochastic(w, description)
            require_no_growth(w, description)
            if abs(w - w.T).max() > TOLERANCE:
                raise UserError(f"cooperative needs a symmetric W, but {description} is not; dpa takes others")
        m = workers
        self.auxiliary = matrices[0].shape[0] - m
        self.from_workers = [w[m:, :m].toarray() for w in matrices]
        self.among_auxiliary = [w[m:, m:].toarray() for w in matrices]
        blocks = [w[:m, :m].tocsr() for w in matrices]
        for block in blocks:
            block.sort_indices()
        averages = {t for t, block in enumerate(blocks)
                    if block.nnz == m * m and np.allclose(block.data, 1 / m, rtol=1e-12, atol=0)}
        # a worker may take nothing from any worker, itself included
        super().__init__(SparseBlocks(blocks), lambda i, t: row_of(blocks[t], i) or ((i, 0.0),), averages,
                         symmetric=True, description=description)


class SparseBlocks(Topology):
    """The off-diagonal entries of symmetric sparse blocks, which need not be connected."""

    regular = False

    def __init__(self, blocks: Sequence["scipy.sparse.csr_array"]) -> None:
        self.workers, self.cycle = blocks[0].shape[0], len(blocks)
        self._blocks = blocks

    def sources(self, i: int, t: int) -> tuple[int, ...]:
        return tuple(j for j, _ in row_of(self._blocks[t], i) if j != i)


def from_file(path: str, workers: int) -> list["scipy.sparse.csr_array"]:
    """[W] of a file; v is what its size exceeds the workers by."""
    matrix, weighted = files.read(path)
    if not weighted:
        raise UserError(f"[algorithm] matrix = {path!r} holds plain links; allowed: a matrix in .npy or .h5")
    if matrix.shape[0] < workers:
        raise UserError(f"[algorithm] matrix = {path!r} is for {matrix.shape[0]} variables, but there are "
                        f"{workers} workers; allowed is (m + v) x (m + v) with v auxiliary variables, v >= 0")
    return [matrix]


def with_centre(w: "scipy.sparse.sparray", alpha: float | None) -> list["scipy.sparse.csr_array"]:
    """[W] of generalised EASGD: a centre z is tied to all workers, who mix by the symmetric w (m, m).

        W = [[(1 - a) w, a 1], [a 1^T, 1 - m a]]

    alpha None: a = (1 + zeta) / (m + 1 + zeta), the smallest zeta_W = max((1 - a) zeta, |1 - (m + 1) a|), for zeta
    of w. With w = I, zeta = 1, this is EASGD and a = 2 / (m + 2).
    """
    from scipy import sparse

    m = w.shape[0]
    if alpha is None:
        zeta = np.linalg.norm(w.toarray() - 1 / m, 2) if m > 1 else 0.0
        alpha = (1 + zeta) / (m + 1 + zeta)
    if alpha > 2 / (m + 1):
        raise UserError(f"[algorithm] alpha = {alpha:g} makes disagreement grow: allowed with {m} workers and one "
                        f"centre is at most 2 / (m + 1) = {2 / (m + 1):.6g}")
    spring = np.full((m, 1), alpha)
    return [sparse.block_array([[(1 - alpha) * w, spring], [spring.T, np.array([[1 - m * alpha]])]]).tocsr()]


def hierarchical(workers: int, group: int, outer: int) -> list["scipy.sparse.csr_array"]:
    """A cycle of W: groups of consecutive workers average at every round, all workers at every `outer`-th."""
    from scipy import sparse

    if outer > LONGEST:
        raise UserError(f"[algorithm] outer = {outer} rounds between averages; allowed are up to {LONGEST}")
    if workers % group:
        allowed = [size for size in range(1, workers + 1) if workers % size == 0]
        raise UserError(f"[algorithm] group = {group} does not divide {workers} workers; allowed: "
                        f"{', '.join(map(str, allowed))}")
    groups = sparse.kron(sparse.eye_array(workers // group), np.full((group, group), 1 / group)).tocsr()
    everybody = sparse.csr_array(np.full((workers, workers), 1 / workers))
    return [groups] * (outer - 1) + [everybody]
