"""A run that was stopped goes on as if it had not been: every algorithm, on another number of ranks."""

import os
import shutil
import subprocess
import sys
import threading

import h5py
import numpy as np
import pytest

from coopmpi import config
from coopmpi.drivers.solo import Solo
from coopmpi.errors import CoopError, UserError
from coopmpi.record import checkpoint, lock
from coopmpi.run import ballot, feed, step_log
from coopmpi.run.assemble import assemble
from coopmpi.run.resume import continued
from coopmpi.run.session import begin, train
from coopmpi.sinks import Sink
from tests.interruptions import content, interrupted, run
from tests.runs import EVEN_VARIANTS, coopmpi, read, write_quadratic

M, STEPS = 6, 60


def tables(path, variant, **more):
    return read({"workers": M, "steps": STEPS, "deterministic": True, "device": "cpu", "algorithm": EVEN_VARIANTS[variant],
                 "task": {"kind": "quadratic", "path": path}, "period": {"tau": 4}, "mixing": {"lazy": True},
                 "optimizer": {} if variant == "sparq-sgd" else {"momentum": 0.9, "nesterov": True},
                 "compress": {"kind": "topk", "fraction": 0.3}} | more)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_quadratic(tmp_path_factory.mktemp("resume") / "q.h5", M, 20, noise=0.1)


@pytest.mark.parametrize("variant", EVEN_VARIANTS)
def test_a_resumed_run_equals_one_that_was_never_stopped(path, tmp_path, variant):
    run(tables(path, variant), tmp_path / "whole.h5")
    assert 22 <= interrupted(tables(path, variant), tmp_path / "parts.h5", step=22) < STEPS
    run(continued(tmp_path / "parts.h5"), tmp_path / "parts.h5", resume=True)
    whole, parts = content(tmp_path / "whole.h5"), content(tmp_path / "parts.h5")
    for name, values in whole.items():
        assert np.array_equal(parts[name], values), name


@pytest.mark.parametrize("step", [19, 22, 41])
@pytest.mark.parametrize("algorithm", ["local-sgd", "dpa", "overlap-local-sgd", "squarm-sgd"])
def test_adacomm_that_counts_steps_goes_on_with_its_decisions(path, tmp_path, algorithm, step):
    given = tables(path, algorithm, period={"kind": "adacomm", "tau": 9, "interval_steps": 12})
    run(given, tmp_path / "whole.h5")
    interrupted(given, tmp_path / "parts.h5", step=step)
    run(given, tmp_path / "parts.h5", resume=True)
    whole, parts = content(tmp_path / "whole.h5"), content(tmp_path / "parts.h5")
    assert len(set(whole["train/tau"].tolist())) > 2
    for name, values in whole.items():
        assert np.array_equal(parts[name], values), name


def test_changing_periods_go_on_where_they_were(path, tmp_path):
    given = tables(path, "local-sgd", period={"kind": "list", "taus": [[0, 7], [20, 3], [40, 1]]})
    run(given, tmp_path / "whole.h5")
    interrupted(given, tmp_path / "parts.h5", step=24)
    run(given, tmp_path / "parts.h5", resume=True)
    whole, parts = content(tmp_path / "whole.h5"), content(tmp_path / "parts.h5")
    assert np.array_equal(parts["train/tau"], whole["train/tau"])
    assert np.array_equal(parts["final/x"], whole["final/x"])


def test_a_second_interruption_and_the_times(path, tmp_path):
    given, output = tables(path, "dpa", steps=200), tmp_path / "run.h5"
    run(given, tmp_path / "whole.h5")
    interrupted(given, output, step=20)
    interrupted(given, output, step=90, resume=True)
    run(given, output, resume=True)
    assert np.array_equal(content(output)["final/x"], content(tmp_path / "whole.h5")["final/x"])
    with h5py.File(output) as file:
        assert (np.diff(file["train/wall_time"][:]) > 0).all()
        assert (np.diff(file["eval/step"][:]) > 0).all()
        assert [kind for kind in file["events"]["kind"]] == [b"interrupted"] * 2


