"""The [mixing] table: a graph, weights on it, and the mixing matrices that follow."""

from typing import Any, Literal

import msgspec

from coopmpi import places, readers, registry
from coopmpi.errors import UserError
from coopmpi.topology import graphs, push_sum
from coopmpi.topology.links import Topology
from coopmpi.topology.matrix import MixingMatrix, from_matrix, require_doubly_stochastic, weighed_evenly
from coopmpi.topology.weights import WEIGHTS, rest_on_diagonal

RING = "ring"  # the graph where none is given


class Mixing(registry.Part):
    """A graph with its keys, and how much a link counts. A file that holds a weighted matrix is W itself."""

    graph: Any  # a Graph
    weights: Literal[*WEIGHTS] = "metropolis"
    lazy: bool = False  # (I + W) / 2 instead of W

    def table(self) -> dict[str, Any]:
        """The keys as the run description has them."""
        keys = msgspec.to_builtins(self.graph)
        name = keys.pop("path", self.graph.name)
        return {"graph": name, "weights": self.weights} | keys | {"lazy": self.lazy}

    def bind(self, workers: int, seed: int) -> MixingMatrix:
        """The MixingMatrix on this many workers, the same for the same seed; UserError if there is none."""
        mixing = self._weighed(workers, seed)
        if self.lazy and mixing.topology.weight is not None:
            raise UserError(f"[mixing] lazy = true: graph = {self.graph.name!r} chooses its weights; leave it out")
        return mixing.lazy() if self.lazy else mixing

    def push_sum(self, workers: int, seed: int) -> push_sum.PushSum:
        """The PushSum on this many workers; `weights` does not apply, senders choose."""
        links, what = self.graph.bind(workers, seed), self.graph.describe(workers)
        mixing = push_sum.evenly(links, what) if isinstance(links, Topology) else push_sum.from_matrix(links, what)
        return mixing.lazy() if self.lazy else mixing

    def _weighed(self, workers, seed):
        links, what = self.graph.bind(workers, seed), self.graph.describe(workers)
        if not isinstance(links, Topology):
            return from_matrix(links, what)
        if links.weight is not None:
            return weighed_evenly(links, links.weight, what)
        # on a complete graph all three weights give J
        row = rest_on_diagonal(links, WEIGHTS[self.weights](links))
        mixing = MixingMatrix(links, row, links.averages(), symmetric=not links.directed,
                              description=f"{what}, {self.weights} weights")
        if ":" in self.graph.name:
            # a user's own graph may say something wrong about itself
            for t in range(mixing.cycle):
                require_doubly_stochastic(mixing.matrix(t), f"[mixing] graph = {self.graph.name!r}")
        return mixing


def mixing_table(graph: str = RING, weights: str = "metropolis", lazy: bool = False, **keys: Any) -> Mixing:
    """The Mixing of a [mixing] table: `keys` are the graph's own. UserError says who takes another key."""
    if others := of_other_graphs({"graph": graph} | keys):
        raise readers.refusal(others)
    return registry.convert({"weights": weights, "lazy": lazy, "graph": graphs.choose(graph, keys)}, Mixing, "[mixing]")


def keys_of(table: dict[str, Any]) -> tuple[str, ...]:
    """All keys that a [mixing] table with this graph may have."""
    return (*graphs.TABLE, *graphs.own_keys(table.get("graph", RING)))


def of_other_graphs(table: dict[str, Any]) -> readers.Unread:
    """Which keys of a [mixing] table belong to other graphs than its own."""
    known, graph = keys_of(table), table.get("graph", RING)
    strange = [key for key in table if key not in known]
    files_only = {"mixing.directed": readers.Reader("mixing.graph", graph, ("a file",))} if "directed" in strange else {}
    return readers.of_other_choices("mixing.graph", graph, strange, "graph") | files_only


def located(table: dict[str, Any], folder: str) -> dict[str, Any]:
    """A [mixing] table with absolute paths in place of files, which are looked for as coopmpi.places says."""
    files = {key: places.found(table[key], folder) for key in ("graph", "base")
             if isinstance(table.get(key), str) and table[key] not in registry.parts("graph")}
    return table | files
