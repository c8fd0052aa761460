"""Files and modules of a run description: found from anywhere, and absolute in the result, so that a run goes on from anywhere."""

import tomllib

import h5py
import numpy as np
import pytest

from coopmpi import config
from tests.runs import coopmpi

RUN = """
workers = 4
steps = 6
device = "cpu"
checkpoint.keep_final = true

[task]
data = "digits.npz"
hidden = [8]

[algorithm]
kind = "paths_algorithm:Mine"

[mixing]
graph = "links.txt"

[network]
latency = "latency.npy"

[[sinks]]
kind = "jsonl"
"""
MODULE = """
from coopmpi.algorithms.d_psgd import DPSGD

class Mine(DPSGD, frozen=True, kw_only=True):
    "One that lies beside the description."
"""


@pytest.fixture
def places(tmp_path):
    """Two folders: that of the description with its files, and one to work in."""
    beside, here = tmp_path / "beside", tmp_path / "here"
    beside.mkdir()
    here.mkdir()
    (beside / "run.toml").write_text(RUN)
    (beside / "paths_algorithm.py").write_text(MODULE)
    (beside / "links.txt").write_text("0 1\n1 2\n2 3\n3 0\n")
    np.save(beside / "latency.npy", np.full((4, 4), 1e-3))
    draw = np.random.default_rng(0)
    np.savez(beside / "digits.npz", x=draw.normal(size=(60, 5)), y=np.arange(60) % 3)
    return beside, here


def described(path):
    with h5py.File(path) as file:
        return tomllib.loads(file["config"].asstr()[()])


def command(*arguments, cwd, **options):
    status, out, err = coopmpi(*arguments, cwd=cwd, **options)
    assert status == 0, out + err
    return out


def test_what_lies_beside_the_description_is_found_from_anywhere(places):
    beside, here = places
    command("train", "--quiet", "../beside/run.toml", "-o", "run.h5", cwd=here)
    tables = described(here / "run.h5")
    assert tables["task"]["data"] == str(beside / "digits.npz") and tables["mixing"]["graph"] == str(beside / "links.txt")
    assert tables["folder"] == str(beside) and tables["sinks"][0]["path"] == str(here / "run.jsonl")
    assert (here / "run.jsonl").exists() and not (beside / "run.jsonl").exists()
    # and the run goes on from elsewhere
    command("resume", "--quiet", "here/run.h5", "--set=steps=9", cwd=here.parent)
    with h5py.File(here / "run.h5") as file:
        assert len(file["train/step"]) == 9
    command("simulate", "--quiet", "../beside/run.toml", "-o", "sim.h5", cwd=here)
    assert described(here / "sim.h5")["network"]["latency"] == str(beside / "latency.npy")


@pytest.mark.mpi
def test_ranks_find_it_too(places):
    beside, here = places
    command("train", "-n", 2, "--quiet", "../beside/run.toml", "-o", "own.h5", cwd=here)
    command("train", "--quiet", "../beside/run.toml", "-o", "ranks.h5", ranks=2, cwd=here)
    command("resume", "--quiet", "here/ranks.h5", "--set=steps=9", ranks=2, cwd=here.parent)
    assert described(here / "own.h5") | {"steps": 9, "sinks": []} == described(here / "ranks.h5") | {"sinks": []}


def test_a_dry_run_elsewhere_is_a_description_there(places):
    beside, here = places
    out = command("train", "--dry-run", "../beside/run.toml", cwd=here)
    (here / "again.toml").write_text(out)
    assert command("train", "--dry-run", "again.toml", cwd=here) == out
    assert f'folder = "{beside}"' in out and "# runs code of the module paths_algorithm" in out


def test_the_folder_of_the_description_comes_first_then_the_working_directory(places, monkeypatch):
    beside, here = places
    monkeypatch.chdir(here)
    tables = config.load(beside / "run.toml", ["task.data=only_here.npz", "algorithm.kind=dpa"])
    (here / "only_here.npz").touch()
    (here / "links.txt").touch()
    found = config.resolve(tables)
    assert found.task.data == str(here / "only_here.npz") and found.mixing.graph.path == str(beside / "links.txt")
    (beside / "only_here.npz").touch()
    assert config.resolve(tables).task.data == str(beside / "only_here.npz")
    # names that are built in are no files, and what is nowhere stays as it was given
    (beside / "digits").touch()
    (beside / "ring").touch()
    for data in ("digits", "nowhere.npz", str(here / "absent.npz")):
        tables["task"] = {"data": data}
        assert config.resolve(tables).task.data == data
    tables["mixing"] = {"graph": "matcha", "base": "ring"}
    assert config.resolve(tables).mixing.graph.base == "ring"
    tables["mixing"] = {"graph": "matcha", "base": "links.txt"}
    assert config.resolve(tables).mixing.graph.base == str(beside / "links.txt")


def test_without_a_description_the_working_directory_is_the_folder(places):
    beside, _ = places
    command("train", "--quiet", "--set=algorithm.kind=paths_algorithm:Mine", "--set=task.data=digits.npz", "--set=steps=3",
            "--set=checkpoint.keep_final=true", "-o", "run.h5", cwd=beside)
    assert described(beside / "run.h5")["folder"] == str(beside)
    command("resume", "--quiet", "beside/run.h5", "--set=steps=5", cwd=beside.parent)


def test_a_folder_is_listed_for_own_code_only(places, monkeypatch):
    monkeypatch.chdir(places[1])
    assert "folder" not in config.dump(config.resolve({"folder": str(places[0])}))
