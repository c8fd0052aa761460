"""Mixing matrices: their weights, their spectra, and the theory of what they do to disagreement."""

from types import SimpleNamespace

import networkx
import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from coopmpi import registry
from coopmpi.errors import UserError
from coopmpi.theory.consensus import stationary_consensus
from coopmpi.topology import spectra
from coopmpi.topology.graphs import Graph
from coopmpi.topology.links import Adjacency, PeriodicGrid
from coopmpi.topology.mixing import mixing_table

GRAPHS = [name for name in registry.parts("graph") if name != "matcha"]  # it never repeats: tests/test_matcha.py
WEIGHTS = ["metropolis", "uniform", "best-constant"]


def bind(graph, workers, weights="metropolis", seed=0, **keys):
    return mixing_table(graph=graph, weights=weights, **keys).bind(workers, seed)


def dense(mixing, t=0):
    return mixing.matrix(t).toarray()


def possible(workers):
    """Every choice of graph and weights that exists on this many workers."""
    for graph in GRAPHS:
        for weights in WEIGHTS:
            try:
                yield bind(graph, workers, weights)
            except UserError:
                continue


# ||W - J||_2 at m = 4, 8, 16
@pytest.mark.parametrize("graph, weights, expected", [
    ("complete", "metropolis", [0, 0, 0]),
    ("complete", "uniform", [0, 0, 0]),
    ("ring", "metropolis", [0.3333, 0.8047, 0.9493]),
    ("ring", "uniform", [0.3333, 0.8047, 0.9493]),
    ("ring", "best-constant", [0.3333, 0.7445, 0.9267]),
    ("hypercube", "metropolis", [0.3333, 0.5, 0.6]),
    ("torus", "metropolis", [None, 0.5, 0.6]),
    ("exponential", "uniform", [0.3333, 0.5, 0.6]),
    ("star", "metropolis", [0.75, 0.875, 0.9375]),
])
def test_zeta_of_the_textbook_graphs(graph, weights, expected):
    for workers, figure in zip((4, 8, 16), expected):
        if figure is not None:
            mixing = bind(graph, workers, weights)
            direct = np.linalg.norm(dense(mixing) - 1 / workers, 2)
            assert direct == pytest.approx(figure, abs=5e-5)
            assert spectra.cycle_zeta(mixing) == pytest.approx(direct, abs=1e-12)
            assert spectra.zeta(mixing.matrix(0)) == pytest.approx(direct, abs=1e-12)
            assert spectra.spectral_gap(mixing) == pytest.approx(1 - direct, abs=1e-12)


@pytest.mark.parametrize("workers", [1, 2, 3, 5, 8, 12])
def test_rows_receivers_and_flags_agree_with_the_matrix(workers):
    choices = list(possible(workers))
    assert len(choices) >= 9
    for mixing in choices:
        for t in range(mixing.cycle):
            w = dense(mixing, t)
            for i in range(workers):
                row = mixing.row(i, t + 2 * mixing.cycle)  # rounds count on after a cycle
                assert [j for j, _ in row] == sorted(np.flatnonzero(w[i]).tolist()), mixing.description
                assert all(type(j) is int and type(weight) is float and w[i, j] == weight for j, weight in row)
                others = np.flatnonzero(w[:, i])
                assert mixing.receivers(i, t) == tuple(others[others != i].tolist())
            assert abs(w.sum(axis=0) - 1).max() < 1e-14 and abs(w.sum(axis=1) - 1).max() < 1e-14
            assert mixing.average(t) == (abs(w - 1 / workers).max() < 1e-14), mixing.description
        ws = [dense(mixing, t) for t in range(mixing.cycle)]
        assert mixing.symmetric == all((w == w.T).all() for w in ws), mixing.description
        assert mixing.fixed == (mixing.cycle == 1) and mixing.doubly_stochastic


def test_metropolis_weights_are_one_over_one_plus_the_larger_degree():
    mixing = bind("erdos-renyi", 15, seed=2)
    w = dense(mixing)
    links = (w != 0) & ~np.eye(15, dtype=bool)
    degree = links.sum(axis=1)
    assert degree.min() < degree.max()
    np.testing.assert_array_equal(w[links], (1 / (1 + np.maximum.outer(degree, degree)))[links])


@pytest.mark.parametrize("graph", [g for g in GRAPHS if "exponential" not in g])
def test_no_other_constant_weight_beats_best_constant(graph):
    mixing = bind(graph, 16, "best-constant")
    w = dense(mixing)
    laplacian = np.where(np.eye(16, dtype=bool), (w != 0).sum(axis=1) - (np.diag(w) != 0), -1.0 * (w != 0))
    weight = w[0, mixing.receivers(0, 0)[0]]
    np.testing.assert_allclose(w, np.eye(16) - weight * laplacian, atol=1e-14)
    best = spectra.zeta(w)
    assert all(spectra.zeta(np.eye(16) - factor * weight * laplacian) >= best - 1e-12
               for factor in np.linspace(0.5, 1.5, 41))


