"""Every algorithm against an independent float64 matrix recursion on the quadratic task."""

import h5py
import numpy as np
import pytest

from coopmpi import registry
from coopmpi.parts.mixing import Mixing
from coopmpi.streams import Purpose, stream
from tests.runs import lockstep, write_quadratic

M, STEPS, SEED = 8, 25, 3
GRAPHS = [name for name in registry.parts("graph") if name != "one-peer-exponential"]
OPTIMIZERS = {
    "plain": {},
    "momentum": {"momentum": 0.9},
    "nesterov": {"momentum": 0.9, "nesterov": True},
    "weight-decay": {"momentum": 0.5, "nesterov": True, "weight_decay": 0.03},
}
VARIANTS = {name: {} for name in registry.parts("algorithm")} | {"easgd-overlap": {"kind": "easgd", "overlap": True}}


def matrices(graph, weights="metropolis"):
    """W of each round in turn, dense float64."""
    mixing = Mixing(graph=graph, weights=weights).bind(M, SEED)
    return [mixing.matrix(t).toarray() for t in range(mixing.cycle)]


class Reference:
    """Textbook code: stacked rows, explicit matrices, no generators."""

    def __init__(self, path, momentum=0.0, nesterov=False, weight_decay=0.0, lr=0.05):
        with h5py.File(path) as file:
            self.a, self.b, self.x0, self.noise = file["a"][:], file["b"][:], file["x0"][:], file.attrs["noise"]
        self.momentum, self.nesterov, self.weight_decay, self.lr = momentum, nesterov, weight_decay, lr
        self.v = np.zeros_like(self.b)

    def gradient(self, x, k):
        noise = [stream(SEED, Purpose.NOISE, i, k).standard_normal(x.shape[1]) for i in range(M)]
        return self.a * (x - self.b) + self.noise * np.array(noise)

    def direction(self, x, g):
        g = g + self.weight_decay * x
        self.v = self.momentum * self.v + g
        return g + self.momentum * self.v if self.nesterov else self.v

    def run(self, name, tau, ws, alpha=None):
        x, z = np.tile(self.x0, (M, 1)), self.x0.copy()
        j = np.full((M, M), 1 / M)
        alpha = alpha or 2 / (M + 2)
        rounds = 0
        for k in range(STEPS):
            g = self.gradient(x, k)
            if name == "sync-sgd":
                x = x - self.lr * self.direction(x, j @ g)
                continue
            if name == "d-psgd":
                x = ws[k % len(ws)] @ x - self.lr * self.direction(x, g)
                continue
            x = x - self.lr * self.direction(x, g)
            if (k + 1) % tau:
                continue
            if name == "local-sgd":
                x = j @ x
            elif name == "dpa":
                x = ws[rounds % len(ws)] @ x
            elif name == "easgd":
                x, z = (1 - alpha) * x + alpha * z, (1 - M * alpha) * z + alpha * x.sum(axis=0)
            else:
                raise AssertionError(f"no reference for {name}: write one")
            rounds += 1
        return x, z


def tables(path, variant, optimizer, tau=4, mixing=None):
    algorithm = {"kind": variant} | VARIANTS[variant]
    return {"workers": M, "steps": STEPS, "seed": SEED, "dtype": "float64", "device": "cpu",
            "task": {"kind": "quadratic", "path": path}, "optimizer": {"lr": 0.05} | optimizer,
            "algorithm": algorithm, "period": {"tau": tau}, "mixing": mixing or {}}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_quadratic(tmp_path_factory.mktemp("quadratic") / "q.h5", M, noise=0.1)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_matrix_reference(path, variant, optimizer):
    trainer = lockstep(tables(path, variant, OPTIMIZERS[optimizer]))
    kind = VARIANTS[variant].get("kind", variant)
    x, z = Reference(path, **OPTIMIZERS[optimizer]).run(kind, 4, matrices("ring"))
    assert abs(trainer.state.x - x).max() < 1e-10
    if kind == "easgd":
        assert abs(trainer.state.z - z).max() < 1e-10


@pytest.mark.parametrize("graph", [*GRAPHS, "one-peer-exponential"])
@pytest.mark.parametrize("variant", [name for name, cls in registry.parts("algorithm").items() if cls.uses_mixing])
def test_equals_reference_on_every_graph(path, variant, graph):
    trainer = lockstep(tables(path, variant, OPTIMIZERS["nesterov"], tau=3, mixing={"graph": graph}))
    x, _ = Reference(path, **OPTIMIZERS["nesterov"]).run(variant, 3, matrices(graph))
    assert abs(trainer.state.x - x).max() < 1e-10


@pytest.mark.parametrize("weights", ["uniform", "best-constant"])
def test_equals_reference_with_other_weights(path, weights):
    trainer = lockstep(tables(path, "d-psgd", {}, mixing={"graph": "torus", "weights": weights}))
    x, _ = Reference(path).run("d-psgd", 1, matrices("torus", weights))
    assert abs(trainer.state.x - x).max() < 1e-10


@pytest.mark.parametrize("variant", VARIANTS)
def test_matrix_form_gives_the_same_trajectory(path, variant):
    """X <- W (X - lr G) with the W, tau, v that the algorithm itself claims."""
    algorithm = registry.find("algorithm", VARIANTS[variant].get("kind", variant))()
    form = algorithm.matrix_form(M, 4, matrices("ring")[0])
    if form is None:
        pytest.skip("not of the Cooperative SGD form")
    tau, w, v = form
    assert np.allclose(w.sum(axis=0), 1) and np.allclose(w.sum(axis=1), 1)
    reference = Reference(path)
    x = np.tile(reference.x0, (M + v, 1))
    for k in range(STEPS):
        x[:M] -= 0.05 * reference.gradient(x[:M], k)
        if (k + 1) % tau == 0:
            x = w @ x
    assert abs(lockstep(tables(path, variant, {})).state.x - x[:M]).max() < 1e-10


def test_easgd_with_another_alpha_and_its_stability_limit(path):
    close = tables(path, "easgd", {}, tau=1) | {"algorithm": {"kind": "easgd", "alpha": 0.1}}
    x, _ = Reference(path).run("easgd", 1, None, alpha=0.1)
    assert abs(lockstep(close).state.x - x).max() < 1e-10
    # the disagreement mode 1 - (m + 1) alpha grows beyond alpha = 2 / (m + 1)
    beyond = close | {"algorithm": {"kind": "easgd", "alpha": 2.2 / (M + 1)}, "steps": 400}
    assert abs(lockstep(beyond).state.x).max() > 1e6


def test_adam_is_pytorchs_formula(path):
    """Two workers' worth of Adam written out with explicit bias corrections."""
    trainer = lockstep(tables(path, "local-sgd", {"kind": "adam", "lr": 0.01, "weight_decay": 0.1}, tau=10**6))
    reference = Reference(path)
    x, m, v = np.tile(reference.x0, (M, 1)), 0, 0
    for k in range(STEPS):
        g = reference.gradient(x, k) + 0.1 * x
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        x = x - 0.01 * (m / (1 - 0.9 ** (k + 1))) / (np.sqrt(v / (1 - 0.999 ** (k + 1))) + 1e-8)
    assert abs(trainer.state.x - x).max() < 1e-10


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_algorithm_is_described(variant):
    cls = registry.find("algorithm", VARIANTS[variant].get("kind", variant))
    assert cls.__doc__ and cls.source and cls.bibtex
