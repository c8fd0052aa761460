"""coopmpi train: the main job."""

import os
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
        launch.start(ranks, ["train", *again], lambda text: click.echo(f"coopmpi: {text}", err=True))

    if launch.launched_ranks()[1]:
        from coopmpi.drivers.mpi.world import connect

        world = connect()
    else:
        from coopmpi.drivers.solo import Solo

        world = Solo()
    try:
        _train(world, description, overrides, output, dry_run, overwrite, quiet)
    except CoopError:
        raise  # on all ranks alike
    except BaseException as error:
        world.abort(error)
        raise


def _train(world, description, overrides, output, dry_run, overwrite, quiet):
    """Everything from the run description to the summary, on one rank."""
    from coopmpi.drivers.assemble import assemble, together
    from coopmpi.drivers.mpi import launch
    from coopmpi.report import console

    def read():
        config = _read(description, overrides, world.size)
        return config, _check_output(output, overwrite) if world.rank == 0 and not dry_run else None

    config, output = together(world, read)
    _limit_threads(config, world.local_size)
    assembly = assemble(config, world)
    if dry_run:
        if world.rank == 0:
            _forecast(assembly)
        return

    from coopmpi.drivers.session import train

    watched = world.rank == 0 and not quiet
    watcher = console.watcher(assembly.run.steps, launch.columns()) if watched else console.Silent()
    outcome = train(assembly, world, output, watcher)
    if watched:
        console.summary(assembly, world, outcome, output)


def _forecast(assembly):
    """Print the resolved run description, with what it will cost as comments: the output is a run description too."""
    from coopmpi import config
    from coopmpi.drivers.cost import estimate

    cost = estimate(assembly)
    click.echo(config.dump(assembly.config))
    size = assembly.driver.task.dimension
    driver = assembly.driver
    click.echo(f"# model: {size} parameters, {len(driver.hosted)} workers on rank 0 of {driver.world.size}")
    click.echo(f"# a round every {cost.tau} steps; per worker and round: {cost.bytes_sent / 1e6:.4g} MB sent, "
               f"{cost.messages}")
    click.echo(f"# memory of rank 0: {sum(cost.memory.values()) / 1e6:.4g} MB")
    for name, nbytes in cost.memory.items():
        click.echo(f"#   {name:<26} {nbytes / 1e6:12.4g} MB")


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


def _limit_threads(config, ranks_here):
    """Share the cores of the node among its ranks; one thread each where sums must not depend on their number."""
    from threadpoolctl import threadpool_info, threadpool_limits

    share = 1 if config.deterministic else max(1, len(os.sched_getaffinity(0)) // ranks_here)
    threadpool_limits({pool["prefix"]: min(share, pool["num_threads"]) for pool in threadpool_info()})
