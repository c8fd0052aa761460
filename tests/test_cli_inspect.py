"""coopmpi inspect: what it says of finished, growing, killed, empty and damaged result files."""

import re
import shutil
import subprocess
import sys
import time
import tomllib
from io import StringIO

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from coopmpi import config
from coopmpi.cli.inspect import command
from coopmpi.drivers.solo import Solo
from coopmpi.errors import UserError
from coopmpi.record import reader
from coopmpi.record.writer import Writer
from coopmpi.report.inspect import EVALUATIONS
from coopmpi.run.assemble import assemble
from coopmpi.run.session import train
from coopmpi.sinks import About, StepRows

CONFIG = config.dump(config.resolve({"workers": 3, "steps": 8, "algorithm": {"kind": "easgd", "overlap": True}}))
STEPS, WORKERS = 5, 3
COOPMPI = (sys.executable, "-m", "coopmpi")


def start_file(path, text=CONFIG):
    writer = Writer(path)
    figures = {"loss": ("1", "held-out loss"), "accuracy": ("1", "held-out accuracy")}
    attributes = {"ranks": 2, "node_ranks": 2, "node_cores": 2, "mpi": "an MPI", "device": "cpu"}
    writer.open(About(text, WORKERS, 8, 4, "float32", "train", attributes, figures=figures))
    return writer


def rows(n=STEPS):
    numbers = np.random.default_rng(0)
    wait = np.tile([0.1, 0.2, 0.3], (n, 1))  # of steps that take half a second
    compute = np.tile([0.4, 0.3, 0.2], (n, 1))
    return StepRows(first=0, wall_time=0.5 * np.arange(1, n + 1), tau=np.full(n, 8), lr=np.full(n, 0.1),
                    pause_time=np.zeros(n), loss=numbers.random((n, WORKERS)), compute_time=compute, wait_time=wait, bytes_sent=np.full((n, WORKERS), 1e6), virtual_time=None)


@pytest.fixture
def finished(tmp_path):
    writer = start_file(tmp_path / "run.h5")
    for step in range(20):
        writer.evaluation(step, 0.1 * step, {"loss": 2 - 0.1 * step, "consensus": 0.25})
    writer.steps(rows())
    writer.event(4, 2.5, "failed", "the loss of worker 1 became nan")
    writer.close("finished")
    return str(tmp_path / "run.h5")


def invoke(*arguments):
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def flat(text):
    return " ".join(text.split())


def test_summary_says_how_the_run_went(finished):
    text = flat(invoke(finished))
    for expected in ("status finished", "easgd, overlap = true", "every, tau = 8", "3 on 2 ranks (an MPI, cpu)",
                     "steps 5 of 8", "2.50 s, 2 steps/s", "15.0 MB in all", "5.0 MB per worker",
                     "step 4 2.50 s, failed: the loss of worker 1 became nan"):
        assert expected in text
    # waiting 0.1, 0.2 and 0.3 s of every half second
    assert "40.0% of the time on average; least 20.0% (worker 0), most 60.0% (worker 2)" in text
    assert "worker 0: 400 ms of computing per step, mean 300 ms" in text


def test_summary_shows_first_and_last_evaluation_and_a_few_between(finished):
    table = invoke(finished).partition("\nstep ")[2].partition("event at")[0]
    steps = [int(line.split()[0]) for line in table.splitlines()[1:] if line.strip()]
    assert steps[0] == 0 and steps[-1] == 19 and 4 <= len(steps) <= 8
    assert "accuracy" not in table  # this task has none


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
def test_no_number_is_broken_across_lines(finished, columns):
    result = CliRunner(env={"COLUMNS": str(columns)}).invoke(command, [finished], catch_exceptions=False)
    lines = result.output.splitlines()
    # a name may be longer than a line
    assert max(len(line) for line in lines if finished not in line and "/" not in line) <= columns
    for together in ("2.50 s", "2 steps/s", "5.0 MB", "15.0 MB", "40.0%", "60.0%", "tau = 8", "300 ms"):
        assert any(together in line for line in lines), together
    header = next(line.split() for line in lines if line.startswith("step "))
    table = lines[next(i for i, line in enumerate(lines) if line.startswith("step ")) + 1:]
    assert header[:3] == ["step", "time", "loss"] and ("consensus" in header) == (columns >= 40)
    assert all(len(line.replace(" s", "s").split()) == len(header) for line in table[:EVALUATIONS])


