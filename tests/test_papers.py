"""Experiments of papers: what is stored, shown and described agrees, and how a page is made of the file of a sweep."""

import re

import numpy as np
import pytest
import tomli_w

from benchmarks import papers
from benchmarks.papers import measures, page, pictures, results
from benchmarks.papers.measures import COLUMNS, HEADINGS, Curves
from coopmpi.record import sweeps
from coopmpi.sweep import session
from coopmpi.sweep.description import Score
from coopmpi.sweep.grid import points
from tests.runs import lockstep

DOCS = page.FOLDER.parents[1] / "docs"
NAMES = page.names()


# the experiments themselves
def pairs(sweep):
    return [(setting, method) for setting in sweep.settings for method in sweep.methods_in(setting)]


@pytest.mark.parametrize("name", NAMES)
def test_every_description_of_an_experiment_is_one_of_a_sweep(name):
    session.check(page.sweep_of(name)[0])
    assert {*page.page_of(name).columns, *page.page_of(name).points} <= set(HEADINGS)


@pytest.mark.parametrize("name", NAMES)
def test_methods_are_tuned_over_grids_of_one_size_and_scored_with_other_seeds(name):
    sweep, _ = page.sweep_of(name)
    # a grid of one point is no tuning
    assert len({len(points(sweep.grid(setting, method))) for setting, method in pairs(sweep)} - {1}) <= 1
    assert sweep.tuning_seed not in sweep.seeds and len(sweep.seeds) >= 3


@pytest.mark.parametrize("name", NAMES)
def test_stored_results_are_those_of_the_description(name):
    sweep, text = page.sweep_of(name)
    with sweeps.open_sweep(page.results_of(name)) as file:
        assert sweeps.text(file) == text
        runs = [about for _, about in sweeps.runs(file)]
    for setting, method in pairs(sweep):
        alike = [run for run in runs if (run["setting"], run["method"]) == (setting.name, method.name)]
        assert [run["seed"] for run in alike if run["role"] == "final"] == list(sweep.seeds)
        tried = [run["tuned"] for run in alike if run["role"] == "tuning"]
        assert tried in ([], points(sweep.grid(setting, method)))


@pytest.mark.parametrize("name", NAMES)
def test_a_page_has_the_table_of_the_stored_results(name):
    (sweep, _), shown = page.sweep_of(name), page.page_of(name)
    text = (page.FOLDER / f"{name}.md").read_text(encoding="utf-8")
    headings, rows = results.table(shown, results.read(page.results_of(name), sweep, shown))
    assert len(rows) == len(pairs(sweep))
    assert papers.with_table(text, headings, rows) == text
    assert f"| {' | '.join(rows[-1])} |" in text


