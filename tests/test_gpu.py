"""The GPU path on a GPU: numbers close to NumPy's, and copies that are safe while the GPU is busy."""

import os

import h5py
import numpy as np
import pytest

from coopmpi import config
from coopmpi.device.choice import choose
from coopmpi.device.host import Host
from coopmpi.drivers.solo import Solo
from coopmpi.run import step_log
from coopmpi.run.assemble import assemble
from coopmpi.run.loop import Trainer
from coopmpi.sinks import Sink
from tests.runs import VARIANTS, coopmpi, lockstep, settings, write_quadratic

cupy = pytest.importorskip("cupy", exc_type=ImportError)
import cupyx  # noqa: E402

from coopmpi.device import gpu  # noqa: E402

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not gpu.count(), reason="CuPy sees no GPU")]

WORKERS = 4
DIGITS = {"kind": "classify", "data": "digits", "hidden": [16], "batch": 8}
TEACHER = {"kind": "regress", "samples": 200, "features": 6, "outputs": 2, "hidden": [8], "batch": 8}
TASKS = [
    DIGITS, DIGITS | {"model": "linear"}, DIGITS | {"model": "cnn"},
    DIGITS | {"batch": 0, "partition": "dirichlet"}, TEACHER, TEACHER | {"batch": 0},
    {"kind": "quadratic", "path": "q.h5"},
]
OPTIMIZERS = [{"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}, {"kind": "adam", "weight_decay": 0.1}]


def tables(task, algorithm=VARIANTS["d-psgd"], optimizer={"momentum": 0.9}, **more):
    return {"workers": WORKERS, "steps": 20, "dtype": "float64", "task": task, "algorithm": algorithm,
            "period": {"tau": 3}, "optimizer": optimizer} | more


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_quadratic(tmp_path / "q.h5", WORKERS, noise=0.1)
    return tmp_path


def close_to_numpy(x, given):
    reference = lockstep(given | {"device": "cpu"}).state.x
    return np.allclose(x, reference, rtol=0, atol=1e-10 * abs(reference).max())


def busy():
    """Kernels for some tens of milliseconds, of which the host does not see the end."""
    square = cupy.ones((2048, 2048), "float64")
    for _ in range(50):
        square = cupy.matmul(square, square) * 0
    return square


@pytest.mark.parametrize("variant", VARIANTS)
def test_algorithms(variant):
    given = tables(DIGITS, VARIANTS[variant])
    assert close_to_numpy(lockstep(given | {"device": "gpu"}).state.x.get(), given)


@pytest.mark.parametrize("task", TASKS, ids=str)
def test_tasks(task):
    given = tables(task)
    assert close_to_numpy(lockstep(given | {"device": "gpu"}).state.x.get(), given)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_optimizers(optimizer):
    given = tables(DIGITS, optimizer=optimizer)
    assert close_to_numpy(lockstep(given | {"device": "gpu"}).state.x.get(), given)


@pytest.mark.mpi
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("buffers", ["staged", "direct"])
def test_mpi_ranks(buffers, variant, folder):
    if buffers == "direct" and os.environ.get("COOPMPI_TEST_CUDA_AWARE") != "1":
        pytest.skip("set COOPMPI_TEST_CUDA_AWARE=1 where MPI takes device pointers")
    given = tables(DIGITS, VARIANTS[variant])
    on_gpus = given | {"device": "gpu", "device_buffers": buffers}
    status, out, err = coopmpi("train", *settings(on_gpus), "-o", "run.h5", ranks=2, cwd=folder)
    assert status == 0, out + err
    with h5py.File(folder / "run.h5") as file:
        assert file.attrs["device"] == "gpu" and close_to_numpy(file["final/x"][:], given)


def test_gpus_are_dealt_out_by_local_rank():
    for local_rank in range(gpu.count() + 1):
        device = choose("gpu", local_rank)
        assert device.empty((1,), "float32").device.id == local_rank % gpu.count()
    choose("gpu", 0)


def test_weighted_sum():
    draw, host, device = np.random.default_rng(0), Host(), gpu.Gpu(0)
    rows, weights = list(draw.normal(size=(5, 200_000))), draw.dirichlet(np.ones(5)).tolist()
    expected, found = np.empty(200_000), cupy.empty(200_000)
    for some in (weights, [0.2] * 5):
        host.weighted_sum(rows, some, expected)
        device.weighted_sum([cupy.asarray(row) for row in rows], some, found)
        assert np.allclose(found.get(), expected, rtol=0, atol=1e-14)


def test_a_row_that_is_being_copied_is_not_recycled():
    device = gpu.Gpu(0)
    row = device.empty((1 << 20,), "float32")
    row[:] = 0  # compiles the kernel
    busy()
    row[:] = 3
    sent = device.outgoing(row)
    del row
    device.empty((1 << 20,), "float32")[:] = 4
    assert not sent.ready
    sent.wait()
    assert (sent.buffer == 3).all()


def test_a_pinned_buffer_is_not_recycled_before_the_gpu_has_read_it():
    device = gpu.Gpu(0)
    row = device.empty((1 << 20,), "float32")
    buffer = device.incoming(row)
    buffer[:] = 3
    busy()
    device.arrived(buffer, row)
    del buffer
    device.incoming(row)[:] = 4
    assert (row.get() == 3).all()


def test_mpi_writes_to_the_gpu_only_after_earlier_kernels():
    device = gpu.Gpu(0, "direct")
    row = device.empty((1 << 20,), "float32")
    busy()
    mark = device.clock()
    assert not mark.done
    assert device.incoming(row) is row and mark.done


def test_steps_and_their_record_do_not_wait_for_the_gpu(monkeypatch):
    monkeypatch.setattr(step_log, "PATIENCE", float("inf"))
    trainer = Trainer(assemble(config.resolve(tables(DIGITS, device="gpu")), Solo()), Sink())

    def step(k):
        trainer.context.at(k)
        trainer.driver.at(k)
        trainer.log.add(trainer.driver.drive(trainer.algorithm.step(trainer.state, trainer.context)), 0.0, 1, 0.1)

    step(0)  # compiles the kernels
    with cupyx.allow_synchronize(False):
        for k in range(1, step_log.BLOCK - 1):
            step(k)
