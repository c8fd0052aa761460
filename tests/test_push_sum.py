"""Stochastic gradient push: on directed graphs the models still go to the mean, and nothing is lost on the way."""

import h5py
import networkx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coopmpi import config, registry
from coopmpi.algorithms.sgp import SGP
from coopmpi.drivers.solo import Solo
from coopmpi.errors import UserError
from coopmpi.run.assemble import assemble
from coopmpi.step import Mix, Start
from coopmpi.topology.mixing import mixing_table
from tests.runs import lockstep, read, write_quadratic
from tests.interruptions import content, interrupted, run

M = 7


def strongly_connected(workers, arrows, seed):
    """A circle of arrows and some more."""
    graph = networkx.gnm_random_graph(workers, arrows, seed=seed, directed=True)
    networkx.add_cycle(graph, range(workers))
    return graph


def write(graph, path):
    if path.suffix == ".graphml":
        networkx.write_graphml(graph, path)
    else:
        path.write_text("# sender receiver\n" + "".join(f"{i} {j}\n" for i, j in graph.edges))
    return path


def sender_weights(graph):
    """P straight from its definition: column j has 1 / (outdegree + 1) at j and at j's receivers."""
    p = np.zeros((len(graph), len(graph)))
    for sender in graph:
        receivers = list(graph.successors(sender))
        p[[sender, *receivers], sender] = 1 / (len(receivers) + 1)
    return p


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("push-sum")
    write_quadratic(root / "q.h5", M, noise=0.1)
    graph = strongly_connected(M, 9, 4)
    write(graph, root / "arrows.txt")
    write(graph, root / "arrows.graphml")
    return root


def tables(folder, kind, graph="arrows.graphml", steps=60, **optimizer):
    return {"workers": M, "steps": steps, "dtype": "float64", "device": "cpu", "algorithm": {"kind": kind},
            "task": {"kind": "quadratic", "path": str(folder / "q.h5")}, "optimizer": {"lr": 0.05} | optimizer,
            "mixing": {"graph": str(folder / graph)} | ({"directed": True} if graph.endswith("txt") else {})}


@pytest.mark.parametrize("suffix, keys", [("txt", {"directed": True}), ("graphml", {})])
def test_files_of_arrows_give_the_senders_weights(tmp_path, suffix, keys):
    for seed in range(5):
        graph = strongly_connected(8, 10, seed)
        path = write(graph, tmp_path / f"{seed}.{suffix}")
        p = mixing_table(graph=str(path), **keys).push_sum(8, 0)
        np.testing.assert_allclose(p.matrix(0).toarray(), sender_weights(graph), atol=1e-15)
        lazy = mixing_table(graph=str(path), lazy=True, **keys).push_sum(8, 0)
        np.testing.assert_allclose(lazy.matrix(3).toarray(), (np.eye(8) + sender_weights(graph)) / 2, atol=1e-15)
        for j in range(8):
            assert p.receivers(j, 0) == tuple(sorted(graph.successors(j)))


