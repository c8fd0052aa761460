"""coopmpi simulate: the main job on virtual clocks."""

import click

from coopmpi.cli import job
from coopmpi.errors import UserError


@click.command()
@click.argument("description", metavar="[RUN.toml]", required=False)
@click.option("-o", "--output", metavar="SIM.h5",
              help="Result file; default: run.h5, run-2.h5, ... (the first free one).")
@click.option("--set", "overrides", metavar="TABLE.KEY=VALUE", multiple=True, help="Override a key; repeatable.")
@click.option("--machine", metavar="MACHINE.toml", help="Simulate on a machine that `coopmpi probe` has measured.")
@job.target_options
@click.option("--time-only", is_flag=True, help="Advance the clocks without computing any numbers: no data, no losses.")
@click.option("--dry-run", is_flag=True, help="Print the resolved run description and its cost, and stop.")
@click.option("--overwrite", is_flag=True, help="Replace an existing result file.")
@click.option("--quiet", is_flag=True, help="No progress, no summary.")
def command(description, output, overrides, machine, time_only, dry_run, overwrite, quiet, **targets):
    """Train a model in one process, on virtual clocks: how long it would take on another machine and network.

    The models are those of `coopmpi train` on one rank, bit for bit; [compute] and [network] say how long
    gradients and messages take. Without RUN.toml: handwritten digits, local SGD, 4 workers.

    \b
    coopmpi simulate RUN.toml -o sim.h5
    coopmpi simulate RUN.toml --set network.kind=delay --set network.seconds=9 --set compute.kind=exponential
    coopmpi simulate RUN.toml --time-only      the same virtual times, hundreds of times sooner
    """
    from coopmpi.drivers.mpi import launch
    from coopmpi.drivers.solo import Solo
    from coopmpi.run.assemble import assemble
    from coopmpi.run.threads import limit

    ranks = launch.launched_ranks()[1]
    if ranks > 1:
        raise UserError(f"simulate is one process that plays all workers, given {ranks} ranks; start it without "
                        "mpirun or srun")
    config = job.read(description, job.with_targets(overrides, targets), 1, machine)
    world, mode = Solo(), "time-only" if time_only else "simulate"
    limit(config, world.local_size)
    if dry_run:
        job.forecast(assemble(config, world, mode))
        return
    with job.result_file(output, overwrite, world) as (output, overwrite):
        job.run_assembled(assemble(config, world, mode), world, output, quiet, overwrite)
