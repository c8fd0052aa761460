"""Runs as series: what is read of result files, where it lies along the axes, and what tells runs apart."""

import h5py
import numpy as np
import pytest

from coopmpi.errors import UserError
from coopmpi.record import reader
from coopmpi.report import runs
from tests.result_files import TABLES, made, made_up


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    made(folder / "train.h5", algorithm={"kind": "local-sgd"}, period={"tau": 5})
    made(folder / "simulate.h5", "simulate", algorithm={"kind": "local-sgd"}, period={"tau": 5})
    made(folder / "time-only.h5", "time-only", algorithm={"kind": "sync-sgd"})
    return folder


@pytest.mark.parametrize("block", [7, 1 << 20])
def test_series_are_the_means_over_the_workers(folder, monkeypatch, block):
    monkeypatch.setattr(reader, "BLOCK", block)
    run, = runs.read_runs([folder / "train.h5"], ["loss", "wait_time"])
    with h5py.File(folder / "train.h5") as file:
        for name in ("train/loss", "train/wait_time", "train/bytes_sent"):
            np.testing.assert_allclose(run.series[name], file[name][:].mean(axis=1, dtype=float), rtol=1e-15)
        assert np.array_equal(run.series["eval/accuracy"], file["eval/accuracy"][:])
    assert "train/compute_time" in run.names and "train/compute_time" not in run.series
    assert set(run.figures) == {"loss", "train_loss", "accuracy", "consensus"}


@pytest.mark.parametrize("name, clock", [("train.h5", "wall_time"), ("simulate.h5", "virtual_time")])
def test_where_rows_lie_along_the_axes(folder, name, clock):
    run, = runs.read_runs([folder / name])
    with h5py.File(folder / name) as file:
        steps, sent = file["eval/step"][:], np.cumsum(file["train/bytes_sent"][:].mean(axis=1))
        epochs = steps * TABLES["workers"] * 32 / 1438  # training samples of digits
        time = file["eval/wall_time"][:] if clock == "wall_time" else np.concatenate([[0], file["train/virtual_time"][:]])[steps]
        assert np.array_equal(run.along("time", "train"), file[f"train/{clock}"][:])
    assert np.array_equal(run.along("steps", "eval"), steps) and np.array_equal(run.along("time", "eval"), time)
    np.testing.assert_allclose(run.along("epochs", "eval"), epochs, rtol=1e-12)
    np.testing.assert_allclose(run.along("bytes", "eval"), np.concatenate([[0], sent])[steps], rtol=1e-12)
    np.testing.assert_allclose(run.along("bytes", "train"), sent, rtol=1e-12)


def test_a_simulation_of_time_alone_has_no_evaluations(folder):
    run, = runs.read_runs([folder / "time-only.h5"])
    assert run.figures == [] and not any(name.startswith("eval/") for name in run.series)
    assert len(run.along("time", "train")) == TABLES["steps"]


def test_a_file_named_twice_is_one_run(folder):
    assert len(runs.read_runs([folder / "train.h5", str(folder / "train.h5")])) == 1


def labels(tmp_path, *descriptions):
    paths = [made_up(tmp_path / f"{i}.h5", 20, 2, **tables) for i, tables in enumerate(descriptions)]
    return {label: len(alike) for label, alike in runs.labelled(runs.read_runs(paths))}


def test_labels_say_what_differs(tmp_path):
    local, sync = {"kind": "local-sgd"}, {"kind": "sync-sgd"}
    found = labels(tmp_path, {"algorithm": local, "period": {"tau": 2}}, {"algorithm": local, "period": {"tau": 4}}, {"algorithm": sync},
                   {"algorithm": sync, "seed": 1, "record": {"eval_every": 3}})
    assert found == {"local-sgd, tau = 2": 1, "local-sgd, tau = 4": 1, "sync-sgd": 2}


def test_kinds_and_keys_of_the_same_name_keep_their_table(tmp_path):
    adam, sgd = {"kind": "adam", "lr": 0.1}, {"kind": "sgd", "lr": 0.1}
    assert list(labels(tmp_path, {"optimizer": adam}, {"optimizer": sgd})) == ["optimizer.kind = adam", "optimizer.kind = sgd"]
    (tmp_path / "seconds").mkdir()
    found = labels(tmp_path / "seconds", {"network": {"kind": "delay", "seconds": 1.0}, "compute": {"seconds": 2.0}},
                   {"network": {"kind": "delay", "seconds": 3.0}, "compute": {"seconds": 4.0}})
    assert list(found) == ["compute.seconds = 2.0, network.seconds = 1.0", "compute.seconds = 4.0, network.seconds = 3.0"]


def test_where_nothing_differs_the_file_or_the_algorithm_is_named(tmp_path):
    assert list(labels(tmp_path, {})) == [str(tmp_path / "0.h5")]
    (tmp_path / "seeds").mkdir()
    assert labels(tmp_path / "seeds", {"seed": 1}, {"seed": 2}) == {"local-sgd": 2}


def test_a_key_may_be_left_out(tmp_path):
    paths = [made_up(tmp_path / f"{tau}.h5", 20, 2, period={"tau": tau}) for tau in (2, 4)]
    assert len(runs.labelled(runs.read_runs(paths), leave_out="period.tau")) == 1


def test_trainings_and_simulations_have_different_clocks(folder):
    found = runs.read_runs([folder / "simulate.h5", folder / "time-only.h5"])
    runs.require_same_clock(found)
    with pytest.raises(UserError, match="their seconds cannot be compared"):
        runs.require_same_clock([*found, *runs.read_runs([folder / "train.h5"])])


def test_a_run_in_a_group_of_another_file_reads_the_same(folder, tmp_path):
    with h5py.File(folder / "train.h5") as old, h5py.File(tmp_path / "many.h5", "w") as file:
        group = file.create_group("runs/0")
        group.attrs.update(old.attrs)
        for name in old:
            old.copy(name, group)
        inside = runs._decoded(runs.json.dumps(runs._encoded("a run", group, {"loss", *runs.CLOCKS})))
    run, = runs.read_runs([folder / "train.h5"], ["loss"])
    assert inside.settings == run.settings and inside.names == run.names
    assert all(np.array_equal(inside.series[name], column) for name, column in run.series.items())
