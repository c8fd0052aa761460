"""The GPU path without a GPU: on simulated CuPy, runs give bit for bit the numbers of NumPy."""

from operator import iadd, setitem
from pathlib import Path
from unittest import mock

import h5py
import numpy as np
import pytest

from coopmpi.device.choice import choose
from coopmpi.device.pool import Pool
from coopmpi.errors import UserError
from coopmpi.run import step_log
from coopmpi.tasks.nn import models
from tests.guarded import FUNCTIONS, METHODS, Race, guarded, simulated
from tests.runs import VARIANTS, coopmpi, lockstep, read, settings, write_quadratic

WORKERS = 5  # not a multiple of the ranks
DIGITS = {"kind": "classify", "data": "digits", "hidden": [16], "batch": 8}
TEACHER = {"kind": "regress", "samples": 200, "features": 6, "outputs": 2, "hidden": [8], "batch": 8}
TASKS = {"digits": DIGITS, "quadratic": {"kind": "quadratic", "path": "q.h5"}}


def tables(task, algorithm=VARIANTS["local-sgd"], optimizer=None, **more):
    if optimizer is None:
        optimizer = {} if algorithm["kind"] == "sparq-sgd" else {"momentum": 0.9}
    return read({"workers": WORKERS, "steps": 25, "deterministic": True, "task": task, "algorithm": algorithm,
                 "period": {"tau": 3}, "optimizer": optimizer, "compress": {"kind": "sign-topk", "fraction": 0.2}} | more)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guarded")
    write_quadratic(folder / "q.h5", WORKERS, noise=0.1)
    return folder


@pytest.fixture
def gpu():
    """The module coopmpi.device.gpu on simulated GPUs."""
    with simulated():
        from coopmpi.device import gpu

        yield gpu


def same_numbers(given):
    host = lockstep(given | {"device": "cpu"})
    # sums of an evaluation depend on how many samples are taken at once
    with simulated(), mock.patch.object(models, "DEVICE_BLOCK", models.HOST_BLOCK):
        device = lockstep(given | {"device": "gpu"})
        assert device.context.device.name == "gpu"
        assert np.array_equal(device.state.x.get(), host.state.x)
        assert device.figures == host.figures and np.isfinite(host.state.x).all()


# the guarded type

A, HOST = guarded.asarray(np.arange(6.0).reshape(2, 3)), np.ones((2, 3))


@pytest.mark.parametrize("mixed", [
    lambda: A + HOST, lambda: HOST + A, lambda: A * HOST[0, 0] + HOST, lambda: A == HOST, lambda: iadd(A, HOST),
    lambda: iadd(HOST.copy(), A), lambda: HOST @ A.T, lambda: np.add(A, 1), lambda: np.sum(A), lambda: np.exp(A),
    lambda: np.stack([A]), lambda: memoryview(A), lambda: A.set([1.0]), lambda: guarded.matmul(A, HOST.T),
    lambda: np.asarray(A), lambda: np.multiply(HOST, 2, out=A), lambda: setitem(HOST.copy(), slice(None), A),
    lambda: setitem(A, slice(None), HOST), lambda: A[np.array([0])], lambda: setitem(A, np.array([0]), 1),
    lambda: guarded.add(A, HOST), lambda: guarded.stack([A, HOST]), lambda: guarded.exp(A, out=HOST),
    lambda: guarded.take(A, np.array([0]), axis=0), lambda: guarded.sum(A, where=A > 0),
    lambda: A.sum(initial=1.0),
])
def test_host_and_device_do_not_mix(mixed):
    with pytest.raises(TypeError):
        mixed()


def test_device_arrays_compute_like_numpy():
    x, host = guarded.asarray(np.arange(6.0).reshape(2, 3)), np.arange(6.0).reshape(2, 3)
    x += np.float64(2) * x  # scalars of the host are welcome
    host += 2 * host
    x[:, 1] = x[0, 0]
    host[:, 1] = host[0, 0]
    assert np.array_equal(guarded.matmul(x, x.swapaxes(0, 1)).get(), host @ host.T)
    assert [row.sum().item() for row in x] == host.sum(axis=1).tolist() and float(x.max()) == host.max()
    assert np.array_equal(x[guarded.asarray([1, 0])].get(), host[[1, 0]])