@pytest.mark.parametrize("workers, exact", [(4, True), (8, True), (16, True), (6, False)])
def test_one_cycle_of_one_peer_averages_exactly_on_powers_of_two_only(workers, exact):
    mixing = bind("one-peer-exponential", workers)
    assert mixing.cycle == int(np.ceil(np.log2(workers)))
    product = np.eye(workers)
    for t in range(mixing.cycle):
        product = dense(mixing, t) @ product
    if exact:
        assert (product == 1 / workers).all() and spectra.cycle_zeta(mixing) < 1e-15
    else:
        assert abs(product - 1 / workers).max() > 0.01
        assert spectra.cycle_zeta(mixing) == pytest.approx(np.linalg.norm(product - 1 / workers, 2), abs=1e-12)


@given(graph=st.sampled_from(GRAPHS), weights=st.sampled_from(WEIGHTS), workers=st.integers(1, 24),
       seed=st.integers(0, 2**31), t=st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_mixing_preserves_the_mean_and_never_spreads_the_models(graph, weights, workers, seed, t):
    try:
        mixing = bind(graph, workers, weights, seed)
    except UserError:
        reject()
    x = np.random.default_rng(seed).normal(size=(workers, 3))
    mixed = np.array([sum(weight * x[j] for j, weight in mixing.row(i, t)) for i in range(workers)])
    np.testing.assert_allclose(mixed.mean(axis=0), x.mean(axis=0), atol=1e-14)
    assert np.linalg.norm(mixed - mixed.mean(axis=0)) <= np.linalg.norm(x - x.mean(axis=0)) * (1 + 1e-12) + 1e-14


def test_random_graphs_of_one_seed_are_equal():
    for graph in ("erdos-renyi", "random-regular"):
        first, again, other = (dense(bind(graph, 30, seed=seed)) for seed in (5, 5, 6))
        assert (first == again).all() and (first != other).any()


def simulated_consensus(w, tau, steps, dimensions, rng):
    """x <- W (x - g) every tau steps with pure noise, lr = s = 1; measured before the gradient step."""
    x = np.zeros((len(w), dimensions))
    warm_up, total = 50 * tau, 0.0
    for k in range(warm_up + steps):
        if k >= warm_up:
            total += np.mean((x - x.mean(axis=0)) ** 2)
        x -= rng.standard_normal(x.shape)
        if (k + 1) % tau == 0:
            x = w @ x
    return total / steps


@pytest.mark.parametrize("graph", ["complete", "ring", "hypercube"])
@pytest.mark.parametrize("tau", [1, 4])
def test_stationary_consensus_formula_is_what_noise_does(graph, tau):
    mixing = bind(graph, 8)
    formula = stationary_consensus(spectra.eigenvalues(mixing), tau, lr=1.0, noise=1.0)
    measured = simulated_consensus(dense(mixing), tau, 4000, 400, np.random.default_rng(8))
    assert measured == pytest.approx(formula, rel=0.02, abs=1e-12)


def test_stationary_consensus_of_exact_averaging_has_its_closed_form():
    values = spectra.eigenvalues(bind("complete", 8))
    # lr^2 s^2 (1 - 1/m) (tau - 1) / 2
    assert stationary_consensus(values, 16, lr=0.1, noise=3.0) == pytest.approx(0.09 * 7 / 8 * 15 / 2)


@pytest.mark.parametrize("graph, weights", [("ring", "metropolis"), ("torus", "best-constant"),
                                            ("star", "metropolis")])
def test_eigenvalues_are_those_of_the_matrix(graph, weights):
    mixing = bind(graph, 12, weights)
    np.testing.assert_allclose(spectra.eigenvalues(mixing), np.linalg.eigvalsh(dense(mixing)), atol=1e-13)


@pytest.mark.parametrize("graph, workers", [("star", 100), ("exponential", 100), ("hypercube", 128),
                                            ("one-peer-exponential", 100), ("erdos-renyi", 100)])
def test_dense_iterative_and_fourier_zeta_agree(graph, workers, monkeypatch):
    mixing = bind(graph, workers)
    product = np.eye(workers)
    for t in range(mixing.cycle):
        product = dense(mixing, t) @ product
    direct = np.linalg.norm(product - 1 / workers, 2)
    assert spectra.cycle_zeta(mixing) == pytest.approx(direct, abs=1e-10)
    unstructured = SimpleNamespace(workers=workers, cycle=mixing.cycle, matrix=mixing.matrix,
                                   average=mixing.average, topology=SimpleNamespace(grid=None))
    assert spectra.cycle_zeta(unstructured) == pytest.approx(direct, abs=1e-10)
    monkeypatch.setattr(spectra, "DENSE", 10)
    assert spectra.cycle_zeta(unstructured) == pytest.approx(direct, abs=1e-7)


@pytest.mark.parametrize("dense_up_to", [100, 10])
def test_zeta_of_a_cycle_takes_its_matrices_in_turn(dense_up_to, monkeypatch):
    monkeypatch.setattr(spectra, "DENSE", dense_up_to)
    turns = [bind(graph, 30).matrix(0) for graph in ("star", "one-peer-exponential", "erdos-renyi")]
    mixing = SimpleNamespace(workers=30, cycle=3, matrix=turns.__getitem__, average=lambda t: False,
                             topology=SimpleNamespace(grid=None))
    direct, backwards = (np.linalg.norm(np.linalg.multi_dot([w.toarray() for w in order]) - 1 / 30, 2)
                         for order in (turns[::-1], turns))
    assert abs(direct - backwards) > 1e-3
    assert spectra.cycle_zeta(mixing) == pytest.approx(direct, abs=1e-7)


def test_large_best_constant_weights_agree_with_dense_ones(tmp_path, monkeypatch):
    networkx.write_edgelist(networkx.ladder_graph(30), tmp_path / "ladder.txt", data=False)
    for graph in ("erdos-renyi", "random-regular", str(tmp_path / "ladder.txt")):
        monkeypatch.setattr(spectra, "DENSE", 100)
        small = dense(bind(graph, 60, "best-constant"))
        monkeypatch.setattr(spectra, "DENSE", 10)
        np.testing.assert_allclose(dense(bind(graph, 60, "best-constant")), small, atol=1e-9)


def test_rounds_to_shrink_counts_rounds_of_the_slowest_disagreement():
    w = dense(bind("ring", 8))
    values, vectors = np.linalg.eigh(w)
    slowest = vectors[:, -2]
    rounds = spectra.rounds_to_shrink(10, spectra.zeta(w))
    left = [np.linalg.norm(np.linalg.matrix_power(w, n) @ slowest) for n in (int(rounds), int(rounds) + 1)]
    assert left[0] > 0.1 > left[1]
    assert spectra.rounds_to_shrink(10, 0.0, cycle=3) == 3
    assert spectra.rounds_to_shrink(10, 1.0) == np.inf


def test_mixing_of_65536_workers():
    mixing = bind("exponential", 65536)
    row, receivers = mixing.row(12345, 0), mixing.receivers(12345, 0)
    assert len(row) == 17 and len(receivers) == 16 and sum(weight for _, weight in row) == pytest.approx(1)
    assert spectra.cycle_zeta(mixing) == pytest.approx(1 - 2 / 17)  # gap 2 / (log2 m + 1), Ying et al. 2021


@pytest.mark.parametrize("keys, words", [
    ({"graph": "rng"}, ["'rng'", "did you mean 'ring'", "file"]),
    ({"graph": "missing.npy"}, ["missing.npy", "file"]),
    ({"weights": "metropolos"}, ["did you mean 'metropolis'"]),
    ({"graph": "star", "weights": "uniform"}, ["degrees are 1 to 7", 'weights = "metropolis"']),
    ({"graph": "exponential", "weights": "best-constant"}, ["undirected", "uniform"]),
    ({"graph": "ring", "degree": 3}, ["degree", '"ring"', "random-regular"]),
    ({"graph": "hypercube", "shape": (2, 4)}, ["shape", "torus"]),
    ({"graph": "no_such_module:Graph"}, ["no_such_module"]),
    ({"graph": "test_mixing:GRAPHS"}, ["subclass"]),
    ({"graph": "test_mixing:Lopsided"}, ["not doubly stochastic", "Lopsided"]),
])
def test_impossible_choices_are_refused_with_a_way_out(keys, words, monkeypatch, request):
    monkeypatch.syspath_prepend(request.path.parent)
    with pytest.raises(UserError) as error:
        mixing_table(**keys).bind(8, 0)
    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize("table, words", [
    ({"graphs": "ring"}, ["did you mean 'graph'"]),
    ({"graph": "torus", "shape": [2, 0]}, ["[mixing] shape", ">= 1"]),
    ({"graph": "erdos-renyi", "probability": 1.5}, ["probability", "1.5"]),
    ({"graph": "random-regular", "degree": "three"}, ["degree", "three"]),
])
def test_mixing_table_is_validated(table, words):
    with pytest.raises(UserError) as error:
        mixing_table(**table)
    assert all(word in str(error.value) for word in words), str(error.value)


class Chords(Graph):
    """A user's own graph: the ring and the chord to the worker opposite."""

    def bind(self, workers, seed):
        return PeriodicGrid((workers,), [[(1,), (-1,), (workers // 2,)]])


class Lopsided(Graph):
    """Claims to be regular and is not."""

    def bind(self, workers, seed):
        circle = np.roll(np.eye(workers), 1, axis=0)
        circle[0, 2] = 1
        topology = Adjacency(circle, "a circle with one arrow more")
        topology.regular = True
        return topology


def test_a_users_own_graph_mixes(monkeypatch, request):
    monkeypatch.syspath_prepend(request.path.parent)
    mixing = bind("test_mixing:Chords", 8)
    assert mixing.row(1, 0) == ((0, 0.25), (1, 0.25), (2, 0.25), (5, 0.25))
