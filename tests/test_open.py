"""coopmpi.open: a result as xarray data, whatever its state, and one sentence for what is none."""

import copy
import subprocess
import sys
import tomllib

import h5py
import numpy as np
import pytest

import coopmpi
from coopmpi import config
from coopmpi.drivers.solo import Solo
from coopmpi.errors import UserError
from coopmpi.record.writer import Writer
from coopmpi.run import session
from coopmpi.run.assemble import assemble
from coopmpi.sinks import About, StepRows
from tests.interruptions import interrupted
from tests.runs import write_quadratic
from tests.test_cli_inspect import rows, start_file
from tests.test_damaged import chunk_of, damage

xarray = pytest.importorskip("xarray")
pytest.importorskip("h5netcdf")
M, STEPS = 3, 20
SMALL = {"workers": M, "steps": STEPS, "device": "cpu", "record": {"eval_every": 5}, "period": {"tau": 4}, "task": {"hidden": [70]}}


def made(folder, mode="train", **tables):
    folder.mkdir(exist_ok=True)
    path = folder / "run.h5"
    session.train(assemble(config.resolve(SMALL | tables), Solo(), mode), Solo(), path)
    return path


def test_a_training(tmp_path):
    path = made(tmp_path)
    with coopmpi.open(path) as run, h5py.File(path) as file:
        assert set(run.data.children) == {"steps", "evaluations", "rounds"} and run.data.attrs["status"] == "finished"
        for data, group in ((run.steps, "train"), (run.evaluations, "eval")):
            assert set(data.variables) - {"worker"} == set(file[group]) and {"step", "wall_time"} <= set(data.coords)
            for name, series in file[group].items():
                assert np.array_equal(data[name], series[:]) and data[name].dims == ("step", "worker")[:series.ndim]
                assert data[name].attrs == {key: series.attrs[key] for key in ("units", "description")}
        assert run.steps.worker.values.tolist() == [0, 1, 2]
        assert run.rounds.step.values.tolist() == [4, 8, 12, 16, 20]
        assert np.array_equal(run.rounds.bytes_sent, file["train/bytes_sent"][3::4]) and (run.rounds.tau == 4).all()
        assert run.config == tomllib.loads(file["config"].asstr()[()]) and run.events == []
        assert "Group: /rounds" in repr(run) and "<div>" in run._repr_html_()


def test_models_by_the_names_of_their_tensors(tmp_path):
    path = made(tmp_path)
    with coopmpi.open(path) as run, h5py.File(path) as file:
        for worker, row in ((None, file["final/mean"][:]), (2, file["final/x"][2])):
            model = run.model(worker)
            assert {name: tensor.shape for name, tensor in model.items()} == {
                "1.dense.weight": (64, 70), "1.dense.bias": (70,), "3.dense.weight.T": (10, 70), "3.dense.bias": (10,)}
            assert np.array_equal(np.concatenate([tensor.ravel() for tensor in model.values()]), row)
        with pytest.raises(UserError, match="worker must be one of 0 to 2, given 3"):
            run.model(3)
    quadratic = {"kind": "quadratic", "path": write_quadratic(tmp_path / "q.h5", M)}
    with coopmpi.open(made(tmp_path / "other", task=quadratic)) as run:
        assert list(run.model()) == ["x"] and run.model()["x"].shape == (7,)


def test_rounds_are_where_something_was_sent(tmp_path):
    """Also where the period changes: some steps are chosen, in no regular order."""
    path = made(tmp_path, period={"kind": "adacomm", "tau": 6, "interval": 6}, algorithm={"kind": "local-sgd"})
    with coopmpi.open(path) as run, h5py.File(path) as file:
        sent = file["train/bytes_sent"][:]
        took = np.flatnonzero(sent.any(axis=1))
        assert 0 < len(took) < STEPS and np.array_equal(run.rounds.step, took + 1)
        assert np.array_equal(run.rounds.bytes_sent, sent[took]) and np.array_equal(run.rounds.wait_time, file["train/wait_time"][:][took])
    with coopmpi.open(made(tmp_path / "alone", workers=1)) as run:
        assert run.rounds.sizes["step"] == 0


def test_transfers_of_a_method_that_hides_them(tmp_path):
    path = made(tmp_path, algorithm={"kind": "overlap-local-sgd"})
    with coopmpi.open(path) as run, h5py.File(path) as file:
        assert np.array_equal(run.data["transfers"]["posted"], file["rounds/posted"][:]) and len(file["rounds/posted"])


def test_simulations(tmp_path):
    with coopmpi.open(made(tmp_path, "simulate")) as run:
        time = run.evaluations.virtual_time
        assert time.values.tolist() == [0.0, *run.steps.virtual_time.sel(step=time.step[1:]).values] and time.attrs["units"] == "s"
        assert run.rounds.virtual_time.dims == ("step",)
    with coopmpi.open(made(tmp_path / "time", mode="time-only")) as run:
        assert run.rounds.sizes["step"] == 5 and "loss" not in run.steps and "evaluations" not in run.data.children
        with pytest.raises(UserError, match="time alone has no evaluations"):
            run.evaluations
        with pytest.raises(UserError, match="time alone has no models"):
            run.model()


def test_a_summary(tmp_path):
    path = made(tmp_path, record={"per_worker": "summary"})
    with coopmpi.open(path) as run, h5py.File(path) as file:
        assert run.steps.loss_max.dims == ("step",) and np.array_equal(run.steps.loss_max, file["train/loss_max"][:])
        assert {"bytes_sent", "bytes_sent_min", "bytes_sent_max", "tau"} <= set(run.rounds) and run.rounds.sizes["step"] == 5


