"""MATCHA: matchings, probabilities and weights against their definitions, and the rounds that are drawn."""

import networkx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coopmpi import config
from coopmpi.drivers.solo import Solo
from coopmpi.errors import UserError
from coopmpi.run.assemble import assemble
from coopmpi.run.cost import estimate
from coopmpi.topology import spectra
from coopmpi.topology.matcha import activation, best_weight, contraction, edge_colouring, laplacian
from coopmpi.topology.mixing import mixing_table
from tests.runs import lockstep, write_quadratic

# the 8-node graph of the paper, in the matchings of its authors' code
EIGHT = [[(1, 5), (6, 7), (0, 4), (2, 3)], [(1, 7), (3, 6)], [(1, 0), (3, 7), (5, 6)], [(1, 2), (7, 0)], [(3, 1)]]
LAPLACIANS = np.array([laplacian(matching, 8) for matching in EIGHT])


@given(workers=st.integers(2, 25), density=st.floats(0, 1), seed=st.integers(0, 2**31))
@settings(max_examples=150, deadline=None)
def test_edges_are_coloured_with_at_most_one_colour_more_than_the_degree(workers, density, seed):
    graph = networkx.gnp_random_graph(workers, density, seed=seed)
    matchings = edge_colouring(list(graph.edges), workers)
    coloured = sorted(edge for matching in matchings for edge in matching)
    assert coloured == sorted(tuple(sorted(edge)) for edge in graph.edges)
    for matching in matchings:
        assert matching and networkx.is_matching(graph, set(matching))
    assert len(matchings) <= max((degree for _, degree in graph.degree), default=0) + 1


@pytest.mark.parametrize("graph", [networkx.petersen_graph(), networkx.complete_graph(9), networkx.star_graph(7)])
def test_graphs_that_need_every_colour_are_coloured(graph):
    # the Petersen graph and complete graphs of odd order need degree + 1, a star its degree
    degree = max(degree for _, degree in graph.degree)
    needed = degree if networkx.is_bipartite(graph) else degree + 1
    assert len(edge_colouring(list(graph.edges), len(graph))) == needed


def test_laplacians_of_matchings_square_to_their_double():
    for found in LAPLACIANS:
        np.testing.assert_array_equal(found @ found, 2 * found)
        assert (found == found.T).all() and (found.sum(axis=0) == 0).all()


@pytest.mark.parametrize("budget, rho", [(0.1, 0.937), (0.2, 0.858), (0.3, 0.777), (0.4, 0.705), (0.5, 0.644),
                                         (0.6, 0.578), (0.8, 0.615), (1.0, 0.654)])
def test_rho_of_the_papers_graph(budget, rho):
    """Half of the communication mixes better than all of it, with a minimum near 0.6."""
    p = activation(LAPLACIANS, budget)
    assert p.sum() <= budget * 5 + 1e-9 and p.min() >= 0 and p.max() <= 1
    assert best_weight(LAPLACIANS, p)[1] == pytest.approx(rho, abs=1.1e-3)


def second(p, laplacians):
    return np.linalg.eigvalsh(np.tensordot(p, laplacians, 1))[1]


