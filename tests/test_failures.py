"""What happens when something breaks off a run: exceptions, NaN, signals, kills, launchers that do not fit."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest

from coopmpi import config
from coopmpi.drivers.mpi.launch import find_mpirun
from coopmpi.drivers.solo import Solo
from coopmpi.run import session
from coopmpi.run.assemble import assemble
from tests.runs import coopmpi, settings, write_quadratic

SOON = 10  # seconds within which everything must have ended


@pytest.fixture
def folder(tmp_path):
    shutil.copy(Path(__file__).with_name("trouble.py"), tmp_path)
    return tmp_path


def mpirun(ranks):
    """The command that starts so many ranks, though there may be fewer cores."""
    program = find_mpirun()
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    return [program, *(["--oversubscribe"] if "Open MPI" in version else []), "-n", ranks]


def train(steps=100000, function="trouble:trouble", workers=4, **options):
    """Arguments of a run on the troublesome problem; SGD on |x|^2 / 2 with lr = 0.1 shrinks x."""
    task = {"kind": "python", "function": function, "options": Inline(options)}
    return ["train", "-o", "run.h5", "--quiet", *settings({"steps": steps, "workers": workers, "task": task})]


class Inline(dict):
    """Shows itself as a TOML inline table."""

    def __repr__(self):
        return "{" + ", ".join(f"{key} = {value!r}" for key, value in self.items()) + "}"


def our_lines(err):
    """What coopmpi says, among what mpirun says."""
    return [line for line in err.splitlines() if line.startswith("coopmpi: ")]


def one_line(err):
    assert "Traceback" not in err and "Warning" not in err, err
    line, = our_lines(err)
    return line


def gone(pid, patience=SOON):
    """Has the process ended, at the latest after some seconds?"""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def pid(folder, rank):
    return int((folder / f"pid-{rank}").read_text())


# an exception
@pytest.mark.mpi
@pytest.mark.parametrize("culprit", [0, 1])
def test_an_exception_on_one_rank_ends_all_ranks_and_names_it(folder, culprit):
    start = time.monotonic()
    status, _, err = coopmpi(*train(raises=[culprit, 5]), ranks=2, cwd=folder, limit=30)
    assert status == 1
    line, = our_lines(err)
    assert f"rank {culprit} on" in line and "RuntimeError: the coffee is cold" in err
    assert time.monotonic() - start < SOON
    assert gone(pid(folder, 0)) and gone(pid(folder, 1))


def test_an_exception_in_a_lone_process_shows_where_and_closes_the_file(folder):
    status, _, err = coopmpi(*train(raises=[0, 5]), cwd=folder)
    assert status == 1 and "trouble.py" in err and "the coffee is cold" in err
    with h5py.File(folder / "run.h5") as file:
        assert file.attrs["status"] == b"failed"
        assert b"the coffee is cold" in file["events"][-1]["text"]


@pytest.mark.mpi
def test_a_mistake_that_one_rank_meets_is_told_once_with_its_rank(folder):
    status, _, err = coopmpi(*train(function="trouble:only_on_rank_1"), ranks=2, cwd=folder, limit=30)
    assert status == 2
    assert one_line(err) == "coopmpi: this node has no coffee (rank 1 of 2)"
    assert not (folder / "run.h5").exists()


@pytest.mark.mpi
@pytest.mark.parametrize("missing", ["run.toml", "graph.txt"])
def test_a_file_that_is_missing_on_one_node_hangs_nobody(folder, missing):
    # two working directories stand for the disks of two nodes
    for node in ("here", "there"):
        (folder / node).mkdir()
        write_quadratic(folder / node / "q.h5", 4)
        (folder / node / "graph.txt").write_text("0 1\n1 2\n2 3\n")
        (folder / node / "run.toml").write_text(
            'workers = 4\nsteps = 5\n[task]\nkind = "quadratic"\npath = "q.h5"\n'
            '[algorithm]\nkind = "dpa"\n[mixing]\ngraph = "graph.txt"\n')
    (folder / "there" / missing).unlink()
    program = [sys.executable, "-m", "coopmpi", "train", "run.toml", "-o", "run.h5", "--quiet"]
    with started([*mpirun(1), "--wdir", folder / "here", *program,
                  ":", "-n", "1", "--wdir", folder / "there", *program], folder) as process:
        status, err = ended(process)
    assert status == 2
    assert missing in one_line(err) and "(rank 1 of 2)" in err
    assert not (folder / "here" / "run.h5").exists()


# NaN and Inf
def test_a_huge_lr_names_worker_and_step(tmp_path):
    status, _, err = coopmpi("train", "-o", "run.h5", "--set=optimizer.lr=1e30", "--set=steps=200", cwd=tmp_path)
    assert status == 4
    worker, step = map(int, re.search(r"worker (\d) became \S+ at step (\d+);", one_line(err)).groups())
    with h5py.File(tmp_path / "run.h5") as file:
        assert file.attrs["status"] == b"failed"
        loss = file["train/loss"][:]
        assert np.isfinite(loss[:step - 1]).all() and not np.isfinite(loss[step - 1, worker])


@pytest.mark.mpi
def test_the_worker_whose_nan_came_first_is_named_though_averaging_has_spread_it(folder):
    status, _, err = coopmpi(*train(nan_loss=[3, 4], pause=[0.001, 0.001]), ranks=2, cwd=folder, limit=30)
    assert status == 4
    assert "the loss of worker 3 became nan at step 5" in one_line(err)
    with h5py.File(folder / "run.h5") as file:
        assert file.attrs["status"] == b"failed"
        loss = file["train/loss"][:]
        assert np.isfinite(loss[:4]).all() and np.isfinite(loss[4]).tolist() == [True, True, True, False]
        assert len(loss) == 5  # what it has spread to is no result
        assert b"worker 3" in file["events"][-1]["text"]


@pytest.mark.parametrize("ranks", [None, pytest.param(2, marks=pytest.mark.mpi)])
def test_the_first_nan_ends_the_run_at_once(folder, ranks):
    status, _, err = coopmpi(*train(nan_loss=[3, 40], pause=[0.005, 0.005]), ranks=ranks, cwd=folder, limit=30)
    assert status == 4 and "at step 41" in one_line(err)
    with h5py.File(folder / "run.h5") as file:
        assert len(file["train/step"]) == 41 and file["events"][-1]["step"] < 100


def test_a_model_that_the_last_step_has_spoilt_is_noticed(folder):
    status, _, err = coopmpi(*train(steps=21, nan_gradient=[2, 20]), cwd=folder)
    assert status == 4
    assert "the model of worker 2" in one_line(err) and "at step 21" in err


# signals and kills
@contextmanager
def started(command, folder):
    """A process that is running; what is left of its process group is killed in the end."""
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    process = subprocess.Popen(list(map(str, command)), cwd=folder, env=os.environ | root, start_new_session=True,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.communicate()


def ended(process):
    _, err = process.communicate(timeout=SOON)
    return process.returncode, err


def rows(path):
    """Complete rows of a result file that may be being written."""
    with h5py.File(path, "r", swmr=True) as file:
        n = min(file["train"][name].shape[0] for name in file["train"])
        assert np.array_equal(file["train/step"][:n], np.arange(1, n + 1))
        assert np.isfinite(file["train/loss"][:n]).all()
        return n


def wait_for_rows(process, path, more_than=0):
    end = time.monotonic() + 30
    while not (path.exists() and rows(path) > more_than):
        assert time.monotonic() < end and process.poll() is None, "no rows"
        time.sleep(0.1)
    return rows(path)


def check_interrupted(path, err, name):
    told = rf"coopmpi: stopped by {name} after step (\d+); its state is saved: coopmpi resume run.h5"
    done = int(re.fullmatch(told, one_line(err)).group(1))
    with h5py.File(path) as file:
        assert file.attrs["status"] == b"interrupted"
        assert np.array_equal(file["train/step"][:], np.arange(1, done + 1))
        assert np.isfinite(file["train/loss"][:]).all() and len(file["train/loss"]) == done
        assert (np.diff(file["train/wall_time"][:]) > 0).all()
        # x_k = 0.9^k, so all workers have stopped after that very step
        np.testing.assert_allclose(file["final/x"][:], 0.9**done, rtol=1e-4, atol=1e-30)
        np.testing.assert_allclose(file["final/mean"][:], 0.9**done, rtol=1e-4, atol=1e-30)
        assert file["eval/step"][-1] == done
        event = file["events"][-1]
        assert event["kind"] == b"interrupted" and event["step"] == done and name.encode() in event["text"]


SLOW = {"pause": [0.005, 0.005]}
ALONE = [sys.executable, "-m", "coopmpi", *train(**SLOW)]
MPIRUN = [*mpirun(2), *ALONE]
OURS = [*ALONE, "-n", "2"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_lone_process_stops_at_a_signal_and_can_be_read_meanwhile(folder, number):
    with started(ALONE, folder) as process:
        before = wait_for_rows(process, folder / "run.h5")
        wait_for_rows(process, folder / "run.h5", more_than=before)
        process.send_signal(number)
        status, err = ended(process)
    assert status == 3
    check_interrupted(folder / "run.h5", err, number.name)


@pytest.mark.mpi
@pytest.mark.parametrize("command", [MPIRUN, OURS], ids=["mpirun", "coopmpi -n 2"])
def test_all_ranks_stop_at_the_same_step_when_mpirun_gets_sigusr1(folder, command):
    with started(command, folder) as process:
        wait_for_rows(process, folder / "run.h5")
        process.send_signal(signal.SIGUSR1)
        status, err = ended(process)
    assert status == 3
    err = err.replace("coopmpi: running as root: mpirun is told to allow it\n", "")
    check_interrupted(folder / "run.h5", err, "SIGUSR1")


@pytest.mark.mpi
def test_a_signal_that_one_rank_alone_gets_stops_all(folder):
    with started(MPIRUN, folder) as process:
        wait_for_rows(process, folder / "run.h5")
        os.kill(pid(folder, 1), signal.SIGTERM)
        status, err = ended(process)
    assert status == 3
    check_interrupted(folder / "run.h5", err.replace(" (rank 1 of 2)", ""), "SIGTERM")


def test_ctrl_c_before_the_training_has_begun_leaves_nothing_behind(folder):
    with started([sys.executable, "-m", "coopmpi", *train(function="trouble:slow_start")], folder) as process:
        while not (folder / "pid-0").exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        status, err = ended(process)
    assert status == 3 and one_line(err) == "coopmpi: interrupted"
    assert not list(folder.glob("*run*"))


def test_a_signal_while_the_models_are_being_saved_costs_nothing(tmp_path, monkeypatch):
    task = {"kind": "quadratic", "path": write_quadratic(tmp_path / "q.h5", 3)}
    tables = {"workers": 3, "steps": 5, "task": task}
    save = session.save_models

    def interrupted_save(*arguments):
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
        save(*arguments)

    monkeypatch.setattr(session, "save_models", interrupted_save)
    session.train(assemble(config.resolve(tables), Solo()), Solo(), tmp_path / "run.h5")
    with h5py.File(tmp_path / "run.h5") as file:
        assert file.attrs["status"] == b"finished" and np.abs(file["final/x"][:]).min() > 0


def test_the_file_of_a_killed_process_holds_its_rows(folder):
    with started(ALONE, folder) as process:
        seen = wait_for_rows(process, folder / "run.h5")
        process.kill()
        process.wait(SOON)
    assert rows(folder / "run.h5") >= seen
    with h5py.File(folder / "run.h5", "r", swmr=True) as file:
        assert file.attrs["status"] == b"running"


@pytest.mark.mpi
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_ends_the_job_and_leaves_a_readable_file(folder, victim):
    with started(MPIRUN, folder) as process:
        seen = wait_for_rows(process, folder / "run.h5")
        os.kill(pid(folder, victim), signal.SIGKILL)
        status, err = ended(process)
        assert status != 0 and "Traceback" not in err
        assert gone(pid(folder, 1 - victim))
    assert rows(folder / "run.h5") >= seen


@pytest.mark.mpi
def test_a_slow_rank_is_recorded_in_full_and_waited_for(folder):
    status, _, err = coopmpi(*train(steps=150, pause=[0.0, 0.01]), ranks=2, cwd=folder)
    assert status == 0, err
    with h5py.File(folder / "run.h5") as file:
        train_group = file["train"]
        assert np.array_equal(train_group["step"][:], np.arange(1, 151))
        assert all(len(train_group[name]) == 150 for name in train_group)
        losses = 1.5 * 0.81 ** np.arange(150)
        np.testing.assert_allclose(train_group["loss"][:], np.repeat(losses[:, None], 4, axis=1), rtol=1e-3)
        compute, wait = train_group["compute_time"][:].sum(axis=0), train_group["wait_time"][:].sum(axis=0)
        assert train_group["wall_time"][-1] > 1.4  # 150 x 10 ms, though rank 0 has waited for much of it
    # only differences: other programs may slow down both ranks
    assert (compute[2:] > 1.4).all() and (compute[2:] > compute[:2] + 0.7).all()
    assert (wait[:2] > wait[2:] + 0.7).all()


# launchers that do not fit
@pytest.mark.mpi
@pytest.mark.parametrize("variable", ["PMI_SIZE", "SLURM_STEP_NUM_TASKS"])
def test_a_launcher_that_mpi_does_not_know_is_refused(tmp_path, variable):
    status, _, err = coopmpi("train", "-o", "run.h5", cwd=tmp_path, environment={variable: "4"})
    assert status == 2
    line = one_line(err)
    assert f"{variable}=4" in line and "coopmpi train -n" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.mpi
def test_ranks_within_ranks_are_refused(tmp_path):
    status, _, err = coopmpi("train", "-n", 2, "-o", "run.h5", ranks=2, cwd=tmp_path)
    assert status == 2
    assert "-n 2" in one_line(err) and "leave -n out" in err
    assert not list(tmp_path.iterdir())


@pytest.mark.mpi
def test_a_rank_that_stands_still_is_named_and_nobody_is_ended(folder):
    (folder / "impatient.py").write_text("from coopmpi.run import watchdog\nfrom trouble import trouble\n"
                                         "watchdog.PATIENCE, watchdog.PACE = 1.0, 0.2\ntask = trouble\n")
    arguments = [*train(steps=1000, function="impatient:task", workers=4, pause=[0.005] * 4), "--set=algorithm.kind=dpa",
                 "--set=period.tau=1"]
    with started([*mpirun(4), sys.executable, "-m", "coopmpi", *arguments], folder) as process:
        wait_for_rows(process, folder / "run.h5")
        os.kill(pid(folder, 2), signal.SIGSTOP)
        time.sleep(3)
        assert process.poll() is None
        os.kill(pid(folder, 2), signal.SIGCONT)
        status, err = process.wait(60), process.stderr.read()
    assert status == 0, err
    told = [line for line in our_lines(err) if "has waited for" in line]
    assert told and all(re.search(r"at step \d+ for (rank 2|all ranks|rank 0|rank 1)", line) for line in told)
    assert any(line.endswith("for rank 2 (Mix)") for line in told), told
