"""Sinks: what they are told, in which order, and that their failures end nothing."""

import json
import struct
import sys
import textwrap

import h5py
import numpy as np
import pytest

from coopmpi import config
from coopmpi.drivers.solo import Solo
from coopmpi.errors import CoopError, UserError
from coopmpi.report import console
from coopmpi.run.assemble import assemble
from coopmpi.run.session import train
from coopmpi.sinks import About, Sink
from coopmpi.sinks.json_lines import JsonLines
from tests.interruptions import interrupted, run
from tests.runs import coopmpi, write_quadratic

M, STEPS = 3, 130


@pytest.fixture
def given(tmp_path):
    return {"workers": M, "steps": STEPS, "device": "cpu", "period": {"tau": 4}, "record": {"eval_every": 50},
            "task": {"kind": "quadratic", "path": write_quadratic(tmp_path / "q.h5", M)},
            "algorithm": {"kind": "overlap-local-sgd"}}


class Notes(Sink):
    """Writes down every call."""

    def __post_init__(self):
        self.calls = []

    def open(self, about):
        self.calls.append(("open", about))

    def steps(self, rows):
        self.calls.append(("steps", rows))

    def rounds(self, rows):
        self.calls.append(("rounds", rows))

    def evaluation(self, step, wall_time, figures):
        self.calls.append(("evaluation", step, dict(figures)))

    def event(self, step, wall_time, kind, text):
        self.calls.append(("event", step, kind, text))

    def final(self, worker, row):
        self.calls.append(("final", worker, row.copy()))

    def final_mean(self, row):
        self.calls.append(("final_mean", row.copy()))

    def close(self, status):
        self.calls.append(("close", status))


def test_a_sink_is_told_what_the_file_holds(given, tmp_path):
    notes = Notes()
    run(given, tmp_path / "run.h5", sinks=[notes])
    kinds = [call[0] for call in notes.calls]
    assert kinds[0] == "open" and kinds[-1] == "close" and notes.calls[-1][1] == "finished"
    about = notes.calls[0][1]
    assert (about.workers, about.steps, about.mode) == (M, STEPS, "train") and about.config.startswith("workers = 3")
    with h5py.File(tmp_path / "run.h5") as file:
        steps = [call[1] for call in notes.calls if call[0] == "steps"]
        assert [rows.first for rows in steps] == [sum(len(r.tau) for r in steps[:i]) for i in range(len(steps))]
        for name in ("loss", "compute_time", "wait_time", "bytes_sent", "tau", "wall_time"):
            told = [row for rows in steps for row in getattr(rows, name)]
            assert (file["train"][name][:] == np.array(told, file["train"][name].dtype)).all()
        evaluations = [call[1:] for call in notes.calls if call[0] == "evaluation"]
        assert [step for step, _ in evaluations] == file["eval/step"][:].tolist() == [0, 50, 100, 130]
        assert [figures["loss"] for _, figures in evaluations] == file["eval/loss"][:].tolist()
        assert [call[1] for call in notes.calls if call[0] == "final"] == [0, 1, 2]
        assert all((call[2] == file["final/x"][call[1]]).all() for call in notes.calls if call[0] == "final")
        rounds = [row for call in notes.calls if call[0] == "rounds" for row in call[1]]
        assert [row[0] for row in rounds] == file["rounds/step"][:].tolist()


@pytest.mark.parametrize("method", ["open", "steps", "evaluation", "final", "close"])
@pytest.mark.parametrize("error", [OSError("disk full"), BrokenPipeError(), KeyError("x"), SystemExit(0)], ids=repr)
def test_a_sink_that_fails_is_dropped_and_the_run_goes_on(given, tmp_path, capsys, method, error):
    class Broken(Sink):
        pass

    def fail(self, *arguments):
        raise error

    setattr(Broken, method, fail)
    beside = Notes()
    run(given, tmp_path / "run.h5", sinks=[Broken(), beside])
    told = capsys.readouterr().err
    assert "sink Broken failed in" in told and method in told and told.count("\n") == 1
    assert beside.calls[-1] == ("close", "finished")
    with h5py.File(tmp_path / "run.h5") as file:
        assert file.attrs["status"] == b"finished" and len(file["train/step"]) == STEPS
        events = file["events"][:]
    assert [kind for kind in events["kind"]] == [b"sink"] and b"Broken" in events["text"][0]


