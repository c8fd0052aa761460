"""The contract over the registry: one process, and real MPI ranks, train the same models."""

import json
from importlib.util import find_spec
from pathlib import Path

import h5py
import numpy as np
import pytest

from coopmpi import config, registry
from coopmpi.drivers.solo import Solo
from coopmpi.run.assemble import assemble
from coopmpi.run.session import train
from tests.runs import EVEN_VARIANTS, VARIANTS, coopmpi, read, write_quadratic

pytestmark = pytest.mark.mpi

RANKS = (1, 2, 3, 4, 8)
EXACT = EVEN_VARIANTS | {"cooperative-easgd": {"kind": "cooperative", "generator": "easgd"}}


def exact(variant, graph):
    """Real data in float32, summed in a fixed order."""
    return read({"workers": 8, "steps": 30, "deterministic": True, "device": "cpu", "algorithm": EXACT[variant],
                 "task": {"data": "digits", "hidden": [16], "batch": 8}, "period": {"tau": 3},
                 "mixing": {"graph": graph, "lazy": graph != "matcha"},
                 "optimizer": {} if variant == "sparq-sgd" else {"momentum": 0.9, "nesterov": True},
                 "compress": {"kind": "sign-topk", "fraction": 0.1}})


def rounded(variant, path):
    """Noisy quadratics in float64 on a number of workers that no number of ranks divides."""
    return read({"workers": 7, "steps": 40, "dtype": "float64", "device": "cpu", "algorithm": VARIANTS[variant],
                 "task": {"kind": "quadratic", "path": path}, "period": {"tau": 4}, "mixing": {"lazy": True},
                 "compress": {"kind": "qsgd"}})


# batch norm and dropout
TORCH = {"kind": "torch", "module": "tests.torch_modules:net", "batch": 8}
TORCH_RANKS = (1, 2, 4)  # PyTorch takes seconds to start
TORCH_VARIANTS = VARIANTS if find_spec("torch") and find_spec("safetensors") else ()

FIXED = ("d2", "squarm-sgd", "squarm-sgd-share", "squarm-sgd-threshold", "sparq-sgd", "cooperative")  # need a fixed graph
CASES = [(variant, graph) for variant in VARIANTS for graph in ("ring", "one-peer-exponential")
         if graph == "ring"
         or registry.find("algorithm", VARIANTS[variant]["kind"]).uses_mixing and variant not in FIXED]
# links that are drawn in every round, and workers of unequal degree
CASES += [(variant, "matcha") for variant in ("d-psgd", "dpa", "choco-sgd", "sgp")]
CASES += [(variant, "star") for variant in ("sgp", "overlap-sgp")]
CASES += [(f"cooperative-{which}", "ring") for which in ("easgd", "hierarchical", "matrix")]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """{None: lock-step results, number of ranks: results over MPI}, one file per case."""
    root = tmp_path_factory.mktemp("mpi")
    path = write_quadratic(root / "q.h5", 7, noise=0.1)
    # 8 workers and 2 auxiliary variables on a circle, each taking 1/2 of its own and 1/4 of two others
    np.save(root / "w.npy", sum(weight * np.roll(np.eye(10), hop, axis=1) for hop, weight in ((0, .5), (1, .25), (-1, .25))))
    EXACT["cooperative-matrix"] = {"kind": "cooperative", "matrix": str(root / "w.npy")}
    runs = {f"exact-{variant}-{graph}": exact(variant, graph) for variant, graph in CASES}
    runs |= {f"rounded-{variant}": rounded(variant, path) for variant in VARIANTS}
    runs |= {f"torch-{variant}": exact(variant, "ring") | {"task": TORCH} for variant in TORCH_VARIANTS}
    (root / "runs.json").write_text(json.dumps(runs))
    found = {ranks: root / str(ranks) for ranks in (None, *RANKS)}
    for ranks, folder in found.items():
        folder.mkdir()
        if ranks is None:
            for name, tables in runs.items():
                train(assemble(config.resolve(tables), Solo()), Solo(), folder / f"{name}.h5")
            continue
        some = {name: t for name, t in runs.items() if t["workers"] >= ranks and (ranks in TORCH_RANKS or not name.startswith("torch"))}
        (folder / "runs.json").write_text(json.dumps(some))
        script = str(Path(__file__).with_name("train_many.py"))
        status, out, err = coopmpi(folder / "runs.json", folder, ranks=ranks, main=(script,), limit=300)
        assert status == 0, out + err
    return found


def outcome(path):
    with h5py.File(path) as file:
        assert file.attrs["status"].rstrip(b"\0 ") == b"finished"
        return file["final/x"][:], file["train/loss"][:], file["train/bytes_sent"][:]


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("variant, graph", CASES)
def test_deterministic_runs_do_not_depend_on_the_number_of_ranks(folders, variant, graph, ranks):
    name = f"exact-{variant}-{graph}.h5"
    (alone, losses, sent), (x, loss, bytes_sent) = outcome(folders[None] / name), outcome(folders[ranks] / name)
    assert np.array_equal(x, alone)
    assert np.array_equal(loss, losses) and np.isfinite(loss).all() and loss.shape == (30, 8)
    assert np.array_equal(bytes_sent, sent)


@pytest.mark.parametrize("ranks", TORCH_RANKS)
@pytest.mark.parametrize("variant", TORCH_VARIANTS)
def test_modules_of_pytorch_do_not_depend_on_the_number_of_ranks(folders, variant, ranks):
    (alone, losses, _), (x, loss, _) = (outcome(folders[which] / f"torch-{variant}.h5") for which in (None, ranks))
    assert np.array_equal(x, alone) and np.array_equal(loss, losses)


@pytest.mark.parametrize("ranks", RANKS)
def test_figures_of_the_mean_model_do_not_depend_on_the_number_of_ranks(folders, ranks):
    name = f"exact-{'-'.join(CASES[0])}.h5"
    with h5py.File(folders[None] / name) as alone, h5py.File(folders[ranks] / name) as file:
        assert set(file["eval"]) == set(alone["eval"]) and len(file["eval/step"]) > 3
        for figure in set(file["eval"]) - {"wall_time"}:
            # sums over ranks are rounded
            np.testing.assert_allclose(file["eval"][figure][:], alone["eval"][figure][:], rtol=1e-5, atol=1e-12, err_msg=figure)


@pytest.mark.parametrize("ranks", RANKS[:-1])
@pytest.mark.parametrize("variant", VARIANTS)
def test_default_runs_agree_to_rounding(folders, variant, ranks):
    name = f"rounded-{variant}.h5"
    (alone, _, _), (x, _, _) = outcome(folders[None] / name), outcome(folders[ranks] / name)
    assert abs(x - alone).max() < 1e-12
