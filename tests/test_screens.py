"""What is seen while a run goes on and when it ends, in terminals of three widths and in a log."""

import itertools
import os
import signal
import subprocess
import sys

import h5py
import numpy as np
import pytest

from coopmpi.report import console, view
from coopmpi.report.progress import Progress
from coopmpi.sinks import About, StepRows
from tests.screens import seen
from tests.test_failures import folder, pid, train  # noqa: F401 (folder is a fixture)

WIDTHS = [60, 80, 120]
COOPMPI = [sys.executable, "-m", "coopmpi"]
SLOW = {"pause": [0.003, 0.003]}


def watched(**options):
    """Arguments of a run on the troublesome problem whose progress is shown."""
    return [*COOPMPI, *(word for word in train(**options) if word != "--quiet")]


def views(found):
    """The lines of each view that was seen."""
    for screen in found.screens:
        for number, line in enumerate(screen):
            if line.startswith("step ") and "━" in "".join(screen):
                yield list(itertools.takewhile(bool, screen[number:number + 3]))


# on a terminal
@pytest.mark.parametrize("columns, ranks", [
    *((columns, []) for columns in WIDTHS), pytest.param(60, ["-n", "2"], marks=pytest.mark.mpi)], ids=str)
def test_the_live_view_and_the_closing_screen(folder, columns, ranks):  # noqa: F811
    found = seen([*watched(steps=400, workers=2, **SLOW), *ranks], columns, cwd=folder)
    assert found.status == 0 and not found.cursor_hidden
    # while it went on, as soon as rows of all ranks were there
    shown = [view for view in views(found) if "batch loss" in "".join(view) and not view[0].startswith("step 400/")]
    assert len(shown) >= 2
    for lines in shown:
        text = "\n".join(lines)
        assert "/400" in lines[0] and "%" in lines[0] and "ETA" in lines[0]
        for words in ("(mean of", "lr 0.1", "tau 8", "steps/s", "waiting"):
            assert words in text, (words, lines)
    # it stays in its place
    assert sum(line.startswith("step ") for line in found.lines) == 1
    closing = found.lines[next(i for i, line in enumerate(found.lines) if line.startswith("local-sgd, 2 workers on")):]
    assert len(closing) <= 23 and "finished, 400 of 400 steps" in " ".join(closing)
    assert any("┤" in line for line in closing) and "more: coopmpi inspect run.h5" in closing[-1]
    assert sum("█" in line for line in closing) == (3 if ranks else 2)  # a bar for each rank, and what it means


def test_figures_and_what_is_left_out_first():
    figures = {"loss": 0.1, "accuracy": 0.97, "consensus": 0.01, "mine": 3.0}
    progress = Progress(2000, done=500, losses=[0.05] * 100, figures=figures, lr=0.1, tau=8, wall_time=10.0, waited=4.0, sent=1e6)
    for width in (20, 40, *WIDTHS, 300):
        lines = view.frame(progress, width)
        assert len(lines) <= 3 and max(map(len, lines)) <= width
        text = " ".join(lines)
        assert "batch loss 0.05" in text or width < 40
        assert ("loss 0.1 " in text and "accuracy 97.00%" in text and "steps/s" in text and "waiting 40%" in text) or width < 60
        assert ("consensus" in text) <= ("mine 3" in text) <= ("waiting" in text)
    assert "ETA 0:00:30" in lines[0] and "1 MB sent" in text


def test_what_is_printed_meanwhile_stays_above(folder):  # noqa: F811
    (folder / "talking.py").write_text(
        "import sys\nfrom trouble import trouble\n"
        "def task(place):\n    problem = trouble(place, pause=[0.01])\n    inner = problem.gradient\n"
        "    def gradient(x, step):\n        if step == 60:\n            print('said to stdout')\n"
        "            print('said to stderr', file=sys.stderr)\n"
        "        return inner(x, step)\n    problem.gradient = gradient\n    return problem\n")
    for ranks in ([], ["-n", "1"]):
        command = [*COOPMPI, *train(steps=120, workers=1, function="talking:task"), "--overwrite", *ranks]
        found = seen([word for word in command if word != "--quiet"], 80, cwd=folder)
        assert found.status == 0
        places = {words: [i for i, line in enumerate(found.lines) if words in line]
                  for words in ("said to stdout", "said to stderr", "step 120/120")}
        assert all(len(place) == 1 for place in places.values()), found.lines
        assert max(places["said to stdout"][0], places["said to stderr"][0]) < places["step 120/120"][0]


@pytest.mark.mpi
def test_the_cursor_is_there_when_ranks_are_killed(folder):  # noqa: F811
    def kill(screen, parent):
        if any("batch loss" in line for line in screen):
            os.kill(pid(folder, 1), signal.SIGKILL)
            return True

    found = seen([*watched(workers=2, **SLOW), "-n", "2"], 80, cwd=folder, act=kill)
    assert found.status not in (0, None) and not found.cursor_hidden


