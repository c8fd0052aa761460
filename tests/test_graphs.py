"""Topologies: who receives from whom, for every registered graph and for graphs from files."""

import networkx
import numpy as np
import pytest

from coopmpi import registry
from coopmpi.errors import UserError
from coopmpi.topology import files
from coopmpi.topology.links import Adjacency, PeriodicGrid
from coopmpi.topology.mixing import mixing_table

BUILTIN = ["complete", "erdos-renyi", "exponential", "hypercube", "one-peer-exponential", "random-regular", "ring",
           "star", "torus"]
IMPOSSIBLE = [("hypercube", 3), ("hypercube", 11), ("torus", 11)]
SIZES = [(name, m) for name in BUILTIN for m in (1, 2, 3, 4, 8, 11, 16) if (name, m) not in IMPOSSIBLE]


def bound(name, workers, seed=0, **keys):
    return registry.find("graph", name)(**keys).bind(workers, seed)


def links(topology, t=0):
    return {(i, j) for i in range(topology.workers) for j in topology.sources(i, t)}


def undirected(graph):
    return {(i, j) for a, b in graph.edges for i, j in ((a, b), (b, a))}


def test_the_registry_has_these_graphs():
    assert list(registry.parts("graph")) == sorted([*BUILTIN, "matcha"])  # see tests/test_matcha.py


