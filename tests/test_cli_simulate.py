"""coopmpi simulate as users run it: its file, its refusals, its documentation."""

import re
import shutil
import tomllib
from pathlib import Path

import h5py
import numpy as np
import pytest

from coopmpi import config, registry
from coopmpi.drivers.solo import Solo
from coopmpi.errors import UserError
from coopmpi.report import catalogue
from coopmpi.run.assemble import assemble
from tests.runs import coopmpi, settings, write_quadratic

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(folder, output) of `coopmpi simulate RUN.toml -o sim.h5`; train.h5 is there, of the same description."""
    folder = tmp_path_factory.mktemp("command")
    write_quadratic(folder / "q.h5", 8)
    (folder / "run.toml").write_text("""
workers = 8
steps = 20
[task]
kind = "quadratic"
path = "q.h5"
[compute]
kind = "exponential"
shift = 0.5
[network]
kind = "delay"
seconds = 4
""")
    status, out, err = coopmpi("simulate", "run.toml", "-o", "sim.h5", cwd=folder)
    assert status == 0, err
    status, _, err = coopmpi("train", "run.toml", "-o", "train.h5", "--quiet", cwd=folder)
    assert status == 0, err
    return folder, out


def test_the_result_has_virtual_time_and_the_models_of_train(run):
    folder, out = run
    with h5py.File(folder / "sim.h5") as sim, h5py.File(folder / "train.h5") as plain:
        assert sim.attrs["mode"] == "simulate" and plain.attrs["mode"] == "train"
        assert np.array_equal(sim["final/x"][:], plain["final/x"][:])
        virtual = sim["train/virtual_time"]
        assert virtual.shape == (20,) and virtual.attrs["units"] == "s" and virtual.dims[0][0] == sim["train/step"]
        assert (np.diff(virtual[:]) > 0).all() and "virtual_time" not in plain["train"]
        assert sim["train/wait_time"][7].min() >= 4 and "virtual" in sim["train/wait_time"].attrs["description"]
        assert sim["train/wall_time"][-1] < virtual[-1]
        tables = tomllib.loads(sim["config"][()].decode())
        assert tables["network"] == {"kind": "delay", "seconds": 4.0, "jitter": 0.0}
        free = dict.fromkeys(("compress", "unpack", "mix", "optimizer"), 0.0) | {"beside": 1.0}
        assert tables["compute"] == {"kind": "exponential", "seconds": 1.0, "shift": 0.5} | free
        assert not {"network", "compute"} & set(tomllib.loads(plain["config"][()].decode()))
        assert re.findall(r"virtual time (\S+) s", out)[-1] == f"{virtual[-1]:.5g}"


def test_the_resolved_description_repeats_the_simulation(run, tmp_path):
    folder, _ = run
    with h5py.File(folder / "sim.h5") as sim:
        (tmp_path / "again.toml").write_bytes(sim["config"][()])
        times = sim["train/virtual_time"][:]
    shutil.copy(folder / "q.h5", tmp_path)
    status, out, err = coopmpi("simulate", "again.toml", "--quiet", "-o", "again.h5", cwd=tmp_path)
    assert (status, out) == (0, ""), err
    with h5py.File(tmp_path / "again.h5") as again:
        assert np.array_equal(again["train/virtual_time"][:], times)


def test_the_dry_run_is_a_run_description(tmp_path):
    keys = settings({"network": {"kind": "delay"}, "workers": 3})
    status, out, err = coopmpi("simulate", "--dry-run", *keys, cwd=tmp_path)
    assert status == 0, err
    assert tomllib.loads(out)["network"]["kind"] == "delay" and config.resolve(tomllib.loads(out)).workers == 3
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments, message", [
    (["--set=network.kind=lins"], "did you mean 'links'"),
    (["--set=compute.kind=slow-worker", "--set=compute.worker=9"], "allowed is 0 to 3"),
    (["-o", "taken.h5"], "--overwrite")])
def test_mistakes_are_told_in_one_line(tmp_path, arguments, message):
    (tmp_path / "taken.h5").write_text("")
    status, _, err = coopmpi("simulate", *arguments, "--quiet", cwd=tmp_path)
    assert status == 2 and message in err and err.startswith("coopmpi: ") and err.count("\n") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["taken.h5"]


def test_arrays_may_live_on_a_gpu(run, tmp_path):
    """On a GPU that is simulated and refuses what CuPy refuses: the same models and the same times."""
    folder, _ = run
    arguments = ("simulate", "run.toml", "--set=device=gpu", "--quiet", "-o", tmp_path / "gpu.h5")
    status, _, err = coopmpi(*arguments, cwd=folder, main=("-m", "tests.guarded_main"),
                             environment={"PYTHONPATH": str(ROOT)})
    assert status == 0, err
    with h5py.File(folder / "sim.h5") as host, h5py.File(tmp_path / "gpu.h5") as gpu:
        assert gpu.attrs["device"] == "gpu"
        for name in ("final/x", "train/virtual_time", "train/wait_time", "train/compute_time"):
            assert np.array_equal(host[name][:], gpu[name][:]), name


@pytest.mark.mpi
def test_it_is_one_process(tmp_path):
    status, _, err = coopmpi("simulate", cwd=tmp_path, ranks=2)
    assert status == 2 and "given 2 ranks" in err and not list(tmp_path.iterdir())


def test_every_key_of_the_models_is_documented_with_its_default():
    page = (ROOT / "docs" / "simulate.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| `?([^|`]*)`? \|", page, re.MULTILINE)
    for kind in ("compute", "network"):
        for name, cls in registry.parts(kind).items():
            assert f'`"{name}"`' in page
            for key, default, _ in catalogue.keys(cls):
                assert (key, default) in [(key, default.strip()) for key, default in rows], (name, key, default)


# what cannot be
@pytest.mark.parametrize("compute, message", [
    ({"kind": "slow-worker", "worker": 8}, "allowed is 0 to 7"),
    ({"kind": "trace", "file": "missing.npy"}, "does not exist"),
    ({"kind": "trace", "file": "wide.npy"}, r"\(steps, 8\), found \(4, 3\)"),
    ({"kind": "trace", "file": "negative.npy"}, "from 0 to 1e\\+09"),
    ({"kind": "trace", "file": "words.txt"}, "no numbers can be read"),
    ({"kind": "trace", "file": "words.npy"}, "no numbers can be read"),
    ({"kind": "trace", "file": "q.h5", "dataset": "seconds"}, "no dataset 'seconds'; in the file: a, b, x0"),
    ({"kind": "trace", "file": "q.h5", "dataset": "x0"}, "from 0 to 1e\\+09"),
    ({"kind": "pareto", "shape": 1.0}, "shape"),
    ({"kind": "exponential", "shift": 1.5}, "shift"),
    ({"kind": "exponental"}, "did you mean 'exponential'")])
def test_compute_models_refuse_what_cannot_be(tmp_path, monkeypatch, compute, message):
    monkeypatch.chdir(tmp_path)
    write_quadratic("q.h5", 8)
    np.save("wide.npy", np.ones((4, 3)))
    np.save("negative.npy", np.array([1.0, -1.0]))
    for name in ("words.txt", "words.npy"):
        Path(name).write_text("one\ntwo\n")
    with pytest.raises(UserError, match=message):
        assemble(config.resolve({"workers": 8, "compute": compute}), Solo(), mode="simulate")


@pytest.mark.parametrize("network, message", [
    ({"kind": "hierarchy", "groups": [4]}, "2 values, given"),
    ({"kind": "hierarchy", "latency": [1e-3, 1e-5, 1e-4]}, "must not fall"),
    ({"kind": "hierarchy", "bandwidth": [1e8, 1e9, 1e7]}, "must not rise"),
    ({"kind": "links", "bandwidth": 0}, "bandwidth"),
    ({"kind": "links", "allreduce": "rinng"}, "unknown allreduce 'rinng'; did you mean 'ring'"),
    ({"kind": "links", "ingress": 0}, "ingress"),
    ({"kind": "links", "latency": -1.0}, "latency"),
    ({"kind": "delay", "ingress": 1.0}, "read by hierarchy, links"),
    ({"kind": "delay", "latency": 1.0}, "read by hierarchy, links"),
    ({"kind": "link"}, "did you mean 'links'")])
def test_networks_refuse_what_cannot_be(network, message):
    with pytest.raises(UserError, match=message):
        config.resolve({"network": network})