def test_the_cursor_is_there_when_a_lone_process_is_killed(folder):  # noqa: F811
    def kill(screen, process):
        if any("batch loss" in line for line in screen):
            os.kill(process, signal.SIGKILL)
            return True

    found = seen(watched(workers=1, **SLOW), 80, cwd=folder, act=kill)
    assert found.status == -signal.SIGKILL and not found.cursor_hidden


# in a log
class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def logged(monkeypatch, capsys, steps, seconds):
    """The moments at which a run of so many steps, each that long, has printed a line, and the lines."""
    clock = Clock()
    monkeypatch.setattr(console, "monotonic", clock)
    log = console.Log()
    log.open(About("", 1, steps, 1, "float32", "train"))
    moments, lines = [], []
    for k in range(steps):
        clock.now += seconds
        one, each = np.ones(1), np.ones((1, 1))
        log.steps(StepRows(k, one * clock.now, np.array([8]), 0.1 * one, 0 * one, each, 0 * each, 0 * each, each, None))
        new = capsys.readouterr().out.splitlines()
        moments += [clock.now] * len(new)
        lines += new
    log.evaluation(steps, clock.now, {"loss": 0.5, "accuracy": 0.9})
    log.close("finished")
    return moments, lines + capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("steps, seconds", [(30, 0.1), (4000, 1.0), (2400, 4.0), (1000, 55.0), (6000, 20.0)], ids=str)
def test_a_log_has_a_line_every_minute_and_200_at_most(monkeypatch, capsys, steps, seconds):
    moments, lines = logged(monkeypatch, capsys, steps, seconds)
    assert len(lines) <= console.LINES and f"step {steps}/{steps}" in lines[-1] and "accuracy 90.00%" in lines[-1]
    gaps = np.diff([0.0, *moments, steps * seconds])
    if steps * seconds < 60 * 0.9 * console.LINES:
        assert gaps.max() <= 60 + seconds
    else:  # longer than 200 minutes: evenly
        assert gaps.max() < 2 * steps * seconds / console.LINES + 60
    for words in ("batch loss 1 (mean of", "lr 0.1", "tau 8", "steps/s", "waiting 0%", "ETA"):
        assert words in lines[0]


@pytest.mark.mpi
def test_plain_mpirun_and_a_pipe_get_lines_while_the_run_goes_on(folder):  # noqa: F811
    from tests.test_failures import mpirun

    for command in (watched(steps=800, workers=2, **SLOW), [*mpirun(2), *watched(steps=800, workers=2, **SLOW), "--overwrite"]):
        environment = os.environ | {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        process = subprocess.Popen(list(map(str, command)), cwd=folder, env=environment, text=True, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE)
        early = 0
        for line in process.stdout:
            assert "\x1b" not in line
            if "batch loss" in line and process.poll() is None and "step 800" not in line:
                early += 1
        process.communicate(timeout=30)
        assert process.returncode == 0 and early


# closing screens
@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize("words", [["simulate", "--set=workers=40", "--set=compute.kind=exponential", "--set=steps=60"],
                                   ["simulate", "--time-only", "--set=workers=5", "--set=steps=60"],
                                   ["train", "--set=record.per_worker=summary", "--set=steps=40"],
                                   ["train", "--set=stop.loss=0.001", "--set=steps=3", "--set=algorithm.kind=d-psgd"]],
                         ids=lambda words: " ".join(words[:2]))
def test_closing_screens_fit(tmp_path, columns, words):
    found = subprocess.run([*COOPMPI, *words, "-o", "a.h5"], cwd=tmp_path, env=os.environ | {"COLUMNS": str(columns)}, capture_output=True,
                           text=True, check=True).stdout.splitlines()
    start = next(i for i, line in enumerate(found) if " workers on 1 rank: finished" in line)
    screen = found[start:]
    assert len(screen) <= 23 and max(map(len, screen)) <= columns
    text = " ".join(screen)
    assert ("┤" in text) == ("--time-only" not in words)
    if "simulate" in words:
        assert "virtual time" in text
    if "--set=workers=40" in words:
        assert all(what in text for what in ("computes most", "waits most", "mean of all"))
    if "--set=stop.loss=0.001" in words:
        assert "target not reached: loss = 0.001" in text


def test_a_terminal_that_has_no_braille_ends_nothing(tmp_path):
    done = subprocess.run([*COOPMPI, "train", "--set=steps=20", "-o", "a.h5"], cwd=tmp_path, env=os.environ | {"PYTHONIOENCODING": "ascii"},
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "finished, 20 of 20 steps" in done.stdout and not done.stderr
    with h5py.File(tmp_path / "a.h5") as file:
        assert file.attrs["status"] == b"finished"