def test_what_there_is_no_room_for_is_named(finished):
    result = CliRunner(env={"COLUMNS": "24"}).invoke(command, [finished], catch_exceptions=False)
    assert "(no room for: consensus)" in result.output


def test_a_simulation_tells_virtual_times(tmp_path):
    given = {"workers": 3, "steps": 40, "device": "cpu", "record": {"eval_every": 10}, "compute": {"seconds": 100.0},
             "network": {"latency": 0.0}, "task": {"model": "linear"}, "stop": {"minutes": 50}}
    train(assemble(config.resolve(given), Solo(), "simulate"), Solo(), tmp_path / "sim.h5")
    text = flat(invoke(str(tmp_path / "sim.h5")))
    assert "virtual time 0:50:" in text and "real time" in text
    assert "step virtual time train_loss" in text and "10 0:16:4" in text and "20 0:33:" in text
    assert "event at virtual time step 30 0:50:" in text


def test_consensus_is_looked_at_before_a_round_unless_steps_are_chosen(tmp_path):
    for name, more in (("own.h5", {"record": {"eval_every": 16}}), ("left.h5", {})):
        given = {"workers": 3, "steps": 320, "device": "cpu", "period": {"tau": 8}, "task": {"model": "linear"}} | more
        train(assemble(config.resolve(given), Solo()), Solo(), tmp_path / name)
    with h5py.File(tmp_path / "own.h5") as file:
        assert file["eval/step"][:].tolist() == list(range(0, 321, 16)) and (file["eval/consensus"][1:] < 1e-9).all()
    with h5py.File(tmp_path / "left.h5") as file:
        steps, consensus = file["eval/step"][:].tolist(), file["eval/consensus"][:]
        assert steps == [0, *range(15, 320, 16), 320] and (consensus[1:-1] > 1e-5).all() and consensus[-1] < 1e-9


def test_contents_name_every_series_and_what_is_not_written(finished):
    contents = flat(invoke(finished).partition("in the file")[2])
    with h5py.File(finished) as file:
        for group in ("train", "eval", "final"):
            assert all(name in contents for name in file[group] if name != "parameter")
        assert "parameter" not in contents and "event " not in contents  # dimensions that only count
    assert "x [3, 4] (not written)" in contents


@pytest.mark.parametrize("block", [1, 7, 1 << 20])
def test_series_prints_the_numbers_exactly(finished, monkeypatch, block):
    monkeypatch.setattr(reader, "BLOCK", block)
    text = invoke(finished, "--series", "train/loss")
    assert text.splitlines()[0] == "step\tworker_0\tworker_1\tworker_2"
    table = np.loadtxt(StringIO(text), skiprows=1, dtype=np.float64)
    with h5py.File(finished) as file:
        assert np.array_equal(table[:, 0], np.arange(1, STEPS + 1))
        assert np.array_equal(table[:, 1:].astype(np.float32), file["train/loss"][:])


def test_series_by_its_short_name(finished):
    assert invoke(finished, "--series", "consensus") == invoke(finished, "--series", "eval/consensus")
    assert invoke(finished, "--series", "tau") == "step\ttau\n" + "".join(f"{k}\t8\n" for k in range(1, STEPS + 1))
    events = invoke(finished, "--series", "events").splitlines()
    assert events == ["step\twall_time\tkind\ttext", "4\t2.5\tfailed\tthe loss of worker 1 became nan"]


@pytest.mark.parametrize("name, answer", [("wait_tme", "'train/wait_time'"), ("train/los", "'train/loss'"),
                                          ("loss", "train/loss, eval/loss"), ("wall_time", "eval/wall_time")])
def test_unclear_series_is_refused_with_what_may_be_meant(finished, name, answer):
    with pytest.raises(UserError, match=answer):
        invoke(finished, "--series", name)


def test_config_is_printed_as_stored_and_describes_the_same_run(finished):
    text = invoke(finished, "--config")
    assert text == CONFIG
    assert config.dump(config.resolve(tomllib.loads(text))) == CONFIG


def test_series_and_config_together_are_refused(finished):
    with pytest.raises(UserError, match="--series and --config"):
        invoke(finished, "--series", "tau", "--config")