def test_an_interrupted_run(tmp_path):
    given = SMALL | {"steps": 200, "task": {"kind": "quadratic", "path": write_quadratic(tmp_path / "q.h5", M)}}
    step = interrupted(given, tmp_path / "run.h5", step=30)
    with coopmpi.open(tmp_path / "run.h5") as run:
        assert run.data.attrs["status"] == "interrupted" and run.steps.sizes["step"] == step
        event, = run.events
        assert (event.step, event.kind) == (step, "interrupted") and run.model()["x"].shape == (7,)


def test_a_growing_file_and_what_a_kill_leaves(tmp_path):
    path = tmp_path / "run.h5"
    writer = start_file(path)
    with coopmpi.open(path) as run:
        assert run.steps.sizes["step"] == run.evaluations.sizes["step"] == run.rounds.sizes["step"] == 0
    writer.steps(rows(5))
    writer.evaluation(5, 2.5, {"loss": 1.0})
    run = coopmpi.open(path)
    writer.steps(rows(7)._replace(first=5))
    assert run.data.attrs["status"] == "running" and run.steps.loss.values.shape == (5, 3) and run.evaluations.loss.values.tolist() == [1.0]
    with pytest.raises(UserError, match="a run that is running has no model yet"):
        run.model()
    with xarray.open_datatree(path, engine="h5netcdf", driver_kwds={"swmr": True}) as tree:
        assert tree["train/loss"].shape == (12, 3) and tree.attrs["status"] == "running"
    with coopmpi.open(path) as later:
        assert later.steps.loss.values.shape == (12, 3)
    content = path.read_bytes()
    writer.close("finished")
    path.write_bytes(content)
    with coopmpi.open(path) as killed:
        assert killed.data.attrs["status"] == "running" and killed.steps.sizes["step"] == 12


def test_numbers_are_read_when_they_are_used(tmp_path):
    path = made(tmp_path)
    damage(path, [(chunk_of(path, "train/loss") + 2, 3)])
    with coopmpi.open(path) as run:
        assert run.steps.wait_time.sum() >= 0 and copy.deepcopy(run.steps.wait_time).shape == (STEPS, M)
        assert run.steps.tau.rolling(step=4).mean().sizes["step"] == STEPS
        with pytest.raises(UserError, match="run.h5: damaged: /train/loss: "):
            run.steps.loss.mean()


LARGE = """
import re, sys, time
begin = time.monotonic()
import coopmpi
run = coopmpi.open(sys.argv[1])
opened = time.monotonic() - begin
assert run.steps.loss.shape == (10000, 256) and run.rounds.bytes_sent.shape == (1250, 256)
assert float(run.steps.load().wait_time.sum()) > 0
print(opened, int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1e6)
"""


def test_a_large_result_opens_at_once_and_in_little_memory(tmp_path):
    steps, workers, block = 10_000, 256, 1000
    writer, each = Writer(tmp_path / "large.h5"), np.random.default_rng(0).random((block, workers))
    text = config.dump(config.resolve({"workers": workers, "steps": steps}))
    writer.open(About(text, workers, steps, 10, "float32", "train", {"ranks": 1, "node_ranks": 1, "node_cores": 1, "mpi": "none", "device": "cpu"}))
    for first in range(0, steps, block):
        at = np.arange(first, first + block)
        writer.steps(StepRows(first, 0.1 * at, np.full(block, 8), 0.1 * at, 0 * at, each, each, each, each * (at % 8 == 7)[:, None], None))
    writer.close("finished")
    done = subprocess.run([sys.executable, "-c", LARGE, tmp_path / "large.h5"], capture_output=True, text=True, check=True)
    opened, gigabytes = map(float, done.stdout.split())
    assert opened < 10 and gigabytes < 1


# what is no result
def older(path):
    with h5py.File(path, "a") as file:
        file.attrs["format_version"] = 1


def foreign(path):
    path.unlink()
    with h5py.File(path, "w") as file:
        file["x"] = [1.0]


NO_RESULTS = {
    "missing": (lambda path: path.unlink(), "does not exist"), "empty": (lambda path: path.write_bytes(b""), "not a readable HDF5 file"),
    "text": (lambda path: path.write_text("step,loss\n"), "not a readable HDF5 file"),
    "foreign": (foreign, "not a result of coopmpi train"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:3000]), "not a readable HDF5 file"),
    "older": (older, "format_version is 1, this coopmpi reads 2; read the file with the coopmpi that wrote it"),
    "folder": (lambda path: (path.unlink(), path.mkdir()), "is a folder"),
}


@pytest.mark.parametrize("case", NO_RESULTS)
def test_what_is_no_result_is_told_in_a_sentence(tmp_path, case):
    change, words = NO_RESULTS[case]
    change(made(tmp_path))
    with pytest.raises(UserError, match=words) as error:
        coopmpi.open(tmp_path / "run.h5")
    assert "\n" not in str(error.value) and "run.h5" in str(error.value)


def test_without_xarray_the_command_that_brings_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "xarray", None)
    monkeypatch.delitem(sys.modules, "coopmpi.record.tree", raising=False)
    with pytest.raises(UserError, match=r"needs the package xarray, which is not installed: pip install 'coopmpi\[xarray\]'"):
        coopmpi.open(made(tmp_path))