@pytest.mark.mpi
def test_stopped_on_three_ranks_resumed_on_two(tmp_path):
    (tmp_path / "stopping.py").write_text(
        "import os, signal\n"
        "from coopmpi.tasks.supervised import Classify\n"
        "def task(place, stop):\n"
        "    problem = Classify(hidden=(16,), batch=8).prepare(place)\n"
        "    inner = problem.gradient\n"
        "    def gradient(x, step):\n"
        "        if step == stop and not os.path.exists('stopped') and place.world.rank == 1:\n"
        "            open('stopped', 'w').close()\n"
        "            os.kill(os.getpid(), signal.SIGUSR1)\n"
        "        return inner(x, step)\n"
        "    problem.gradient = gradient\n"
        "    return problem\n")
    options = ["--set", "workers=6", "--set", "steps=3000", "--set", "deterministic=true", "--set", "task.kind=python",
               "--set", "task.function=stopping:task", "--set", "task.options={stop=40}", "--set", "algorithm.kind=squarm-sgd",
               "--set", "optimizer.momentum=0.9", "--set", "compress.kind=sign", "--quiet"]
    status, out, err = coopmpi("train", *options, "-o", "run.h5", ranks=3, cwd=tmp_path)
    assert status == 3 and "SIGUSR1" in err, out + err
    status, out, err = coopmpi("resume", "run.h5", "--quiet", ranks=2, cwd=tmp_path)
    assert status == 0, out + err
    assert coopmpi("train", *options, "-o", "whole.h5", cwd=tmp_path)[0] == 0
    resumed, whole = content(tmp_path / "run.h5"), content(tmp_path / "whole.h5")
    assert np.array_equal(resumed["final/x"], whole["final/x"])
    assert np.array_equal(resumed["train/loss"], whole["train/loss"])


def test_a_finished_run_and_one_that_does_not_exist_are_refused(path, tmp_path):
    run(tables(path, "local-sgd"), tmp_path / "run.h5")
    status, _, err = coopmpi("resume", tmp_path / "run.h5")
    assert status == 2 and "finished after 60 steps" in err
    with h5py.File(tmp_path / "run.h5") as file:
        assert file["train/step"].shape == (STEPS,)
    status, _, err = coopmpi("resume", tmp_path / "none.h5")
    assert status == 2 and "does not exist" in err


# checkpoints while the run goes on
def states(output):
    """{step: is it complete} of what lies beside a result."""
    folder = checkpoint.folder_of(output)
    return {int(path.name[5:]): (path / "manifest.json").exists() for path in folder.glob("step-*")}


@pytest.fixture
def votes_at_every_step(monkeypatch):
    monkeypatch.setattr(ballot, "VOTE_SECONDS", 0)
    monkeypatch.setattr(step_log, "BLOCK", 1)
    monkeypatch.setattr(feed, "MOST", 0)  # the file is hardly behind


class Killed(BaseException):
    """As if the process were gone: nothing more is written."""


def killed(given, output, step):
    """A run that is cut off: its file stays `running`, nothing is saved at the end."""
    assembly = assemble(config.resolve(given), Solo())
    trainer = begin(assembly, Solo(), output)
    steps, take = trainer.feed.result.steps, trainer.saver.take
    # states are on the disk before the next step, however busy the machine is
    trainer.saver.take = lambda *arguments: (take(*arguments), trainer.saver.wait())

    def limited(rows):
        if rows.first >= step:
            raise Killed
        steps(rows)

    trainer.feed.result.steps = limited
    with pytest.raises(Killed), np.errstate(all="ignore"):
        trainer.train()
    trainer.saver.wait()
    trainer.feed.result._file.close()
    trainer.feed.result._lock.release()


@pytest.mark.parametrize("variant", EVEN_VARIANTS)
def test_a_run_that_was_cut_off_goes_on_from_its_newest_checkpoint(path, tmp_path, variant, votes_at_every_step):
    given = tables(path, variant, checkpoint={"every_steps": 7}, steps=200)
    run(given, tmp_path / "whole.h5")
    killed(given, tmp_path / "parts.h5", step=120)
    steps = [step for step, complete in states(tmp_path / "parts.h5").items() if complete]
    assert 1 <= len(steps) <= 2 and all(step % 7 == 0 for step in steps)
    run(continued(tmp_path / "parts.h5"), tmp_path / "parts.h5", resume=True)
    whole, parts = content(tmp_path / "whole.h5"), content(tmp_path / "parts.h5")
    for name, values in whole.items():
        assert np.array_equal(parts[name], values), name
    assert not checkpoint.folder_of(tmp_path / "parts.h5").exists()  # removed at the end


def test_the_newest_two_are_kept_and_the_last_if_asked_for(path, tmp_path, votes_at_every_step):
    given = tables(path, "dpa", checkpoint={"every_steps": 5, "keep_final": True})
    run(given, tmp_path / "run.h5")
    found = states(tmp_path / "run.h5")
    assert len(found) == 2 and all(found.values()) and max(found) == STEPS
    run(tables(path, "dpa", checkpoint={"every_steps": 5}), tmp_path / "other.h5")
    assert states(tmp_path / "other.h5") == {}