@pytest.mark.parametrize("budget", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("graph", [networkx.cycle_graph(8), networkx.petersen_graph(),
                                   networkx.lollipop_graph(5, 3), networkx.gnp_random_graph(12, 0.4, seed=1)])
def test_no_other_probabilities_connect_better(graph, budget):
    m = len(graph)
    laplacians = np.array([laplacian(matching, m) for matching in edge_colouring(list(graph.edges), m)])
    best, rng = second(activation(laplacians, budget), laplacians), np.random.default_rng(0)
    p = activation(laplacians, budget)
    for spread in (1.0, 0.1, 0.01):
        for _ in range(300):
            q = np.clip(p + spread * rng.normal(size=len(p)), 0, 1)
            q *= min(1, budget * len(p) / max(q.sum(), 1e-12))
            assert second(q, laplacians) <= best * (1 + 2e-6)


@pytest.mark.parametrize("budget", [0.3, 0.6])
def test_the_formula_of_rho_is_what_draws_give(budget):
    p = activation(LAPLACIANS, budget)
    a, rho = best_weight(LAPLACIANS, p)
    rng, draws = np.random.default_rng(3), 20000
    w = np.eye(8) - a * np.einsum("nj,jab->nab", rng.random((draws, 5)) < p, LAPLACIANS)
    measured = np.linalg.norm(np.einsum("nba,nbc->ac", w, w) / draws - 1 / 8, 2)
    assert measured == pytest.approx(rho, rel=0.02)
    assert all(contraction(LAPLACIANS, p, a * factor) >= rho - 1e-9 for factor in np.linspace(0.5, 1.5, 41))


def test_rounds_are_drawn_with_the_probabilities_and_mix():
    mixing = mixing_table(graph="matcha", base="hypercube", budget=0.4).bind(8, 1)
    base = mixing_table(graph="hypercube").bind(8, 1)
    assert mixing.symmetric and not mixing.fixed and mixing.cycle is None
    rounds, used = 3000, np.zeros((8, 8))
    for t in range(rounds):
        w = mixing.matrix(t).toarray()
        assert (w == w.T).all() and abs(w.sum(axis=0) - 1).max() < 1e-14
        links = (w != 0) & ~np.eye(8, dtype=bool)
        np.testing.assert_allclose(w[links], mixing.topology.weight)
        used += links
        for j in range(8):
            assert mixing.receivers(j, t) == tuple(np.flatnonzero(links[j]).tolist())
    # nothing but links of the base graph, four standard deviations around the expected use
    assert (used[base.matrix(0).toarray() == 0] == 0).all()
    expected = [mixing.topology.mean_degree(i) for i in range(8)]
    assert abs(used.sum(axis=1) / rounds - expected).max() < 4 * np.sqrt(3 * 0.25 / rounds)
    assert sum(expected) / 8 <= 0.4 * len(mixing.topology.probabilities) + 1e-9
    whole = mixing.whole
    assert [whole.receivers(j, 0) for j in range(8)] == [base.receivers(j, 0) for j in range(8)]


def test_measured_disagreement_shrinks_as_zeta_says():
    mixing = mixing_table(graph="matcha", base="star").bind(8, 0)
    values = [np.linalg.norm(mixing.matrix(t).toarray() - 1 / 8, 2) for t in range(20)]
    assert min(values) < 1 + 1e-12 and len(set(np.round(values, 9))) > 1
    moment = np.mean([(w := mixing.matrix(t).toarray()).T @ w for t in range(20000)], axis=0)
    assert np.sqrt(np.linalg.norm(moment - 1 / 8, 2)) == pytest.approx(spectra.cycle_zeta(mixing), rel=0.02)


def test_rounds_depend_on_seed_and_round_alone():
    one, again, other = (mixing_table(graph="matcha", base="torus").bind(12, seed) for seed in (5, 5, 6))
    phases = [one.phase(t) for t in range(40)]
    assert [again.phase(t) for t in reversed(range(40))] == phases[::-1]
    assert [other.phase(t) for t in range(40)] != phases
    assert phases[:20] != phases[20:]


def test_a_base_from_a_file_and_a_random_one(tmp_path):
    networkx.write_edgelist(networkx.ladder_graph(4), tmp_path / "ladder.txt", data=False)
    for base in (str(tmp_path / "ladder.txt"), "erdos-renyi"):
        mixing = mixing_table(graph="matcha", base=base, budget=1.0).bind(8, 2)
        assert mixing.phase(0) == mixing.phase(7) == 2 ** len(mixing.topology.probabilities) - 1
        all_links = mixing_table(graph=base).bind(8, 2)
        assert [mixing.receivers(j, 3) for j in range(8)] == [all_links.receivers(j, 0) for j in range(8)]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_quadratic(tmp_path_factory.mktemp("quadratic") / "q.h5", 8)


def tables(path, **more):
    return {"workers": 8, "steps": 400, "dtype": "float64", "device": "cpu", "algorithm": {"kind": "d-psgd"},
            "task": {"kind": "quadratic", "path": path}, "mixing": {"graph": "matcha", "base": "hypercube"}} | more


def test_bytes_are_what_the_probabilities_say(path):
    trainer = lockstep(tables(path))
    degree = np.mean([trainer.driver.wiring.mixing.topology.mean_degree(i) for i in range(8)])
    assert trainer.log.sent / (8 * 400) == pytest.approx(degree * 7 * 8, rel=0.1)
    cost = estimate(assemble(config.resolve(tables(path)), Solo()))
    assert cost.bytes_sent == pytest.approx(degree * 7 * 8, rel=0.15)


def test_neighbours_remember_copies_over_every_link_of_the_base(path):
    run = tables(path, algorithm={"kind": "choco-sgd"}, compress={"kind": "topk", "fraction": 0.5})
    assembly = assemble(config.resolve(run), Solo())
    state, _ = assembly.start()
    assert state.copies.shape == (8, 7)
    assert assembly.driver.wiring.audience.links.degree.tolist() == [3.0] * 8


@pytest.mark.parametrize("keys, words", [
    ({"base": "exponential"}, ["undirected", "exponential"]),
    ({"base": "one-peer-exponential"}, ["fixed"]),
    ({"base": "matcha"}, ["fixed"]),
    ({"base": "rng"}, ["did you mean 'ring'"]),
    ({"base": "w.npy"}, ["without weights", "w.npy"]),
    ({"lazy": True}, ["lazy", "matcha"]),
    ({"shape": (2, 4)}, ["shape", "torus"]),
])
def test_impossible_choices_are_refused(tmp_path, monkeypatch, keys, words):
    monkeypatch.chdir(tmp_path)
    np.save("w.npy", np.full((8, 8), 1 / 8))
    with pytest.raises(UserError) as error:
        mixing_table(graph="matcha", **keys).bind(8, 0)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_base_and_budget_belong_to_matcha():
    for keys in ({"base": "ring"}, {"budget": 0.5}):
        with pytest.raises(UserError, match="read by matcha"):
            mixing_table(graph="ring", **keys).bind(8, 0)
