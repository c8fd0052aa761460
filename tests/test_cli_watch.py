"""coopmpi watch: runs that go on, end, are killed, resumed, and files that are none."""

import os
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest

from coopmpi.report import curve, watch
from tests.in_process import coopmpi, refused
from tests.screens import seen
from tests.test_failures import folder, train  # noqa: F401 (folder is a fixture)

COOPMPI = [sys.executable, "-m", "coopmpi"]


def started(folder, **options):  # noqa: F811
    """A run in another process that has written some rows."""
    process = subprocess.Popen([*COOPMPI, *train(workers=1, **options)], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if (folder / "run.h5").exists():
            with h5py.File(folder / "run.h5", "r", swmr=True) as file:
                if len(file["train/step"]):
                    return process
        time.sleep(0.1)
    process.kill()
    raise AssertionError("no rows")


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_the_view_goes_on_with_the_run_and_ends_with_it(folder, columns):  # noqa: F811
    process = started(folder, steps=700, pause=[0.005])
    found = seen([*COOPMPI, "watch", "run.h5"], columns, cwd=folder)
    assert process.wait(timeout=30) == 0 and found.status == 0
    steps = [int(line.split("/")[0].split()[1]) for screen in found.screens for line in screen if line.startswith("step ")]
    assert steps == sorted(steps) and len(set(steps)) >= 2
    text = "\n".join(found.lines)
    assert "finished, 700 of 700 steps" in " ".join(text.split()) and "┤" in text and "batch loss" in text
    assert not found.cursor_hidden and max(map(len, found.lines)) <= columns


def test_once_and_ctrl_c_and_a_kill(folder, monkeypatch):  # noqa: F811
    process = started(folder, pause=[0.005])
    path = folder / "run.h5"
    try:
        status, out, _ = coopmpi("watch", path, "--once")
        assert status == 0 and out.startswith("step ") and "/100000" in out and "batch loss" in out and len(out.splitlines()) <= 3
        # Ctrl-C ends the view, not the run
        other = subprocess.Popen([*COOPMPI, "watch", str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                 start_new_session=True)
        assert "batch loss" in other.stdout.readline()
        os.killpg(other.pid, signal.SIGINT)
        assert other.communicate(timeout=20) and other.returncode == 0
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
    monkeypatch.setattr(watch, "GONE", 1.0)
    monkeypatch.setattr(watch, "QUIET", 0.0)
    status, out, _ = coopmpi("watch", path)
    assert status == 0 and "nothing written for" in out and "the run was cut off; coopmpi resume" in out


def test_a_finished_run_shows_its_closing_screen_at_once(folder):  # noqa: F811
    assert subprocess.run([*COOPMPI, *train(steps=30, workers=1)], cwd=folder, check=True)
    for more in ([], ["--once"]):
        status, out, _ = coopmpi("watch", folder / "run.h5", *more)
        assert status == 0 and "finished, 30 of 30 steps" in out and "batch loss" not in out.splitlines()[0]


def test_a_run_that_is_resumed_is_counted_anew(folder):  # noqa: F811
    process = started(folder, steps=600, pause=[0.005])
    process.send_signal(signal.SIGINT)
    process.wait(timeout=30)
    resumed = subprocess.Popen([*COOPMPI, "resume", "run.h5", "--quiet"], cwd=folder)
    while not (folder / ".run.h5.lock").exists() and resumed.poll() is None:
        time.sleep(0.02)
    time.sleep(0.5)
    status, out, _ = coopmpi("watch", folder / "run.h5")
    assert resumed.wait(timeout=30) == 0 and status == 0 and "600 of 600 steps" in " ".join(out.split())
    assert "waiting nan" not in out


def test_other_files_get_one_sentence(tmp_path):
    (tmp_path / "empty.h5").touch()
    (tmp_path / "text.h5").write_text("step loss\n" * 100)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = [1]
    for name, says in (("empty", "not a readable HDF5 file"), ("text", "not a readable HDF5 file"), ("other", "not a result of coopmpi"),
                       ("none", "does not exist")):
        assert says in refused("watch", tmp_path / f"{name}.h5") and says in refused("watch", tmp_path / f"{name}.h5", "--once")


# its curve
def test_a_curve_goes_from_corner_to_corner():
    x = np.linspace(0, 100, 50)
    lines = curve.curve(x, 100 - x, np.array([[0, 100], [0, 100]]), 40, 8)
    assert len(lines) == 8 and max(map(len, lines)) <= 40
    canvas = [line.partition("│")[2] or line.partition("┤")[2] for line in lines[:6]]
    assert canvas[0].endswith("o") and canvas[5].startswith("o") and lines[7].split()[0] == "0" and lines[7].split()[-1] == "100"
    # every column between has dots
    columns = ["".join(line[column:column + 1] for line in canvas).strip(" o") for column in range(len(canvas[0]))]
    assert all(columns[1:-1])


@pytest.mark.parametrize("y", [[1.0, 1.0], [1e-30, 1e30], [-5.0, 5.0], [0.0, 0.0], [np.pi]], ids=str)
def test_curves_of_all_kinds(y):
    lines = curve.curve(np.arange(len(y)), np.array(y), np.zeros((2, 0)), 60, 6)
    assert len(lines) == 6 and max(map(len, lines)) <= 60
