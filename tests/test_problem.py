"""What is trained is a declared protocol: required members, slots and figures of its own, checked answers."""

import sys

import h5py
import numpy as np
import pytest

from coopmpi import config
from coopmpi.drivers.solo import Solo
from coopmpi.errors import UserError
from coopmpi.run.assemble import assemble
from coopmpi.step import Slot
from coopmpi.tasks.problem import Problem
from tests.interruptions import interrupted, run
from tests.runs import VARIANTS, coopmpi, lockstep, read

D = 6


class Bare:
    """No base class: the three members that are required."""

    dimension = D

    def __init__(self, place):
        self.place = place

    def initial(self):
        return np.ones(D, self.place.dtype)

    def gradient(self, x, step):
        return (x * x).sum(axis=1) / 2, x.copy()


class Running(Problem):
    """Keeps a running mean of the models that each worker has seen, from a start of its own, and shows its distance."""

    figures = {"loss": ("1", "at the mean"), "drift": ("m", "mean model against the mean of the running means")}

    def __init__(self, place):
        self.place, self.dimension = place, D
        self.slots = (Slot("running", "worker", np.full(D, 0.5), "running mean of the models"),
                      Slot("seen", "worker", "zero", "gradients so far", columns=1))
        self.slots = (self.slots[0]._replace(columns=D), self.slots[1])

    def initial(self):
        return np.linspace(1, 2, D).astype(self.place.dtype)

    def gradient(self, x, step, own):
        own.running[...] = 0.9 * own.running + 0.1 * x
        own.seen += 1
        target = np.array(self.place.hosted)[:, None] + 0.1 * own.running
        return ((x - target) ** 2).sum(axis=1) / 2, x - target

    def evaluate(self, mean, own):
        assert own.running.shape == (1, D) and own.seen.shape == (1, 1)
        return {"loss": (float((mean ** 2).sum()), 1), "drift": (float(abs(mean - own.running).max()), 1)}


def tables(name, **more):
    return read({"workers": 4, "steps": 40, "dtype": "float64", "device": "cpu", "period": {"tau": 3}, "deterministic": True,
                 "task": {"kind": "python", "function": f"tests.test_problem:{name}"}} | more)


def test_a_problem_without_base_class_trains_and_has_no_figures(tmp_path):
    run(tables("Bare"), tmp_path / "run.h5")
    with h5py.File(tmp_path / "run.h5") as file:
        assert set(file["eval"]) == {"step", "wall_time", "consensus", "loss"}
        assert np.isnan(file["eval/loss"][:]).all() and abs(file["final/mean"][:]).max() < 0.02
        assert "layout" not in file["final"]


def test_without_a_layout_there_is_one_vector_and_a_note(tmp_path):
    given = tables("Bare", algorithm={"kind": "choco-sgd"}, compress={"kind": "topk", "fraction": 0.5})
    run(given, tmp_path / "run.h5")
    with h5py.File(tmp_path / "run.h5") as file:
        event, = file["events"][:]
    assert event["kind"] == b"note" and b"topk takes the tensors" in event["text"] and b"one vector of 6 numbers" in event["text"]
    for other in ({"algorithm": {"kind": "powersgd"}}, {}):
        notes = assemble(config.resolve(tables("Bare", **other)), Solo()).notes
        assert bool(notes) == bool(other)


@pytest.mark.parametrize("variant", VARIANTS)
def test_own_slots_are_kept_and_algorithms_never_see_them(variant):
    given = tables("Running", algorithm=VARIANTS[variant], mixing={"lazy": True})
    trainer = lockstep(given)
    assert (trainer.own_state.seen == 40).all()
    assert not hasattr(trainer.state, "running") and trainer.own_state.running.shape == (4, D)
    assert trainer.figures["drift"] >= 0


