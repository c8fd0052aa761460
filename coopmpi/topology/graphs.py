"""Communication graphs to choose from: a registered graph owns its keys, and `bind` puts it on m workers."""

import os
from math import ceil, isqrt, log, log2
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from coopmpi import registry
from coopmpi.errors import UserError, quoted, unknown
from coopmpi.ranges import Count, Share, file_or
from coopmpi.registry import Part, register
from coopmpi.streams import Purpose, stream
from coopmpi.topology import files
from coopmpi.topology.links import Adjacency, Hub, PeriodicGrid, Topology
from coopmpi.topology.matcha import Matchings

if TYPE_CHECKING:
    import scipy.sparse

TABLE = ("graph", "weights", "lazy")  # keys of [mixing] that belong to no graph
ATTEMPTS = 100  # draws of a random graph that may be disconnected before a UserError says so


class Graph(Part):
    """Base of all graphs. Fields are keys of the [mixing] table. weighs: does it say itself how much a link counts?"""

    name: ClassVar[str]
    weighs: ClassVar[bool] = False

    def bind(self, workers: int, seed: int) -> "Topology | scipy.sparse.csr_array":
        """The Topology on this many workers, or their mixing matrix (m, m) float64; UserError if there is none."""
        raise NotImplementedError

    def describe(self, workers: int) -> str:
        """What `bind` gives, in a few words for people."""
        return f"{self.name} of {workers} worker{'s' * (workers != 1)}"


class GraphFile(Graph):
    """A graph or a mixing matrix from a file, see coopmpi.topology.files."""

    path: str
    directed: bool = False  # an edge list: "i j" is i sends to j, not the other way round

    @property
    def name(self) -> str:
        return self.path

    @property
    def weighs(self) -> bool:
        return files.holds_weights(self.path)

    def size(self) -> int:
        """How many workers the file is for."""
        return files.read(self.path, self.directed)[0].shape[0]

    def bind(self, workers: int, seed: int) -> "Topology | scipy.sparse.csr_array":
        matrix, weighted = files.read(self.path, self.directed)
        size = matrix.shape[0]
        if size != workers:
            raise UserError(f"[mixing] graph = {self.path!r} is for {size} workers, but there are {workers}; "
                            f"set workers = {size} or give another graph")
        return matrix if weighted else Adjacency(matrix, self.path)

    def describe(self, workers: int) -> str:
        return f"{self.path}, {workers} workers"


@register("graph", "complete")
class Complete(Graph):
    """All workers linked with each other."""

    def bind(self, workers: int, seed: int) -> Topology:
        return PeriodicGrid((workers,), [[(hop,) for hop in range(1, workers)]])


@register("graph", "ring")
class Ring(Graph):
    """A circle: each worker linked with the one before and the one after."""

    def bind(self, workers: int, seed: int) -> Topology:
        return PeriodicGrid((workers,), [[(1,), (-1,)]])


@register("graph", "torus")
class Torus(Graph):
    """A grid of rows x columns whose borders are joined; links that coincide (2 rows or columns) count once."""

    shape: tuple[Count, Count] | None = None

    def bind(self, workers: int, seed: int) -> Topology:
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

    def bind(self, workers: int, seed: int) -> Topology:
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

    def bind(self, workers: int, seed: int) -> Topology:
        return Hub(workers)


def exponential_hops(workers: int) -> list[int]:
    """1, 2, 4, ..., 2^(ceil(log2 m) - 1)."""
    return [2**k for k in range(ceil(log2(workers)))]


@register("graph", "exponential")
class Exponential(Graph):
    """Static exponential graph, directed: i sends to i + 1, i + 2, i + 4, ... (Ying et al., NeurIPS 2021)."""

    def bind(self, workers: int, seed: int) -> Topology:
        return PeriodicGrid((workers,), [[(hop,) for hop in exponential_hops(workers)]])


@register("graph", "one-peer-exponential")
class OnePeerExponential(Graph):
    """One hop of the exponential graph per round, in turn; averages exactly in one cycle if m is a power of two
    (Ying et al., NeurIPS 2021)."""

    def bind(self, workers: int, seed: int) -> Topology:
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

    probability: Share | None = None  # default 2 ln(m) / m, at most 1

    def bind(self, workers: int, seed: int) -> Topology:
        import networkx

        threshold = log(workers) / workers
        probability = self.probability or min(1.0, 2 * threshold) or 1.0
        what = f"an erdos-renyi graph of {workers} workers with probability {probability:.4g}"
        advice = f"take a probability well above ln(m) / m = {threshold:.4g}"
        if 1 - probability == 1:
            raise UserError(f"{what} has no links; {advice}")
        return _first_connected(
            lambda number: networkx.fast_gnp_random_graph(workers, probability, seed=number), seed, what, advice)


@register("graph", "random-regular")
class RandomRegular(Graph):
    """A random graph in which every worker has the same degree; drawn again until connected."""

    degree: Count | None = None  # default 3, or 4 for an odd number of workers

    def bind(self, workers: int, seed: int) -> Topology:
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

    weighs = True

    base: file_or(also=lambda: registry.parts("graph")) | None = None  # default ring
    budget: Share | None = None  # default 0.5

    def bind(self, workers: int, seed: int) -> Topology:
        graph = choose(self.base or "ring", {})
        base = graph.bind(workers, seed)
        if not isinstance(base, Topology) or base.directed or base.cycle != 1:
            raise UserError("[mixing] base: matcha needs a fixed undirected graph without weights, given "
                            f"{graph.describe(workers)}")
        return Matchings(base, self.budget or 0.5, seed)


def choose(name: str, keys: dict[str, Any]) -> Graph:
    """The graph of that name, file, or "package.module:Class" with its keys; UserError if there is none."""
    cls, own = graph_class(name), own_keys(name)
    for key in keys:
        if key not in own:
            raise unknown("key", key, {*own, *TABLE}, where="[mixing] ")
    return registry.convert(keys | ({"path": name} if cls is GraphFile else {}), cls, "[mixing]")


def own_keys(name: str) -> tuple[str, ...]:
    """The keys of that graph; UserError if there is none."""
    cls = graph_class(name)
    return ("directed",) if cls is GraphFile else cls.__struct_fields__


def graph_class(name: str) -> type[Graph]:
    """The class of that graph; UserError if there is none."""
    known = registry.parts("graph")
    if not isinstance(name, str):
        raise UserError(f"[mixing] graph must be a name, a file or package.module:Class, given {quoted(name)}")
    if name not in known and os.path.isfile(name):
        return GraphFile
    if name not in known and ":" not in name:
        raise UserError(f"{registry.unknown_part('graph', name, 'mixing')}; there is no file of this name either")
    return registry.find("graph", name)