def test_a_view_keeps_its_owner_in_use():
    pool = Pool(guarded.empty)
    first = pool.empty((2, 3), np.float32)
    view, address = first[0].reshape(3, 1)[1:], first._values.ctypes.data
    del first
    assert pool.empty((2, 3), np.float32)._values.ctypes.data != address
    del view
    assert pool.empty((2, 3), np.float32)._values.ctypes.data == address


def test_cupy_has_all_that_the_guarded_module_has():
    cupy = pytest.importorskip("cupy")
    public = {name for name in vars(guarded) if not name.startswith("_")} - {"synchronisations", "device"}
    assert [name for name in public if not hasattr(cupy, name)] == []
    assert [name for name in METHODS if not hasattr(cupy.ndarray, name)] == []
    assert len(FUNCTIONS) == len(set(FUNCTIONS))


# copies that are late

def test_a_row_is_sent_when_its_copy_is_there(gpu):
    device = gpu.Gpu(0)
    row = guarded.asarray(np.arange(4.0))
    polled, waited = device.outgoing(row), device.outgoing(row)
    assert not polled.ready and np.isnan(polled.buffer).all() and polled.buffer is not waited.buffer
    while not polled.ready:
        pass
    waited.wait()
    assert waited.ready and np.array_equal(polled.buffer, row.get()) and np.array_equal(waited.buffer, row.get())


def test_a_row_that_is_being_copied_is_not_recycled(gpu):
    device = gpu.Gpu(0)
    row = device.empty((4,), "float32")
    row[:] = 3
    sent = device.outgoing(row)
    del row
    again = device.empty((4,), "float32")
    again[:] = 4
    sent.wait()
    assert (sent.buffer == 3).all()


def test_a_pinned_buffer_is_not_recycled_before_the_gpu_has_read_it(gpu):
    device, row = gpu.Gpu(0), guarded.zeros(4)
    buffer = device.incoming(row)
    buffer[:] = address = buffer.ctypes.data
    device.arrived(buffer, row)
    del buffer
    assert device.incoming(row).ctypes.data != address
    device.synchronize()
    assert device.incoming(row).ctypes.data == address and np.array_equal(row.get(), np.full(4, address))


def test_the_simulation_notices_races(gpu):
    device, row = gpu.Gpu(0), guarded.zeros(4)
    with pytest.raises(Race, match="does not wait"):
        row.get(stream=device.copies, out=np.empty(4), blocking=False)
    sent = device.outgoing(row)
    row += 1
    with pytest.raises(Race, match="overwritten while"):
        sent.wait()
    buffer = device.incoming(row)
    device.arrived(buffer, row)
    buffer[:] = 1
    with pytest.raises(Race, match="before it was read"):
        device.synchronize()
    start, end = device.clock(), device.clock()
    with pytest.raises(Race, match="NotReady"):
        guarded.cuda.get_elapsed_time(start, end)
    assert device.seconds(start, end) >= 0
    row += 1
    with pytest.raises(Race, match="before the computation"):
        row.__cuda_array_interface__


def test_direct_buffers_wait_for_kernels_on_both_sides_and_averages_are_staged(gpu):
    device, row = gpu.Gpu(0, "direct"), guarded.zeros(4)
    sent = device.outgoing(row)
    assert sent.buffer is row and not sent.ready
    sent.wait()
    assert sent.ready and row.__cuda_array_interface__["shape"] == (4,)
    row += 1
    assert device.incoming(row) is row and row.__cuda_array_interface__
    assert isinstance(device.staging.incoming(row), np.ndarray)
    assert device.staging.outgoing(row).buffer is not row


def test_gpus_are_dealt_out_by_local_rank(gpu):
    assert [choose("auto", local_rank=rank).index for rank in range(4)] == [0, 1, 0, 1]
    choose("gpu", local_rank=3, buffers="direct")
    assert guarded.device == 1


