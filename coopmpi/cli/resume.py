"""coopmpi resume: go on with a run that was stopped."""

import click

from coopmpi.cli import job


@click.command()
@click.argument("result", metavar="RUN.h5")
@click.option("-n", "--ranks", type=click.IntRange(min=1), help="Start this many MPI ranks with mpirun.")
@click.option("--quiet", is_flag=True, help="No progress, no summary.")
def command(result, ranks, quiet):
    """Go on with the run in RUN.h5 from the state it saved when a signal stopped it, in the same file.

    The number of ranks may differ from before. Rows beyond the saved state are dropped and written anew.

    \b
    coopmpi resume run.h5
    mpirun -n 4 coopmpi resume run.h5
    """
    if ranks is not None:
        _checkpoint(result).close()  # a mistake is told before any rank starts
        job.start(ranks, ["resume", result, *(["--quiet"] if quiet else [])])
    job.on_this_rank(lambda world: _resume(world, result, quiet))


def _resume(world, result, quiet):
    import tomllib

    from coopmpi import config
    from coopmpi.run.assemble import assemble, together

    checkpoint = together(world, lambda: _checkpoint(result))
    description = config.resolve(tomllib.loads(checkpoint.config_text))
    job.limit_threads(description, world.local_size)
    job.run(assemble(description, world), world, result, quiet, checkpoint)


def _checkpoint(result):
    from coopmpi.record.checkpoint import Checkpoint

    return Checkpoint(result)