def test_a_finished_run_is_extended_if_its_state_was_kept(path, tmp_path):
    run(tables(path, "gradient-tracking", steps=90), tmp_path / "whole.h5")
    run(tables(path, "gradient-tracking", checkpoint={"keep_final": True}), tmp_path / "run.h5")
    with pytest.raises(UserError, match="finished after 60 steps.*steps=120"):
        continued(tmp_path / "run.h5")
    run(continued(tmp_path / "run.h5", ["steps=90"]), tmp_path / "run.h5", resume=True)
    whole, parts = content(tmp_path / "whole.h5"), content(tmp_path / "run.h5")
    for name, values in whole.items():
        assert np.array_equal(parts[name], values), name
    run(tables(path, "gradient-tracking"), tmp_path / "run2.h5")
    with pytest.raises(UserError, match="keep_final = true"):
        continued(tmp_path / "run2.h5", ["steps=90"])


@pytest.mark.parametrize("override", ["seed=1", "algorithm.kind=dpa", "workers=3", "task.batch=3", "optimizer.momentum=0.5",
                                      "deterministic=false", "dtype=float64", "period.tau=2"])
def test_what_may_not_change_is_refused(path, tmp_path, override):
    interrupted(tables(path, "local-sgd"), tmp_path / "run.h5", step=20)
    with pytest.raises(UserError, match=f"--set {override}: .*allowed to change: steps"):
        continued(tmp_path / "run.h5", [override])


def test_the_learning_rate_may_change(path, tmp_path):
    stopped = interrupted(tables(path, "local-sgd"), tmp_path / "run.h5", step=20)
    run(tables(path, "local-sgd"), tmp_path / "whole.h5")
    run(continued(tmp_path / "run.h5", ["optimizer.lr=0.01"]), tmp_path / "run.h5", resume=True)
    whole, parts = content(tmp_path / "whole.h5"), content(tmp_path / "run.h5")
    assert np.array_equal(whole["train/loss"][:stopped + 1], parts["train/loss"][:stopped + 1])
    assert not np.array_equal(whole["final/x"], parts["final/x"])
    with h5py.File(tmp_path / "run.h5") as file:
        assert "lr = 0.01" in file["config"].asstr()[()]


# damage
def damage(file, place, bit=3):
    content = bytearray(file.read_bytes())
    content[place] ^= 1 << bit
    file.write_bytes(content)


@pytest.mark.parametrize("place", [0, 77, -1, -8, -40])
def test_of_a_damaged_checkpoint_the_one_before_is_taken(path, tmp_path, place, votes_at_every_step):
    given = tables(path, "overlap-local-sgd", checkpoint={"every_steps": 7}, steps=200)
    run(given, tmp_path / "whole.h5")
    killed(given, tmp_path / "parts.h5", step=120)
    older, newer = sorted(step for step, complete in states(tmp_path / "parts.h5").items() if complete)[-2:]
    damage(checkpoint.step_folder(checkpoint.folder_of(tmp_path / "parts.h5"), newer) / "rank-00000.state", place)
    assembly = assemble(config.resolve(continued(tmp_path / "parts.h5")), Solo())
    trainer = begin(assembly, Solo(), tmp_path / "parts.h5", resume=True)
    assert trainer.done == older
    trainer.feed.close("interrupted")
    run(continued(tmp_path / "parts.h5"), tmp_path / "parts.h5", resume=True)
    assert np.array_equal(content(tmp_path / "whole.h5")["final/x"], content(tmp_path / "parts.h5")["final/x"])


def test_where_all_are_damaged_it_is_said(path, tmp_path):
    step = interrupted(tables(path, "local-sgd"), tmp_path / "run.h5", step=20)
    folder = checkpoint.step_folder(checkpoint.folder_of(tmp_path / "run.h5"), step)
    damage(folder / "rank-00000.state", -1)
    with pytest.raises(UserError, match="none of 1 checkpoints can be used: .*wrong checksum"):
        continued(tmp_path / "run.h5")
    (folder / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="manifest cannot be read"):
        continued(tmp_path / "run.h5")
    (folder / "manifest.json").unlink()
    with pytest.raises(UserError, match="there is no checkpoint in"):
        continued(tmp_path / "run.h5")


def test_a_checkpoint_of_another_run_is_refused(path, tmp_path):
    interrupted(tables(path, "local-sgd"), tmp_path / "run.h5", step=20)
    interrupted(tables(path, "local-sgd"), tmp_path / "other.h5", step=20)
    shutil.rmtree(checkpoint.folder_of(tmp_path / "run.h5"))
    checkpoint.folder_of(tmp_path / "other.h5").rename(checkpoint.folder_of(tmp_path / "run.h5"))
    with pytest.raises(UserError, match="belongs to another run"):
        continued(tmp_path / "run.h5")


def test_a_disk_that_is_full_for_checkpoints_does_not_end_the_run(path, tmp_path, monkeypatch, votes_at_every_step):
    def full(folder, rank, rows):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_rows", full)
    run(tables(path, "dpa", checkpoint={"every_steps": 5}), tmp_path / "run.h5")
    with h5py.File(tmp_path / "run.h5") as file:
        assert file.attrs["status"] == b"finished"
        assert b"No space left" in file["events"][0]["text"] and file["events"][0]["kind"] == b"checkpoint"


