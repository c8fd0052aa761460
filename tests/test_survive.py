"""Ranks are killed at chosen moments: the survivors come to the bits of a run in which nobody dies."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from coopmpi import config
from coopmpi.drivers.mpi.launch import find_mpirun
from coopmpi.drivers.solo import Solo
from coopmpi.run.assemble import assemble
from coopmpi.run.session import train
from coopmpi.run.snapshots import Snapshot, Snapshots
from tests.runs import EVEN_VARIANTS, coopmpi, read, settings

WORKERS, RANKS, STEPS = 8, 4, 60
OPEN_MPI = find_mpirun() and "Open MPI" in subprocess.run([find_mpirun(), "--version"], capture_output=True, text=True,
                                                          check=False).stdout
pytestmark = [pytest.mark.mpi, pytest.mark.skipif(not OPEN_MPI, reason="only Open MPI outlives the loss of ranks")]


class Inline(dict):
    def __repr__(self):
        return "{" + ", ".join(f"{key} = {_toml(value)}" for key, value in self.items()) + "}"


def _toml(value):
    if isinstance(value, bool):
        return str(value).lower()
    return "[" + ", ".join(map(_toml, value)) + "]" if isinstance(value, list) else repr(value)


@pytest.fixture
def folder(tmp_path):
    shutil.copy(Path(__file__).with_name("deadly.py"), tmp_path)
    return tmp_path


def tables(variant="local-sgd", **options):
    task = {"kind": "python", "function": "deadly:task", "options": Inline(options)}
    return read({"workers": WORKERS, "steps": STEPS, "deterministic": True, "device": "cpu", "task": task, "period": {"tau": 4},
                 "algorithm": EVEN_VARIANTS[variant], "mixing": {"lazy": True}, "record": {"eval_every": 20},
                 "optimizer": {} if variant == "sparq-sgd" else {"momentum": 0.9}, "compress": {"kind": "topk", "fraction": 0.3},
                 "survive": {"every_seconds": 0.001}})


def survive(folder, given, ranks=RANKS, limit=60):
    """(exit status, stderr) of a run that outlives the loss of ranks."""
    status, out, err = coopmpi("train", "-n", ranks, "--survive", "--quiet", "-o", "run.h5", *settings(given), cwd=folder, limit=limit)
    assert "Traceback" not in err, out + err
    return status, err


def whole(folder, given):
    """The same run in one process, where nobody dies."""
    given = given | {"task": {"kind": "python", "function": "coopmpi.contract.textbook:Textbook",
                              "options": {"numbers": given["task"]["options"].get("numbers", 60), "noise": 0.1}}}
    train(assemble(config.resolve(given), Solo()), Solo(), folder / "whole.h5")


def check(folder, lost):
    """The file holds what a run without losses has, each row once; and what was lost. The events."""
    with h5py.File(folder / "whole.h5") as expected, h5py.File(folder / "run.h5") as found:
        assert found.attrs["status"] == b"finished"
        for name in ("final/x", "final/mean", "train/step", "train/loss", "train/tau", "train/bytes_sent", "eval/step"):
            assert np.array_equal(found[name][:], expected[name][:]), name
        assert (np.diff(found["train/wall_time"][:]) > 0).all()
        events = [event["text"].decode() for event in found["events"][:] if event["kind"] == b"lost"]
    assert len(events) == lost, events
    assert not (folder / "run.h5.state").exists() and not (folder / ".run.h5.lock").exists()
    return events


@pytest.mark.parametrize("variant", EVEN_VARIANTS)
def test_every_algorithm_comes_to_the_same_bits(folder, variant):
    victim = list(EVEN_VARIANTS).index(variant) % RANKS  # rank 0 among them
    given = tables(variant, steps=[[victim, 37]], pause=0.002)
    whole(folder, given)
    status, err = survive(folder, given)
    assert status == 0, err
    event, = check(folder, 1)
    assert f"1 of 4 ranks were lost (rank {victim}); 3 go on from step" in event and "from step 0:" not in event


def test_adacomm_with_its_decisions(folder):
    given = tables("local-sgd", steps=[[1, 37]], pause=0.002) | {"period": {"kind": "adacomm", "tau": 9, "interval_steps": 12}}
    whole(folder, given)
    assert survive(folder, given)[0] == 0
    check(folder, 1)


def test_a_target_is_reached_by_those_that_are_left(folder):
    given = tables("overlap-dpa", steps=[[1, 37]], pause=0.002)
    whole(folder, given)
    with h5py.File(folder / "whole.h5") as file:
        losses = dict(zip(file["eval/step"][:], file["eval/loss"][:]))
    assert losses[40] < losses[20]
    (folder / "whole.h5").unlink()
    given |= {"stop": {"loss": float(losses[40])}}
    whole(folder, given)
    assert survive(folder, given)[0] == 0
    check(folder, 1)
    with h5py.File(folder / "run.h5") as file:
        assert file["train/step"][-1] == 40 and [step for step, _, kind, _ in file["events"][:] if kind == b"target"] == [40]


@pytest.mark.parametrize("steps", [[[3, 20], [2, 30], [1, 40]], [[0, 20], [1, 30], [2, 40]], [[1, 25], [2, 25]], [[0, 1]]], ids=str)
def test_several_losses_down_to_one_rank(folder, steps):
    given = tables("dpa", steps=steps, pause=0.004)
    whole(folder, given)
    assert survive(folder, given)[0] == 0
    check(folder, 1 if steps[0][1] == steps[-1][1] else len(steps))


def test_what_a_damaged_checkpoint_has_filled_is_forgotten(folder):
    """No snapshot yet, and of the checkpoints only the first rows can be read: the run starts again from its start."""
    given = tables("local-sgd", steps=[[1, 37]], pause=0.01, damage=True) | {"survive": {"every_seconds": 1000.0},
                                                                            "checkpoint": {"every_steps": 10, "keep": 9}}
    whole(folder, given)
    status, err = survive(folder, given)
    assert status == 0, err
    event, = check(folder, 1)
    assert "from step 0: " in event


def test_a_users_mistake_is_not_tried_again(folder):
    status, _, err = coopmpi("train", "-n", 4, "--survive", "--restarts", 3, "--quiet", "-o", "run.h5", "--set=workers=2", cwd=folder,
                             limit=60)
    assert status == 2 and "more ranks than workers" in err and "restarts are left" not in err, err
    assert not (folder / "run.h5").exists()


PHASES = {
    "before the file is created": [[0, "coopmpi.record.writer:Writer.open", 1, False]],
    "when the file was created": [[0, "coopmpi.record.writer:Writer.open", 1, True]],
    "while the others learn of it": [[1, "coopmpi.drivers.mpi.world:World.from_first", 1, False]],
    "before the first step": [[2, "coopmpi.run.loop:evaluate", 1, False]],
    "while a snapshot is taken": [[1, "coopmpi.run.snapshots:Snapshots.take", 2, False]],
    "when it was taken": [[2, "coopmpi.run.snapshots:Snapshots.take", 2, True]],
    "between its copy and its confirmation": [[1, "coopmpi.drivers.mpi.world:World.confirm", 2, False]],
    "while the survivors meet": [[3, "coopmpi.run.snapshots:Snapshots.take", 3, False],
                                 [1, "coopmpi.drivers.mpi.world:World.survivors", 1, False]],
    "when they have met": [[0, "coopmpi.run.snapshots:Snapshots.take", 3, False],
                           [1, "coopmpi.drivers.mpi.world:World.survivors", 1, True]],
    "while they put the run together": [[2, "coopmpi.run.snapshots:Snapshots.take", 3, False],
                                        [0, "coopmpi.run.survival:Survival.begin_again", 1, False]],
    "while they collect the snapshot": [[2, "coopmpi.run.snapshots:Snapshots.take", 3, False],
                                        [1, "coopmpi.run.snapshots:Snapshots.collect", 1, True]],
    "while rank 0 cuts the file": [[2, "coopmpi.run.snapshots:Snapshots.take", 3, False],
                                   [0, "coopmpi.record.writer:Writer.cut", 1, False]],
    "while the next rank opens the file": [[0, "coopmpi.run.snapshots:Snapshots.take", 3, False],
                                           [1, "coopmpi.record.writer:copy_rows", 1, True]],
    "in an evaluation": [[1, "coopmpi.run.loop:evaluate", 3, False]],
    "while models are saved": [[0, "coopmpi.run.session:save_models", 1, False]],
    "when models are saved": [[1, "coopmpi.run.session:save_models", 1, True]],
    "before the file is closed": [[0, "coopmpi.record.writer:Writer.close", 1, False]],
}


@pytest.mark.parametrize("phase", PHASES)
def test_losses_in_every_phase(folder, phase):
    given = tables("choco-sgd", calls=PHASES[phase], pause=0.003)
    whole(folder, given)
    status, err = survive(folder, given)
    assert status == 0, err
    with h5py.File(folder / "run.h5") as file:
        lost = sum(event["kind"] == b"lost" for event in file["events"][:])
    assert 1 <= lost <= len(PHASES[phase])
    check(folder, lost)


def test_large_models_and_the_thread_that_moves_messages(folder):
    given = tables("overlap-local-sgd", steps=[[2, 30]], pause=0.005, numbers=1_000_000) | {"period": {"tau": 2}}
    whole(folder, given)
    assert survive(folder, given)[0] == 0
    check(folder, 1)


def test_buddies_that_die_together_leave_the_checkpoint_on_the_disk(folder):
    """Ranks 1 and 2 hold each other's copies: what they had is on the disk, or the run starts again."""
    given = tables("local-sgd", steps=[[1, 40], [2, 40]], pause=0.004) | {"checkpoint": {"every_steps": 10}}
    whole(folder, given)
    assert survive(folder, given)[0] == 0
    check(folder, 1)


