"""Damaged result files: `coopmpi inspect` answers each within seconds, and never crashes."""

import os
import random
import signal
import struct
import time

import h5py
import numpy as np
import pytest

from coopmpi.errors import UserError
from coopmpi.record import apart, reader
from coopmpi.report import text
from tests.in_process import coopmpi, refused
from tests.test_cli_inspect import WORKERS, rows, start_file


@pytest.fixture
def path(tmp_path):
    """A finished result of 5 steps."""
    writer = start_file(tmp_path / "run.h5")
    for step in range(3):
        writer.evaluation(step, 0.1 * step, {"loss": 2 - 0.1 * step, "consensus": 0.25})
    writer.steps(rows())
    writer.event(4, 2.5, "failed", "the loss of worker 1 became nan")
    for worker in range(WORKERS):
        writer.final(worker, np.ones(4, np.float32))
    writer.final_mean(np.ones(4, np.float32))
    writer.close("finished")
    return tmp_path / "run.h5"


def damage(path, places):
    content = bytearray(path.read_bytes())
    for byte, bit in places:
        content[byte] ^= 1 << bit
    path.write_bytes(content)


def answered(*arguments):
    """(status, output, message), within 5 seconds."""
    begin = time.monotonic()
    status, out, message = coopmpi("inspect", *arguments)
    assert time.monotonic() - begin < 5
    assert status in (0, 2) and "\n" not in message
    return status, out, message


def flips(content, draw, number):
    return [(draw.randrange(draw.choice([len(content), 4096])), draw.randrange(8)) for _ in range(number)]


@pytest.mark.parametrize("number", [1, 10])
def test_flipped_bits_are_answered(path, number):
    whole = path.read_bytes()
    draw = random.Random(number)
    for _ in range(60):
        path.write_bytes(whole)
        damage(path, flips(whole, draw, number))
        answered(path)


def test_flipped_bits_in_what_a_kill_left_are_answered(tmp_path):
    path = tmp_path / "run.h5"
    writer = start_file(path)
    writer.steps(rows())
    whole = path.read_bytes()
    writer.close("finished")
    draw = random.Random(0)
    for _ in range(5):
        path.write_bytes(whole)
        damage(path, flips(whole, draw, 1))
        answered(path)


def test_a_finished_result_is_opened_as_closed_and_a_growing_one_as_growing(path, tmp_path):
    with reader.open_run(path) as file:
        assert not file.swmr_mode
    writer = start_file(tmp_path / "growing.h5")
    with reader.open_run(tmp_path / "growing.h5") as file:
        assert file.swmr_mode
    writer.close("finished")


# numbers
def chunk_of(path, name):
    with h5py.File(path) as file:
        info = file[name].id.get_chunk_info(0)
        return info.byte_offset


@pytest.mark.parametrize("name", ["final/x", "final/mean", "events"])
def test_a_wrong_number_of_a_model_or_event_is_noticed(path, name):
    damage(path, [(chunk_of(path, name) + 2, 3)])
    with h5py.File(path) as file, pytest.raises(OSError, match="filter returned failure"):
        file[name][:]


@pytest.mark.parametrize("name", ["train/loss", "train/tau", "eval/loss"])
def test_a_wrong_number_is_noticed(path, name):
    with h5py.File(path) as file:
        assert file[name].fletcher32
    damage(path, [(chunk_of(path, name) + 2, 3)])
    status, _, message = answered(path, "--series", name)
    assert status == 2 and "damaged" in message


def test_a_torn_last_chunk_of_a_run_cut_off_is_left_out(tmp_path):
    n = 1500  # chunks of 1024 rows
    path = tmp_path / "run.h5"
    writer = start_file(path)
    writer.steps(rows(n))
    content = path.read_bytes()  # as a kill leaves it
    writer.close("finished")
    path.write_bytes(content)
    assert len(answered(path, "--series", "tau")[1].splitlines()) == 1 + n
    with h5py.File(path, "r", swmr=True) as file:
        place = file["train/wall_time"].id.get_chunk_info(1).byte_offset
    damage(path, [(place + 5, 1)])
    status, out, message = answered(path, "--series", "train/wall_time")
    assert status == 0 and len(out.splitlines()) == 1 + 1024, message
    assert "steps 1024 of 8" in " ".join(answered(path)[1].split())


# what a result consists of
def drop(name):
    def change(file):
        del file[name]
    return change


def replace(name, **keys):
    def change(file):
        del file[name]
        if keys:
            file.create_dataset(name, **keys)
        else:
            file.create_group(name)
    return change


def link(name, to):
    def change(file):
        del file[name]
        file[name] = to
    return change


def attribute(name, value):
    def change(file):
        del file.attrs[name]
        if value is not None:
            file.attrs[name] = value
    return change


