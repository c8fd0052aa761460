"""The first command of a newcomer, as the README shows it."""

import os
import subprocess
import sys
import tomllib

import h5py
import pytest

from tests.runs import coopmpi

pytestmark = pytest.mark.mpi


def test_digits_on_four_ranks_reach_96_percent_in_half_a_minute(tmp_path):
    status, out, err = coopmpi("train", "-n", 4, cwd=tmp_path, limit=30)
    assert status == 0, out + err
    with h5py.File(tmp_path / "run.h5") as file:
        assert file["eval/accuracy"][-1] >= 0.96
        assert file.attrs["ranks"] == 4 and file["final/x"].shape[0] == 4
    assert "accuracy" in out and "run.h5" in out


def test_a_second_run_does_not_touch_the_first(tmp_path):
    for _ in range(2):
        assert coopmpi("train", "--set", "steps=5", cwd=tmp_path)[0] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run-2.h5", "run.h5"]


def started(folder, *words):
    return subprocess.Popen([sys.executable, "-m", "coopmpi", *words, "--set=steps=40", "--quiet"], cwd=folder, stderr=subprocess.PIPE,
                            env=os.environ | {"OMP_NUM_THREADS": "1"}, text=True)


def test_runs_that_start_at_the_same_moment_have_a_file_each(tmp_path):
    verbs = [["train"], ["train"], ["train", "-n", "2"], ["simulate"], ["train", "-n", "2"], ["simulate", "--time-only"]]
    jobs = [started(tmp_path, *verb, f"--set=seed={seed}") for seed, verb in enumerate(verbs)]
    for job in jobs:
        _, err = job.communicate(timeout=100)
        assert job.returncode == 0, err
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["run.h5", *(f"run-{i}.h5" for i in range(2, 7))])
    seeds, modes = set(), []
    for path in tmp_path.iterdir():
        with h5py.File(path) as file:
            assert file.attrs["status"] == b"finished" and len(file["train/step"]) == 40
            seeds.add(tomllib.loads(file["config"].asstr()[()])["seed"])
            modes.append(file.attrs["mode"])
    assert seeds == set(range(6)) and sorted(modes) == ["simulate", "time-only", *["train"] * 4]


@pytest.mark.parametrize("words", [[], ["-n", "2"]], ids=["alone", "ranks"])
def test_a_run_that_does_not_begin_leaves_no_file(tmp_path, words):
    status, _, err = coopmpi("train", *words, "--set=task.data=teacher", "--set=task.batch=70000", cwd=tmp_path)
    assert status == 2 and "batch = 70000" in err
    assert not list(tmp_path.iterdir())


def test_a_folder_in_which_nothing_can_be_created_is_told():
    status, _, err = coopmpi("train", cwd="/proc")
    assert status == 2 and "cannot be created in the working directory" in err


def test_an_empty_file_is_a_run_that_has_just_begun(tmp_path):
    (tmp_path / "run.h5").touch()
    status, _, err = coopmpi("inspect", "run.h5", cwd=tmp_path)
    assert status == 2 and "run.h5: not a readable HDF5 file: it is empty" in err
