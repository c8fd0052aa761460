"""coopmpi run: a script of the user's own, on MPI ranks."""

import os
import runpy
import sys

import click

from coopmpi.cli import job
from coopmpi.errors import CoopError, UserError


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("-n", "--ranks", type=click.IntRange(min=1), help="Start this many MPI ranks with mpirun.")
@click.argument("script", metavar="SCRIPT.py")
@click.argument("arguments", metavar="[ARGUMENTS]...", nargs=-1, type=click.UNPROCESSED)
def command(ranks, script, arguments):
    """Run a Python script whose training loop is wrapped by coopmpi.torch.wrap.

    \b
    coopmpi run -n 4 train.py --epochs 3       4 MPI ranks, started here
    mpirun -n 4 coopmpi run train.py           4 MPI ranks, started by you
    """
    if not os.path.isfile(script):
        raise UserError(f"script {script!r} does not exist")
    if ranks is not None:
        sys.exit(job.start(ranks, ["run", script, *arguments]))
    sys.argv = [script, *arguments]
    sys.path.insert(0, os.path.dirname(os.path.abspath(script)))
    try:
        runpy.run_path(script, run_name="__main__")
    except Exception as error:
        # wrap() replaces it, so that the other ranks end, too
        if isinstance(error, CoopError) and sys.excepthook is sys.__excepthook__:
            raise
        sys.excepthook(type(error), error, error.__traceback__)
        sys.exit(error.status if isinstance(error, CoopError) else 1)