CHANGES = {
    "no config": (drop("config"), "/config is missing"), "no train": (drop("train"), "/train is missing"),
    "no loss": (drop("train/loss"), "/train/loss is missing"), "no events": (drop("events"), "/events is missing"),
    "no steps of evaluations": (drop("eval/step"), "/eval/step is missing"),
    "no workers": (drop("worker"), "/worker is missing"),
    "train is a dataset": (replace("train", data=[1.0]), "/train must be a group"),
    "loss is a group": (replace("train/loss"), "/train/loss must be a dataset"),
    "loss of more workers": (replace("train/loss", data=np.ones((5, 4), "f4")), "must have shape (n, 3), found (5, 4)"),
    "loss of whole numbers": (replace("train/loss", data=np.ones((5, 3), "i4")), "must be of type f4, found int32"),
    "scalar": (replace("train/tau", data=np.int32(8)), "must have shape (n,), found ()"),
    "config of numbers": (replace("config", data=3), "/config must be text"),
    "config not TOML": (replace("config", data="a = ["), "damaged"),
    "config of nothing": (replace("config", data=""), "damaged"),
    "link elsewhere": (link("train", h5py.ExternalLink("other.h5", "/")), "/train is missing"),
    "link loop": (link("train", h5py.SoftLink("/train")), "/train is missing"),
    "rows that are not there": (replace("train/tau", shape=(10**12,), dtype="i4", chunks=(64,)), "1000000000000 rows"),
    "no ranks": (attribute("ranks", None), "attribute ranks is missing"), "ranks of text": (attribute("ranks", "two"),
                                                                                            "ranks"),
    "mode": (attribute("mode", "play"), "mode must be one of train, simulate, time-only, found 'play'"),
    "mode of numbers": (attribute("mode", [1, 2]), "mode must be"), "status": (attribute("status", b"done"),
                                                                               "status must be"),
    "version": (attribute("format_version", 9), "format_version is 9, this coopmpi reads"),
    "device": (attribute("device", 3), "device must be text"),
    "format": (attribute("format", np.ones(3)), "not a result of coopmpi train"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_what_is_missing_is_named(path, case):
    change, words = CHANGES[case]
    with h5py.File(path, "a") as file:
        change(file)
    message = refused("inspect", path)
    assert "run.h5" in message and words in message


def test_verify_says_the_same_without_showing_anything(path):
    reader.verify(path)
    with h5py.File(path, "a") as file:
        del file["train/tau"]
    with pytest.raises(UserError, match="/train/tau is missing"):
        reader.verify(path)


# text
def test_escapes_in_a_foreign_file_are_shown_not_obeyed(path, tmp_path):
    with h5py.File(path, "a") as file:
        config = file["config"].asstr()[()]
        file["events"][0] = (4, 2.5, b"fa\x1b[2Jiled", b"text \x1b]0;title\x07 and \xff")
        file.attrs["mpi"] = "Open\x1b[31m MPI"
        del file["config"]
        file["config"] = config + "# \x1b[2J\n"
        file["final/\x1b[1m"] = [1.0]
        file["eval/lo\x9bss"] = np.zeros(3)
    name = "run\x1b[2J\udcff.h5"
    os.rename(path, tmp_path / name)
    for arguments in ([], ["--series", "events"], ["--config"], ["--series", "nothing"]):
        status, out, message = coopmpi("inspect", tmp_path / name, *arguments)
        said = out + message
        assert not any(letter < " " and letter not in "\n\t" or "\x7f" <= letter <= "\x9f"
                       for letter in said), repr(said)
        assert "\\x" in said


# the child process
def lines(work):
    return list(apart.texts("some.h5", work))


def test_a_child_that_hangs_crashes_or_fails_is_told(monkeypatch):
    monkeypatch.setattr(apart, "PATIENCE", 0.3)

    def hang():
        yield "one"
        while True:
            pass

    def crash():
        os.kill(os.getpid(), signal.SIGSEGV)
        yield

    def fail():
        yield "one"
        raise OSError("no such block")

    def refuse():
        raise UserError("so it is")
        yield

    for work, words in ((hang, "damaged: nothing more could be read within 0.3 s"),
                        (crash, "reading it ended with SIGSEGV"),
                        (fail, "some.h5: damaged: no such block"), (refuse, "^so it is$")):
        with pytest.raises(UserError, match=words):
            lines(work)


def test_a_child_that_is_slow_but_alive_or_not_listened_to_goes_on(monkeypatch):
    monkeypatch.setattr(apart, "PATIENCE", 0.4)

    def slow():
        for _ in range(4):
            time.sleep(0.2)
            apart.alive()
        for _ in range(3):
            yield "x" * 10**6  # more than a pipe holds

    found = apart.texts("some.h5", slow)
    first = next(found)
    time.sleep(0.8)
    assert [first, *found] == ["x" * 10**6] * 3


def test_a_child_that_is_not_needed_any_more_is_ended():
    pids = []

    def endless():
        while True:
            yield str(os.getpid())

    found = apart.texts("some.h5", endless)
    pids.append(int(next(found)))
    found.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def test_a_length_in_the_first_block_beyond_the_file(path):
    content = bytearray(path.read_bytes())
    content[28:36] = struct.pack("<Q", 2**60)
    path.write_bytes(content)
    assert "truncated" in refused("inspect", path)


def test_inspect_module_tells_days_and_numbers_that_are_none():
    assert text.duration(1e30) == "1e+30 s" and text.duration(float("nan")) == "nan s"
    assert text.duration(86400 * 3) == "3 days, 0:00:00" and text.size(float("inf")) == "inf"
