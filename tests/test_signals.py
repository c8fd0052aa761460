"""Requests to end, however they come: the state is saved, the exit status is 3, and the run goes on to the same bits."""

import os
import pty
import select
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest

from tests.runs import coopmpi
from tests.test_failures import folder, pid, train, wait_for_rows  # noqa: F401 (folder is a fixture)

pytestmark = pytest.mark.mpi
STEPS = 300
SLOW = {"pause": [0.01, 0.01]}  # seconds of a gradient on each of two ranks
OURS = [sys.executable, "-m", "coopmpi", *train(steps=STEPS, workers=2, **SLOW), "--set=deterministic=true", "-n", "2"]
LIMIT = 60


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The models of a run that nobody stops."""
    import shutil
    from pathlib import Path

    place = tmp_path_factory.mktemp("whole")
    shutil.copy(Path(__file__).with_name("trouble.py"), place)
    status, out, err = coopmpi(*train(steps=STEPS, workers=2), "--set=deterministic=true", cwd=place)
    assert status == 0, out + err
    with h5py.File(place / "run.h5") as file:
        return file["final/x"][:]


def start(folder, command=OURS, **options):
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def check(folder, process, whole, status=3):
    """It ended with a saved state, from which it comes to the end of a run that nobody stopped."""
    out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == status and "its state is saved" in err, out + err
    with h5py.File(folder / "run.h5") as file:
        assert file.attrs["status"] == b"interrupted" and len(file["train/step"]) < STEPS
    assert coopmpi("resume", "run.h5", "--quiet", cwd=folder)[0] == 0
    with h5py.File(folder / "run.h5") as file:
        assert np.array_equal(file["final/x"][:], whole)
        assert np.array_equal(file["train/step"][:], np.arange(1, STEPS + 1))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1], ids=lambda n: n.name)
def test_a_signal_to_the_parent(folder, whole, number):  # noqa: F811
    process = start(folder)
    wait_for_rows(process, folder / "run.h5")
    process.send_signal(number)
    check(folder, process, whole)


def test_a_signal_to_the_group_as_a_shell_sends_it(folder, whole):  # noqa: F811
    process = start(folder, start_new_session=True)
    wait_for_rows(process, folder / "run.h5")
    os.killpg(process.pid, signal.SIGTERM)
    check(folder, process, whole)


def test_a_signal_to_one_rank(folder, whole):  # noqa: F811
    process = start(folder)
    wait_for_rows(process, folder / "run.h5")
    os.kill(pid(folder, 1), signal.SIGTERM)
    check(folder, process, whole)


def in_a_terminal(folder, command, keys):
    """(exit status, what the terminal showed) of a command in a terminal of its own; keys: pressed when rows are there."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(folder)
        os.execvp(command[0], command)
    shown, pressed, end = b"", 0, time.monotonic() + LIMIT
    while time.monotonic() < end:
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                got = os.read(terminal, 65536)
            except OSError:
                break
            if not got:
                break
            shown += got
        if pressed < len(keys) and shown.count(b"batch loss") > pressed:
            os.write(terminal, keys[pressed])
            pressed += 1
    _, status = os.waitpid(child, 0)
    os.close(terminal)
    return os.waitstatus_to_exitcode(status), shown.decode(errors="replace")


def test_ctrl_c_in_a_terminal_and_the_progress_that_is_shown_there(folder, whole):  # noqa: F811
    command = [word for word in OURS if word != "--quiet"]
    status, shown = in_a_terminal(folder, command, [b"\x03"])
    assert status == 3 and "its state is saved" in shown, shown
    assert f"/{STEPS}" in shown and "batch loss" in shown  # while the run went on
    assert "\x1b[?25l" not in shown  # the cursor was never away
    assert coopmpi("resume", "run.h5", "--quiet", cwd=folder)[0] == 0
    with h5py.File(folder / "run.h5") as file:
        assert np.array_equal(file["final/x"][:], whole)


def test_a_second_ctrl_c_ends_at_once(folder):  # noqa: F811
    slow = [sys.executable, "-m", "coopmpi", *train(steps=50, workers=2, pause=[3.0, 3.0]), "-n", "2"]
    process = start(folder, slow)
    while not (folder / "pid-1").exists():
        time.sleep(0.05)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)  # shorter than the rest of the run
    assert process.returncode not in (0, 3)


