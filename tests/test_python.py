"""Runs that a Python program starts: those of the command line."""

import subprocess
import sys

import h5py
import numpy as np
import pytest

import coopmpi
from coopmpi.errors import UserError
from tests.runs import coopmpi as command, settings

TABLES = {"workers": 3, "steps": 40, "deterministic": True, "device": "cpu", "algorithm": {"kind": "d-psgd"}}


def test_importing_the_package_loads_nothing():
    program = "import sys, coopmpi; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "coopmpi" in loaded and not {"numpy", "mpi4py", "h5py", "click", "torch", "msgspec"} & set(loaded)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        coopmpi.trian


def test_train_is_that_of_the_command_line(tmp_path):
    outcome = coopmpi.train(TABLES, tmp_path / "own.h5")
    status, out, err = command("train", "--quiet", *settings(TABLES), "-o", "same.h5", cwd=tmp_path)
    assert status == 0, out + err
    with h5py.File(tmp_path / "own.h5") as own, h5py.File(tmp_path / "same.h5") as same:
        assert np.array_equal(own["final/x"][:], same["final/x"][:]) and own.attrs["status"] == b"finished"
        assert outcome.figures["loss"] == own["eval/loss"][-1] and outcome.steps == 40


@pytest.mark.mpi
def test_a_program_trains_on_ranks(tmp_path):
    program = f"import coopmpi\noutcome = coopmpi.train({TABLES!r}, 'ranks.h5')\nassert outcome.steps == 40\n"
    (tmp_path / "program.py").write_text(program, encoding="utf-8")
    status, out, err = command("program.py", ranks=2, cwd=tmp_path, main=())
    assert status == 0, out + err
    with h5py.File(tmp_path / "ranks.h5") as file:
        assert file.attrs["ranks"] == 2 and len(file["train/step"]) == 40


def test_simulations_of_both_kinds(tmp_path):
    for time_only in (False, True):
        outcome = coopmpi.simulate(TABLES, tmp_path / "run.h5", overwrite=True, time_only=time_only)
        assert outcome.figures["virtual_time"] > 0 and ("loss" in outcome.figures) != time_only


def test_mistakes_are_raised(tmp_path):
    with pytest.raises(UserError, match="unknown algorithm 'dpsgd'"):
        coopmpi.train(TABLES | {"algorithm": {"kind": "dpsgd"}}, tmp_path / "run.h5")
    with pytest.raises(UserError, match="tables of a run description are a dict"):
        coopmpi.train("RUN.toml", tmp_path / "run.h5")
    coopmpi.train(TABLES, tmp_path / "run.h5")
    with pytest.raises(UserError, match="exists already"):
        coopmpi.train(TABLES, tmp_path / "run.h5")


@pytest.mark.mpi
def test_an_error_that_one_rank_meets_alone_ends_all(tmp_path):
    """Before the training has begun, while the others wait for its word."""
    (tmp_path / "bad.py").write_text("def task(place):\n    if place.world.rank == 1:\n        raise RuntimeError('of my own')\n"
                                     "    from coopmpi.contract.textbook import Textbook\n    return Textbook(place, 10)\n")
    tables = {"workers": 2, "task": {"kind": "python", "function": "bad:task"}}
    (tmp_path / "program.py").write_text(f"import coopmpi\ncoopmpi.train({tables!r}, 'run.h5')\n", encoding="utf-8")
    status, _, err = command("program.py", ranks=2, cwd=tmp_path, main=(), limit=60)
    assert status != 0 and "rank 1" in err and "of my own" in err
