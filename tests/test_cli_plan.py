"""coopmpi probe, plan and train --plan as users run them, with two ranks and a tiny search."""

import json
import os
import signal
import subprocess
import sys
import tomllib
from time import monotonic, sleep

import h5py
import pytest

from coopmpi.planner.curves import Target, curve
from coopmpi.planner.machine import load
from tests.in_process import refused
from tests.runs import coopmpi

RUN = '''
steps = 60
[task]
data = "digits"
hidden = [12]
[optimizer]
lr = 0.4
[record]
eval_every = 5
[plan]
algorithms = ["local-sgd", "d-psgd"]
periods = [4]
graphs = ["ring"]
adaptive = false
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run description, its machine file, and its plan."""
    folder = tmp_path_factory.mktemp("plan")
    (folder / "run.toml").write_text(RUN)
    status, out, err = coopmpi("probe", "run.toml", "-o", "machine.toml", "--seconds", 8, ranks=2, cwd=folder)
    assert status == 0, err
    assert "machine.toml written" in err
    status, out, err = coopmpi("plan", "run.toml", "--machine", "machine.toml", "--train-loss", 1.0, "--json", cwd=folder)
    assert status == 0, err
    (folder / "plan.json").write_text(out)
    return folder


@pytest.mark.mpi
def test_a_machine_file_tells_what_was_measured(folder):
    tables = tomllib.loads((folder / "machine.toml").read_text())
    assert tables["machine"]["ranks"] == 2 and tables["machine"]["parameters"] == 64 * 12 + 12 + 12 * 10 + 10
    assert len(tables["compute"]["times"][0]) == 2 and min(map(min, tables["compute"]["times"])) > 0
    assert tables["network"]["workers"] == 2 and tables["network"]["hops"] == [1]
    assert all(seconds >= 0 for _, seconds in tables["network"]["allreduce"]) and tables["network"]["allreduce"][-1][0] == 4 * 910
    status, out, _ = coopmpi("probe", "--show", "machine.toml", cwd=folder)
    assert status == 0 and "2 ranks on 1 node" in out and "slowest worker" in out


@pytest.mark.mpi
def test_simulate_takes_a_machine(folder):
    status, _, err = coopmpi("simulate", "run.toml", "--machine", "machine.toml", "-o", "sim.h5", "--quiet", "--time-only", cwd=folder)
    assert status == 0, err
    with h5py.File(folder / "sim.h5") as file:
        times = tomllib.loads(file["config"][()].decode())["compute"]["times"]
        assert file["train/compute_time"][0].tolist() == pytest.approx(times[0])


@pytest.mark.mpi
def test_the_best_of_a_plan_trains_and_is_compared_with_its_forecast(folder):
    found = json.loads((folder / "plan.json").read_text())
    best = found["choices"][0]
    assert best["low"] < best["seconds"] < best["high"] and best["tables"]["workers"] == 2
    for words in (["run.toml", "--plan", "plan.h5"], ["plan-1.toml"]):
        status, _, err = coopmpi("train", *words, "-n", 2, "-o", "run.h5", "--overwrite", "--quiet", cwd=folder)
        assert status == 0, err
        with h5py.File(folder / "run.h5") as file:
            tables = tomllib.loads(file["config"][()].decode())
            assert tables["algorithm"]["kind"] == best["tables"]["algorithm"]["kind"] and tables["optimizer"]["lr"] == best["lr"]
            assert tables["forecast"]["seconds"] == pytest.approx(best["seconds"], rel=1e-3)
            assert file["eval/train_loss"][-1] <= 1.0
    status, out, _ = coopmpi("inspect", "run.h5", cwd=folder)
    assert status == 0 and "forecast" in out and "s/step, measured" in " ".join(out.split())
    # without the plan there is no forecast
    coopmpi("train", "run.toml", "--set", "workers=2", "-o", "plain.h5", "--quiet", cwd=folder)
    assert "forecast" not in coopmpi("inspect", "plain.h5", cwd=folder)[1]


@pytest.mark.mpi
def test_the_curves_of_a_plan_are_used_again(folder):
    status, out, err = coopmpi("plan", "run.toml", "--machine", "machine.toml", "--train-loss", 1.0, "--json", "--figure", "plan.svg", cwd=folder)
    assert status == 0, err
    assert "predicted seconds" in (folder / "plan.svg").read_text()
    again, first = json.loads(out), json.loads((folder / "plan.json").read_text())
    assert again["worker_steps"] < first["worker_steps"] / 2
    assert [one["seconds"] for one in again["choices"]] == [one["seconds"] for one in first["choices"]]
    with h5py.File(folder / "plan.h5") as file:
        assert file.attrs["format"] == "coopmpi-plan" and file["ranking/label"][0].decode() == again["choices"][0]["label"]


@pytest.mark.mpi
def test_pilots_decide_by_what_they_measure(folder):
    status, out, err = coopmpi("plan", "run.toml", "--machine", "machine.toml", "--train-loss", 1.0, "--json", "--pilot", 2, "-o", "pilot.h5",
                               "--figure", "pilot.svg", ranks=2, cwd=folder)
    assert status == 0, err
    assert "milliseconds of a step in a pilot" in (folder / "pilot.svg").read_text(encoding="utf-8")
    choices = json.loads(out)["choices"]
    piloted = [one for one in choices if one["piloted"]]
    assert len(piloted) == min(2, len(choices)) and all(one["seconds"] == pytest.approx(one["piloted"] * one["steps"]) for one in piloted)


@pytest.mark.mpi
def test_candidates_can_be_trained_on_the_ranks(folder):
    status, out, err = coopmpi("plan", "run.toml", "--machine", "machine.toml", "--train-loss", 1.0, "--json", "--on-ranks", "-o", "ranks.h5",
                               ranks=2, cwd=folder)
    assert status == 0, err
    assert json.loads(out)["choices"]
    assert json.loads(out)["what_if"] == []


ON_RANKS = """
import json, math, sys
from coopmpi.drivers.join import on_this_rank
from coopmpi.planner.curves import Target
from coopmpi.planner.ranks import Ranks

def work(world):
    ranks = Ranks(world, Target("train_loss", 1.0))
    if world.rank:
        return ranks.serve()
    print(json.dumps(ranks.curve(json.loads(sys.argv[1]), math.inf)))
    ranks.dismiss()

on_this_rank(work)
"""


@pytest.mark.mpi
def test_the_trajectory_on_ranks_is_the_simulated_one(folder):
    tables = tomllib.loads(RUN) | {"workers": 2, "algorithm": {"kind": "local-sgd"}, "period": {"tau": 4}, "stop": {"train_loss": 1.0}}
    del tables["plan"]
    status, out, err = coopmpi(json.dumps(tables), ranks=2, cwd=folder, main=("-c", ON_RANKS))
    assert status == 0, err
    steps, values, seconds, end = json.loads(out)
    simulated = curve(tables | load(folder / "machine.toml").tables(), Target("train_loss", 1.0))
    assert end == simulated.end == "target" and steps == simulated.steps and len(seconds) == len(steps)
    assert values == pytest.approx(simulated.values, rel=1e-4)


@pytest.mark.mpi
def test_mistakes_are_answered_with_a_sentence(folder, monkeypatch):
    monkeypatch.chdir(folder)
    plan = ["plan", "run.toml", "--machine", "machine.toml"]
    assert "takes one target" in refused(*plan)
    assert "takes one target" in refused(*plan, "--loss", 1, "--accuracy", 0.5)
    assert "tells of 2 ranks, but workers = 3" in refused(*plan, "--loss", 1, "--set", "workers=3")
    assert "measured with a model of 910 numbers, this run has one of" in refused(*plan, "--loss", 1, "--set", "task.hidden=[20]")
    assert "--pilot runs on the 2 ranks" in refused(*plan, "--loss", 1, "--pilot", 2)
    h5py.File(folder / "foreign.h5", "w").close()
    assert "not a plan of coopmpi plan" in refused("train", "--plan", "foreign.h5", "-o", "x.h5")
    (folder / "broken.h5").write_bytes((folder / "plan.h5").read_bytes()[:1000])
    assert "broken.h5" in refused("train", "--plan", "broken.h5", "-o", "x.h5")
    assert "machine file 'none.toml' does not exist" in refused("plan", "run.toml", "--machine", "none.toml", "--loss", 1)
    assert "given 1 rank" in refused("probe", "run.toml", "-o", "other.toml")
    assert "machine.toml exists" in refused("probe", "run.toml", "-n", 2)
    assert not (folder / "x.h5").exists() and not (folder / "other.toml").exists()


def _gone(group):
    """Does a process group end soon?"""
    end = monotonic() + 20
    while monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        sleep(0.1)
    return False


@pytest.mark.mpi
def test_a_search_that_is_stopped_keeps_its_curves_and_leaves_no_process(folder):
    words = ["plan", "run.toml", "--machine", "machine.toml", "--train-loss", "1e-9", "--set", "steps=3000", "-o", "stopped.h5"]
    process = subprocess.Popen([sys.executable, "-m", "coopmpi", *words], cwd=folder, stderr=subprocess.PIPE, text=True, start_new_session=True)
    lines = [process.stderr.readline() for _ in range(2)]  # what is tried, and the first curve
    process.send_signal(signal.SIGTERM)
    rest = process.communicate(timeout=60)[1]
    assert process.returncode == 3 and "goes on" in rest, (lines, rest)
    assert "Traceback" not in rest
    with h5py.File(folder / "stopped.h5") as file:
        assert len(file["curves"]) >= 1 and "ranking" not in file
    assert _gone(process.pid)
    assert "no choice of this plan" in refused("train", "--plan", folder / "stopped.h5", "-o", folder / "x.h5")