def test_only_the_mean_is_recorded_if_so_wanted(path, tmp_path):
    run(tables(path, "dpa", record={"final": "mean"}), tmp_path / "run.h5")
    run(tables(path, "dpa"), tmp_path / "all.h5")
    with h5py.File(tmp_path / "run.h5") as file, h5py.File(tmp_path / "all.h5") as other:
        assert set(file["final"]) == {"mean", "parameter"} and np.array_equal(file["final/mean"], other["final/mean"])
        assert set(other["final"]) == {"mean", "x", "parameter"}


# --continue
def test_continue_starts_resumes_and_leaves_alone(path, tmp_path):
    options = ["--set", "steps=200", "--quiet", "-o", "run.h5", "--continue"]
    assert coopmpi("train", *options, cwd=tmp_path)[0] == 0
    first = content(tmp_path / "run.h5")
    status, out, _ = coopmpi("train", *options, cwd=tmp_path)
    assert status == 0 and "run.h5 is finished" in out
    with h5py.File(tmp_path / "run.h5", "r+") as file:
        file.attrs.modify("status", np.array("running", "S16"))  # as after a kill before the first checkpoint
    assert coopmpi("train", *options, cwd=tmp_path)[0] == 0
    assert np.array_equal(content(tmp_path / "run.h5")["final/x"], first["final/x"])
    status, _, err = coopmpi("train", "--continue", cwd=tmp_path)
    assert status == 2 and "--continue goes with -o" in err


# one writer
def test_a_result_that_is_being_written_is_left_alone(path, tmp_path):
    with lock.Lock(tmp_path / "run.h5"):
        for overwrite in (False, True):
            with pytest.raises(UserError, match="being written by another run"):
                train(assemble(config.resolve(tables(path, "dpa")), Solo()), Solo(), tmp_path / "run.h5", overwrite=overwrite)
    run(tables(path, "dpa"), tmp_path / "run.h5")
    with pytest.raises(UserError, match="exists already"):
        run(tables(path, "dpa"), tmp_path / "run.h5")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run.h5"]


def test_a_lock_ends_with_its_process_and_is_waited_for(tmp_path):
    program = ("import sys, time\nfrom coopmpi.record.lock import Lock\n"
               f"held = Lock({str(tmp_path / 'run.h5')!r})\nprint('held', flush=True)\ntime.sleep(60)")
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="being written"):
            lock.Lock(tmp_path / "run.h5")
        threading.Timer(0.5, process.kill).start()
        lock.Lock(tmp_path / "run.h5", patience=20).release()
    finally:
        process.kill()
        process.wait()


def test_a_link_in_the_place_of_the_draft_is_not_followed(path, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for name in (".run.h5.new", ".run.h5.lock"):
        (tmp_path / name).symlink_to(victim)
    with pytest.raises(OSError):
        run(tables(path, "dpa"), tmp_path / "run.h5")
    (tmp_path / ".run.h5.lock").unlink()
    run(tables(path, "dpa"), tmp_path / "run.h5")
    assert victim.read_text() == "precious"


def test_a_result_that_is_removed_meanwhile_is_an_error(path, tmp_path):
    class Removes(Sink):
        def final_mean(self, row):
            os.rename(tmp_path / "run.h5", tmp_path / "elsewhere.h5")

    with pytest.raises(CoopError, match="removed or replaced"):
        run(tables(path, "dpa"), tmp_path / "run.h5", sinks=[Removes()])


def test_a_file_that_is_behind_delays_checkpoints_but_not_all_of_them(path, tmp_path, monkeypatch):
    """The rows come ten steps late: the newest state is always ahead of them, older ones become checkpoints."""
    given = tables(path, "local-sgd", checkpoint={"every_steps": 4}, steps=60)
    monkeypatch.setattr(ballot, "VOTE_SECONDS", 0)
    trainer = begin(assemble(config.resolve(given), Solo()), Solo(), tmp_path / "run.h5")
    committed, commit = [], trainer.saver.commit
    monkeypatch.setattr(type(trainer.feed), "written", property(lambda self: trainer.done - 10))
    monkeypatch.setattr(trainer.saver, "commit", lambda step: (committed.append((step, trainer.done)), commit(step)))
    take = trainer.saver.take
    monkeypatch.setattr(trainer.saver, "take", lambda *arguments: (take(*arguments), trainer.saver.wait()))
    trainer.train()
    trainer.feed.close("finished")
    assert [step for step, _ in committed] == list(range(4, 52, 4)) and all(done - step >= 10 for step, done in committed)
