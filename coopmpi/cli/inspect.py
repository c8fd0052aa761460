"""coopmpi inspect: look into a result file."""

import click

from coopmpi.errors import UserError


@click.command()
@click.argument("path", metavar="RUN.h5")
@click.option("--series", metavar="NAME", help="Print a series, tab-separated: train/loss, accuracy, events, ...")
@click.option("--config", is_flag=True, help="Print the resolved run description.")
def command(path, series, config):
    """Summarise a result file, finished, being written, or cut off by a kill.

    \b
    coopmpi inspect run.h5
    coopmpi inspect run.h5 --series accuracy
    coopmpi inspect run.h5 --series train/wait_time > wait.tsv
    coopmpi inspect run.h5 --config > again.toml
    """
    from coopmpi.report import inspect

    if series and config:
        raise UserError("--series and --config are two different outputs: give one of them")
    if config:
        with inspect.opened(path) as file:
            click.echo(inspect.config_text(file), nl=False)
    elif series:
        with inspect.opened(path) as file:
            for piece in inspect.series(file, series):
                click.echo(piece, nl=False)
    else:
        inspect.show(path)
