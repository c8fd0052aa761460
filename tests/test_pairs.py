"""Parts that cannot work together are refused with the rule and a way out; all other pairs reach the minimum."""

import h5py
import numpy as np
import pytest

from coopmpi import registry
from coopmpi.compression.compressors import RandK
from coopmpi.errors import UserError
from coopmpi.local.optimizers import SGD
from tests.runs import lockstep, read

M, D = 8, 6
OF_A_GRAPH = [name for name, cls in registry.parts("algorithm").items() if cls.uses_mixing]
COMPRESSING = [name for name, cls in registry.parts("algorithm").items() if cls.uses_compress]
TAKE_W_ITSELF = ("dpa", "overlap-dpa", "d-psgd", "gradient-tracking")  # not only a part of its pull


class Scaled(RandK, frozen=True, kw_only=True):
    """rand-k without bias: what is kept is divided by its probability."""

    contractive = False

    def restore(self, device, values, shape, drawn, out):
        super().restore(device, values, shape, drawn, out)
        out *= out.shape[1] / self.kept(shape)


class Momentless(SGD, frozen=True, kw_only=True):
    """An optimiser of the user's own, without buffers."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Graphs and matrices in files, and a quadratic whose minimum differs from worker to worker."""
    root = tmp_path_factory.mktemp("pairs")
    circle = np.roll(np.eye(M), 1, axis=0)
    np.save(root / "swap.npy", circle)
    np.save(root / "two-coloured.npy", (circle + circle.T) / 2)  # eigenvalue -1
    np.save(root / "alone.npy", np.eye(M + 1))
    np.save(root / "pairs.npy", np.kron(np.eye(M // 2), np.full((2, 2), 0.5)))
    rows = np.tril(np.ones((M, M))) + circle
    np.save(root / "rows.npy", rows / rows.sum(axis=1, keepdims=True))
    arrows = "".join(f"{i} {(i + 1) % M}\n" for i in range(M))
    (root / "circle.txt").write_text(arrows)
    (root / "lopsided.txt").write_text(arrows + "0 3\n1 6\n")
    with h5py.File(root / "q.h5", "w") as file:
        file["a"], file["x0"] = np.linspace(0.8, 1.2, D), np.zeros(D)
        file["b"] = np.random.default_rng(2).normal(size=(M, D))
        file.attrs["noise"] = 0.0
    return root


@pytest.fixture(autouse=True)
def inside(folder, monkeypatch):
    monkeypatch.chdir(folder)


def train(kind, **more):
    """State of 300 steps with learning rate 0.05."""
    tables = {"workers": M, "steps": 300, "dtype": "float64", "device": "cpu", "algorithm": {"kind": kind},
              "task": {"kind": "quadratic", "path": "q.h5"}, "optimizer": {"lr": 0.05}, "period": {"tau": 4},
              "compress": {"kind": "topk", "fraction": 0.5}}
    for key, table in more.items():
        tables[key] = table if "kind" in table else tables.get(key, {}) | table
    return lockstep(read(tables)).state


def graph(name, **keys):
    return {"mixing": {"graph": name} | keys}


LAZY = "lazy = true"
REFUSED = {
    # the matrix must be fixed and symmetric
    **{f"{algorithm} on {name}": (algorithm, graph(name), ["fixed symmetric", problem, way])
       for algorithm, way in [("squarm-sgd", "choco-sgd"), ("sparq-sgd", "choco-sgd"), ("d2", "gradient-tracking"),
                              ("cooperative", "dpa")]
       for name, problem in [("one-peer-exponential", "not fixed"), ("matcha", "not fixed"),
                             ("exponential", "not symmetric")]},
    **{f"{algorithm} on arrows": (algorithm, graph("circle.txt", directed=True), ["symmetric", "not symmetric"])
       for algorithm in ("squarm-sgd", "sparq-sgd", "d2", "cooperative")},
    "cooperative with arrows as W": ("cooperative", {"algorithm": {"matrix": "swap.npy"}}, ["symmetric", "dpa"]),
    # eigenvalues
    "d2 on the ring": ("d2", graph("ring"), ["above -1/3", "-0.3333", LAZY, "gradient-tracking"]),
    "d2 on a hypercube": ("d2", graph("hypercube"), ["above -1/3", "-0.5000", LAZY]),
    "d2 with eigenvalue -1": ("d2", graph("two-coloured.npy"), [LAZY]),
    **{f"{algorithm} with {w}": (algorithm, graph(w), ["never agree", "modulus 1", LAZY])
       for algorithm in TAKE_W_ITSELF for w in ("swap.npy", "two-coloured.npy")},
    **{f"cooperative with {w}": ("cooperative", {"algorithm": {"matrix": w}}, ["never", "modulus 1", "Connect"])
       for w in ("two-coloured.npy", "pairs.npy", "alone.npy")},
    # a graph that gives no doubly stochastic W is for push-sum
    **{f"{algorithm} on a lopsided graph": (algorithm, graph("lopsided.txt", directed=True),
                                            ["doubly stochastic", "undirected", "sgp"])
       for algorithm in OF_A_GRAPH if "sgp" not in algorithm},
    "sgp with a matrix by rows": ("sgp", graph("rows.npy"), ["columns sum to 1"]),
    "matcha on a changing graph": ("dpa", graph("matcha", base="one-peer-exponential"), ["fixed undirected graph"]),
    "matcha made lazy": ("dpa", graph("matcha", lazy=True), ["chooses its weights", "leave it out"]),
    # optimisers
    "sparq with momentum": ("sparq-sgd", {"optimizer": {"momentum": 0.9}}, ["without momentum", "squarm-sgd"]),
    "sparq with adam": ("sparq-sgd", {"optimizer": {"kind": "adam"}}, ["without momentum", "'adam'", "squarm-sgd"]),
    "d2 with adam": ("d2", graph("ring", lazy=True) | {"optimizer": {"kind": "adam"}},
                     ["linear in the gradients", "adam", "gradient-tracking"]),
    # periods
    **{f"streaming-diloco with {kind}": ("streaming-diloco", {"period": {"kind": kind}}, ['kind = "every"', repr(kind)])
       for kind in ("post-local", "list", "adacomm")},
    "streaming-diloco with a long delay": ("streaming-diloco", {"algorithm": {"delay": 4}}, ["delay = 4", "tau = 4"]),
    # compressors
    **{f"{algorithm} with scaled rand-k": (algorithm, {"compress": {"kind": "tests.test_pairs:Scaled"}},
                                           ["contractive", "Scaled", "leave out the factor"])
       for algorithm in COMPRESSING},
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_pair_that_cannot_work_is_refused_with_a_way_out(case):
    algorithm, more, words = REFUSED[case]
    with pytest.raises(UserError) as error:
        train(algorithm, **more)
    assert all(word in str(error.value) for word in words), str(error.value)


# and nothing that goes through gives nonsense
GRAPHS = {name: graph(name) for name in registry.parts("graph")}
GRAPHS |= {"directed circle": graph("circle.txt", directed=True), "circle": graph("circle.txt"),
           "lazy ring": graph("ring", lazy=True), "lazy swap": graph("swap.npy", lazy=True),
           "swap": graph("swap.npy"), "best star": graph("star", weights="best-constant"),
           "lopsided": graph("lopsided.txt", directed=True)}


def check_minimum(kind, bias=1e-4, **more):
    """The mean model is at the minimum of the sum, and the workers' models are near it."""
    with h5py.File("q.h5") as file:
        best = file["b"][:].mean(axis=0)
    x = train(kind, **more).x
    assert abs(x.mean(axis=0) - best).max() < bias
    assert abs(x - best).max() < 3


NOT_SYMMETRIC = {"exponential", "one-peer-exponential", "matcha", "directed circle", "swap", "lazy swap", "lopsided"}
NOT_FOR = {"squarm-sgd": NOT_SYMMETRIC, "sparq-sgd": NOT_SYMMETRIC, "cooperative": NOT_SYMMETRIC,
           "d2": NOT_SYMMETRIC | {"ring", "circle", "torus", "hypercube", "best star"},
           "sgp": {"swap", "lazy swap"}, "overlap-sgp": {"swap", "lazy swap"},
           "choco-sgd": {"lopsided"}, "overlap-choco-sgd": {"lopsided"}, "deepsqueeze": {"lopsided"},
           **{algorithm: {"lopsided", "swap"} for algorithm in TAKE_W_ITSELF}}


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("algorithm", OF_A_GRAPH)
def test_a_graph_is_refused_or_leads_to_the_minimum(algorithm, name):
    if name in NOT_FOR[algorithm]:
        with pytest.raises(UserError):
            train(algorithm, **GRAPHS[name])
        return
    # the masses of push-sum change from round to round where links are drawn, and weigh the disagreement
    bias = 0.05 if "sgp" in algorithm and name == "matcha" else 1e-2 if algorithm == "cooperative" else 1e-4
    check_minimum(algorithm, bias, **GRAPHS[name])


@pytest.mark.parametrize("table", [{"kind": "every", "tau": 1}, {"kind": "post-local", "switch": 20, "tau": 8},
                                   {"kind": "list", "taus": [[0, 16], [100, 3]]}, {"kind": "adacomm", "interval": 0.01}],
                         ids=lambda table: table["kind"])
@pytest.mark.parametrize("algorithm", [name for name, cls in registry.parts("algorithm").items() if cls.uses_period])
def test_every_period_leads_to_the_minimum(algorithm, table):
    if algorithm == "streaming-diloco":
        table = {"kind": "every", "tau": 7}
    bias = {"cooperative": 0.05, "easgd": 0.05, "overlap-local-sgd": 0.05, "double-compressed": 0.3}
    check_minimum(algorithm, bias.get(algorithm, 1e-2), period=table)


@pytest.mark.parametrize("kind", registry.parts("compress"))
@pytest.mark.parametrize("algorithm", [name for name in COMPRESSING if name != "double-compressed"])
def test_every_compressor_leads_to_the_minimum(algorithm, kind):
    keys = {"fraction": 0.5} if kind in ("topk", "randk", "sign-topk") else {}
    check_minimum(algorithm, compress={"kind": kind} | keys)


def test_a_plain_optimiser_of_the_users_own_goes_with_sparq():
    check_minimum("sparq-sgd", optimizer={"kind": "tests.test_pairs:Momentless"})