REFERENCES = {
    "complete": (7, networkx.complete_graph(7)),
    "ring": (7, networkx.cycle_graph(7)),
    "star": (7, networkx.star_graph(6)),
    "torus": (12, networkx.convert_node_labels_to_integers(networkx.grid_2d_graph(3, 4, periodic=True))),
    "hypercube": (16, networkx.relabel_nodes(
        networkx.hypercube_graph(4), lambda bits: int("".join(map(str, bits)), 2))),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_graph_is_the_one_networkx_builds(name):
    workers, reference = REFERENCES[name]
    assert links(bound(name, workers)) == undirected(reference)


def test_exponential_sends_to_powers_of_two():
    topology = bound("exponential", 11)
    for j in range(11):
        assert topology.receivers(j, 0) == tuple(sorted((j + hop) % 11 for hop in (1, 2, 4, 8)))
    one_peer = bound("one-peer-exponential", 11)
    assert [one_peer.receivers(9, t) for t in range(one_peer.cycle)] == [(10,), (0,), (2,), (6,)]


def test_torus_links_that_coincide_count_once():
    assert links(bound("torus", 8)) == undirected(networkx.convert_node_labels_to_integers(
        networkx.cartesian_product(networkx.path_graph(2), networkx.cycle_graph(4))))
    assert links(bound("torus", 6, shape=(1, 6))) == links(bound("ring", 6))


@pytest.mark.parametrize("name, workers", SIZES)
def test_sources_receivers_and_degrees_agree(name, workers):
    topology = bound(name, workers)
    assert topology.workers == workers
    for t in range(topology.cycle):
        pairs = links(topology, t)
        assert pairs == {(i, j) for j in range(workers) for i in topology.receivers(j, t)}
        assert all(i != j for i, j in pairs)
        incoming = [topology.sources(i, t) for i in range(workers)]
        lists = incoming + [topology.receivers(j, t) for j in range(workers)]
        assert all(list(neighbours) == sorted(set(neighbours)) for neighbours in lists)
        assert all(type(j) is int for neighbours in lists for j in neighbours)
        assert [topology.degree(i, t) for i in range(workers)] == [len(sources) for sources in incoming]
        assert topology.regular == (len({len(neighbours) for neighbours in lists}) == 1)
    assert topology.directed == any(links(topology, t) != {(j, i) for i, j in links(topology, t)}
                                    for t in range(topology.cycle))


@pytest.mark.parametrize("name", ["erdos-renyi", "random-regular"])
def test_random_graphs_depend_on_the_seed_alone(name):
    assert links(bound(name, 20, seed=3)) == links(bound(name, 20, seed=3))
    assert links(bound(name, 20, seed=3)) != links(bound(name, 20, seed=4))


def test_random_regular_has_the_degree_asked_for():
    for workers, degree in [(20, 4), (9, 4), (8, 7), (5, 2)]:
        topology = bound("random-regular", workers, degree=degree)
        assert all(topology.degree(i, 0) == degree for i in range(workers))


def test_erdos_renyi_has_about_the_expected_number_of_links():
    workers, probability = 300, 0.1
    pairs = workers * (workers - 1) / 2
    found = len(links(bound("erdos-renyi", workers, probability=probability))) / 2
    assert abs(found - probability * pairs) < 5 * np.sqrt(pairs * probability * (1 - probability))
    assert links(bound("erdos-renyi", 9, probability=1.0)) == links(bound("complete", 9))


@pytest.mark.parametrize("name, workers, keys, words", [
    ("hypercube", 6, {}, ["power of two", "6", "4 or 8"]),
    ("torus", 7, {}, ["rows x columns", "7", "6 or 8", "ring"]),
    ("torus", 8, {"shape": (3, 3)}, ["[3, 3]", "9", "8"]),
    ("random-regular", 8, {"degree": 8}, ["degree 8", "up to 7"]),
    ("random-regular", 7, {"degree": 3}, ["even", "degree 3"]),
    ("random-regular", 8, {"degree": 1}, ["disconnected", "degree 3 or more"]),
    ("erdos-renyi", 40, {"probability": 0.001}, ["disconnected", "0.001", "0.09222"]),
])
def test_impossible_graphs_are_refused_with_a_way_out(name, workers, keys, words):
    with pytest.raises(UserError) as error:
        bound(name, workers, **keys)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_grid_of_many_workers_holds_only_its_hops():
    topology = bound("exponential", 65536)
    held = sum(array.nbytes for array in topology._hops)
    assert isinstance(topology, PeriodicGrid) and held <= 16 * 16
    assert topology.degree(40000, 0) == 16


# graph files

def write(path, text):
    path.write_text(text)
    return str(path)


def from_file(path, workers, **keys):
    return mixing_table(graph=str(path), **keys).bind(workers, 0)


def test_edge_list_gives_its_links(tmp_path):
    path = write(tmp_path / "edges.txt", "# a kite\n0 1\n1 2  # both\n\n2 0\n2 1\n2 3\n")
    assert links(from_file(path, 4).topology) == undirected(networkx.Graph([(0, 1), (1, 2), (2, 0), (2, 3)]))


def test_third_column_of_an_edge_list_is_w(tmp_path):
    path = write(tmp_path / "edges.txt", "0 1 0.5\n1 2 0.25\n2 1 0.25\n")
    expected = [[0.5, 0.5, 0], [0.5, 0.25, 0.25], [0, 0.25, 0.75]]
    np.testing.assert_allclose(from_file(path, 3, weights="uniform").matrix(0).toarray(), expected, atol=1e-15)


@pytest.mark.parametrize("directed", [False, True])
def test_graphml_gives_its_links(tmp_path, directed):
    circle = [(i, (i + 1) % 12) for i in range(12)]
    graph = networkx.DiGraph(circle) if directed else networkx.Graph(circle + [(10, 2), (0, 6)])
    networkx.write_graphml(graph, tmp_path / "g.graphml")
    topology = from_file(tmp_path / "g.graphml", 12).topology
    assert topology.directed == directed
    # models travel along the arrows: a -> b means that b receives from a
    assert links(topology) == ({(b, a) for a, b in circle} if directed else undirected(graph))


@pytest.mark.parametrize("suffix", [".npy", ".h5"])
def test_matrix_file_is_w_to_the_last_bit(tmp_path, suffix):
    w = mixing_table(graph="star", weights="best-constant").bind(6, 0).matrix(0)
    files.write(tmp_path / f"w{suffix}", w)
    mixing = from_file(tmp_path / f"w{suffix}", 6, weights="uniform")
    assert (mixing.matrix(0) != w).nnz == 0 and mixing.symmetric and not mixing.average(0)


def test_matrix_file_of_j_averages(tmp_path):
    np.save(tmp_path / "j.npy", np.full((5, 5), 0.2))
    assert from_file(tmp_path / "j.npy", 5).average(0)


def test_truncated_files_are_refused(tmp_path):
    w = mixing_table(graph="ring").bind(40, 0).matrix(0)
    for name in ("w.npy", "w.h5"):
        files.write(tmp_path / name, w)
        whole = (tmp_path / name).read_bytes()
        for part in (0, 5, 100, len(whole) // 2, len(whole) - 8):
            (tmp_path / name).write_bytes(whole[:part])
            with pytest.raises(UserError, match=name):
                from_file(tmp_path / name, 40)
    networkx.write_graphml(networkx.cycle_graph(5), tmp_path / "g.graphml")
    whole = (tmp_path / "g.graphml").read_text()
    with pytest.raises(UserError, match="g.graphml"):
        from_file(write(tmp_path / "g.graphml", whole[: len(whole) // 2]), 5)


@pytest.mark.parametrize("text, words", [
    ("0 1\n1 x\n", ["line 2", "1 x"]),
    ("0 1\n\n1 2 0.5\n", ["line 3", "expected 2"]),
    ("0\n", ["line 1", "2 or 3"]),
    ("0 1\n1 -2\n", ["line 2", "-2"]),
    ("0 1\n1 1\n", ["line 2", "itself"]),
    ("0 1 nan\n", ["line 1", "nan"]),
    ("0 1 0.2\n1 0 0.3\n", ["line 2", "line 1", "0.2"]),
    ("0 1 0.7\n1 2 0.7\n", ["worker 1", "1.4"]),
    ("0 1\n2 3\n", ["not connected", "worker 2"]),
    ("1 2\n2 3\n3 1\n", ["lowest", "numbered 0"]),
    ("0 99999999999999999999\n", ["highest"]),
    ("# nothing\n", ["no links"]),
    ("0 1\n1 2\n", ["3 workers", "there are 4"]),
])
def test_bad_edge_lists_are_refused_with_file_and_cause(tmp_path, text, words):
    path = write(tmp_path / "edges.txt", text)
    with pytest.raises(UserError) as error:
        from_file(path, 4)
    assert all(word in str(error.value) for word in [path, *words]), str(error.value)


RING_OF_4 = np.roll(np.eye(4), 1, 0) / 2 + np.eye(4) / 2


@pytest.mark.parametrize("array, words", [
    (np.ones(4), ["square", "(4,)"]),
    (np.ones((4, 3)), ["square", "(4, 3)"]),
    (np.ones((4, 4)), ["row 0 sums to 4"]),
    (np.array([[0.5, 0.5, 0, 0]] * 4), ["column", "allowed is 1"]),
    (np.eye(4), ["not connected"]),
    (np.where(np.eye(4), np.nan, 0.25), ["4 entries", "row 0, column 0"]),
    (RING_OF_4 + 2e-6 * np.eye(4), ["sums to 1.000002"]),
    (np.array([["a"] * 4] * 4), ["real numbers"]),
    (np.array([[None] * 4] * 4), ["npy"]),
    (3 * np.eye(4) - 2 * RING_OF_4, ["negative", "grow"]),
])
def test_bad_matrices_are_refused_with_file_and_cause(tmp_path, array, words):
    np.save(tmp_path / "w.npy", array)
    with pytest.raises(UserError) as error:
        from_file(tmp_path / "w.npy", 4)
    assert all(word in str(error.value) for word in [str(tmp_path / "w.npy"), *words]), str(error.value)


def test_irregular_directed_graph_is_refused(tmp_path):
    networkx.write_graphml(networkx.DiGraph([(0, 1), (1, 2), (2, 0), (2, 1)]), tmp_path / "g.graphml")
    with pytest.raises(UserError, match="doubly stochastic.*1 to 2.*undirected"):
        from_file(tmp_path / "g.graphml", 3)


@pytest.mark.parametrize("name", ["w.npy", "w.h5", "g.graphml", "edges.txt"])
def test_damaged_files_are_read_or_refused_but_never_a_crash(tmp_path, name):
    path = tmp_path / name
    if path.suffix in (".npy", ".h5"):
        files.write(path, mixing_table(graph="ring").bind(6, 0).matrix(0))
    elif path.suffix == ".graphml":
        networkx.write_graphml(networkx.cycle_graph(6), path)
    else:
        networkx.write_edgelist(networkx.cycle_graph(6), path, data=False)
    whole = np.fromfile(path, dtype=np.uint8)
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        damaged = whole.copy()
        damaged[rng.integers(min(whole.size, 600), size=4)] = rng.integers(256, size=4)
        damaged.tofile(path)
        try:
            from_file(path, 6)
        except UserError as error:
            refused += name in str(error)
    assert refused > 50


def test_h5_without_a_clear_dataset_is_refused(tmp_path):
    import h5py

    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["a"] = file["b"] = RING_OF_4
    with pytest.raises(UserError, match='"w".*a, b'):
        from_file(tmp_path / "w.h5", 4)


def test_adjacency_ignores_the_diagonal():
    assert links(Adjacency(RING_OF_4, "ring")) == {(i, (i - 1) % 4) for i in range(4)}
