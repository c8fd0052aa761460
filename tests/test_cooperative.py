"""Cooperative SGD with the user's own W: the driver's blocks against X <- W (X - lr G) written out."""

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coopmpi.algorithms.cooperative import Cooperative
from coopmpi.errors import UserError
from coopmpi.streams import Purpose, stream
from coopmpi.topology import cooperation
from coopmpi.topology.mixing import mixing_table
from tests.runs import lockstep, read, write_quadratic
from tests.interruptions import content, interrupted, run

M, STEPS, LR = 8, 25, 0.05


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_quadratic(tmp_path_factory.mktemp("quadratic") / "q.h5", M, noise=0.1)


def train(path, algorithm, tau=3, **more):
    tables = {"workers": M, "steps": STEPS, "dtype": "float64", "device": "cpu", "period": {"tau": tau},
              "task": {"kind": "quadratic", "path": path}, "optimizer": {"lr": LR}, "algorithm": algorithm}
    return lockstep(read(tables | more)).state


def recursion(path, ws, tau):
    """(m+v, d) models of X <- W_r (X - lr G) with W_0, W_1, ... in turn after every tau steps."""
    with h5py.File(path) as file:
        a, b, x0, noise = file["a"][:], file["b"][:], file["x0"][:], file.attrs["noise"]
    x = np.tile(x0, (len(ws[0]), 1))
    for k in range(STEPS):
        drawn = [stream(0, Purpose.NOISE, i, k).standard_normal(len(a)) for i in range(M)]
        x[:M] -= LR * (a * (x[:M] - b) + noise * np.array(drawn))
        if (k + 1) % tau == 0:
            x = ws[((k + 1) // tau - 1) % len(ws)] @ x
    return x


def random_w(size, seed, terms=4):
    """Symmetric and doubly stochastic: a mixture of permutations and their transposes."""
    rng = np.random.default_rng(seed)
    permutations = [np.eye(size)[rng.permutation(size)] for _ in range(terms)]
    shares = rng.dirichlet(np.ones(terms))
    return sum(share * (p + p.T) / 2 for share, p in zip(shares, permutations))


@pytest.mark.parametrize("tau", [1, 4])
@pytest.mark.parametrize("suffix", [".npy", ".h5"])
@pytest.mark.parametrize("v", [0, 1, 2])
def test_a_matrix_from_a_file_equals_the_dense_recursion(path, tmp_path, v, suffix, tau):
    w, name = random_w(M + v, seed=v), tmp_path / f"w{suffix}"
    if suffix == ".npy":
        np.save(name, w)
    else:
        with h5py.File(name, "w") as file:
            file["w"] = w
    state = train(path, {"kind": "cooperative", "matrix": str(name)}, tau)
    x = recursion(path, [w], tau)
    assert state.z.shape == (v, x.shape[1])
    assert abs(state.x - x[:M]).max() < 1e-10
    assert abs(state.z - x[M:]).max(initial=0.0) < 1e-10


@pytest.mark.parametrize("keys", [{"group": 2, "outer": 3}, {"group": 4, "outer": 2}, {"group": 1, "outer": 1}])
def test_hierarchical_averages_groups_and_now_and_then_all(path, keys):
    state = train(path, {"kind": "cooperative", "generator": "hierarchical"} | keys)
    groups = np.kron(np.eye(M // keys["group"]), np.full((keys["group"],) * 2, 1 / keys["group"]))
    ws = [groups] * (keys["outer"] - 1) + [np.full((M, M), 1 / M)]
    assert abs(state.x - recursion(path, ws, 3)).max() < 1e-10


def test_the_easgd_generator_is_easgd(path):
    for more in ({}, {"alpha": 0.1}):
        ours, theirs = (train(path, algorithm | more) for algorithm in (
            {"kind": "cooperative", "generator": "easgd"}, {"kind": "easgd"}))
        assert abs(ours.x - theirs.x).max() < 1e-12 and abs(ours.z - theirs.z).max() < 1e-12


@pytest.mark.parametrize("kind, tau", [("local-sgd", 4), ("sync-sgd", 1)])
def test_j_without_auxiliary_variables_is_full_averaging(path, tmp_path, kind, tau):
    np.save(tmp_path / "j.npy", np.full((M, M), 1 / M))
    ours = train(path, {"kind": "cooperative", "matrix": str(tmp_path / "j.npy")}, tau)
    assert abs(ours.x - train(path, {"kind": kind}, tau).x).max() < 1e-12


def test_a_graph_alone_is_decentralised_periodic_averaging(path, tmp_path):
    w = mixing_table(graph="torus").bind(M, 0).matrix(0).toarray()
    np.save(tmp_path / "w.npy", w)
    ours = train(path, {"kind": "cooperative", "matrix": str(tmp_path / "w.npy")})
    assert abs(ours.x - train(path, {"kind": "dpa"}, mixing={"graph": "torus"}).x).max() < 1e-12


def zeta(w):
    return np.linalg.norm(w - 1 / len(w), 2)


@pytest.mark.parametrize("m", [4, 8, 16])
def test_easgd_has_its_textbook_eigenvalues(m):
    tau, w, v = Cooperative(generator="easgd", alpha=0.05).matrix_form(m, 2, np.eye(m))
    assert (tau, v) == (2, 1)
    expected = np.sort([1 - (m + 1) * 0.05] + [1 - 0.05] * (m - 1) + [1])
    np.testing.assert_allclose(np.linalg.eigvalsh(w), expected, atol=1e-13)
    best = Cooperative(generator="easgd").matrix_form(m, 2, np.eye(m))[1]
    assert best[0, -1] == pytest.approx(2 / (m + 2)) and zeta(best) == pytest.approx(m / (m + 2))


@pytest.mark.parametrize("graph", ["ring", "star", "hypercube"])
def test_the_centres_default_pull_is_the_best(graph):
    w = mixing_table(graph=graph).bind(M, 0).matrix(0)
    ours = zeta(cooperation.with_centre(w, None)[0].toarray())
    grid = [zeta(cooperation.with_centre(w, alpha)[0].toarray()) for alpha in np.linspace(0.01, 2 / (M + 1), 400)]
    assert min(grid) - 1e-3 < ours <= min(grid) + 1e-12
    if graph == "ring":
        assert ours == pytest.approx(0.6566, abs=5e-5)


@given(v=st.integers(0, 3), workers=st.integers(1, 9), seed=st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_mixing_keeps_the_mean_over_workers_and_auxiliary_variables(v, workers, seed):
    from scipy import sparse

    w = random_w(workers + v, seed)
    mixing = cooperation.Cooperation([sparse.csr_array(w)], workers, "W")
    x, z = np.split(np.random.default_rng(seed).normal(size=(workers + v, 3)), [workers])
    mixed = np.array([sum(weight * x[j] for j, weight in mixing.row(i, 5)) for i in range(workers)])
    mixed += mixing.from_workers[0].T @ z
    moved = mixing.from_workers[0] @ x + mixing.among_auxiliary[0] @ z
    np.testing.assert_allclose(mixed.sum(axis=0) + moved.sum(axis=0), x.sum(axis=0) + z.sum(axis=0), atol=1e-13)
    assert all(i in mixing.receivers(j, 0) for i in range(workers) for j, _ in mixing.row(i, 0) if i != j)


def consensus_of_noise(ws, rounds, dimensions, rng):
    """Mean of (1/m) sum_i (x_i - mean)^2 per coordinate of X <- W (X - G) with G ~ N(0, 1), tau = 1."""
    x, total = np.zeros((M, dimensions)), 0.0
    for r in range(rounds):
        total += np.mean((x - x.mean(axis=0)) ** 2)
        x = ws[r % len(ws)] @ (x - rng.standard_normal(x.shape))
    return total / rounds


def test_averaging_pairs_in_between_lowers_disagreement():
    """Pure noise: all every 16 steps gives C = lr^2 s^2 (1 - 1/m) (tau - 1) / 2, pairs in between less."""
    def ws(*keys):
        return [w.toarray() for w in cooperation.hierarchical(M, *keys)]

    rng = np.random.default_rng(8)
    assert consensus_of_noise(ws(1, 16), 3200, 400, rng) == pytest.approx(7 / 8 * 15 / 2, rel=0.02)
    # 4 pairs walk with half the variance: (1/2) (1 - 1/4) (tau - 1) / 2
    assert consensus_of_noise(ws(2, 16), 3200, 400, rng) == pytest.approx(3 / 8 * 15 / 2, rel=0.02)


@pytest.mark.parametrize("v", [0, 2])
def test_a_stopped_run_goes_on_with_its_auxiliary_variables(path, tmp_path, v):
    np.save(tmp_path / "w.npy", random_w(M + v, seed=v))
    given = {"workers": M, "steps": 40, "device": "cpu", "task": {"kind": "quadratic", "path": path},
             "period": {"tau": 3}, "algorithm": {"kind": "cooperative", "matrix": str(tmp_path / "w.npy")}}
    run(given, tmp_path / "whole.h5")
    interrupted(given, tmp_path / "parts.h5", step=13)
    run(given, tmp_path / "parts.h5", resume=True)
    assert np.array_equal(content(tmp_path / "parts.h5")["final/x"], content(tmp_path / "whole.h5")["final/x"])


@pytest.mark.parametrize("keys, words", [
    ({"generator": "ring"}, ["generator", "'ring'"]),
    ({"generator": "easgd", "alpha": 0.3}, ["alpha = 0.3", "2 / (m + 1)"]),
    ({"generator": "hierarchical", "group": 3}, ["group = 3", "1, 2, 4, 8"]),
    ({"matrix": "nowhere.npy"}, ["nowhere.npy"]),
    ({"matrix": "small.npy"}, ["4 variables", "8 workers"]),
    ({"matrix": "shift.npy"}, ["symmetric"]),
    ({"matrix": "half.npy"}, ["not doubly stochastic"]),
    ({"matrix": "wild.npy"}, ["disagreement grow"]),
    ({"matrix": "links.txt"}, ["plain links"]),
])
def test_impossible_choices_are_refused(path, tmp_path, monkeypatch, keys, words):
    monkeypatch.chdir(tmp_path)
    np.save("small.npy", np.full((4, 4), 0.25))
    np.save("shift.npy", np.roll(np.eye(M + 1), 1, axis=0))
    np.save("half.npy", np.eye(M) / 2)
    np.save("wild.npy", 2 * np.eye(M) - np.full((M, M), 1 / M))
    (tmp_path / "links.txt").write_text("0 1\n1 2\n")
    with pytest.raises(UserError) as error:
        train(path, {"kind": "cooperative"} | keys)
    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize("graph", ["exponential", "one-peer-exponential"])
def test_graph_and_centre_needs_a_fixed_symmetric_graph(path, graph):
    with pytest.raises(UserError, match="cooperative needs a fixed symmetric"):
        train(path, {"kind": "cooperative"}, mixing={"graph": graph})
