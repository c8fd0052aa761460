"""coopmpi simulate --time-only: the virtual times of the full simulation, without its numbers."""

import gzip

import h5py
import numpy as np
import pytest

from coopmpi import config, registry
from coopmpi.device.hollow import HollowArray
from coopmpi.drivers.solo import Solo
from coopmpi.errors import UserError
from coopmpi.run.assemble import assemble
from coopmpi.run.session import train

from coopmpi.step import Algorithm
from coopmpi.tasks.data import sets
from tests.runs import EVEN_VARIANTS, coopmpi, read, write_quadratic

M = 8
NETWORKS = {
    "links": {"jitter": 0.02, "latency": 0.1, "bandwidth": 3000.0},
    "egress": {"latency": 0.1, "bandwidth": 3000.0, "egress": 2000.0, "allreduce": "tree"},
    "ports": {"latency": 0.1, "bandwidth": 3000.0, "egress": 7000.0, "ingress": 5000.0, "jitter": 0.01},
    "hierarchy": {"kind": "hierarchy", "groups": [2, 2], "latency": [0.01, 0.1, 0.3], "bandwidth": [1e4, 1e3, 1e2]},
}

PRICES = {"compress": {kind: 1e-3 / (i + 1) for i, kind in enumerate(registry.parts("compress"))}, "unpack": 2e-4, "mix": 1e-4,
          "optimizer": 3e-4}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_quadratic(tmp_path_factory.mktemp("time-only") / "q.h5", M, 37)


def record(given, folder, mode):
    """/train of a simulation, and the names of what else is in the file."""
    output = folder / f"{mode}.h5"
    output.unlink(missing_ok=True)
    train(assemble(config.resolve(given), Solo(), mode), Solo(), output)
    with h5py.File(output) as file:
        assert file.attrs["mode"] == mode and file.attrs["status"] == b"finished"
        return {name: data[:] for name, data in file["train"].items()}, set(file)


def tables(path, variant, network="links", **more):
    return read({"workers": M, "steps": 45, "device": "cpu", "algorithm": EVEN_VARIANTS[variant], "period": {"tau": 4},
                 "task": {"kind": "quadratic", "path": path}, "mixing": {"lazy": variant == "d2"},
                 "optimizer": {} if variant == "sparq-sgd" else {"momentum": 0.9, "nesterov": True},
                 "compute": {"kind": "exponential", "shift": 0.3} | PRICES, "network": NETWORKS[network]} | more)


SILENT = {"squarm-sgd-share", "squarm-sgd-threshold"}  # their triggers look at numbers


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("variant", EVEN_VARIANTS)
def test_every_time_and_every_byte_is_that_of_the_full_simulation(path, tmp_path, variant, network):
    given = tables(path, variant, network)
    if variant in SILENT:
        with pytest.raises(UserError, match="--time-only computes no numbers.*trigger"):
            record(given, tmp_path, "time-only")
        return
    full, groups = record(given, tmp_path, "simulate")
    times, found = record(given, tmp_path, "time-only")
    assert full.keys() - times.keys() == {"loss"} and not times.keys() - full.keys()
    assert groups - found == {"eval", "final"}
    for name, values in times.items():
        if name not in ("wall_time", "pause_time"):
            assert np.array_equal(values, full[name]), name
    assert full["virtual_time"][-1] > 0 and full["bytes_sent"].any()


@pytest.mark.parametrize("kind", registry.parts("optimizer"))
def test_every_optimizer_and_its_clipping_go_without_numbers(tmp_path, kind):
    given = {"workers": M, "steps": 5, "device": "cpu", "task": {"hidden": [4]}, "optimizer": {"kind": kind, "clip_norm": 1.0}}
    times, _ = record(given, tmp_path, "time-only")
    assert np.array_equal(times["virtual_time"], record(given, tmp_path, "simulate")[0]["virtual_time"])


