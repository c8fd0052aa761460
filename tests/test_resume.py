"""A run that was stopped goes on as if it had not been: every algorithm, on another number of ranks."""

import tomllib

import h5py
import numpy as np
import pytest

from coopmpi.record.checkpoint import Checkpoint
from tests.interruptions import content, interrupted, run
from tests.runs import EVEN_VARIANTS, coopmpi, write_quadratic

M, STEPS = 6, 60


def tables(path, variant, **more):
    return {"workers": M, "steps": STEPS, "deterministic": True, "device": "cpu", "algorithm": EVEN_VARIANTS[variant],
            "task": {"kind": "quadratic", "path": path}, "period": {"tau": 4}, "mixing": {"lazy": True},
            "optimizer": {} if variant == "sparq-sgd" else {"momentum": 0.9, "nesterov": True},
            "compress": {"kind": "topk", "fraction": 0.3}} | more


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_quadratic(tmp_path_factory.mktemp("resume") / "q.h5", M, 20, noise=0.1)


@pytest.mark.parametrize("variant", EVEN_VARIANTS)
def test_a_resumed_run_equals_one_that_was_never_stopped(path, tmp_path, variant):
    run(tables(path, variant), tmp_path / "whole.h5")
    interrupted(tables(path, variant), tmp_path / "parts.h5", step=22)
    checkpoint = Checkpoint(tmp_path / "parts.h5")
    assert 22 <= checkpoint.step < STEPS
    run(tomllib.loads(checkpoint.config_text), tmp_path / "parts.h5", checkpoint=checkpoint)
    whole, parts = content(tmp_path / "whole.h5"), content(tmp_path / "parts.h5")
    for name, values in whole.items():
        assert np.array_equal(parts[name], values), name


@pytest.mark.parametrize("step", [19, 22, 41])
@pytest.mark.parametrize("algorithm", ["local-sgd", "dpa", "overlap-local-sgd", "squarm-sgd"])
def test_adacomm_that_counts_steps_goes_on_with_its_decisions(path, tmp_path, algorithm, step):
    given = tables(path, algorithm, period={"kind": "adacomm", "tau": 9, "interval_steps": 12})
    run(given, tmp_path / "whole.h5")
    interrupted(given, tmp_path / "parts.h5", step=step)
    run(given, tmp_path / "parts.h5", checkpoint=Checkpoint(tmp_path / "parts.h5"))
    whole, parts = content(tmp_path / "whole.h5"), content(tmp_path / "parts.h5")
    assert len(set(whole["train/tau"].tolist())) > 2
    for name, values in whole.items():
        assert np.array_equal(parts[name], values), name


def test_changing_periods_go_on_where_they_were(path, tmp_path):
    given = tables(path, "local-sgd", period={"kind": "list", "taus": [[0, 7], [20, 3], [40, 1]]})
    run(given, tmp_path / "whole.h5")
    interrupted(given, tmp_path / "parts.h5", step=24)
    checkpoint = Checkpoint(tmp_path / "parts.h5")
    run(given, tmp_path / "parts.h5", checkpoint=checkpoint)
    whole, parts = content(tmp_path / "whole.h5"), content(tmp_path / "parts.h5")
    assert np.array_equal(parts["train/tau"], whole["train/tau"])
    assert np.array_equal(parts["final/x"], whole["final/x"])


def test_a_second_interruption_and_the_times(path, tmp_path):
    given, output = tables(path, "dpa", steps=200), tmp_path / "run.h5"
    run(given, tmp_path / "whole.h5")
    interrupted(given, output, step=20)
    interrupted(given, output, step=90, checkpoint=Checkpoint(output))
    run(given, output, checkpoint=Checkpoint(output))
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


def test_a_run_without_a_saved_state_is_refused(path, tmp_path):
    run(tables(path, "local-sgd"), tmp_path / "run.h5")
    status, _, err = coopmpi("resume", tmp_path / "run.h5")
    assert status == 2 and "nothing to resume" in err
    with h5py.File(tmp_path / "run.h5") as file:
        assert file["train/step"].shape == (STEPS,)
    status, _, err = coopmpi("resume", tmp_path / "none.h5")
    assert status == 2 and "does not exist" in err