def test_the_result_file_may_end_the_run(given, tmp_path, monkeypatch):
    from coopmpi.record.writer import Writer

    def full(self, nbytes):
        raise OSError(28, "No space left on device")

    assembly = assemble(config.resolve(given), Solo())
    with pytest.raises(CoopError, match="No space left"):
        monkeypatch.setattr(Writer, "_make_room", full)
        train(assembly, Solo(), tmp_path / "run.h5")


# JSON lines
def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_json_lines(given, tmp_path):
    run(given, tmp_path / "run.h5", sinks=[JsonLines(path=str(tmp_path / "run.jsonl"))])
    found = lines(tmp_path / "run.jsonl")
    assert found[0] == {"kind": "run", "mode": "train", "workers": M, "steps": STEPS}
    assert found[-1] == {"kind": "end", "status": "finished"}
    with h5py.File(tmp_path / "run.h5") as file:
        steps = [line for line in found if line["kind"] == "step"]
        assert [line["step"] for line in steps] == file["train/step"][:].tolist()
        assert [line["loss"] for line in steps] == pytest.approx(file["train/loss"][:].mean(axis=1).tolist())
        evaluations = [line for line in found if line["kind"] == "evaluation"]
        assert [line["loss"] for line in evaluations] == file["eval/loss"][:].tolist()


def test_a_resumed_run_goes_on_in_the_same_log(given, tmp_path):
    given["sinks"] = [{"kind": "jsonl", "path": str(tmp_path / "run.jsonl")}]
    log = tmp_path / "run.jsonl"
    interrupted(given, tmp_path / "run.h5", step=40)
    sink, = config.resolve(given).sinks
    run(given, tmp_path / "first.h5", sinks=[sink])
    whole = lines(log)
    kept = [json.dumps(line) + "\n" for line in whole if line.get("step", 0) <= 90 and line["kind"] != "end"]
    log.write_text("".join(kept) + '{"kind": "st')  # as a kill may leave it
    run(given, tmp_path / "run.h5", True, sinks=[sink])
    steps = [line["step"] for line in lines(log) if line["kind"] == "step"]
    assert steps == list(range(1, STEPS + 1))


