"""Experiments of papers: what is stored, shown and described agrees, and the engine that carries them out."""

import json
import re

import h5py
import numpy as np
import pytest
import tomli_w

from benchmarks import papers
from benchmarks.papers import experiment, measures, results, tuning
from benchmarks.papers.curve import COLUMNS, Job, run
from benchmarks.papers.experiment import Experiment, Variant
from benchmarks.papers.measures import HEADINGS, Curves
from coopmpi import config
from tests.runs import lockstep

DOCS = experiment.FOLDER.parents[1] / "docs"
NAMES = experiment.names()


# the experiments themselves
def pairs(described):
    return [(setting, method) for setting in described.settings for method in described.methods_in(setting)]


@pytest.mark.parametrize("name", NAMES)
def test_every_description_of_an_experiment_resolves(name):
    described = experiment.load(name)
    assert {*described.columns, *described.points} <= set(HEADINGS)
    for setting in described.settings:
        for method in described.methods_in(setting):
            for chosen in described.grid(setting, method):
                resolved = config.resolve(described.description(setting, method, chosen, described.tuning_seed))
            # the last one, checked as before a run: the graph exists and suits the algorithm
            algorithm, mixing = resolved.algorithm, None
            if algorithm.uses_mixing:
                mixing = algorithm.bind_mixing(resolved.mixing, resolved.workers, resolved.seed)
            algorithm.check(resolved.workers, mixing, resolved)


@pytest.mark.parametrize("name", NAMES)
def test_methods_are_tuned_over_grids_of_one_size_and_scored_with_other_seeds(name):
    described = experiment.load(name)
    # a grid of one point is no tuning
    assert len({len(described.grid(setting, method)) for setting, method in pairs(described)} - {1}) <= 1
    assert described.tuning_seed not in described.seeds and len(described.seeds) >= 3


@pytest.mark.parametrize("name", NAMES)
def test_stored_results_are_those_of_the_description(name):
    described = experiment.load(name)
    with h5py.File(results.path(name)) as file:
        stored = {(group.attrs["name"], data.attrs["name"]): json.loads(data.attrs["tried"])
                  for group in file.values() for data in group.values()}
        assert tuple(file.attrs["seeds"]) == described.seeds
    expected = {(setting.name, method.name): described.grid(setting, method) for setting, method in pairs(described)}
    assert {key: [chosen for chosen, *_ in tried] for key, tried in stored.items()} == expected


@pytest.mark.parametrize("name", NAMES)
def test_a_page_has_the_table_of_the_stored_results(name):
    described = experiment.load(name)
    page = (experiment.FOLDER / f"{name}.md").read_text(encoding="utf-8")
    headings, rows = results.table(described, results.read(name, described))
    assert len(rows) == len(pairs(described))
    assert papers.with_table(page, headings, rows) == page
    assert f"| {' | '.join(rows[-1])} |" in page


