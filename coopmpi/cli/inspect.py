"""coopmpi inspect: look into a result file."""

import click

from coopmpi.errors import UserError


@click.command()
@click.argument("path", metavar="RUN.h5")
@click.option("--series", metavar="NAME", help="Print a series, tab-separated: train/loss, accuracy, events, ...")
@click.option("--config", is_flag=True, help="Print the resolved run description.")
@click.option("--status", is_flag=True,
              help="Print one word: running (or cut off by a kill), finished, interrupted, failed.")
def command(path, series, config, status):
    """Summarise a result file, finished, being written, or cut off by a kill.

    \b
    coopmpi inspect run.h5
    coopmpi inspect run.h5 --series accuracy
    coopmpi inspect run.h5 --series train/wait_time > wait.tsv
    coopmpi inspect run.h5 --config > again.toml
    """
    from coopmpi.drivers.mpi import launch
    from coopmpi.report import inspect

    if bool(series) + config + status > 1:
        raise UserError("--series and --config and --status are different outputs: give one of them")
    for piece in inspect.texts(path, launch.width(), series, config, status):
        click.echo(piece, nl=False)
