"""Mixing weights: how much of each neighbour's model a worker takes.

Each of the three turns a topology into `edge(i, j, t)`, the weight w_ij of a link in round t; what is missing to 1
goes on the diagonal. All give a doubly stochastic W or raise UserError.
"""

from math import fsum, isclose

import numpy as np

from coopmpi.errors import UserError

ROUNDING = 1e-12
DENSE = 2000  # workers up to which dense eigenvalues are faster than Lanczos iterations


def uniform(topology):
    """w_ij = 1 / (degree + 1); needs a regular graph."""
    if not topology.regular:
        degrees = [topology.degree(i, 0) for i in range(topology.workers)]
        instead = 'weights = "metropolis"'
        if topology.directed:
            instead = "an undirected graph, a weighted matrix, or the algorithm sgp or overlap-sgp"
        raise UserError(f"this graph needs other weights than 1 / (degree + 1), or W is not doubly stochastic: "
                        f"its degrees are {min(degrees)} to {max(degrees)}, allowed is one; take {instead}")
    shares = [1 / (topology.degree(0, t) + 1) for t in range(topology.cycle)]
    return lambda i, j, t: shares[t]


def metropolis(topology):
    """w_ij = 1 / (1 + max(degree_i, degree_j)) (Xiao, Boyd, Lall 2006). On regular graphs this is `uniform`."""
    if topology.regular or topology.directed:
        return uniform(topology)
    return lambda i, j, t: 1 / (1 + max(topology.degree(i, t), topology.degree(j, t)))


def best_constant(topology):
    """W = I - a L with a = 2 / (lambda_2 + lambda_m) of the Laplacian L: the smallest zeta that one weight for all
    links can give (Xiao, Boyd 2004)."""
    if topology.directed:
        raise UserError('weights = "best-constant" needs an undirected graph, given a directed one; '
                        'take weights = "uniform" or "metropolis"')
    if topology.workers == 1:
        return lambda i, j, t: 0.0
    a = [float(2 / sum(laplacian_extremes(topology, t))) for t in range(topology.cycle)]
    return lambda i, j, t: a[t]


WEIGHTS = {"metropolis": metropolis, "uniform": uniform, "best-constant": best_constant}


def rest_on_diagonal(topology, edge):
    """row(i, t) = ((j, w_ij), ...), ascending in j, with w_ii = 1 - sum_j w_ij."""

    def row(i, t):
        others = [(j, edge(i, j, t)) for j in topology.sources(i, t)]
        own = 1 - fsum(weight for _, weight in others)
        # 1 / (degree + 1) in all places is the same number in all places: rows of equal weights are added faster
        if others and isclose(own, others[0][1], rel_tol=ROUNDING):
            own = others[0][1]
        return tuple(sorted(others + [(i, own)] if own else others))

    return row


def laplacian_extremes(topology, t):
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


def chirp(m):
    """A vector in which all frequencies are about equally strong: the start of Lanczos iterations."""
    return np.cos(np.arange(m) ** 2.0)


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
