"""The contract over the registry: one process, and real MPI ranks, train the same models."""

import h5py
import numpy as np
import pytest

from coopmpi import registry
from tests.runs import coopmpi, settings, write_quadratic

pytestmark = pytest.mark.mpi

VARIANTS = {name: {"kind": name} for name in registry.parts("algorithm")}
VARIANTS["easgd-overlap"] = {"kind": "easgd", "overlap": True}
TASKS = {
    "digits": {"kind": "classify", "data": "digits", "hidden": [16], "batch": 8},
    "quadratic": {"kind": "quadratic", "path": "q.h5"},
}


def final(folder, name, tables, ranks):
    status, out, err = coopmpi("train", *settings(tables), "-o", f"{name}.h5", ranks=ranks, cwd=folder)
    assert status == 0, out + err
    with h5py.File(folder / f"{name}.h5") as file:
        assert file.attrs["status"].rstrip(b"\0 ") == b"finished"
        assert file["train/loss"].shape == (tables["steps"], tables["workers"])
        assert np.isfinite(file["train/loss"][:]).all()
        return file["final/x"][:], file["train/loss"][:], file["train/bytes_sent"][:]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("graph", ["ring", "one-peer-exponential"])
def test_deterministic_runs_do_not_depend_on_the_number_of_ranks(tmp_path, variant, graph):
    if graph != "ring" and not registry.find("algorithm", VARIANTS[variant]["kind"]).uses_mixing:
        pytest.skip("uses no graph")
    tables = {"workers": 8, "steps": 30, "deterministic": True, "task": TASKS["digits"], "algorithm": VARIANTS[variant],
              "period": {"tau": 3}, "optimizer": {"momentum": 0.9, "nesterov": True}, "mixing": {"graph": graph}}
    alone, losses, sent = final(tmp_path, "alone", tables, None)
    for ranks in (1, 2, 3, 4, 8) if graph == "ring" else (3,):
        x, loss, bytes_sent = final(tmp_path, f"on-{ranks}", tables, ranks)
        assert np.array_equal(x, alone), ranks
        assert np.array_equal(loss, losses) and np.array_equal(bytes_sent, sent)


@pytest.mark.parametrize("variant", VARIANTS)
def test_default_runs_agree_to_rounding(tmp_path, variant):
    write_quadratic(tmp_path / "q.h5", 7, noise=0.1)
    tables = {"workers": 7, "steps": 40, "dtype": "float64", "task": TASKS["quadratic"], "algorithm": VARIANTS[variant],
              "period": {"tau": 4}}
    alone, _, _ = final(tmp_path, "alone", tables, None)
    for ranks in (2, 4):
        x, _, _ = final(tmp_path, f"on-{ranks}", tables, ranks)
        assert abs(x - alone).max() < 1e-12