def test_two_buddies_survive_two_losses_at_once(folder):
    given = tables("local-sgd", steps=[[1, 40], [2, 40]], pause=0.01)
    given["survive"] = {"every_seconds": 0.001, "buddies": 2}
    whole(folder, given)
    assert survive(folder, given)[0] == 0
    event, = check(folder, 1)
    assert "from step 0:" not in event


def test_a_slow_rank_is_not_declared_dead(folder):
    given = tables("local-sgd", pause=0.01)
    command = [sys.executable, "-m", "coopmpi", "train", "-n", "3", "--survive", "--quiet", "-o", "run.h5", *settings(given)]
    whole(folder, given)
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
    while not (folder / "run.h5").exists():
        time.sleep(0.05)
    ranks = subprocess.run(["pgrep", "-f", str(folder / "none") + "|coopmpi train .*--survive"], capture_output=True, text=True,
                           check=False).stdout.split()
    mine = [int(pid) for pid in ranks if _folder_of(pid) == str(folder) and int(pid) != process.pid and _is_rank(pid)]
    os.kill(mine[-1], signal.SIGSTOP)
    time.sleep(3)
    assert process.poll() is None
    os.kill(mine[-1], signal.SIGCONT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    check(folder, 0)


def _folder_of(pid):
    try:
        return os.readlink(f"/proc/{pid}/cwd")
    except OSError:
        return None


def _is_rank(pid):
    return b"OMPI_COMM_WORLD_RANK=" in Path(f"/proc/{pid}/environ").read_bytes()


MISSED = """
import os, signal, sys, time
import mpi4py; mpi4py.rc.finalize = False
import numpy as np
from mpi4py import MPI
from coopmpi.drivers.mpi.world import World

world, late = World(tolerant=True), int(sys.argv[1])
world.confirm()
if world.rank == 2:
    time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGKILL)
while not world.hurt:
    MPI.COMM_SELF.Iprobe()  # MPI learns of losses in its own calls
time.sleep(0.3 if world.rank == late else 0.1)
try:
    if world.rank == 3:
        world.swap([], [(2, np.empty(1))])
    world.confirm()
except BaseException as error:
    assert world.is_loss(error), error
    world = world.survivors()
world.confirm()
print(world.size, world.sum([1.0]), flush=True)
os._exit(0)
"""


@pytest.mark.parametrize("late", [0, 1, 3])
def test_a_rank_that_notices_the_loss_before_a_confirmation_does_not_hold_up_the_others(late):
    _, out, err = coopmpi(late, ranks=4, main=("-c", MISSED), limit=20, options=("--with-ft", "ulfm", "--mca", "pml", "ob1"))
    assert out.split("\n").count("3 [3.]") == 3, out + err


def test_the_job_must_have_been_started_for_it(folder):
    status, _, err = coopmpi("train", "--survive", "--quiet", "-o", "run.h5", *settings(tables()), ranks=2, cwd=folder)
    assert status == 2 and "--survive needs Open MPI with fault tolerance: mpirun --with-ft ulfm" in err
    assert not (folder / "run.h5").exists()


def test_without_it_all_ranks_end_and_the_way_back_is_said(folder):
    given = tables("local-sgd", steps=[[1, 50]], pause=0.02) | {"checkpoint": {"every_steps": 10}}
    status, out, err = coopmpi("train", "-n", 2, "--quiet", "-o", "run.h5", *settings(given), cwd=folder, limit=30)
    assert status not in (0, 2, 3)
    assert "the run ended by accident; coopmpi resume run.h5 -n 2 goes on from step" in err, err


def test_the_interval_grows_until_snapshots_cost_little():
    snapshots = Snapshots(every_seconds=0.001, buddies=1)
    snapshots.cost = 0.5
    time.sleep(0.01)
    assert not snapshots.due
    snapshots.cost = 1e-6
    assert snapshots.due


def test_two_snapshots_of_a_step_are_one():
    """A loss before all have confirmed the snapshot that follows a recovery: each of the two may lack workers."""
    world = SimpleNamespace(rank=0, size=1, texts=lambda text: [text], swap=lambda sends, receives: None)
    driver = SimpleNamespace(world=world, hosted=range(3), wiring=SimpleNamespace(mixing=None))
    rows = {worker: np.full(4, worker, np.uint8) for worker in range(3)}
    later = Snapshot(9, 2.0, {}, {0: rows[0]})
    for parts in (({0, 1}, {1, 2}), ({0}, {1, 2}), ({0, 1, 2}, {1})):
        snapshots = Snapshots(every_seconds=1.0, buddies=1)
        snapshots.kept = [*(Snapshot(5, 1.0, {}, {worker: rows[worker] for worker in part}) for part in parts), later]
        assert snapshots.newest(world, 3) == 5 and later not in snapshots.kept
        found = snapshots.collect(driver, 5)
        assert {worker: row.tolist() for worker, row in found.workers.items()} == {w: rows[w].tolist() for w in range(3)}
    snapshots.kept = [later]
    assert snapshots.newest(world, 3) == -1 and snapshots.kept == []