def test_a_resumed_run_has_its_own_slots_back(tmp_path):
    given = tables("Running", algorithm={"kind": "dpa"})
    run(given, tmp_path / "whole.h5")
    interrupted(given, tmp_path / "parts.h5", step=17)
    
    run(given, tmp_path / "parts.h5", resume=True)
    with h5py.File(tmp_path / "whole.h5") as whole, h5py.File(tmp_path / "parts.h5") as parts:
        for name in ("final/x", "train/loss"):
            assert np.array_equal(whole[name][:], parts[name][:]), name
        assert whole["eval/drift"].attrs["units"] == "m" and whole["eval/drift"][-1] == parts["eval/drift"][-1]


@pytest.mark.mpi
def test_own_slots_on_ranks_are_those_of_one_process(tmp_path):
    options = [f"--set={key}={value}" for key, value in {
        "workers": 4, "steps": 40, "dtype": "float64", "deterministic": "true", "task.kind": "python",
        "task.function": "tests.test_problem:Running", "algorithm.kind": "d-psgd"}.items()]
    for ranks in (None, 3):
        status, out, err = coopmpi("train", "--quiet", "-o", tmp_path / f"{ranks}.h5", *options, ranks=ranks)
        assert status == 0, out + err
    with h5py.File(tmp_path / "None.h5") as one, h5py.File(tmp_path / "3.h5") as three:
        for name in ("final/x", "train/loss", "eval/drift"):
            assert np.array_equal(one[name][:], three[name][:]), name


def test_inspect_and_the_closing_table_show_own_figures(tmp_path):
    options = ["--set=task.kind=python", "--set=task.function=tests.test_problem:Running", "--set=dtype=float64", "--set=steps=30"]
    status, out, err = coopmpi("train", *options, "-o", tmp_path / "run.h5")
    assert status == 0 and "drift" in out, err
    status, out, _ = coopmpi("inspect", tmp_path / "run.h5")
    assert status == 0 and "drift" in out
    assert len(coopmpi("inspect", tmp_path / "run.h5", "--series", "drift")[1].splitlines()) > 3


# what a problem may do wrong
class WrongShape(Bare):
    def gradient(self, x, step):
        return x.sum(axis=1), x[:, :-1]


class WrongType(Bare):
    def gradient(self, x, step):
        return x.sum(axis=1), x.astype("float32")


class NoPair(Bare):
    def gradient(self, x, step):
        return x.sum(axis=1)


class WrongStart(Bare):
    def initial(self):
        return np.ones(D + 1)


class Undeclared(Bare):
    def evaluate(self, mean):
        return {"los": (1.0, 1)}


class SlotOfAnotherKind(Bare):
    slots = (Slot("z", "replica", "zero", "nothing"),)


class NoGradient:
    dimension = D

    def __init__(self, place):
        pass

    def initial(self):
        return np.ones(D)


@pytest.mark.parametrize("name, words", [
    ("WrongShape", ["gradients of shape (4, 6)", "shape (4, 5)", "test_problem.py, line"]),
    ("WrongType", ["dtype float64", "dtype float32", "test_problem.py, line"]),
    ("NoPair", ["losses (b,) and gradients (b, d)", "test_problem.py, line"]),
    ("WrongStart", ["shape (6,)", "shape (7,)", "test_problem.py, line"]),
    ("Undeclared", ["'los'", "figures = {", "declared: loss", "test_problem.py, line"]),
    ("SlotOfAnotherKind", ['kind "worker"', "'z' is of kind 'replica'"]),
    ("NoGradient", ["'gradient' is missing"]),
])
def test_its_mistakes_are_told_with_the_rule_and_the_place(name, words):
    with pytest.raises(UserError) as error:
        lockstep(tables(name))
    assert all(word in str(error.value) for word in words), error.value


def test_epochs_need_samples():
    with pytest.raises(UserError, match="epochs needs"):
        lockstep({key: value for key, value in tables("Bare").items() if key != "steps"} | {"epochs": 2})


def test_a_figure_that_is_missing_once_is_nan():
    class Sometimes(Bare):
        figures = {"loss": ("1", "now and then")}

        def evaluate(self, mean):
            return {}

    sys.modules[__name__].Sometimes = Sometimes
    assert np.isnan(lockstep(tables("Sometimes")).figures["loss"])
