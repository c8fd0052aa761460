"""coopmpi plot --timeline: times against the files, which steps and workers a row and a block stand for, pictures and screens."""

import h5py
import numpy as np
import pytest

from coopmpi.report.plot import figure, workers
from coopmpi.report.plot.timeline import timeline
from tests.in_process import coopmpi, refused
from tests.result_files import made, made_up

SIMULATED = {"compute": {"kind": "exponential"}, "network": {"bandwidth": 1e4}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("timelines")
    for kind in ("local-sgd", "dpa"):
        made(folder / f"{kind}.h5", "time-only", algorithm={"kind": kind}, period={"tau": 5}, **SIMULATED)
    made_up(folder / "train.h5", 100, 4, period={"tau": 8})
    return folder


def columns(path, *names):
    with h5py.File(path) as file:
        return [file[f"train/{name}"][:].astype(float) for name in names]


@pytest.mark.parametrize("kind", ["local-sgd", "dpa"])
def test_workers_of_a_simulation_have_their_own_clocks(folder, kind):
    compute, wait, virtual_time = columns(folder / f"{kind}.h5", "compute_time", "wait_time", "virtual_time")
    found = timeline(folder / f"{kind}.h5", "11:40")
    assert (found.first, found.last, found.done, found.each) == (11, 40, 60, 1)
    np.testing.assert_allclose(found.compute, compute[10:40], rtol=1e-12)
    np.testing.assert_allclose(found.wait, wait[10:40], rtol=1e-12)
    own = np.cumsum(compute + wait, axis=0)
    # nothing else takes time there, so that the clocks are known
    np.testing.assert_allclose(own.max(axis=1), virtual_time, rtol=1e-9)
    np.testing.assert_allclose(found.begins, own[9:40], rtol=1e-9)
    np.testing.assert_allclose(found.computed, compute.sum(axis=0) / virtual_time[-1], rtol=1e-9)
    np.testing.assert_allclose(found.waited, wait.sum(axis=0) / virtual_time[-1], rtol=1e-9)
    assert (kind == "dpa") == (np.ptp(found.begins[0]) > 1e-9)  # an average is there for all at once


def test_workers_of_a_training_meet_rank_0_at_each_round(folder):
    wall_time, compute = columns(folder / "train.h5", "wall_time", "compute_time")
    found = timeline(folder / "train.h5", "9:40")
    rounds = [0, 8, 16, 24, 32]  # of the steps shown
    for worker in range(4):
        np.testing.assert_allclose(found.begins[rounds, worker], wall_time[[7, 15, 23, 31, 39]], rtol=1e-6)
    np.testing.assert_allclose(found.compute, compute[8:40], rtol=1e-6)
    assert (found.sent > 0).sum() == 4 * 4 and (found.sent[[7, 15, 23, 31]] > 0).all()


def test_waiting_that_the_clock_of_rank_0_leaves_out_is_left_out(folder, tmp_path):
    # as while rank 0 evaluates: worker 3 waits ten seconds more
    path = tmp_path / "run.h5"
    path.write_bytes((folder / "train.h5").read_bytes())
    with h5py.File(path, "a") as file:
        file["train/wait_time"][15, 3] += 10
    before, after = timeline(folder / "train.h5", "9:40"), timeline(path, "9:40")
    np.testing.assert_allclose(after.begins, before.begins, rtol=1e-6)
    assert after.computed[3] + after.waited[3] <= 1


def test_by_default_some_periods_in_the_middle_are_shown_beginning_behind_a_round(folder):
    found = timeline(folder / "train.h5")
    assert found.last - found.first + 1 == 24 and (found.first - 1) % 8 == 0 and found.first <= 50 <= found.last + 8


def test_of_many_steps_several_are_a_block_and_of_many_workers_several_a_row(tmp_path):
    path = made_up(tmp_path / "run.h5", 2520, 100, period={"tau": 7})
    compute, wall_time = columns(path, "compute_time", "wall_time")
    found = timeline(path, "1:")
    assert found.each == 21 and len(found.compute) == 120 and found.together == 5 and found.compute.shape[1] == 20
    assert found.name(0) == "0 to 4" and found.name(19) == "95 to 99"
    np.testing.assert_allclose(found.compute[0], compute[:21].sum(axis=0).reshape(20, 5).mean(axis=1), rtol=1e-5)
    np.testing.assert_allclose(found.compute.sum(axis=0), compute.sum(axis=0).reshape(20, 5).mean(axis=1), rtol=1e-5)
    np.testing.assert_allclose(found.begins[-1], wall_time[-1], rtol=1e-5)
    assert len(found.waited) == 100 and found.straggler.startswith("worker 1 waits least, 0% of the run, worker 0 most, 50%")
    assert timeline(path, "5:17", rows=1000).together == 1


def test_a_summary_has_one_row(tmp_path):
    path = made_up(tmp_path / "run.h5", 50, 6, per_worker=False)
    found = timeline(path)
    assert found.summary and found.compute.shape[1] == 1 and found.name(0) == "mean" and found.straggler == ""
    np.testing.assert_allclose(found.compute, 0.07 / 6, rtol=1e-5)
    assert coopmpi("plot", "--timeline", path)[0] == 0 and coopmpi("plot", "--timeline", path, "-o", tmp_path / "x.png")[0] == 0


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("name, steps", [("train.h5", None), ("train.h5", "1:"), ("dpa.h5", "3:9")])
def test_a_timeline_fits_a_terminal(folder, monkeypatch, width, name, steps):
    monkeypatch.setenv("COLUMNS", str(width))
    status, out, _ = coopmpi("plot", "--timeline", folder / name, *(["--steps", steps] if steps else []))
    assert status == 0 and max(map(len, out.splitlines())) <= width
    assert sum(line.split()[0] in "0123" and "█" in line for line in out.splitlines()) == 4


def test_cells_say_what_went_on(folder, monkeypatch):
    monkeypatch.setenv("COLUMNS", "79")
    rows = {line.split()[0]: line for line in coopmpi("plot", "--timeline", folder / "train.h5", "--steps", "9:16")[1].splitlines()}
    # one period: worker 1 computes all the time, the others half of it
    cells = rows["1"].count("█")
    assert "░" not in rows["1"] and rows["0"].count("█") == cells / 2 == rows["0"].count("░")
    assert rows["0"].index("█") < rows["0"].index("░") and rows["0"].endswith(f" {0.96 / 1.96:.1%}")


def test_many_workers_are_few_lines_and_the_slow_one_is_named(tmp_path):
    out = coopmpi("plot", "--timeline", made_up(tmp_path / "run.h5", 50, 200))[1]
    assert len(out.splitlines()) < 22 and "worker 1 waits least" in out


@pytest.mark.parametrize("name, steps", [("train.h5", None), ("dpa.h5", None)])
def test_a_figure_has_a_row_per_worker_and_all_times_in_it(folder, name, steps):
    found = timeline(folder / name, steps)
    with figure.look(None):
        place, shares = workers.draw(found, None).axes
    assert [label.get_text() for label in place.get_yticklabels()] == ["0", "1", "2", "3"]
    assert place.get_xlabel().endswith(f"steps {found.first} to {found.last}")
    boxes = [path.vertices for collection in place.collections for path in collection.get_paths() if len(path.vertices) == 5]
    assert len(boxes) == 2 * found.compute.size
    scale = 1 if "(s)" in place.get_xlabel() else 1e3
    areas = sum(np.ptp(box[:, 0]) for box in boxes) / scale
    assert areas == pytest.approx(found.compute.sum() + found.wait.sum())


@pytest.mark.parametrize("steps, words", [("5", "--steps takes FIRST:LAST"), ("a:b", "--steps takes FIRST:LAST"),
                                          ("90:101", "has the steps 1:100"), ("0:5", "has the steps"), ("9:8", "has the steps")])
def test_steps_that_are_not_there_are_refused(folder, steps, words):
    assert words in refused("plot", "--timeline", folder / "train.h5", "--steps", steps)


def test_one_file_at_a_time(folder):
    assert "of one result file, given 2" in refused("plot", "--timeline", folder / "train.h5", folder / "dpa.h5")
    assert "different pictures" in refused("plot", "--timeline", "--graph", folder / "train.h5")
