"""compare and plot with the file of a sweep: methods as rows and lines, settings apart, runs that failed."""

import json

import numpy as np
import pytest

from coopmpi import config
from coopmpi.drivers.solo import Solo
from coopmpi.errors import NumericalFailure, UserError
from coopmpi.record import sweeps
from coopmpi.report import compare
from coopmpi.report.plot import curves
from coopmpi.report.runs import read_runs
from coopmpi.run import session
from coopmpi.run.assemble import assemble
from tests.in_process import coopmpi
from tests.runs import read

BASE = {"workers": 2, "steps": 40, "device": "cpu", "record": {"eval_every": 5}, "task": {"hidden": [8]}, "period": {"tau": 4}}
SETTINGS = {"fast": {"network": {"latency": 0.0}}, "slow, skewed": {"network": {"latency": 1.0}, "task": {"hidden": [8], "partition": "shards"}}}
METHODS = {"sync": {"kind": "sync-sgd"}, "local": {"kind": "local-sgd"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Runs of two methods in two settings with two seeds, and the sweep of them; with "slow, skewed" a seed of local has failed."""
    folder, entries = tmp_path_factory.mktemp("sweeps"), []
    for setting, keys in SETTINGS.items():
        for method, algorithm in METHODS.items():
            for seed in (1, 2):
                fails = (setting, method, seed) == ("slow, skewed", "local", 2)
                path = folder / f"{setting}-{method}-{seed}.h5"
                tables = BASE | keys | {"algorithm": algorithm, "seed": seed, "optimizer": {"lr": 1e38 if fails else 0.3}}
                try:
                    session.train(assemble(config.resolve(read(tables)), Solo(), "simulate"), Solo(), path)
                except NumericalFailure:
                    assert fails
                about = {"setting": setting, "method": method, "seed": seed, "role": "final", "tuned": {"optimizer.lr": 0.3}}
                entries.append(sweeps.Entry(path, about, "diverged" if fails else "", 1.0, np.nan, np.inf, True))
    tuning = entries[0]._replace(about=entries[0].about | {"role": "tuning"})
    crashed = entries[0]._replace(path=folder / "nowhere.h5", failure="crashed", about=entries[0].about | {"seed": 3})
    sweeps.write(folder / "all.h5", "", [tuning, *entries, crashed], 1000)
    sweeps.write(folder / "few.h5", "", entries, 3)
    return folder


def plain(folder, setting, method, seed):
    return read_runs([folder / f"{setting}-{method}-{seed}.h5"], ["loss", "wait_time"])[0]


@pytest.mark.parametrize("name", ["all", "few"])
def test_runs_read_as_from_their_own_files(folder, name):
    found = read_runs([folder / f"{name}.h5"], ["loss", "wait_time"])
    assert len(found) == 8
    for run in found:
        own = plain(folder, run.place["setting"], run.place["method"], run.place["seed"])
        assert (run.mode, run.status, run.settings, run.figures) == (own.mode, own.status, own.settings, own.figures)
        for axis in ("steps", "epochs", "time"):
            assert np.array_equal(run.along(axis, "eval"), own.along(axis, "eval"))
        assert np.allclose(run.along("bytes", "eval"), own.along("bytes", "eval"), rtol=1e-14)
        steps = run.series["train/step"]
        assert np.allclose(run.summed("wait_time"), own.after(own.summed("wait_time"), steps), rtol=1e-6, atol=1e-12)
        assert name == "all" or len(steps) < 15


def test_compare_has_a_row_for_each_method_and_setting_best_first(folder):
    rows = json.loads(coopmpi("compare", folder / "all.h5", "--json")[1])
    assert {row["run"].partition(":")[0] for row in rows[:2]} == {"fast"} and {row["run"].partition(":")[0] for row in rows[2:]} == {"slow, skewed"}
    assert [row["runs"] for row in rows] == [2] * 4
    assert np.mean(rows[0]["loss"]) <= np.mean(rows[1]["loss"])
    for row in rows:
        setting, method = row["run"].removesuffix(", 1 of 2 failed").removesuffix(" (lr 0.3)").split(": ")
        for seed, loss in enumerate(row["loss"], 1):
            own = plain(folder, setting, method, seed)
            assert loss == (None if own.status == "failed" else own.series["eval/loss"][-1])
    assert rows[-1]["run"] == "slow, skewed: local (lr 0.3), 1 of 2 failed"


def test_ratios_are_to_the_first_of_the_setting(folder):
    rows = compare.compared([folder / "all.h5"], ("train_loss", 1.7))
    took, lines = [np.mean(row.cells["s to it"]) for row in rows], compare.as_table(rows, 120).splitlines()[1:]
    assert took[0] != took[1] and took[0] != took[2]
    for line, ratio in zip(lines[:3], (1, took[1] / took[0], 1)):
        assert f" {ratio:.2f} " in line
    assert "1 of 2 never" in lines[3]


def test_plot_has_a_panel_for_each_setting_and_a_line_for_each_method(folder):
    panels = curves.panels([folder / "all.h5"], "time", ["train_loss", "train/loss"])
    assert [(panel.name, panel.title) for panel in panels] == [(name, setting) for name in ("eval/train_loss", "train/loss") for setting in SETTINGS]
    assert [[line.label for line in panel.lines] for panel in panels] == [["sync", "local"], ["sync", "local (1 of 2 failed)"]] * 2
    own = [plain(folder, "fast", "sync", seed).series["eval/train_loss"] for seed in (1, 2)]
    assert np.allclose(panels[0].lines[0].mean, np.mean(own, axis=0))


def test_runs_that_failed_are_not_drawn(folder, tmp_path):
    with sweeps.open_sweep(folder / "all.h5") as file:
        failed, = (about for _, about in sweeps.runs(file) if about["failure"] == "diverged")
    lost = [sweeps.Entry(folder / "slow, skewed-local-2.h5", failed | {"seed": seed}, "diverged", np.nan, np.nan, np.inf, True) for seed in (1, 2)]
    own = sweeps.Entry(folder / "fast-sync-1.h5", failed | {"method": "sync"}, "", 1.0, np.nan, np.inf, True)
    sweeps.write(tmp_path / "lost.h5", "", lost, 1000)
    sweeps.write(tmp_path / "one.h5", "", [*lost, own], 1000)
    with pytest.raises(UserError, match="all runs have failed"):
        curves.panels([tmp_path / "lost.h5"])
    for x in ("time", "optimizer.lr"):
        panel, *_ = curves.panels([tmp_path / "one.h5"], x, ["train/loss"])
        assert len(panel.lines) == 1


def test_a_figure_has_titles_and_one_legend(folder, tmp_path):
    pytest.importorskip("matplotlib")
    status, out, message = coopmpi("plot", folder / "all.h5", "-y", "train_loss", "-o", tmp_path / "all.svg")
    assert status == 0, message
    text = (tmp_path / "all.svg").read_text()
    assert [text.count(f"<!-- {name} -->") for name in (*SETTINGS, "sync")] == [1, 1, 1]


def test_several_sweeps_are_told_apart(folder):
    rows = compare.compared([folder / "all.h5", folder / "few.h5"])
    assert len(rows) == len({row.label for row in rows}) == 8 and all("all.h5 " in row.label or "few.h5 " in row.label for row in rows)


def test_a_run_beside_a_sweep_is_a_row_of_its_own(folder):
    rows = compare.compared([folder / "all.h5", folder / "fast-sync-1.h5"])
    assert [row.runs for row in rows] == [2, 2, 2, 2, 1] and "fast-sync-1.h5" in rows[-1].label


def test_other_verbs_say_who_takes_a_sweep(folder):
    for words in (("inspect", folder / "all.h5"), ("plot", "--timeline", folder / "all.h5"), ("resume", folder / "all.h5")):
        status, _, message = coopmpi(*words)
        assert status == 2 and "the file of a sweep" in message and "coopmpi compare and plot take it" in message


def test_a_damaged_sweep_is_told_in_a_sentence(folder, tmp_path):
    content = (folder / "all.h5").read_bytes()
    (tmp_path / "half.h5").write_bytes(content[:len(content) // 2])
    status, _, message = coopmpi("compare", tmp_path / "half.h5")
    assert status == 2 and "half.h5" in message and "\n" not in message