@given(graph=st.sampled_from(sorted(registry.parts("graph"))), workers=st.integers(1, 17),
       seed=st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_sums_are_kept_and_masses_follow_the_matrices(graph, workers, seed):
    try:
        p = mixing_table(graph=graph).push_sum(workers, seed)
    except UserError:
        return  # this graph is not for this many workers
    w = np.ones(workers)
    for t in range(5):
        matrix = p.matrix(t).toarray()
        assert (matrix >= 0).all() and np.allclose(matrix.sum(axis=0), 1, atol=1e-14)
        np.testing.assert_allclose(p.mass(t), w, atol=1e-13)
        w = matrix @ w
    np.testing.assert_array_equal(p.mass(2), p.mass(2))  # looked up again, from the start


@given(workers=st.integers(2, 10), arrows=st.integers(0, 20), seed=st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_debiased_models_agree_on_the_mean(tmp_path_factory, workers, arrows, seed):
    path = write(strongly_connected(workers, arrows, seed), tmp_path_factory.mktemp("arrows") / "a.txt")
    p = mixing_table(graph=str(path), directed=True).push_sum(workers, 0)
    y = x = np.random.default_rng(seed).normal(size=(workers, 3))
    rounds, matrix = 1500, p.matrix(0)
    for t in range(rounds):
        y = matrix @ y
    assert abs(y / p.mass(rounds)[:, None] - x.mean(axis=0)).max() < 1e-9
    assert p.mass(rounds).sum() == pytest.approx(workers)


def test_without_masses_they_do_not():
    graph = strongly_connected(M, 9, 4)
    x = np.random.default_rng(0).normal(size=(M, 3))
    biased = np.linalg.matrix_power(sender_weights(graph), 1000) @ x
    assert abs(biased - x.mean(axis=0)).max() > 0.1


def reference(folder, graph, steps, overlapped, momentum=0.0, weight_decay=0.0):
    """Explicit messages: every (numerator, mass) pair that leaves a worker is held until it is added elsewhere."""
    from coopmpi.streams import Purpose, stream

    with h5py.File(folder / "q.h5") as file:
        a, b, x0, noise = file["a"][:], file["b"][:], file["x0"][:], file.attrs["noise"]
    x, w, v = np.tile(x0, (M, 1)), np.ones((M, 1)), np.zeros_like(b)
    under_way = []

    def send():
        for i in graph:
            share = 1 / (graph.out_degree(i) + 1)
            x[i], w[i] = share * x[i], share * w[i]
            under_way.extend((j, x[i].copy(), w[i].copy()) for j in graph.successors(i))

    def receive():
        for j, more, mass in under_way:
            x[j], w[j] = x[j] + more, w[j] + mass
        under_way.clear()

    def descend(k):
        nonlocal v
        z = x / w
        drawn = [stream(0, Purpose.NOISE, i, k).standard_normal(len(a)) for i in range(M)]
        v = momentum * v + a * (z - b) + noise * np.array(drawn) + weight_decay * z
        x[:] -= 0.05 * v

    for k in range(steps):
        if overlapped:
            receive()
            send()
            descend(k)
        else:
            descend(k)
            send()
            receive()
        flying = sum(mass.sum() for _, _, mass in under_way)
        assert w.sum() + flying == pytest.approx(M)
    receive()
    return x / w


@pytest.mark.parametrize("graph", ["arrows.txt", "arrows.graphml"])
@pytest.mark.parametrize("optimizer", [{}, {"momentum": 0.9, "weight_decay": 0.02}])
@pytest.mark.parametrize("kind", ["sgp", "overlap-sgp"])
def test_equals_explicit_messages_on_a_lopsided_graph(folder, kind, optimizer, graph):
    arrows = strongly_connected(M, 9, 4)
    x = lockstep(tables(folder, kind, graph, **optimizer)).state.x
    assert abs(x - reference(folder, arrows, 60, kind == "overlap-sgp", **optimizer)).max() < 1e-10


@pytest.mark.parametrize("kind", ["sgp", "overlap-sgp"])
def test_the_mass_weighted_mean_moves_as_in_sgd(folder, kind):
    """sum_i w_i z_i falls by lr times the sum of the gradients in every step: nothing is scaled by the masses."""
    assembly = assemble(config.resolve(tables(folder, kind)), Solo())
    driver, run = assembly.driver, assembly.context
    state, _ = assembly.start()
    for k in range(40):
        run.at(k)
        driver.at(k)
        before = run.mixing.mass(k) @ state.x
        gradient = driver.task.gradient(state.x, k)[1].copy()
        driver.drive(assembly.config.algorithm.step(state, run))
        after = run.mixing.mass(k + 1) @ state.x
        np.testing.assert_allclose(after, before - 0.05 * gradient.sum(axis=0), atol=1e-12)
    assert np.ptp(run.mixing.mass(40)) > 0.1


@pytest.mark.parametrize("graph", ["exponential", "one-peer-exponential", "ring", "hypercube"])
def test_on_regular_graphs_it_is_decentralised_sgd(tmp_path, graph):
    path = write_quadratic(tmp_path / "q8.h5", 8, noise=0.1)

    def final(kind):
        common = {"workers": 8, "steps": 30, "dtype": "float64", "device": "cpu", "mixing": {"graph": graph},
                  "task": {"kind": "quadratic", "path": path}, "period": {"tau": 1}}
        return lockstep(read(common | {"algorithm": {"kind": kind}})).state.x

    assert abs(final("sgp") - final("dpa")).max() < 1e-13
    assert abs(final("overlap-sgp") - final("d-psgd")).max() < 1e-13


def test_overlap_sgp_posts_its_messages_before_the_gradient(folder):
    assembly = assemble(config.resolve(tables(folder, "overlap-sgp")), Solo())
    state, _ = assembly.start()
    assembly.context.at(0)
    request = next(assembly.config.algorithm.step(state, assembly.context))
    assert isinstance(request, Start) and isinstance(request.request, Mix)


@pytest.mark.parametrize("kind", ["sgp", "overlap-sgp"])
def test_a_stopped_run_goes_on_with_its_masses(folder, tmp_path, kind):
    given = tables(folder, kind, momentum=0.9)
    run(given, tmp_path / "whole.h5")
    interrupted(given, tmp_path / "parts.h5", step=13)
    run(given, tmp_path / "parts.h5", resume=True)
    assert np.array_equal(content(tmp_path / "parts.h5")["final/x"], content(tmp_path / "whole.h5")["final/x"])


def test_a_weighted_matrix_is_p_itself(tmp_path):
    p = sender_weights(strongly_connected(5, 6, 1))
    np.save(tmp_path / "p.npy", p)
    mixing = SGP().bind_mixing(mixing_table(graph=str(tmp_path / "p.npy")), 5, 0)
    np.testing.assert_array_equal(mixing.matrix(0).toarray(), p)
    np.testing.assert_allclose(mixing.mass(6), np.linalg.matrix_power(p, 6) @ np.ones(5), atol=1e-14)


@pytest.mark.parametrize("name, keys, words", [
    ("rows.npy", {}, ["columns sum to 1", "column"]),
    ("one-way.txt", {"directed": True}, ["not connected", "and back"]),
    ("weights.txt", {"directed": True}, ["has weights"]),
    ("rows.npy", {"directed": True}, ["directed = true", "edge lists"]),
    ("ring", {"directed": True}, ["directed", '"ring"', "a file"]),
])
def test_impossible_files_are_refused(tmp_path, monkeypatch, name, keys, words):
    monkeypatch.chdir(tmp_path)
    np.save("rows.npy", sender_weights(strongly_connected(5, 6, 1)).T)
    (tmp_path / "one-way.txt").write_text("0 1\n1 2\n2 0\n2 3\n3 4\n")
    (tmp_path / "weights.txt").write_text("0 1 0.5\n1 0 0.5\n")
    with pytest.raises(UserError) as error:
        mixing_table(graph=name, **keys).push_sum(5, 0)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_other_algorithms_refuse_a_lopsided_graph(folder):
    with pytest.raises(UserError, match="doubly stochastic"):
        lockstep(tables(folder, "d-psgd"))
