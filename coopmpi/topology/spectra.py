"""How fast a mixing matrix W brings the workers together: eigenvalues, zeta = ||W - J||_2, stationary consensus.

J = 11^T / m. For directed graphs W is not symmetric and zeta is the largest singular value of W - J.
"""

from functools import reduce

import numpy as np

from coopmpi.errors import CoopError
from coopmpi.topology.weights import DENSE, chirp


def zeta(w):
    """||W - J||_2 of a matrix (m, m), dense or scipy.sparse: the share of disagreement left after one round."""
    m = w.shape[0]
    if m <= DENSE:
        dense = w if isinstance(w, np.ndarray) else w.toarray()
        return float(np.linalg.norm(dense - 1 / m, 2))
    return _largest_singular_value([w])


def cycle_zeta(mixing):
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


def spectral_gap(mixing):
    """1 - zeta of one cycle."""
    return 1 - cycle_zeta(mixing)


def rounds_to_shrink(factor, zeta, cycle=1):
    """Communication rounds until the disagreement is `factor` times smaller, ln(factor) / -ln(zeta); inf if never.

    zeta belongs to a whole cycle; one cycle is enough where it averages exactly.
    """
    if zeta < 1e-12:
        return float(cycle)
    if zeta > 1 - 1e-12:
        return float("inf")
    return cycle * float(np.log(factor) / -np.log(zeta))


def eigenvalues(mixing):
    """All m eigenvalues of a fixed symmetric W, ascending, the last one 1; O(m^3) except on periodic grids."""
    if mixing.topology.grid:
        return np.sort(_fourier_eigenvalues(mixing, 0).real)
    return np.linalg.eigvalsh(mixing.matrix(0).toarray())


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
