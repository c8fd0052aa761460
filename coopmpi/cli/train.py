"""coopmpi train: the main job."""

import os

import click

from coopmpi.cli import job, resume
from coopmpi.drivers.join import on_this_rank
from coopmpi.errors import UserError


@click.command()
@click.argument("description", metavar="[RUN.toml]", required=False)
@click.option("-o", "--output", metavar="RUN.h5",
              help="Result file; default: run.h5, run-2.h5, ... (the first free one).")
@click.option("-n", "--ranks", type=click.IntRange(min=1), help="Start this many MPI ranks with mpirun.")
@click.option("--restarts", type=click.IntRange(min=0), default=0,
              help="With -n: start the ranks again, from the newest checkpoint, this often if they end by accident.")
@click.option("--survive", is_flag=True,
              help="Go on with the ranks that are left when some are lost (Open MPI, with fault tolerance).")
@click.option("--plan", metavar="PLAN.h5", help="Take the best choice of a plan of `coopmpi plan`.")
@click.option("--set", "overrides", metavar="TABLE.KEY=VALUE", multiple=True, help="Override a key; repeatable.")
@job.target_options
@click.option("--dry-run", is_flag=True, help="Print the resolved run description and what it will cost, and stop.")
@click.option("--overwrite", is_flag=True, help="Replace an existing result file.")
@click.option("--continue", "go_on", is_flag=True,
              help="Go on with the run in -o RUN.h5 if it was cut off; start it (again) if it has no checkpoint; do nothing if it "
                   "is finished.")
@click.option("--quiet", is_flag=True, help="No progress, no summary.")
def command(description, output, ranks, restarts, survive, plan, overrides, dry_run, overwrite, go_on, quiet, **targets):
    """Train a model. Without RUN.toml: handwritten digits, local SGD, 4 workers.

    \b
    coopmpi train RUN.toml -o run.h5           one process that hosts all workers
    coopmpi train -n 4 RUN.toml -o run.h5      4 MPI ranks, started here
    mpirun -n 4 coopmpi train RUN.toml         4 MPI ranks, started by you
    srun coopmpi train RUN.toml                under Slurm
    """
    overrides = job.with_targets(overrides, targets)
    if go_on:
        before = _standing(output, overwrite, dry_run)
        if before.done:
            click.echo(f"coopmpi: {output} is finished")
            return
        if before.step:
            if ranks is not None:
                job.supervise(ranks, ["resume", output], output, quiet, restarts, survive)
            on_this_rank(lambda world: resume.go_on(world, output, (), quiet), survive)
            return
        overwrite = True
    if dry_run and ranks is not None:
        job.forecast_of_ranks(job.read(description, overrides, ranks, plan=plan), ranks)
        return
    if ranks is not None:
        from coopmpi.drivers.solo import Solo

        # a mistake is told before any rank starts
        job.read(description, overrides, ranks, plan=plan)
        with job.result_file(output, overwrite, Solo()) as (output, overwrite):
            again = [*([description] if description else []), "-o", output, *(f"--set={override}" for override in overrides),
                     *(["--overwrite"] if overwrite else []), *(["--plan", plan] if plan else [])]
            job.supervise(ranks, ["train", *again], output, quiet, restarts, survive)
    on_this_rank(lambda world: _train(world, description, overrides, plan, output, dry_run, overwrite, quiet), survive)


def _standing(output, overwrite, dry_run):
    """What --continue finds."""
    from coopmpi.run.resume import standing

    if output is None or overwrite or dry_run:
        raise UserError("--continue goes with -o RUN.h5, and without --overwrite and --dry-run")
    if os.path.exists(output):
        job.verify(output)
    return standing(output)


def _train(world, description, overrides, plan, output, dry_run, overwrite, quiet):
    """Everything from the run description to the summary, on one rank."""
    from coopmpi.run.assemble import assemble, together
    from coopmpi.run.threads import limit

    config = together(world, lambda: job.read(description, overrides, world.size, plan=plan))
    limit(config, world.local_size)
    if not dry_run:
        with job.result_file(output, overwrite, world) as (output, overwrite):
            job.run(config, world, output, quiet, overwrite)
        return
    assembly = assemble(config, world)
    if world.rank == 0:
        job.forecast(assembly)
