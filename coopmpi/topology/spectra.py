"""How fast a mixing matrix W brings the workers together: eigenvalues, and zeta = ||W - J||_2.

J = 11^T / m. For directed graphs W is not symmetric and zeta is the largest singular value of W - J. `mixing` is a
coopmpi.topology.matrix.MixingMatrix.
"""

from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np

from coopmpi.errors import CoopError, UserError
from coopmpi.topology.links import Topology

if TYPE_CHECKING:
    import scipy.sparse

DENSE = 2000  # workers up to which dense eigenvalues are faster than Lanczos iterations
TOLERANCE = 1e-6  # moduli that differ from 1 by less count as 1


def zeta(w: "np.ndarray | scipy.sparse.sparray") -> float:
    """||W - J||_2 of a matrix (m, m), dense or scipy.sparse: the share of disagreement left after one round."""
    m = w.shape[0]
    if m <= DENSE:
        dense = w if isinstance(w, np.ndarray) else w.toarray()
        return float(np.linalg.norm(dense - 1 / m, 2))
    return _largest_singular_value([w])


def cycle_zeta(mixing: Any) -> float:
    """zeta of one whole cycle of a MixingMatrix, ||W_(c-1) ... W_1 W_0 - J||_2; the same as zeta if W is fixed.

    Of random matchings: of one round, in the mean square.
    """
    if mixing.cycle is None:
        return mixing.topology.zeta
    if any(mixing.average(t) for t in range(mixing.cycle)):
        return 0.0
    if mixing.topology.grid:
        # circulant matrices commute: their eigenvalues multiply; the first one, 1, belongs to J
        products = np.prod([_fourier_eigenvalues(mixing, t) for t in range(mixing.cycle)], axis=0)
        return float(abs(products[1:]).max(initial=0.0))
    matrices = [mixing.matrix(t) for t in range(mixing.cycle)]
    if mixing.workers <= DENSE:
        return zeta(reduce(lambda product, w: w @ product, matrices).toarray())
    return _largest_singular_value(matrices)


def spectral_gap(mixing: Any) -> float:
    """1 - zeta of one cycle."""
    return 1 - cycle_zeta(mixing)


def rounds_to_shrink(factor: float, zeta: float, cycle: int = 1) -> float:
    """Communication rounds until the disagreement is `factor` times smaller, ln(factor) / -ln(zeta); inf if never.

    zeta belongs to a whole cycle; one cycle is enough where it averages exactly.
    """
    if zeta < 1e-12:
        return float(cycle)
    if zeta > 1 - 1e-12:
        return float("inf")
    return cycle * float(np.log(factor) / -np.log(zeta))


def eigenvalues(mixing: Any) -> np.ndarray:
    """All m eigenvalues (m,) float64 of a fixed symmetric W, ascending, the last one 1; O(m^3) except on periodic grids."""
    if mixing.topology.grid:
        return np.sort(_fourier_eigenvalues(mixing, 0).real)
    return np.linalg.eigvalsh(mixing.matrix(0).toarray())


def reaches_consensus(matrix: "scipy.sparse.csr_array") -> bool:
    """Has no eigenvalue of this doubly stochastic matrix modulus 1, but the one of consensus?"""
    from scipy.sparse import csgraph

    parts, _ = csgraph.connected_components(matrix, connection="strong")
    if parts == 1 and matrix.data.min() >= 0 and matrix.diagonal().max() > 0:
        return True  # Perron and Frobenius
    moduli = np.sort(abs(np.linalg.eigvals(matrix.toarray())))
    return bool((moduli[:-1] < 1 - TOLERANCE).all())


def smallest_eigenvalue(mixing: Any) -> float:
    """The smallest eigenvalue of a fixed symmetric MixingMatrix."""
    from scipy.sparse.linalg import eigsh

    matrix = mixing.matrix(0)
    if mixing.workers <= 500:
        return float(np.linalg.eigvalsh(matrix.toarray())[0])
    return float(eigsh(matrix, k=1, which="SA", v0=np.cos(np.arange(mixing.workers)), return_eigenvectors=False)[0])


def norm(matrix: "scipy.sparse.sparray") -> float:
    """||W||_2 of a sparse matrix."""
    from scipy.sparse.linalg import svds

    return float(svds(matrix, k=1, v0=chirp(matrix.shape[0]), return_singular_vectors=False)[0])


def laplacian_extremes(topology: Topology, t: int) -> tuple[float, float]:
    """(lambda_2, lambda_m): second smallest and largest eigenvalue of the graph Laplacian in round t."""
    m = topology.workers
    if topology.grid:
        # all workers look alike, so the eigenvalues are a Fourier transform: degree - sum_hops cos(...)
        links = np.zeros(m)
        links[list(topology.sources(0, t))] = 1
        values = links.sum() - np.fft.fftn(links.reshape(topology.grid)).real.ravel()
        return values[1:].min(), values[1:].max()
    laplacian = _laplacian(topology, t)
    if m <= DENSE:
        values = np.linalg.eigvalsh(laplacian.toarray())
        return values[1], values[-1]
    return _lanczos_extremes(laplacian)


def _laplacian(topology, t):
    from scipy import sparse

    sources = [topology.sources(i, t) for i in range(topology.workers)]
    degrees = np.array([len(s) for s in sources])
    links = sparse.csr_array((np.ones(degrees.sum()), np.concatenate(sources).astype(np.int64),
                              np.concatenate([[0], np.cumsum(degrees)])), shape=(topology.workers,) * 2)
    return sparse.diags_array(degrees.astype(np.float64)) - links


def chirp(m: int) -> np.ndarray:
    """A vector (m,) float64 in which all frequencies are about equally strong: the start of Lanczos iterations."""
    return np.cos(np.arange(m) ** 2.0)


def _fourier_eigenvalues(mixing, t):
    # on a periodic grid every row is the first one, moved: the eigenvalues are its Fourier transform
    first = np.zeros(mixing.workers)
    for j, weight in mixing.row(0, t):
        first[j] = weight
    return np.fft.fftn(first.reshape(mixing.topology.grid)).ravel()


def _largest_singular_value(matrices):
    from scipy.sparse import linalg

    m = matrices[0].shape[0]

    def forward(x):
        x = x - x.mean()
        for w in matrices:
            x = w @ x
        return x

    def backward(x):
        for w in reversed(matrices):
            x = w.T @ x
        return x - x.mean()

    disagreement = linalg.LinearOperator((m, m), matvec=forward, rmatvec=backward, dtype=np.float64)
    try:
        return float(linalg.svds(disagreement, k=1, tol=1e-8, v0=chirp(m), return_singular_vectors=False)[0])
    except linalg.ArpackError as error:
        raise CoopError(f"zeta of this matrix of {m} workers was not found: {error}") from error


def _lanczos_extremes(laplacian):
    from scipy.sparse import linalg

    m = laplacian.shape[0]
    start = chirp(m)
    try:
        largest = linalg.eigsh(laplacian, k=1, which="LA", v0=start, return_eigenvectors=False)[0]
        # lambda_m (I - J) - L has eigenvalues lambda_m - lambda_j, and 0 for the constant vector
        flipped = linalg.LinearOperator((m, m), lambda x: largest * (x - x.mean()) - laplacian @ x, dtype=float)
        second = largest - linalg.eigsh(flipped, k=1, which="LA", v0=start, tol=1e-9, return_eigenvectors=False)[0]
    except linalg.ArpackError as error:
        raise UserError(f'weights = "best-constant": the eigenvalues of this graph of {m} workers were not found '
                        f'({error}); take weights = "metropolis"') from error
    return second, largest