@pytest.mark.parametrize("name", NAMES)
def test_a_page_shows_its_picture_and_says_how_to_repeat_it(name):
    text = (page.FOLDER / f"{name}.md").read_text(encoding="utf-8")
    assert f"](../../docs/papers/{name}.png)" in text
    assert (DOCS / "papers" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert (DOCS / "papers" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    assert f"python -m benchmarks papers {name}" in text


@pytest.mark.parametrize("name", NAMES)
def test_the_documentation_links_page_and_picture(name):
    links = re.findall(r"\]\(([^)]+)\)", (DOCS / "papers.md").read_text(encoding="utf-8"))
    assert {f"papers/{name}.png", f"../benchmarks/papers/{name}.md"} <= set(links)


# a page from its sweep
TINY = {
    "title": "Two methods", "mode": "simulate", "seeds": [3, 4],
    "score": {"figure": "train_loss", "target": "sync-sgd", "tolerance": 0.02, "tail": 0.1}, "keep": {"rows": 0, "tuning": False},
    "tune": {"optimizer.lr": [1e-5, 0.3]},
    "base": {"workers": 2, "steps": 20, "device": "cpu", "task": {"model": "linear", "batch": 16},
             "network": {"kind": "delay", "seconds": 4.0}, "record": {"eval_every": 4}},
    "methods": [{"name": "sync-sgd", "set": {"algorithm.kind": "sync-sgd"}},
                {"name": "local-sgd", "set": {"period.tau": 4}}],
}
SHOWN = {"columns": ["final", "steps", "speedup", "step_time"]}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A folder of its own with the tiny experiment and an empty page, carried out."""
    with pytest.MonkeyPatch.context() as patch:
        found = tmp_path_factory.mktemp("tiny") / "benchmarks" / "papers"
        (found / "results").mkdir(parents=True)
        (found.parents[1] / "docs").mkdir()
        (found / "tiny.toml").write_text(tomli_w.dumps(TINY))
        (found / "pages.toml").write_text(tomli_w.dumps({"tiny": SHOWN}))
        (found / "tiny.md").write_text(f"# Tiny\n\n{papers.MARKS[0]}\n{papers.MARKS[1]}\n\nAfter.\n")
        patch.setattr(page, "FOLDER", found)
        pytest.importorskip("matplotlib")
        papers.main(["tiny", "--cores", "2"])
        yield found


def test_curves_and_measures_are_those_of_the_runs(tiny):
    sweep, _ = page.sweep_of("tiny")
    found = results.read(page.results_of("tiny"), sweep, page.page_of("tiny"))
    assert list(found[""]) == ["sync-sgd", "local-sgd"]
    for method in sweep.methods:
        chosen, curves = found[""][method.name]
        assert chosen == {"optimizer.lr": 0.3}
        assert {column.shape for column in curves.columns.values()} == {(2, 6)} and set(curves.columns) == set(COLUMNS)
        for i, seed in enumerate(sweep.seeds):
            # the same run without clocks
            expected = lockstep(sweep.description(sweep.settings[0], method, chosen, seed)).figures
            for figure in ("train_loss", "loss", "accuracy", "consensus"):
                assert curves.columns[figure][i, -1] == expected[figure]
    # one gradient takes 1, one average 4
    sync, local = (found[""][method.name][1] for method in sweep.methods)
    assert sync.measure("step_time").tolist() == [5, 5] and local.measure("step_time").tolist() == [2, 2]
    assert sync.measure("overhead") == pytest.approx([4, 4]) and local.measure("tau").tolist() == [4, 4]
    np.testing.assert_allclose(sync.target, sync.measure("final") * 1.02, rtol=1e-6)
    assert (sync.measure("steps") <= 20).all() and sync.measure("speedup").tolist() == [1, 1]
    np.testing.assert_allclose(local.measure("speedup"), 2.5 * sync.measure("steps") / local.measure("steps"))


def test_the_command_renews_table_and_picture(tiny, capsys):
    text, picture = tiny / "tiny.md", tiny.parents[1] / "docs" / "papers" / "tiny.png"
    first = text.read_text()
    assert first.startswith("# Tiny\n") and first.endswith("\nAfter.\n")
    assert "| sync-sgd | lr 0.3 |" in first
    assert picture.read_bytes().startswith(b"\x89PNG")
    picture.unlink()
    text.write_text(first.replace("lr 0.3", "lr 7"))
    papers.main(["tiny", "--redraw"])
    assert text.read_text() == first and picture.is_file() and first in capsys.readouterr().out


def pictured(tiny, **changes):
    """The panels of a picture, and the files that are written."""
    sweep, _ = page.sweep_of("tiny")
    shown = page.Page(**SHOWN | changes)
    found = results.read(page.results_of("tiny"), sweep, shown)
    pictures.draw(sweep, shown, found, tiny / "picture")
    return [*pictures.panels(sweep, shown, found)], [(tiny / f"picture{suffix}").read_bytes() for suffix in (".png", ".pdf")]


def test_every_kind_of_picture_is_drawn_for_screen_and_print(tiny):
    drawn = [pictured(tiny, **changes)[1] for changes in ({"points": ["final", "step_time"]}, {"x": "step"}, {"x": "step", "excess": True},
                                                          {"x": "megabytes", "log": True})]
    assert all(png.startswith(b"\x89PNG") and pdf.startswith(b"%PDF") for png, pdf in drawn)
    assert len({pdf for _, pdf in drawn}) == 4


def test_curves_of_a_picture_are_smoothed_means_with_the_target(tiny):
    sweep, _ = page.sweep_of("tiny")
    (panel,), _ = pictured(tiny, x="virtual_time")
    for line, (_, curves) in zip(panel.lines, results.read(page.results_of("tiny"), sweep, page.page_of("tiny"))[""].values()):
        assert line.runs == 2 and line.x.tolist() == curves.column("virtual_time")[0].tolist()
        np.testing.assert_allclose(line.mean, curves.smoothed().mean(axis=0))
        assert panel.target == curves.target.mean()
    assert [line.label for line in panel.lines] == ["sync-sgd", "local-sgd"]
    assert "dotted: the target" in panel.caption
    (above,), _ = pictured(tiny, x="step", excess=True)
    assert above.log == "y" and above.target == pytest.approx(panel.target - curves.reference.measure("final").mean())


def test_points_of_a_picture_stand_over_the_key_in_which_methods_differ(tiny):
    panels, _ = pictured(tiny, points=["final", "step_time"])
    assert [panel.x_label for panel in panels] == ["tau", "tau"]
    # synchronous SGD has no period: it exchanges at every step
    assert [(line.label, line.x.tolist(), line.mean.tolist()) for line in panels[1].lines] == [("sync-sgd", [1], [5]), ("local-sgd", [4], [2])]


def test_an_unknown_experiment_is_refused_with_the_known_ones(tiny, capsys):
    with pytest.raises(SystemExit):
        papers.main(["tinny"])
    error = capsys.readouterr().err
    assert "tinny" in error and "known: tiny" in error


# what is read off the curves
def curves(*seeds, target=None, reference=None, budget=np.inf, **changes):
    """Curves of training losses per evaluation, ten steps of two seconds and 1 MB apart; None: it diverged."""
    longest = max(map(len, seeds))
    losses = np.array([[np.nan if loss is None else loss for loss in [*losses, *[None] * (longest - len(losses))]] for losses in seeds], float)
    there = np.where(np.isnan(losses), np.nan, np.arange(longest))
    columns = {name: np.full(losses.shape, np.nan) for name in COLUMNS}
    columns |= {"step": 10 * there, "virtual_time": 20 * there, "megabytes": there, "train_loss": losses, "consensus": losses**2}
    score = Score(figure="train_loss", **{"tail": 0.5} | changes)
    failed = np.array([None in losses for losses in seeds])
    target = None if target is None else np.broadcast_to(target, len(seeds))
    return Curves(columns, failed, score, budget, target, reference, limit=4)


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
