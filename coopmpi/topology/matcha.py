"""MATCHA: a graph taken apart into matchings, of which every round draws a few: less traffic, most of the mixing.

Source: Wang, Sahu, Yang, Joshi & Kar, MATCHA, 2019 (arXiv 1905.09435).
"""

from collections.abc import Sequence

import numpy as np

from coopmpi.errors import UserError
from coopmpi.streams import Purpose, stream
from coopmpi.topology.links import Topology

TOLERANCE = 1e-6  # of the smallest non-zero eigenvalue that is maximised, relative
ITERATIONS = 1000


class Matchings(Topology):
    """Disjoint matchings of a fixed undirected graph `base`, each active in a round with its own probability.

    Matching j has Laplacian L_j and W = I - a sum_j B_j L_j, B_j ~ Bernoulli(p_j) drawn from (seed, round). A
    phase is the set of active matchings as the bits of a number. weight: a; zeta: sqrt(rho), the share of the
    disagreement left after a round in the mean square, rho = ||E[W^T W] - J||.
    """

    cycle = None
    regular = False

    def __init__(self, base: Topology, budget: float, seed: int) -> None:
        self.base, self.workers, self.seed = base, base.workers, seed
        edges = [(i, j) for i in range(base.workers) for j in base.sources(i, 0) if i < j]
        matchings = edge_colouring(edges, base.workers)
        self._partners = [dict(edge for i, j in matching for edge in ((i, j), (j, i))) for matching in matchings]
        laplacians = np.array([laplacian(matching, base.workers) for matching in matchings])
        self.probabilities = activation(laplacians, budget)
        self.weight, rho = best_weight(laplacians, self.probabilities)
        if self.workers == 2:
            self.weight = 0.5  # exactly: a round in which the one link is active is an average
        self.zeta = float(np.sqrt(rho))
        self._last = None, 0  # (round, its phase)

    def phase(self, t: int) -> int:
        if self._last[0] != t:
            # worker=1, since a random base graph is drawn from the streams of worker 0
            drawn = stream(self.seed, Purpose.GRAPH, worker=1, step=t).random(len(self._partners))
            bits = (drawn < self.probabilities).tolist()
            self._last = t, sum(active << j for j, active in enumerate(bits))
        return self._last[1]

    def sources(self, i: int, t: int) -> tuple[int, ...]:
        active = (partners for j, partners in enumerate(self._partners) if t >> j & 1)
        return tuple(sorted(partners[i] for partners in active if i in partners))

    def averages(self) -> set[int]:
        return {1: {0}, 2: {1}}.get(self.workers, set())

    def activity(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(sources, targets, share of the rounds) of all links that any round may use."""
        found = [(i, j, p) for p, partners in zip(self.probabilities, self._partners) for i, j in partners.items()]
        sources, targets, share = zip(*found) if found else ((), (), ())
        return np.array(sources, np.int64), np.array(targets, np.int64), np.array(share, float)

    def mean_degree(self, i: int) -> float:
        return float(sum(p for p, partners in zip(self.probabilities, self._partners) if i in partners))


def edge_colouring(edges: Sequence[tuple[int, int]], workers: int) -> list[list[tuple[int, int]]]:
    """At most (largest degree + 1) matchings that together are `edges` (i, j) [Misra & Gries, IPL 41, 1992]."""
    at = [{} for _ in range(workers)]  # at[v][colour]: the other end of v's edge of this colour

    def paint(i, j, colour):
        at[i][colour], at[j][colour] = j, i

    def wipe(i, j, colour):
        del at[i][colour], at[j][colour]

    def free(v):
        return next(colour for colour in range(len(at[v]) + 1) if colour not in at[v])

    for x, y in edges:
        # the longest fan: neighbours of x, the colour of each one's edge free at the one before
        fan = [y]
        while longer := [u for colour, u in at[x].items() if u not in fan and colour not in at[fan[-1]]]:
            fan.append(longer[0])
        c, d = free(x), free(fan[-1])

        # swap c and d along the path of these two colours that starts at x: then d is free at x
        path, v, colour = [], x, d
        while colour in at[v]:
            path.append((v, at[v][colour], colour))
            v, colour = at[v][colour], c + d - colour
        for edge in path:
            wipe(*edge)
        for i, j, colour in path:
            paint(i, j, c + d - colour)

        # up to where d is free, every edge of the fan takes the colour of the next one, and the last one d
        end = next(k for k, u in enumerate(fan) if d not in at[u])
        colours = {u: colour for colour, u in at[x].items()}
        for u in fan[1:end + 1]:
            wipe(x, u, colours[u])
        for u, after in zip(fan, fan[1:end + 1]):
            paint(x, u, colours[after])
        paint(x, fan[end], d)

    matchings = {}
    for i in range(workers):
        for colour, j in at[i].items():
            if i < j:
                matchings.setdefault(colour, []).append((i, j))
    return [matchings[colour] for colour in sorted(matchings)]


def laplacian(matching: Sequence[tuple[int, int]], workers: int) -> np.ndarray:
    """L (m, m) float64 of disjoint pairs; L^2 = 2 L."""
    found = np.zeros((workers, workers))
    for i, j in matching:
        found[i, i] = found[j, j] = 1
        found[i, j] = found[j, i] = -1
    return found


def activation(laplacians: np.ndarray, budget: float) -> np.ndarray:
    """p (M,) that maximises lambda_2(sum_j p_j L_j) subject to sum_j p_j <= budget M and 0 <= p_j <= 1.

    laplacians: L_j, (M, m, m) float64; p, called `probabilities` below, is float64, too.
    lambda_2 is the smallest v^T (sum_j p_j L_j) v over unit v orthogonal to 1, so every eigenvector bounds it by a
    linear function of p: a linear programme that is solved with more and more of them (Kelley's cutting planes).
    """
    from scipy.optimize import linprog

    if budget == 1 or len(laplacians) < 2:
        return np.full(len(laplacians), float(budget))
    count, m = laplacians.shape[:2]
    away = np.full((m, m), 2 * count + 1.0)  # its eigenvalue at 1 is above all others, so 1 comes last
    p = best = np.full(count, float(budget))
    cuts, reached = [], -np.inf
    for _ in range(ITERATIONS):
        values, vectors = np.linalg.eigh(np.tensordot(p, laplacians, 1) + away)
        if values[0] > reached:
            best, reached = p, values[0]
        cuts += [(laplacians @ v) @ v for v in vectors[:, :min(3, m - 1)].T]
        # maximise t subject to t <= cut . p for all cuts
        rows = np.column_stack([-np.array(cuts), np.ones(len(cuts))])
        bounds = [(0, 1)] * count + [(None, None)]
        solution = linprog([0.0] * count + [-1.0], np.vstack([rows, [1.0] * count + [0.0]]),
                           [0.0] * len(cuts) + [budget * count], bounds=bounds)
        p = np.clip(solution.x[:-1], 0, 1)
        if solution.x[-1] <= reached * (1 + TOLERANCE):
            return best
    raise UserError(f"[mixing] the activation probabilities of {count} matchings were not found in {ITERATIONS} "
                    f"iterations; take another base graph or budget = 1")


def best_weight(laplacians: np.ndarray, probabilities: np.ndarray) -> tuple[float, float]:
    """(a, rho) that minimise rho = ||E[W^T W] - J|| for W = I - a sum_j B_j L_j."""
    from scipy.optimize import minimize_scalar

    if not len(laplacians):
        return 0.0, 0.0
    found = minimize_scalar(lambda a: contraction(laplacians, probabilities, a), bounds=(0, 1), method="bounded",
                            options={"xatol": 1e-9})
    return float(found.x), float(found.fun)


def contraction(laplacians: np.ndarray, probabilities: np.ndarray, a: float) -> float:
    """rho = ||I - 2 a Lbar + a^2 (Lbar^2 + 2 Ltilde) - J||, Lbar = sum p_j L_j, Ltilde = sum p_j (1 - p_j) L_j."""
    m = laplacians.shape[1]
    mean = np.tensordot(probabilities, laplacians, 1)
    variance = np.tensordot(probabilities * (1 - probabilities), laplacians, 1)
    moment = np.eye(m) - 2 * a * mean + a**2 * (mean @ mean + 2 * variance) - 1 / m
    return float(np.linalg.norm(moment, 2))
