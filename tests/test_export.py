"""coopmpi export: the trained model in other programs' formats, with the figures that were recorded."""

import csv
import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from coopmpi import config
from coopmpi.drivers.solo import Solo
from coopmpi.run import session
from coopmpi.run.assemble import assemble
from tests.in_process import coopmpi as in_process
from tests.in_process import refused
from tests.runs import coopmpi, settings, write_quadratic
from tests.test_cli_inspect import rows, start_file
from tests.test_damaged import chunk_of, damage
from tests.test_sinks import curves

ROOT = str(Path(__file__).parents[1])
MODULE = {"kind": "torch", "module": "tests.torch_modules:net", "batch": 8}


def trained(folder, *words, **tables):
    status, _, err = coopmpi("train", "--quiet", "-o", "run.h5", *settings({"workers": 3, "steps": 30, "device": "cpu"} | tables), *words,
                             cwd=folder, environment={"PYTHONPATH": ROOT})
    assert status == 0, err


def export(folder, *words):
    return coopmpi("export", "run.h5", *words, cwd=folder, environment={"PYTHONPATH": ROOT})


def test_a_native_model_as_npz(tmp_path):
    trained(tmp_path)
    for words, which in (((), "mean"), (("--worker", 2), 2)):
        status, out, err = export(tmp_path, "-o", f"{which}.npz", *words)
        assert status == 0 and "tensors of" in out, err
        with np.load(tmp_path / f"{which}.npz") as found, h5py.File(tmp_path / "run.h5") as file:
            expected = file["final/mean"][:] if which == "mean" else file["final/x"][2]
            assert np.array_equal(np.concatenate([found[name].ravel() for name in found]), expected)
            assert len(found) == len(file["final/layout"]) > 1


def evaluated(state):
    """The held-out loss of a plain module with these tensors."""
    torch = pytest.importorskip("torch")
    from coopmpi import config
    from coopmpi.drivers.solo import Solo
    from coopmpi.run.assemble import assemble
    from tests.torch_modules import net

    module = net()
    module.load_state_dict(state)
    module.eval()
    data = assemble(config.resolve({"workers": 3, "device": "cpu", "task": MODULE}), Solo()).driver.task.problem.data.test
    inputs, targets = data.batch(np.arange(len(data)))
    with torch.no_grad():
        return torch.nn.functional.cross_entropy(module(inputs), targets).item()


def test_a_plain_module_gets_the_recorded_loss(tmp_path):
    torch = pytest.importorskip("torch")
    safetensors = pytest.importorskip("safetensors.torch")
    trained(tmp_path, task=MODULE)
    for name in ("model.pt", "model.safetensors", "model.npz"):
        status, _, err = export(tmp_path, "-o", name)
        assert status == 0, err
    states = [torch.load(tmp_path / "model.pt", weights_only=True), safetensors.load_file(tmp_path / "model.safetensors")]
    with np.load(tmp_path / "model.npz") as found:
        states.append({name: torch.from_numpy(found[name]) for name in found})
    with h5py.File(tmp_path / "run.h5") as file:
        recorded = file["eval/loss"][-1]
        assert file["final/own_buffers"].shape == (3, 24) and file["final/own_counters_mean"][:] == [30]
        np.testing.assert_allclose(file["final/own_buffers"][:].mean(0), file["final/own_buffers_mean"][:], rtol=1e-6)
    for state in states:
        assert abs(evaluated(state) - recorded) < 1e-6
    status, _, err = export(tmp_path, "-o", "one.pt", "--worker", 1)
    assert status == 0, err
    assert evaluated(torch.load(tmp_path / "one.pt", weights_only=True)) != recorded


