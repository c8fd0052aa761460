"""coopmpi compare: ranks and figures against the files themselves, forms of output, and what cannot be compared."""

import csv
import io
import json

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from coopmpi.cli.compare import command
from coopmpi.errors import UserError
from coopmpi.report import compare
from tests.result_files import made

TARGET = 1.0
METHODS = {"sync": {"kind": "sync-sgd"}, "local": {"kind": "local-sgd"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name, algorithm in METHODS.items():
        for seed in (1, 2):
            made(folder / f"{name}-{seed}.h5", algorithm=algorithm, seed=seed, period={"tau": 5})
    made(folder / "simulated.h5", "simulate", algorithm=METHODS["sync"])
    made(folder / "time.h5", "time-only", algorithm=METHODS["sync"])
    made(folder / "wide.h5", algorithm=METHODS["sync"], task={"hidden": [9]})
    return folder


@pytest.fixture
def paths(folder):
    return [str(folder / f"{name}-{seed}.h5") for name in METHODS for seed in (1, 2)]


def invoke(*arguments):
    result = CliRunner().invoke(command, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def by_hand(path, name, target):
    """(steps, seconds, MB) until a figure was reached."""
    with h5py.File(path) as file:
        found = [(step, seconds) for step, seconds, value in zip(file["eval/step"], file["eval/wall_time"], file[f"eval/{name}"])
                 if step and value <= target]
        step, seconds = found[0]
        return step, seconds, file["train/bytes_sent"][:step].mean(axis=1).sum() / 1e6


def test_runs_that_differ_in_the_seed_are_one_row(paths):
    found = {row["run"]: row for row in json.loads(invoke(*paths, "--json"))}
    assert {label: row["runs"] for label, row in found.items()} == {"sync-sgd": 2, "local-sgd": 2}
    for label, name in (("sync-sgd", "sync"), ("local-sgd", "local")):
        for seed, at in ((1, 0), (2, 1)):
            with h5py.File([path for path in paths if f"{name}-{seed}" in path][0]) as file:
                assert found[label]["loss"][at] == file["eval/loss"][-1] and found[label]["steps"][at] == 60


def test_the_best_loss_comes_first(paths):
    rows = json.loads(invoke(*paths, "--json"))
    means = [np.mean(row["loss"]) for row in rows]
    assert means == sorted(means)


def test_a_target_tells_what_it_took(paths):
    rows = json.loads(invoke(*paths, "--train-loss", TARGET, "--json"))
    seconds = [np.mean(row["s to it"]) for row in rows]
    assert seconds == sorted(seconds) and len(rows) == 2
    for row in rows:
        name = "sync" if row["run"] == "sync-sgd" else "local"
        expected = [by_hand(path, "train_loss", TARGET) for path in paths if f"{name}-" in path]
        found = list(zip(row["steps to it"], row["s to it"], row["MB to it"]))
        assert np.allclose(found, expected, rtol=1e-12)
    # local-sgd sends a fifth
    sent = {row["run"]: np.mean(row["MB to it"]) / np.mean(row["steps to it"]) for row in rows}
    assert sent["sync-sgd"] == pytest.approx(5 * sent["local-sgd"])


def test_accuracy_rises(paths):
    rows = json.loads(invoke(*paths, "--accuracy", "0.5", "--json"))
    assert all(step is not None for row in rows for step in row["steps to it"])


def test_what_was_not_reached_comes_last_and_is_said(folder, paths):
    slow = made(folder / "slow.h5", algorithm=METHODS["sync"], optimizer={"lr": 1e-4})
    out = invoke(slow, *paths, "--train-loss", TARGET)
    assert "not reached" in out and out.index("0.5") < out.index("0.0001")
    assert json.loads(invoke(slow, *paths, "--train-loss", TARGET, "--json"))[-1]["s to it"] == [None]


def test_the_forms_tell_the_same(paths):
    plain = json.loads(invoke(*paths, "--json"))
    lines = list(csv.DictReader(io.StringIO(invoke(*paths, "--csv"))))
    for row, line in zip(plain, lines, strict=True):
        assert line["run"] == row["run"] and float(line["loss"]) == np.mean(row["loss"])
        assert float(line["loss (least)"]) == min(row["loss"]) and float(line["loss (most)"]) == max(row["loss"])
    latex = invoke(*paths, "--latex").splitlines()
    assert latex[0].startswith(r"\begin{tabular}{lr") and latex[-1] == r"\end{tabular}"
    assert len({line.replace(r"\&", "").count("&") for line in latex if line.endswith(r"\\")}) == 1
    assert all(r"\%" in line for line in latex if line.startswith("sync"))


@pytest.mark.parametrize("width", [60, 80, 120])
def test_tables_fit(paths, width):
    text = compare.as_table(compare.compared(paths, ("train_loss", TARGET)), width)
    assert max(map(len, text.splitlines())) <= width and "sync-sgd" in text


def test_one_file_is_named_by_its_path(paths):
    assert json.loads(invoke(paths[0], "--json"))[0]["run"] == paths[0]


@pytest.mark.parametrize("others, says", [
    (["simulated.h5"], "is of `coopmpi train`.*of `coopmpi simulate`: their seconds cannot be compared"),
    (["time.h5"], "a simulation of time alone has nothing to compare"),
    (["wide.h5"], r"different tasks: task.hidden = \[8\] and \[9\]"), (["nowhere.h5"], "nowhere.h5"), (["broken.h5"], "broken.h5")])
def test_what_cannot_be_compared_is_refused(folder, paths, others, says):
    (folder / "broken.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + b"x" * 100)
    with pytest.raises(UserError, match=says):
        compare.compared([paths[0], *(folder / other for other in others)])


def test_targets_are_one_at_a_time_and_known(paths):
    with pytest.raises(UserError, match="different targets: give one"):
        invoke(*paths, "--loss", "1", "--accuracy", "0.5")
    with pytest.raises(UserError, match="has no figure 'top5'; there are: loss, train_loss, accuracy"):
        compare.compared(paths, ("top5", 1.0))