@pytest.mark.parametrize("name", NAMES)
def test_a_page_shows_its_picture_and_says_how_to_repeat_it(name):
    page = (experiment.FOLDER / f"{name}.md").read_text(encoding="utf-8")
    assert f"](../../docs/papers/{name}.png)" in page
    assert (DOCS / "papers" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert f"python -m benchmarks papers {name}" in page


@pytest.mark.parametrize("name", NAMES)
def test_the_documentation_links_page_and_picture(name):
    links = re.findall(r"\]\(([^)]+)\)", (DOCS / "papers.md").read_text(encoding="utf-8"))
    assert {f"papers/{name}.png", f"../benchmarks/papers/{name}.md"} <= set(links)


# the engine
TINY = {
    "title": "Two methods", "source": "nobody", "target": "sync-sgd",
    "columns": ["final", "steps", "speedup", "step_time"], "seeds": [3, 4],
    "smooth": 1, "tail": 0.1, "tolerance": 0.02,
    "tune": {"optimizer.lr": [1e-5, 0.3]},
    "base": {"workers": 2, "steps": 20, "device": "cpu", "task": {"model": "linear", "batch": 16},
             "network": {"kind": "delay", "seconds": 4.0}, "record": {"eval_every": 4}},
    "methods": [{"name": "sync-sgd", "set": {"algorithm.kind": "sync-sgd"}},
                {"name": "local-sgd", "set": {"period.tau": 4}}],
    "settings": [{"name": "even"}, {"name": "skewed", "set": {"task.partition": "shards"}}],
}


class InThisProcess:
    """Stands in for a multiprocessing context and its pool."""

    imap = staticmethod(map)

    def Pool(self, processes):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of its own with the tiny experiment and an empty page, carried out without other processes."""
    found = tmp_path / "benchmarks" / "papers"
    found.mkdir(parents=True)
    (tmp_path / "docs").mkdir()
    (found / "tiny.toml").write_text(tomli_w.dumps(TINY))
    (found / "tiny.md").write_text(f"# Tiny\n\n{papers.MARKS[0]}\n{papers.MARKS[1]}\n\nAfter.\n")
    for module in (experiment, results):
        monkeypatch.setattr(module, "FOLDER", found)
    monkeypatch.setattr(tuning, "get_context", lambda method: InThisProcess())
    return found


def test_an_experiment_end_to_end(folder):
    described = experiment.load("tiny")
    results.write("tiny", described, tuning.carry_out(described, 1))
    found = results.read("tiny", described)
    assert list(found) == ["even", "skewed"] and list(found["even"]) == ["sync-sgd", "local-sgd"]
    for setting in described.settings:
        for method in described.methods:
            chosen, curves = found[setting.name][method.name]
            assert chosen == {"optimizer.lr": 0.3}
            assert curves.rows.shape == (2, 6, len(COLUMNS))
            for seed, row in zip(described.seeds, curves.rows[:, -1]):
                # the same run without clocks
                expected = lockstep(described.description(setting, method, chosen, seed)).figures
                for figure in ("train_loss", "loss", "accuracy", "consensus"):
                    assert row[COLUMNS.index(figure)] == np.float32(expected[figure])
        # one gradient takes 1, one average 4
        sync, local = (found[setting.name][method.name][1] for method in described.methods)
        assert sync.measure("step_time").tolist() == [5, 5] and local.measure("step_time").tolist() == [2, 2]
        np.testing.assert_allclose(sync.target, sync.measure("final") * 1.02, rtol=1e-6)
        assert (sync.measure("steps") <= 20).all() and sync.measure("speedup").tolist() == [1, 1]
        np.testing.assert_allclose(local.measure("speedup"), 2.5 * sync.measure("steps") / local.measure("steps"))
    headings, rows = results.table(described, found)
    assert headings[:3] == ["setting", "method", "tuned"] and headings[-1] == HEADINGS["step_time"]
    assert [row[:3] for row in rows[2:]] == [["skewed", "sync-sgd", "lr 0.3"], ["skewed", "local-sgd", "lr 0.3"]]


def test_the_command_renews_table_and_picture(folder, capsys):
    pytest.importorskip("matplotlib")
    papers.main(["tiny", "--jobs", "1"])
    page, picture = folder / "tiny.md", folder.parents[1] / "docs" / "papers" / "tiny.png"
    first = page.read_text()
    assert first.startswith("# Tiny\n") and first.endswith("\nAfter.\n")
    assert "| even | sync-sgd | lr 0.3 |" in first
    assert first in capsys.readouterr().out
    assert picture.read_bytes().startswith(b"\x89PNG")
    picture.unlink()
    page.write_text(first.replace("lr 0.3", "lr 7"))
    papers.main(["tiny", "--redraw"])
    assert page.read_text() == first and picture.is_file()


def test_every_kind_of_picture_is_drawn(folder):
    pytest.importorskip("matplotlib")
    from benchmarks.papers.draw import draw

    described = experiment.load("tiny")
    results.write("tiny", described, tuning.carry_out(described, 1))
    pictures = []
    for changes in ({"points": ["final", "step_time"]}, {"x": "step"}, {"x": "step", "excess": True},
                    {"x": "megabytes", "log": True}):
        (folder / "tiny.toml").write_text(tomli_w.dumps(TINY | changes))
        described = experiment.load("tiny")
        draw(described, results.read("tiny", described), folder / "picture.png")
        pictures.append((folder / "picture.png").read_bytes())
    assert all(picture.startswith(b"\x89PNG") for picture in pictures) and len(set(pictures)) == 4


def test_an_unknown_experiment_is_refused_with_the_known_ones(folder, capsys):
    with pytest.raises(SystemExit):
        papers.main(["tinny"])
    error = capsys.readouterr().err
    assert "tinny" in error and "known: tiny" in error


def description(**changes):
    described = Experiment(**TINY | {"methods": [Variant(**TINY["methods"][0])], "settings": (Variant(name=""),)})
    return described.description(described.settings[0], described.methods[0], changes, 0)


def test_a_run_ends_when_its_budget_is_spent():
    rows = run(Job(description(), budget=30.0))
    time = rows[:, COLUMNS.index("virtual_time")]
    assert time[-2] < 30 <= time[-1] and rows[-1, 0] == 8  # evaluated every 4 steps of 5 seconds


def test_a_run_that_diverges_says_so():
    rows = run(Job(description(**{"optimizer.lr": 1e38}), budget=None))
    assert np.isinf(rows[-1, 0]) and np.isnan(rows[-1, 1:]).all() and np.isfinite(rows[0, 0])


def test_later_keys_of_a_description_win_and_tables_are_nested():
    tables = Experiment(**TINY | {"methods": [], "settings": ()}).description(
        Variant(name="s", set={"network.seconds": 9}),
        Variant(name="m", set={"network.seconds": 2, "period.tau": 8}), {"period.tau": 16}, 5)
    assert tables["network"] == {"kind": "delay", "seconds": 2} and tables["period"] == {"tau": 16}
    assert tables["seed"] == 5 and tables["task"] == TINY["base"]["task"]


# what is read off the curves
def curves(*seeds, target=None, reference=None, budget=None, **changes):
    """Curves of training losses per evaluation, ten steps of two seconds and 1 MB apart; None: it diverged."""
    runs = []
    for losses in seeds:
        rows = np.full((len(losses), len(COLUMNS)), np.nan)
        for i, loss in enumerate(losses):
            figures = {"step": np.inf}
            if loss is not None:
                figures = {"step": 10 * i, "virtual_time": 20 * i, "megabytes": i, "train_loss": loss,
                           "consensus": loss**2}
            rows[i, [COLUMNS.index(name) for name in figures]] = list(figures.values())
        runs.append(rows)
    described = Experiment(**TINY | {"smooth": 1, "tail": 0.5, "methods": [], "settings": ()} | changes)
    setting = Variant(name="", budget=budget, limit=4)
    return Curves(results.stack(runs), described, setting, target, reference)


def test_the_target_is_reached_where_the_smoothed_loss_first_meets_it():
    found = curves([4, 1, 3, 2, 1, 1], [4, 4, 4, 4, 4, 1], target=1.5)
    assert found.measure("steps").tolist() == [10, 50]
    assert found.measure("time").tolist() == [20, 100] and found.measure("megabytes").tolist() == [1, 5]
    # means of two: 4 2.5 2 2.5 1.5 1
    smooth = curves([4, 1, 3, 2, 1, 1], target=1.5, smooth=2)
    assert smooth.measure("steps").tolist() == [40]
    # a target of its own for each seed
    assert curves([4, 3, 2, 1], [4, 3, 2, 1], target=np.array([3, 1])).measure("steps").tolist() == [10, 30]


def test_a_target_that_is_never_reached_is_counted():
    reference = curves([4, 2, 1], [4, 2, 1], target=1.0)
    found = curves([4, 1, 1], [4, 3, 2], target=1.0, reference=reference)
    assert found.measure("steps").tolist() == [10, np.inf]
    assert [found.cell(name) for name in ("steps", "time", "speedup", "saving")] == ["never in 1 of 2"] * 4
    assert curves([4, 3], [4, 3], target=1.0).cell("steps") == "never in 2 of 2"
    assert found.measure("final").tolist() == [1, 2.5] and found.cell("final") == "1.75 ± 1.1"


def test_a_run_that_diverged_has_no_final_loss_however_low_it_was():
    one = curves([4, 1, 0.5, None], [4, 3, 2, 1], target=1.0)
    np.testing.assert_array_equal(one.measure("final"), [np.nan, 1.5])
    assert one.cell("final") == one.cell("consensus") == "diverged in 1 of 2"
    every = curves([4, 9, None], [4, None], target=1.0)
    assert every.cell("final") == "diverged" and every.cell("steps") == "never in 2 of 2"


def test_final_is_the_mean_over_the_tail_of_each_run_whatever_its_length():
    found = curves([9, 9, 3, 1], [9, 4], tail=0.5)
    assert found.measure("final").tolist() == [2, 4] and found.measure("consensus").tolist() == [5, 16]


def test_what_comes_after_the_budget_does_not_count():
    found = curves([4, 3, 2, 1], target=1.0, budget=45.0, tail=0.1)
    assert found.measure("final").tolist() == [2] and found.measure("sent").tolist() == [2]
    assert found.cell("steps") == "never in 1 of 1"
    # one that diverged after it did not diverge in it
    reached = curves([4, 3, 2, 1], target=2.0, budget=45.0)
    assert reached.measure("time").tolist() == [40]


def test_a_ratio_is_one_of_means_and_spreads_over_the_seeds():
    reference = curves([4, 3, 2, 1], [4, 3, 1, 1], target=1.0)
    found = curves([4, 1, 1, 1], [4, 3, 1, 1], target=1.0, reference=reference)
    assert found.measure("speedup").tolist() == [3, 1] == found.measure("saving").tolist()
    # (60 + 40) / (20 + 40), not (3 + 1) / 2
    assert found.cell("speedup") == "1.67x ± 1.4" == found.cell("saving")
    assert found.measure("limit").tolist() == [0.75, 0.25] and found.cell("limit") == "41.7%"
    assert reference.cell("speedup") == "1x"
    assert found.measure("excess").tolist() == [1 - 1.5, 0]


def test_every_heading_has_a_measure_and_nothing_else_has():
    found = curves([4, 3, 1], target=1.0)
    for name in set(HEADINGS) - {"noise"}:  # this one needs a description
        assert found.measure(name).shape == (1,)
    with pytest.raises(ValueError, match="finale"):
        found.measure("finale")


@pytest.mark.parametrize("value, digits, text", [(12345.6, 4, "12,346"), (0.12345, 3, "0.123"), (1e-9, 2, "1e-09"),
                                                 (2048.0, 4, "2048")])
def test_numbers_are_written_with_few_digits(value, digits, text):
    assert measures._number(value, digits) == text
