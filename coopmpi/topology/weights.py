"""Mixing weights: how much of each neighbour's model a worker takes.

Each of the three turns a topology into `edge(i, j, t)`, the weight w_ij of a link in round t; what is missing to 1
goes on the diagonal. All give a doubly stochastic W or raise UserError.
"""

from collections.abc import Callable
from math import fsum, isclose

from coopmpi.errors import UserError
from coopmpi.topology.links import Topology
from coopmpi.topology.spectra import laplacian_extremes

ROUNDING = 1e-12

Edge = Callable[[int, int, int], float]  # (i, j, t) -> w_ij
Row = tuple[tuple[int, float], ...]  # (j, w_ij) for each j that worker i adds up, ascending in j


def uniform(topology: Topology) -> Edge:
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


def metropolis(topology: Topology) -> Edge:
    """w_ij = 1 / (1 + max(degree_i, degree_j)) (Xiao, Boyd, Lall 2006). On regular graphs this is `uniform`."""
    if topology.regular or topology.directed:
        return uniform(topology)
    return lambda i, j, t: 1 / (1 + max(topology.degree(i, t), topology.degree(j, t)))


def best_constant(topology: Topology) -> Edge:
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


def rest_on_diagonal(topology: Topology, edge: Edge) -> Callable[[int, int], Row]:
    """row(i, t) = ((j, w_ij), ...), ascending in j, with w_ii = 1 - sum_j w_ij."""

    def row(i, t):
        others = [(j, edge(i, j, t)) for j in topology.sources(i, t)]
        own = 1 - fsum(weight for _, weight in others)
        # 1 / (degree + 1) in all places is the same number in all places: rows of equal weights are added faster
        if others and isclose(own, others[0][1], rel_tol=ROUNDING):
            own = others[0][1]
        return tuple(sorted(others + [(i, own)] if own else others))

    return row