def test_with_slow_steps_the_stop_comes_within_one_step(folder):  # noqa: F811
    slow = [sys.executable, "-m", "coopmpi", *train(steps=50, workers=2, pause=[1.5, 1.5]), "-n", "2"]
    process = start(folder, slow)
    wait_for_rows(process, folder / "run.h5", more_than=1)
    with h5py.File(folder / "run.h5", "r", swmr=True) as file:
        before = len(file["train/step"])
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 3, out + err
    with h5py.File(folder / "run.h5") as file:
        assert len(file["train/step"]) <= before + 2  # rows are a second behind


@pytest.mark.parametrize("redirect", [">&-", "> /dev/full", "| head -c 10"])
def test_a_closed_or_full_stdout_ends_no_training(folder, redirect):  # noqa: F811
    words = [word for word in [*OURS, "--overwrite"] if word != "--quiet"]
    for command in (words, words[:-3] + ["--overwrite"]):
        import shlex

        done = subprocess.run(["bash", "-c", f"set -o pipefail; {shlex.join(command)} {redirect}"], cwd=folder,
                              capture_output=True, text=True, timeout=LIMIT, check=False)
        with h5py.File(folder / "run.h5") as file:
            assert file.attrs["status"] == b"finished" and len(file["train/step"]) == STEPS, done.stderr
        assert "Traceback" not in done.stderr


# accidents
def test_restarts_bring_back_a_run_whose_ranks_were_killed(folder, whole):  # noqa: F811
    process = start(folder, [*OURS, "--restarts", "3", "--set=checkpoint.every_steps=20"])
    state = folder / "run.h5.state"
    while not list(state.glob("step-*/manifest.json")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    os.kill(pid(folder, 1), signal.SIGKILL)
    out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, out + err
    assert "ended by accident" in err and "it goes on from step" in err and "2 restarts are left" in err
    with h5py.File(folder / "run.h5") as file:
        assert np.array_equal(file["final/x"][:], whole) and file.attrs["status"] == b"finished"
        assert np.array_equal(file["train/step"][:], np.arange(1, STEPS + 1))
    assert not state.exists()


def write_dying(folder, status):
    """A task whose processes end with that exit status at their sixth step."""
    (folder / "dying.py").write_text("import os\nfrom trouble import trouble\n"
                                     "def task(place):\n    problem = trouble(place)\n    inner = problem.gradient\n"
                                     f"    def gradient(x, step):\n        if step == 5: os._exit({status})\n        return inner(x, step)\n"
                                     "    problem.gradient = gradient\n    return problem\n")


def test_restarts_give_up_where_nothing_moves_on(folder):  # noqa: F811
    write_dying(folder, 9)
    status, _, err = coopmpi(*train(steps=STEPS, workers=2, function="dying:task"), "-n", "2", "--restarts", "9", cwd=folder, limit=LIMIT)
    assert status not in (0, 3) and "gave up: two attempts have ended without a newer checkpoint" in err
    assert err.count("ended by accident") == 2


def test_a_result_that_was_to_be_replaced_is_none_of_the_new_run(folder):  # noqa: F811
    """The ranks die before their own file is there: the run is not finished, and its restart replaces the old one."""
    (folder / "early.py").write_text("import os\nfrom pathlib import Path\nfrom trouble import trouble\n"
                                     "def task(place):\n    if not Path('died').exists():\n        Path('died').touch()\n"
                                     "        os._exit(9)\n    return trouble(place)\n")
    words = train(steps=STEPS, workers=2, function="early:task")
    for restarts in ([], ["--restarts", "1"]):
        for name in ("died", "run.h5"):
            (folder / name).unlink(missing_ok=True)
        assert coopmpi(*train(steps=5, workers=1, function="trouble:trouble"), cwd=folder, limit=LIMIT)[0] == 0
        status, _, err = coopmpi(*words, "-n", "1", "--overwrite", *restarts, cwd=folder, limit=LIMIT)
        with h5py.File(folder / "run.h5") as file:
            assert len(file["train/step"]) == (STEPS if restarts else 5), err
        assert (status == 0) == bool(restarts), err


def test_a_job_that_ends_with_0_before_its_end_is_an_accident(folder):  # noqa: F811
    """So Open MPI's mpirun does when a node is lost."""
    write_dying(folder, 0)
    status, _, err = coopmpi(*train(steps=STEPS, workers=2, function="dying:task"), "-n", "1", cwd=folder, limit=LIMIT)
    assert status == 1, err
    status, _, err = coopmpi(*train(steps=STEPS, workers=2, function="dying:task"), "-n", "1", "--restarts", "1", "--overwrite", cwd=folder,
                             limit=LIMIT)
    assert status == 1 and "0 restarts are left" in err, err
