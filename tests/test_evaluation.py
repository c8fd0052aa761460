"""[record] slots: models of the algorithm that are evaluated beside the mean of the workers."""

import h5py
import numpy as np
import pytest

from tests.in_process import coopmpi as in_process
from tests.in_process import refused
from tests.runs import coopmpi, settings

FIGURES = ("loss", "train_loss", "accuracy")
RUN = {"workers": 2, "steps": 20, "device": "cpu", "dtype": "float64", "deterministic": True, "task": {"hidden": [4]}, "period": {"tau": 4},
       "record": {"eval_every": 2, "slots": ["z"]}}


def run(path, verb="simulate", *options, **tables):
    status, _, message = in_process(verb, "-o", path, "--quiet", *settings(RUN | tables), *options)
    assert status == 0, message
    return path


def evaluations(path):
    with h5py.File(path) as file:
        return {name: data[:] for name, data in file["eval"].items()} | {"said": file["eval/z_loss"].attrs["description"]}


def test_the_slow_model_is_the_mean_after_each_round_and_not_in_between(tmp_path):
    found = evaluations(run(tmp_path / "run.h5", algorithm={"kind": "slowmo"}))
    after = found["step"] % 4 == 0
    for name in FIGURES:
        assert np.allclose(found[f"z_{name}"][after], found[name][after], rtol=1e-12)
    assert not np.isclose(found["z_train_loss"][~after], found["train_loss"][~after], rtol=1e-6).any()
    assert "of z" in found["said"]


@pytest.mark.mpi
def test_the_centre_on_two_ranks_is_that_on_one(tmp_path):
    one = evaluations(run(tmp_path / "one.h5", "train", algorithm={"kind": "easgd"}))
    status, out, err = coopmpi("train", "-o", "two.h5", "--quiet", *settings(RUN | {"algorithm": {"kind": "easgd"}}), ranks=2, cwd=tmp_path)
    assert status == 0, out + err
    two = evaluations(tmp_path / "two.h5")
    for name in FIGURES:
        assert np.allclose(one[f"z_{name}"], two[f"z_{name}"], rtol=1e-12) and one[f"z_{name}"][-1] != one[name][-1]


@pytest.mark.parametrize("algorithm, slot, allowed", [("local-sgd", "z", "none"), ("easgd", "zz", "z"), ("slowmo", "u", "z"), ("easgd", "x", "z")])
def test_what_is_no_model_for_all_workers_is_refused(tmp_path, algorithm, slot, allowed):
    said = refused("train", "-o", tmp_path / "run.h5", f"--set=algorithm.kind={algorithm}", f'--set=record.slots=["{slot}"]')
    assert f"unknown model among the slots of {algorithm} '{slot}'" in said and f"(allowed: {allowed})" in said