def test_what_is_no_number_is_null_in_json(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sink = JsonLines()
    sink.open(About("", M, STEPS, 1, "float32", "train"))
    sink.evaluation(3, 0.5, {"loss": float("nan"), "consensus": float("inf"), "accuracy": 0.5})
    sink.close("failed")
    assert lines(tmp_path / "run.jsonl")[1] == {"kind": "evaluation", "step": 3, "wall_time": 0.5, "loss": None, "consensus": None,
                                                "accuracy": 0.5}


# TensorBoard
def records(folder):
    """All events in the event files of a folder, oldest file first."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    for path in sorted(folder.glob("events.out.tfevents.*"), key=lambda path: int(path.name.split(".")[-2])):
        content = path.read_bytes()
        while content:
            size, = struct.unpack("<Q", content[:8])
            yield event_pb2.Event.FromString(content[12:12 + size])
            content = content[16 + size:]


def curves(folder):
    """{tag: [(step, number)]}"""
    found = {}
    for event in records(folder):
        for value in event.summary.value:
            if value.HasField("simple_value"):
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def test_tensorboard(given, tmp_path):
    pytest.importorskip("tensorboardX")
    given["sinks"] = [{"kind": "tensorboard", "path": str(tmp_path / "logs" / "one")}]
    for _ in range(2):  # an older run in the same folder is replaced
        run(given, tmp_path / "run.h5", sinks=config.resolve(given).sinks)
        (tmp_path / "run.h5").rename(tmp_path / "done.h5")
    found = curves(tmp_path / "logs" / "one")
    with h5py.File(tmp_path / "done.h5") as file:
        assert set(found) == {*(f"train/{name}" for name in ("loss", "tau", "lr", "pause_time", "compute_time", "wait_time",
                                                              "bytes_sent")), "eval/loss", "eval/consensus"}
        for group, values in (("train", file["train/loss"][:].mean(axis=1, dtype=float)), ("eval", file["eval/loss"][:])):
            assert found[f"{group}/loss"] == list(zip(file[group]["step"][:].tolist(), values.astype("f4").tolist()))
        told = [(event.wall_time, event.summary.value[0]) for event in records(tmp_path / "logs" / "one") if event.summary.value]
        assert file["config"].asstr()[()] in told[0][1].tensor.string_val[0].decode()
        assert [time for time, value in told if value.tag.startswith("train/")] == file["train/wall_time"][:].tolist()


def test_a_resumed_run_goes_on_in_tensorboard(given, tmp_path):
    pytest.importorskip("tensorboardX")
    given["sinks"] = [{"kind": "tensorboard", "path": str(tmp_path / "logs")}]
    sink, = config.resolve(given).sinks
    sink.open(About("", M, STEPS, 1, "float32", "train"))
    sink.event(70, 1.0, "note", "what comes after the checkpoint is void")
    sink.close("failed")
    step = interrupted(given, tmp_path / "run.h5", step=40)
    run(given, tmp_path / "run.h5", True, sinks=config.resolve(given).sinks)
    starts = [event.step for event in records(tmp_path / "logs") if event.HasField("session_log")]
    assert starts == [step + 1]
    assert [at for at, _ in curves(tmp_path / "logs")["train/loss"]] == list(range(step + 1, STEPS + 1))


def test_a_sink_without_its_package_is_left_out_and_says_how_to_get_it(given, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    given["sinks"] = [{"kind": "tensorboard", "path": str(tmp_path / "logs")}]
    run(given, tmp_path / "run.h5", sinks=config.resolve(given).sinks)
    assert "pip install 'coopmpi[tensorboard]'" in capsys.readouterr().err
    with h5py.File(tmp_path / "run.h5") as file:
        assert file.attrs["status"] == b"finished"


def test_a_sink_of_ones_own_from_the_command_line(given, tmp_path):
    (tmp_path / "mine.py").write_text(textwrap.dedent("""
        from coopmpi.sinks import Sink

        class Counted(Sink):
            path: str
            limit: int = 10**9

            def open(self, about):
                self.count = 0

            def steps(self, rows):
                self.count += len(rows.tau)
                if self.count > self.limit:
                    raise RuntimeError("enough")

            def close(self, status):
                with open(self.path, "w") as file:
                    file.write(f"{status} after {self.count}")
        """))
    (tmp_path / "run.toml").write_text(textwrap.dedent("""
        workers = 3
        steps = 130
        [task]
        kind = "quadratic"
        path = "q.h5"
        [[sinks]]
        kind = "mine:Counted"
        path = "counted.txt"
        [[sinks]]
        kind = "jsonl"
        """))
    status, out, err = coopmpi("train", "run.toml", "--quiet", ranks=2, cwd=tmp_path)
    assert status == 0, out + err
    assert (tmp_path / "counted.txt").read_text() == "finished after 130"
    assert len(lines(tmp_path / "run.jsonl")) > 130
    with h5py.File(tmp_path / "run.h5") as file:
        text = file["config"].asstr()[()]
    assert "mine:Counted" in text and "counted.txt" in text
    (tmp_path / "again.toml").write_text(text)
    assert coopmpi("train", "again.toml", "--quiet", "-o", "again.h5", cwd=tmp_path)[0] == 0


@pytest.mark.parametrize("sinks, words", [
    ([{"path": "x"}], ["needs a kind"]), ("jsonl", ["array of tables"]), ([{"kind": "jsonnl"}], ["did you mean 'jsonl'"]),
    ([{"kind": "jsonl", "paht": "x"}], ["did you mean 'path'"]),
    ([{"kind": "coopmpi.topology.graphs:Ring"}], ["subclass of coopmpi.sinks.sink.Sink", "part for [graph]"]),
], ids=str)
def test_what_is_no_sink_is_refused(sinks, words):
    with pytest.raises(UserError) as error:
        config.resolve({"sinks": sinks})
    assert all(word in str(error.value) for word in words), error.value


# the console
def test_the_log_shows_loss_tau_and_bytes(given, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(console, "PATIENCE", 0)
    run(given, tmp_path / "run.h5", sinks=[console.watcher(0)])
    last = capsys.readouterr().out.splitlines()[-1]
    for words in ("step 130/130", "batch loss", "loss ", "consensus", "steps/s", "waiting", "tau 4", "MB sent"):
        assert words in last


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_the_live_view_fits_its_terminal(given, tmp_path, capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    run(given, tmp_path / "run.h5", sinks=[console.watcher(columns)])
    out = capsys.readouterr().out
    assert "130/130" in out and "batch loss" in out
    plain = [line for line in out.replace("\r", "\n").split("\n")]
    assert all(len(_visible(line)) <= columns for line in plain)


def _visible(line):
    import re

    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line)


def test_about_has_defaults_for_what_a_sink_need_not_know():
    about = About("", 1, 1, 1, "float32", "train")
    assert about.layout == () and about.figures == {} and about.all_models
