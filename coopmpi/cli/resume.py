"""coopmpi resume: go on with a run that was stopped."""

import click

from coopmpi.cli import job
from coopmpi.drivers.join import on_this_rank


@click.command()
@click.argument("result", metavar="RUN.h5")
@click.option("-n", "--ranks", type=click.IntRange(min=1), help="Start this many MPI ranks with mpirun.")
@click.option("--set", "overrides", metavar="TABLE.KEY=VALUE", multiple=True,
              help="Change steps, optimizer.lr, or a key of [stop], [record] or [checkpoint]; repeatable.")
@click.option("--survive", is_flag=True,
              help="Go on with the ranks that are left when some are lost (Open MPI, with fault tolerance).")
@click.option("--allow-code", is_flag=True, help="Import the modules that a result of another user names.")
@click.option("--quiet", is_flag=True, help="No progress, no summary.")
def command(result, ranks, overrides, survive, allow_code, quiet):
    """Go on with the run in RUN.h5 from its newest checkpoint, in the same file: after a signal, a failure, or a kill.

    The number of ranks may differ from before. Rows beyond the checkpoint are dropped and written anew. A finished run can
    be extended if its last state was kept: [checkpoint] keep_final = true.

    \b
    coopmpi resume run.h5
    coopmpi resume run.h5 --set steps=4000
    mpirun -n 4 coopmpi resume run.h5
    """
    job.verify(result)
    if ranks is not None:
        job.description_of(result, overrides, allow_code)  # a mistake is told before any rank starts
        again = [*(f"--set={override}" for override in overrides), *(["--allow-code"] if allow_code else [])]
        job.supervise(ranks, ["resume", result, *again], result, quiet, survive=survive)
    on_this_rank(lambda world: go_on(world, result, overrides, quiet, allow_code), survive)


def go_on(world, result, overrides, quiet, allow_code=False):
    """Everything from the checkpoint to the summary, on one rank."""
    from coopmpi.run.assemble import together
    from coopmpi.run.threads import limit

    description = together(world, lambda: job.description_of(result, overrides, allow_code))
    limit(description, world.local_size)
    job.run(description, world, result, quiet, resume=True)
