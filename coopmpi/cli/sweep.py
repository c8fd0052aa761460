"""coopmpi sweep: many runs as one."""

import os
from pathlib import Path

import click

from coopmpi.cli.jobscript import form
from coopmpi.errors import UserError


@click.command()
@click.argument("description", metavar="SWEEP.toml")
@click.option("-o", "--output", metavar="SWEEP.h5", help="The file that collects all; default: the name of SWEEP.toml with .h5, in this folder.")
@click.option("--set", "overrides", metavar="TABLE.KEY=VALUE", multiple=True, help="Override a key of the sweep, as base.steps; repeatable.")
@click.option("--cores", type=click.IntRange(min=1), help="Cores to use, by default all; a run on several ranks takes one for each.")
@click.option("--retry", is_flag=True, help="Try runs again that crashed or were killed.")
@click.option("--overwrite", is_flag=True, help="Replace the file of another sweep.")
@click.option("--dry-run", is_flag=True, help="Print what is to be run, and stop.")
@click.option("--slurm", type=click.IntRange(min=1), metavar="TASKS", help="Print the job script of a Slurm array of so many tasks, and stop.")
@click.option("--time", metavar="HH:MM:SS", default="01:00:00", show_default=True, callback=form, help="Time limit of a task of the array.")
@click.option("--array", "task", is_flag=True, help="One of several processes at the same sweep: end when others do all that is left.")
@click.option("--quiet", is_flag=True, help="No progress, no ranking.")
def command(description, output, overrides, cores, retry, overwrite, dry_run, slurm, time, task, quiet):
    """Tune methods over grids, compare them in several settings and with several seeds, and rank them.

    Several runs go on at once. None is done twice: after Ctrl-C or a kill the same command goes on. Runs that diverge or crash are
    results, too.

    \b
    coopmpi sweep SWEEP.toml
    coopmpi compare SWEEP.h5
    coopmpi sweep SWEEP.toml --slurm 8 --cores 4 > sweep.sh && sbatch sweep.sh
    """
    from coopmpi.drivers.mpi import launch
    from coopmpi.sweep import ranking, session, slurm as jobscript
    from coopmpi.sweep.description import load
    from coopmpi.sweep.progress import Progress

    if launch.launched_ranks()[1] > 1:
        raise UserError("sweep is one process, which starts the ranks of its runs by itself; start it without mpirun or srun")
    sweep, text = load(description, overrides)
    output = output or Path(description).with_suffix(".h5").name
    session.check(sweep)
    if slurm:
        click.echo(jobscript.text(sweep, description, output, overrides, slurm, cores, time), nl=False)
        return
    if not quiet:
        for note in sweep.notes():
            click.echo(f"coopmpi: {note}", err=True)
    if dry_run:
        click.echo(ranking.outlook(sweep), nl=False)
        return
    written = not retry and _there(output, text, overwrite)
    if not written:
        with Progress(0 if quiet else launch.columns()) as progress:
            written = session.carry_out(sweep, text, output, cores or len(os.sched_getaffinity(0)), None if quiet else progress.show, task, retry)
    if not written:
        click.echo(f"coopmpi: all that is left is done by other processes; the last one writes {output}", err=True)
    elif not quiet:
        click.echo(ranking.screen(sweep, output), nl=False)


def _there(output, text, overwrite):
    """Is the whole sweep in that file already? UserError if the file is anything else, and may not be replaced."""
    from coopmpi.record import sweeps
    from coopmpi.record.writer import check_output

    if not os.path.isfile(output) or not sweeps.is_sweep(output):
        check_output(output, overwrite)
        return False
    with sweeps.open_sweep(output) as file:
        if sweeps.text(file) == text:
            return True
    if not overwrite:
        raise UserError(f"output {output!r} holds another sweep, or another version of this one; choose another -o, or pass --overwrite: runs "
                        "that are part of both are not done again")
    return False