def test_without_a_driver_auto_means_cpu_and_gpu_is_refused(gpu, monkeypatch):
    def fail():
        raise guarded.cuda.runtime.CUDARuntimeError("cudaErrorInsufficientDriver")

    monkeypatch.setattr(guarded.cuda.runtime, "getDeviceCount", fail)
    assert choose("auto").name == "cpu"
    with pytest.raises(UserError, match="sees no GPU"):
        choose("gpu")


# runs

@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_algorithms_in_one_process(variant, task, folder, monkeypatch):
    monkeypatch.chdir(folder)
    same_numbers(tables(TASKS[task], VARIANTS[variant]))


@pytest.mark.parametrize("task", [
    DIGITS | {"model": "linear"}, DIGITS | {"model": "cnn"}, DIGITS | {"model": "resnet", "depth": 8},
    DIGITS | {"batch": 0, "partition": "dirichlet"},
    DIGITS | {"layers": [{"type": "dense", "width": 9}, {"type": "tanh"}]},
    TEACHER, TEACHER | {"model": "linear"}, TEACHER | {"batch": 0},
], ids=str)
def test_models_and_batches(task):
    same_numbers(tables(task, steps=6))


@pytest.mark.parametrize("optimizer", [
    {}, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}, {"weight_decay": 0.1},
    {"kind": "adam", "weight_decay": 0.1}, {"kind": "adamw", "weight_decay": 0.1, "no_decay": ["*.bias"], "clip_norm": 0.1},
    {"kind": "muon", "plain": ["3.*"]},
], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_optimizers(optimizer, dtype):
    same_numbers(tables(DIGITS, VARIANTS["d-psgd"], optimizer, dtype=dtype))


def test_recording_synchronises_once_per_block_of_steps(monkeypatch):
    monkeypatch.setattr(step_log, "PATIENCE", float("inf"))
    monkeypatch.setattr(step_log.StepLog, "look", lambda self: None)  # votes look for NaN, at times of their own

    def synchronisations(steps):
        before = guarded.synchronisations
        with simulated():
            lockstep(tables(DIGITS, VARIANTS["d-psgd"], steps=steps, device="gpu", record={"eval_every": 10**6}))
        return guarded.synchronisations - before

    blocks = -(-400 // step_log.BLOCK) - -(-200 // step_log.BLOCK)
    assert synchronisations(400) - synchronisations(200) == blocks


@pytest.fixture(scope="module")
def trained(folder):
    """Models that MPI ranks on simulated GPUs came to: {(ranks, buffers, algorithm, task): (device, x)}."""
    runs = {(2, "staged", variant, task): f"{variant}-{task}" for variant in VARIANTS for task in TASKS}
    runs |= {(2, "direct", variant, "digits"): f"{variant}-direct" for variant in ("d-psgd", "easgd-overlap")}
    runs |= {(4, "staged", "dpa", "digits"): "dpa-4"}
    for ranks in (2, 4):
        arguments = []
        for (size, buffers, variant, task), name in runs.items():
            if size == ranks:
                given = tables(TASKS[task], VARIANTS[variant], device="gpu", device_buffers=buffers)
                arguments += ["then", "train", *settings(given), "-o", f"{name}.h5", "--quiet"]
        status, out, err = coopmpi(*arguments, ranks=ranks, cwd=folder, main=("-m", "tests.guarded_main"),
                                   environment={"PYTHONPATH": str(Path(__file__).parents[1])})
        assert status == 0, out + err
    found = {}
    for run, name in runs.items():
        with h5py.File(folder / f"{name}.h5") as file:
            found[run] = file.attrs["device"], file["final/x"][:]
    return found


@pytest.mark.mpi
@pytest.mark.parametrize("ranks, buffers, variant, task", [
    *((2, "staged", variant, task) for variant in VARIANTS for task in TASKS),
    (2, "direct", "d-psgd", "digits"), (2, "direct", "easgd-overlap", "digits"), (4, "staged", "dpa", "digits"),
])
def test_algorithms_on_mpi_ranks(ranks, buffers, variant, task, trained, folder, monkeypatch):
    monkeypatch.chdir(folder)
    device, x = trained[ranks, buffers, variant, task]
    alone = lockstep(tables(TASKS[task], VARIANTS[variant], device="cpu"))
    assert device == "gpu" and np.array_equal(x, alone.state.x)