@pytest.mark.parametrize("change", [
    {"algorithm": {"kind": "choco-sgd"}, "mixing": {"graph": "matcha"}, "compress": {"kind": "sign"}},
    {"algorithm": {"kind": "dpa"}, "mixing": {"graph": "one-peer-exponential"}, "period": {"kind": "post-local", "switch": 7}},
    {"algorithm": {"kind": "sgp"}, "mixing": {"graph": "exponential"}},
    {"algorithm": {"kind": "bmuf"}, "optimizer": {"kind": "adam"}, "schedule": {"kind": "cosine"}},
], ids=lambda change: change["algorithm"]["kind"])
def test_on_changing_graphs_with_compression_and_other_parts(path, tmp_path, change):
    given = tables(path, "local-sgd", **change)
    full, times = (record(given, tmp_path, mode)[0] for mode in ("simulate", "time-only"))
    for name in ("virtual_time", "compute_time", "wait_time", "bytes_sent", "tau"):
        assert np.array_equal(times[name], full[name]), name


def test_a_summary_stands_for_many_workers(path, tmp_path, monkeypatch):
    given = tables(path, "d-psgd")
    each, _ = record(given, tmp_path, "time-only")
    monkeypatch.setattr("coopmpi.run.session.ALL_WORKERS", M - 1)
    summary, _ = record(given, tmp_path, "time-only")
    for name in ("compute_time", "wait_time", "bytes_sent"):
        assert np.array_equal(summary[name], each[name].mean(axis=1))
        assert np.array_equal(summary[f"{name}_min"], each[name].min(axis=1))
        assert np.array_equal(summary[f"{name}_max"], each[name].max(axis=1))
    assert np.array_equal(summary["virtual_time"], each["virtual_time"])


def test_adacomm_is_refused_with_the_reason(path, tmp_path):
    with pytest.raises(UserError, match="adacomm chooses tau by the loss"):
        record(tables(path, "local-sgd", period={"kind": "adacomm"}), tmp_path, "time-only")


class Greedy(Algorithm, frozen=True, kw_only=True):
    """Sends only if its loss is large, and says nothing of it."""

    source = "nobody"

    def step(self, state, context):
        loss = yield from context.local_step(state)
        if float(loss[0]) > 1:
            raise AssertionError("not reached")
        return loss


def test_an_algorithm_that_looks_at_numbers_without_saying_so_ends_with_a_sentence(path, tmp_path):
    given = tables(path, "local-sgd", algorithm={"kind": "tests.test_time_only:Greedy"})
    with pytest.raises(UserError, match="needs the numbers of an array"):
        record(given, tmp_path, "time-only")


# no data are read: shapes come from headers
@pytest.mark.parametrize("kind, write", [
    ("classify", lambda path: np.savez(path / "d.npz", x=np.zeros((20, 6, 5, 3), "u1"), y=np.arange(20) % 4)),
    ("regress", lambda path: np.savez(path / "d.npz", x_train=np.zeros((9, 7)), y_train=np.zeros((9, 2)),
                                      x_test=np.zeros((3, 7)), y_test=np.zeros((3, 2)))),
], ids=["images", "regression"])
def test_the_outline_of_a_file_is_that_of_the_data(tmp_path, kind, write):
    write(tmp_path)
    same_outline(tmp_path / "d.npz", kind)


def test_the_outlines_of_hdf5_idx_and_cifar(tmp_path):
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file["x"], file["y"] = np.zeros((12, 5)), np.arange(12) % 3
    same_outline(tmp_path / "d.h5", "classify")
    header = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in (10, 4, 5))
    with gzip.open(tmp_path / "a-images.idx3-ubyte.gz", "wb") as file:
        file.write(header + bytes(200))
    (tmp_path / "a-labels.idx1-ubyte").write_bytes(bytes([0, 0, 8, 1]) + (10).to_bytes(4, "big") + bytes(range(5)) * 2)
    same_outline(tmp_path / "a-images.idx3-ubyte.gz", "classify")
    cifar = tmp_path / "cifar"
    cifar.mkdir()
    for name in (*(f"data_batch_{i}.bin" for i in range(1, 3)), "test_batch.bin"):
        (cifar / name).write_bytes(bytes(3 * 3073))
    same_outline(cifar, "classify")


