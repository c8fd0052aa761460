"""coopmpi train: the main job."""

import os
import sys
from pathlib import Path

import click

from coopmpi.errors import CoopError


@click.command()
@click.argument("description", metavar="[RUN.toml]", required=False)
@click.option("-o", "--output", metavar="RUN.h5", help="Result file; default: run.h5, run-2.h5, ... (the first free one).")
@click.option("-n", "--ranks", type=click.IntRange(min=1), help="Start this many MPI ranks with mpirun.")
@click.option("--set", "overrides", metavar="TABLE.KEY=VALUE", multiple=True, help="Override a key; repeatable.")
@click.option("--dry-run", is_flag=True, help="Print the resolved run description and what it will cost, and stop.")
@click.option("--overwrite", is_flag=True, help="Replace an existing result file.")
@click.option("--quiet", is_flag=True, help="No progress, no summary.")
def command(description, output, ranks, overrides, dry_run, overwrite, quiet):
    """Train a model. Without RUN.toml: handwritten digits, local SGD, 4 workers.

    \b
    coopmpi train RUN.toml -o run.h5           one process that hosts all workers
    coopmpi train -n 4 RUN.toml -o run.h5      4 MPI ranks, started here
    mpirun -n 4 coopmpi train RUN.toml         4 MPI ranks, started by you
    srun coopmpi train RUN.toml                under Slurm
    """
    from coopmpi.drivers.mpi import launch

    if ranks is not None:
        # a mistake is told before any rank starts
        _read(description, overrides, ranks)
        if not dry_run:
            output = _check_output(output, overwrite)
        again = [*([description] if description else []), *(["-o", output] if output else []),
                 *(f"--set={override}" for override in overrides), *(["--dry-run"] if dry_run else []),
                 *(["--overwrite"] if overwrite else []), *(["--quiet"] if quiet else [])]
        sys.exit(launch.start(ranks, ["train", *again], lambda text: click.echo(f"coopmpi: {text}", err=True)))

    if launch.launched_ranks()[1]:
        from coopmpi.drivers.mpi.world import connect

        world = connect()
    else:
        from coopmpi.drivers.solo import Solo

        world = Solo()
    try:
        _train(world, description, overrides, output, dry_run, overwrite, quiet)
    except CoopError as error:
        # all ranks raise alike, and one of them speaks
        if world.rank == 0:
            click.echo(f"coopmpi: {error}", err=True)
        sys.exit(error.status)
    except BaseException as error:
        world.abort(error)
        raise


def _train(world, description, overrides, output, dry_run, overwrite, quiet):
    """Everything from the run description to the summary, on one rank."""
    from coopmpi.drivers.assemble import assemble
    from coopmpi.report import console

    _limit_threads(world.local_size)
    config, error = None, None
    try:
        config = _read(description, overrides, world.size)
        if world.rank == 0 and not dry_run:
            output = _check_output(output, overwrite)
    except CoopError as found:
        error = found
    world.agree(error)
    assembly = assemble(config, world)
    if dry_run:
        from coopmpi.report.cost import describe

        if world.rank == 0:
            click.echo(describe(assembly))
        return

    from coopmpi.drivers.session import train

    watched = world.rank == 0 and not quiet
    watcher = console.Progress(assembly.run.steps) if watched else console.Silent()
    outcome = train(assembly, world, output, watcher)
    if watched:
        console.summary(assembly, world, outcome, output)


def _read(description, overrides, ranks):
    """The validated run description; the built-in run has 4 workers where nothing says otherwise."""
    from coopmpi import config

    tables = config.load(description, overrides)
    if description is None:
        tables.setdefault("workers", max(ranks, 4))
    return config.resolve(tables)


def _check_output(output, overwrite):
    """The name of the result file; UserError if it cannot be written."""
    from coopmpi.record.writer import check_output

    names = ["run.h5", *(f"run-{i}.h5" for i in range(2, 10000))]
    output = output or next(name for name in names if not Path(name).exists())
    check_output(output, overwrite)
    return output


def _limit_threads(ranks_here):
    """Share the cores of the node among its ranks: BLAS threads of one rank must not slow down the others."""
    from threadpoolctl import threadpool_limits

    threadpool_limits(max(1, len(os.sched_getaffinity(0)) // ranks_here))