def test_file_without_a_step_or_evaluation(tmp_path):
    writer = start_file(tmp_path / "run.h5")
    text = flat(invoke(str(tmp_path / "run.h5")))
    assert "running, or cut off by a kill" in text and "steps 0 of 8" in text
    assert invoke(str(tmp_path / "run.h5"), "--series", "train/tau") == "step\ttau\n"
    writer.close("finished")


def test_rows_that_are_only_half_added_are_left_out(finished):
    with h5py.File(finished, "a") as file:
        file["train/step"].resize(STEPS + 2, axis=0)
        file["train/loss"].resize(STEPS + 1, axis=0)
    assert "steps 5 of 8" in flat(invoke(finished))
    assert len(invoke(finished, "--series", "train/loss").splitlines()) == 1 + STEPS


def run_inspect(*arguments):
    return subprocess.run([*COOPMPI, "inspect", *map(str, arguments)], capture_output=True, text=True, timeout=20,
                          check=False)


def refused(path):
    done = run_inspect(path)
    assert done.returncode == 2 and done.stdout == ""
    assert re.fullmatch(r"coopmpi: .*\n", done.stderr)
    return done.stderr


@pytest.mark.parametrize("length", [30, 48, 5000, -1])
def test_truncated_file_is_refused(finished, tmp_path, length):
    content = open(finished, "rb").read()
    (tmp_path / "cut.h5").write_bytes(content[:length])
    assert "truncated" in refused(tmp_path / "cut.h5")


def test_truncated_copy_of_a_growing_file_is_refused(tmp_path):
    writer = start_file(tmp_path / "run.h5")
    writer.steps(rows())
    content = (tmp_path / "run.h5").read_bytes()
    (tmp_path / "cut.h5").write_bytes(content[: len(content) // 2])
    assert "truncated" in refused(tmp_path / "cut.h5")
    writer.close("finished")


def test_other_files_are_refused(tmp_path):
    (tmp_path / "text.h5").write_text("step loss\n" * 100)
    assert "not a readable HDF5 file" in refused(tmp_path / "text.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = [1]
    assert "not a result of coopmpi train" in refused(tmp_path / "other.h5")
    assert "does not exist" in refused(tmp_path / "missing.h5")
    assert "is a folder" in refused(tmp_path)


def test_damage_inside_is_reported_not_raised(finished):
    with h5py.File(finished, "a") as file:
        del file["train/wall_time"]
    with pytest.raises(UserError, match="damaged"):
        invoke(finished)


def test_reader_that_stops_early_sees_no_traceback(tmp_path):
    n = 20_000  # more than a pipe holds
    writer = start_file(tmp_path / "run.h5")
    writer.steps(rows(n))
    writer.close("finished")
    for arguments in (["--series", "train/loss"], []):
        process = subprocess.Popen([*COOPMPI, "inspect", str(tmp_path / "run.h5"), *arguments], text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if arguments:
            assert process.stdout.readline().startswith("step\t")
        process.stdout.close()
        complaint = process.stderr.read()
        process.wait(timeout=20)
        assert complaint == ""


def steps_done(text):
    return int(re.search(r"steps (\d+) of", flat(text))[1])


def test_live_run_and_what_a_kill_leaves(tmp_path):
    path = tmp_path / "run.h5"
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen([*COOPMPI, "train", "-o", path, "--set", "steps=1000000000", "--quiet"],
                                   stdout=log, stderr=log, cwd=tmp_path)
        try:
            deadline = time.monotonic() + 20
            text = ""
            while not (text and steps_done(text)) and time.monotonic() < deadline and process.poll() is None:
                time.sleep(0.3)
                if path.exists():
                    text = run_inspect(path).stdout
        finally:
            process.kill()  # SIGKILL
            process.wait()
    assert "running, or cut off by a kill" in flat(text), (tmp_path / "log").read_text()
    seen = steps_done(text)
    assert seen > 0

    left = invoke(str(path))
    assert "running, or cut off by a kill" in flat(left) and steps_done(left) >= seen
    losses = np.loadtxt(StringIO(invoke(str(path), "--series", "train/loss")), skiprows=1)
    assert len(losses) == steps_done(left)
    assert np.array_equal(losses[:, 0], np.arange(1, len(losses) + 1))
    assert (losses[:, 1:] > 0).all()  # no row is there only by its length

    # a copy is as good
    shutil.copy(path, tmp_path / "copy.h5")
    assert steps_done(invoke(str(tmp_path / "copy.h5"))) == steps_done(left)
