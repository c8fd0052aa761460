"""The rules for graphs."""

import numpy as np

from coopmpi.contract.rules import Broken, require
from coopmpi.errors import UserError
from coopmpi.topology.mixing import mixing_table

SIZES = (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16)
ROUNDS = 12  # that stand for all where a graph is drawn anew in every round


class Trial:
    """A graph by its name and keys, on many numbers of workers."""

    def __init__(self, name: str, keys: dict):
        self.name, self.keys = name, keys

    def bind(self, workers, seed=0):
        return mixing_table(graph=self.name, **self.keys).bind(workers, seed)

    def bound(self):
        """(MixingMatrix, its rounds) on every number of workers that it takes."""
        for workers in SIZES:
            try:
                mixing = self.bind(workers)
            except UserError:
                continue
            yield mixing, range(mixing.cycle or ROUNDS)


def works(trial):
    """It gives links, or a doubly stochastic matrix, for some numbers of workers, and refuses the others in words."""
    refused = []
    for workers in SIZES:
        try:
            for t in range(2):
                trial.bind(workers).matrix(t)
        except UserError as error:
            refused.append(str(error))
    require(len(refused) < len(SIZES), refused and refused[-1])


def mixes_doubly_stochastically(trial):
    """Rows and columns of W sum to 1 in every round."""
    for mixing, rounds in trial.bound():
        for t in rounds:
            w = mixing.matrix(t).toarray()
            for axis, line in ((1, "row"), (0, "column")):
                off = abs(w.sum(axis=axis) - 1).max()
                require(off < 1e-6, f"on {mixing.workers} workers a {line} of W is {off:.2g} off in round {t}")


def links_agree_on_both_sides(trial):
    """Whoever receives from a worker is whom that worker sends to."""
    for mixing, rounds in trial.bound():
        topology = mixing.topology
        for t in rounds:
            phase = mixing.phase(t)
            sources = {(j, i) for i in range(mixing.workers) for j in topology.sources(i, phase)}
            receivers = {(j, i) for j in range(mixing.workers) for i in topology.receivers(j, phase)}
            listed = set(zip(*(ends.tolist() for ends in topology.links(phase))))
            if sources != receivers:
                j, i = min(sources ^ receivers)
                raise Broken(f"on {mixing.workers} workers, round {t}: sources and receivers disagree about the link {j} -> {i}")
            require(listed == sources, f"on {mixing.workers} workers, round {t}: `links` and `sources` disagree")
            require(all(j != i for j, i in sources), f"on {mixing.workers} workers a worker is its own neighbour")


def brings_the_workers_together(trial):
    """From every worker something leads, in one round or several, to every other."""
    from scipy.sparse import csgraph

    for mixing, _ in trial.bound():
        # the links of all rounds, also of those that are drawn at random
        whole = mixing.whole
        union = sum(whole.matrix(t) for t in range(whole.cycle))
        parts, _ = csgraph.connected_components(union, connection="strong")
        require(parts == 1, f"{mixing.workers} workers fall into {parts} parts")


def is_drawn_from_the_seed(trial):
    """The same seed gives the same graph."""
    for workers in SIZES:
        try:
            one, other = trial.bind(workers, 3), trial.bind(workers, 3)
        except UserError:
            continue
        for t in range(4):
            require((one.matrix(t) != other.matrix(t)).nnz == 0, f"two graphs of {workers} workers differ in round {t}")


def is_what_it_says(trial):
    """Symmetric matrices are symmetric, averages are averages, and it describes itself in one line."""
    for mixing, rounds in trial.bound():
        m = mixing.workers
        for t in rounds:
            w = mixing.matrix(t).toarray()
            require(not mixing.symmetric or np.array_equal(w, w.T), f"W of {m} workers is not symmetric in round {t}")
            require(mixing.average(t) == bool(np.allclose(w, 1 / m, rtol=1e-12, atol=0)),
                    f"on {m} workers round {t} counts as an average, or does not, unlike its W")
        require(mixing.description and "\n" not in mixing.description, "its description is not one line")


RULES = (works, mixes_doubly_stochastically, links_agree_on_both_sides, brings_the_workers_together, is_drawn_from_the_seed,
         is_what_it_says)