@pytest.mark.parametrize("source", ["digits", "teacher"])
@pytest.mark.parametrize("kind", ["classify", "regress"])
def test_the_outline_of_what_is_built_in(source, kind):
    same_outline(source, kind)


def same_outline(source, kind):
    found = sets.outline(source, kind)
    data = sets.load(source, kind, "float32", 0)
    outputs = data.classes or data.y_train.shape[1]
    assert found == (data.x_train.shape[1], data.shape, outputs, len(data.x_train))


def test_inputs_are_left_in_their_file(tmp_path, monkeypatch):
    np.savez(tmp_path / "d.npz", x=np.zeros((20, 6)), y=np.arange(20) % 4)
    read = np.lib.npyio.NpzFile.__getitem__
    monkeypatch.setattr(np.lib.npyio.NpzFile, "__getitem__", lambda self, name: {"y": read}[name](self, name))
    assert sets.outline(str(tmp_path / "d.npz"), "classify").samples == 16


def test_epochs_and_layouts_are_those_of_the_data(tmp_path):
    given = {"workers": 4, "epochs": 2, "task": {"hidden": [8], "batch": 16}, "algorithm": {"kind": "powersgd"}}
    full, times = (record(given, tmp_path, mode)[0] for mode in ("simulate", "time-only"))
    assert np.array_equal(full["step"], times["step"]) and np.array_equal(full["bytes_sent"], times["bytes_sent"])


# the command line
def test_the_option_and_what_inspect_says(path, tmp_path):
    (tmp_path / "run.toml").write_text(f'workers = {M}\nsteps = 30\n[task]\nkind = "quadratic"\npath = "{path}"\n')
    status, out, err = coopmpi("simulate", "run.toml", "--time-only", cwd=tmp_path)
    assert status == 0 and "virtual time" in out and "30/30" in out, err
    status, out, _ = coopmpi("inspect", "run.h5", cwd=tmp_path)
    assert status == 0 and "30 of 30" in out and "virtual time" in out and "evaluated" not in out
    status, out, _ = coopmpi("inspect", "run.h5", "--series", "virtual_time", cwd=tmp_path)
    assert len(out.splitlines()) == 31
    status, out, err = coopmpi("simulate", "run.toml", "--time-only", "--set", "period.kind=adacomm", cwd=tmp_path)
    assert status == 2 and "adacomm" in err and "Traceback" not in err


# arrays without numbers
@pytest.mark.parametrize("work", [
    lambda x: x + x, lambda x: 2 * x.T, lambda x: x[1:, None] * x[:1], lambda x: np.matmul(x, x.T), lambda x: x.sum(axis=0),
    lambda x: np.sqrt(x) > 1, lambda x: x.reshape(-1), lambda x: x.view("u1"), lambda x: np.stack([x, x]),
    lambda x: np.linalg.qr(x)[1], lambda x: np.swapaxes(x, 0, 1), lambda x: x.astype("f8"), lambda x: x / 3,
    lambda x: np.vdot(x[0], x[0]),
])
def test_shapes_and_types_are_those_of_numpy(work):
    real = work(np.ones((3, 4), np.float32))
    hollow = work(HollowArray((3, 4), "f4"))
    assert isinstance(hollow, HollowArray) and (hollow.shape, hollow.dtype) == (real.shape, real.dtype)


@pytest.mark.parametrize("work", [float, bool, np.asarray, lambda x: x.item(), lambda x: np.argsort(x)])
def test_what_needs_a_number_is_refused(work):
    with pytest.raises(UserError, match="only shapes"):
        work(HollowArray((1,), "f4"))