def test_a_run_starts_from_the_model_of_another(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("safetensors")
    trained(tmp_path, task=MODULE)
    (tmp_path / "run.h5").rename(tmp_path / "before.h5")
    trained(tmp_path, task=MODULE | {"start": "before.h5"})
    with h5py.File(tmp_path / "before.h5") as before, h5py.File(tmp_path / "run.h5") as file:
        assert abs(file["eval/loss"][0] - before["eval/loss"][-1]) < 1e-6
    (tmp_path / "run.h5").unlink()
    status, _, err = coopmpi("train", *settings({"task": MODULE | {"start": "before.h5"}}), "--set=task.options.width=7",
                             cwd=tmp_path, environment={"PYTHONPATH": ROOT})
    assert status == 2 and "does not fit the module" in err and "Traceback" not in err, err


# what was recorded
@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A run that wrote run.jsonl and the folder logs while it went on."""
    folder = tmp_path_factory.mktemp("recorded")
    (folder / "run.toml").write_text(f"""
        workers = 3
        steps = 30
        device = "cpu"
        algorithm.kind = "overlap-local-sgd"
        period.tau = 4
        record.eval_every = 10
        task = {{ kind = "quadratic", path = "{write_quadratic(folder / "q.h5", 3)}" }}
        sinks = [{{ kind = "jsonl" }}, {{ kind = "tensorboard", path = "logs" }}]
        """)
    status, _, err = coopmpi("train", "--quiet", "run.toml", cwd=folder)
    assert status == 0, err
    return folder


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_comma_separated_values(recorded, tmp_path):
    status, out, err = in_process("export", recorded / "run.h5", "--csv", tmp_path / "tables")
    assert status == 0 and "steps.csv (30 rows), evaluations.csv (4 rows), transfers.csv (7 rows), workers.csv (90 rows)" in out, err
    with h5py.File(recorded / "run.h5") as file:
        train, steps, workers = file["train"], table(tmp_path / "tables/steps.csv"), table(tmp_path / "tables/workers.csv")
        assert [int(row["step"]) for row in steps] == list(range(1, 31)) and list(steps[0])[:4] == ["step", "wall_time", "tau", "loss"]
        assert [float(row["loss"]) for row in steps] == train["loss"][:].mean(axis=1, dtype=float).tolist()
        assert [np.float32(row["loss_max"]) for row in steps] == train["loss"][:].max(axis=1).tolist()
        assert [(int(row["step"]), int(row["worker"])) for row in workers] == [(k + 1, i) for k in range(30) for i in range(3)]
        assert np.array_equal(np.array([row["loss"] for row in workers], "f4").reshape(30, 3), train["loss"])
        assert [float(row["consensus"]) for row in table(tmp_path / "tables/evaluations.csv")] == file["eval/consensus"][:].tolist()
        assert [float(row["posted"]) for row in table(tmp_path / "tables/transfers.csv")] == file["rounds/posted"][:].tolist()
    assert not (tmp_path / "tables/events.csv").exists()


def test_tables_of_other_runs(tmp_path):
    """No numbers: nothing; events with commas; a table that an older export has left is gone."""
    writer = start_file(tmp_path / "run.h5")
    writer.steps(rows(3)._replace(loss=np.full((3, 3), np.nan)))
    writer.event(3, 1.5, "failed", 'the loss, "nan", of worker 1')
    writer.close("failed")
    (tmp_path / "evaluations.csv").write_text("old")
    assert "holds evaluations.csv already" in refused("export", tmp_path / "run.h5", "--csv", tmp_path)
    assert in_process("export", tmp_path / "run.h5", "--csv", tmp_path, "--overwrite")[0] == 0
    assert {path.name for path in tmp_path.glob("*.csv")} == {"steps.csv", "workers.csv", "events.csv"}
    assert table(tmp_path / "events.csv") == [{"step": "3", "wall_time": "1.5", "kind": "failed", "text": 'the loss, "nan", of worker 1'}]
    assert {row["loss"] for row in table(tmp_path / "workers.csv")} == {""}


def test_json_lines_are_those_of_the_sink(recorded, tmp_path):
    assert in_process("export", recorded / "run.h5", "--jsonl", tmp_path / "run.jsonl")[0] == 0
    told, live = ([json.loads(line) for line in path.read_text().splitlines()] for path in (tmp_path / "run.jsonl", recorded / "run.jsonl"))
    assert [(line["kind"], line.get("step")) for line in told] == [(line["kind"], line.get("step")) for line in live]
    for line, expected in zip(told, live):
        assert line.keys() == expected.keys()
        assert {name: value for name, value in line.items() if isinstance(value, float)} == pytest.approx(
            {name: value for name, value in expected.items() if isinstance(value, float)}, rel=1e-6)


def test_tensorboard_events_are_those_of_the_sink(recorded, tmp_path):
    pytest.importorskip("tensorboardX")
    assert in_process("export", recorded / "run.h5", "--tensorboard", tmp_path / "logs")[0] == 0
    told, live = curves(tmp_path / "logs"), curves(recorded / "logs")
    assert told.keys() == live.keys() and all(dict(told[tag]) == pytest.approx(dict(live[tag])) for tag in live)
    assert "holds events.out" in refused("export", recorded / "run.h5", "--tensorboard", tmp_path / "logs")
    assert in_process("export", recorded / "run.h5", "--tensorboard", tmp_path / "logs", "--overwrite")[0] == 0
    assert len(list((tmp_path / "logs").iterdir())) == 1


@pytest.mark.parametrize("words", [("--csv", "out"), ("--jsonl", "out.jsonl"), ("--tensorboard", "out")], ids=lambda words: words[0])
def test_simulations_and_growing_files_are_exported(tmp_path, monkeypatch, words):
    if words[0] == "--tensorboard":
        pytest.importorskip("tensorboardX")
    monkeypatch.chdir(tmp_path)
    for mode in ("simulate", "time-only"):
        given = {"workers": 3, "steps": 9, "task": {"hidden": [4]}, "record": {"per_worker": "summary"}}
        session.train(assemble(config.resolve(given), Solo(), mode), Solo(), f"{mode}.h5")
        assert in_process("export", f"{mode}.h5", *words, "--overwrite")[0] == 0
    writer = start_file(tmp_path / "growing.h5")
    for _ in range(2):
        assert in_process("export", "growing.h5", *words, "--overwrite")[0] == 0
        writer.steps(rows(5))
    writer.close("finished")


def test_exports_that_cannot_be(recorded, tmp_path):
    result = recorded / "run.h5"
    (tmp_path / "file").touch()
    for words, said in {(): "give one of -o, --csv, --jsonl, --tensorboard; given none",
                        ("--csv", tmp_path / "a", "-o", "m.npz"): "given -o, --csv",
                        ("--csv", tmp_path / "a", "--worker", 1): "it goes with -o",
                        ("--csv", tmp_path / "file"): "cannot be a folder",
                        ("--tensorboard", tmp_path / "file" / "in"): "cannot be a folder",
                        ("--jsonl", tmp_path / "file"): "exists already", ("--jsonl", tmp_path / "no" / "a"): "does not exist"}.items():
        assert said in refused("export", result, *words)
    damaged = tmp_path / "damaged.h5"
    damaged.write_bytes(result.read_bytes())
    damage(damaged, [(chunk_of(damaged, "train/loss") + 2, 3)])
    for words in (("--csv", tmp_path / "b"), ("--jsonl", tmp_path / "b.jsonl"), ("--tensorboard", tmp_path / "c")):
        assert "damaged.h5: damaged: /train/loss" in refused("export", damaged, *words)
        assert "not a readable HDF5 file" in refused("export", tmp_path / "file", *words)


def test_mistakes(tmp_path):
    trained(tmp_path, "--set=record.final=mean")
    (tmp_path / "there.npz").touch()
    for words, said in {("-o", "model.onnx"): "must end with .safetensors, .pt, .npz", ("-o", "there.npz"): "exists already",
                        ("-o", "m.npz", "--worker", 1): "holds the mean model alone"}.items():
        status, _, err = export(tmp_path, *words)
        assert status == 2 and said in err and "Traceback" not in err, err
    coopmpi("train", "--quiet", "-o", "run.h5", "--overwrite", *settings({"workers": 3, "steps": 5}), cwd=tmp_path)
    status, _, err = export(tmp_path, "-o", "m.npz", "--worker", 3)
    assert status == 2 and "worker must be one of 0 to 2, given 3" in err
    with h5py.File(tmp_path / "run.h5", "r+") as file:
        layout = file["final/layout"][:]
        layout["offset"][1] = 10**9
        file["final/layout"][:] = layout
    status, _, err = export(tmp_path, "-o", "m.npz")
    assert status == 2 and "damaged: /final/layout has a tensor" in err and "Traceback" not in err, err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.h5", "there.npz"]
