"""coopmpi algorithms: what there is, with keys and sources."""

import click

from coopmpi.cli.completion import names_of
from coopmpi.errors import UserError


@click.command()
@click.argument("name", required=False, shell_complete=names_of("algorithm"))
@click.option("--bibtex", is_flag=True, help="Print BibTeX entries only.")
@click.option("--all", "all_", is_flag=True, help="List the algorithms with their sources, keys, and the tables that they read.")
@click.option("--parts", is_flag=True, help="List what else there is: optimizers, graphs, tasks, ...")
def command(name, bibtex, all_, parts):
    """List the algorithms, or tell all about NAME (also your own: my_module:MyClass).

    \b
    coopmpi algorithms
    coopmpi algorithms --all
    coopmpi algorithms easgd
    coopmpi algorithms --bibtex > coopmpi.bib
    coopmpi algorithms --parts
    """
    from coopmpi.report import catalogue

    if parts and (name or bibtex or all_):
        raise UserError("--parts lists everything but the algorithms: leave NAME, --all and --bibtex out")
    if all_ and (name or bibtex):
        raise UserError("--all lists all algorithms: leave NAME and --bibtex out")
    if bibtex:
        chosen = catalogue.references(catalogue.algorithm(name).bibtex if name else None)
        click.echo("\n\n".join(chosen.values()))
    elif parts:
        _print(catalogue.parts())
    elif name:
        _print(catalogue.story(name))
    elif all_:
        _print([catalogue.everything()])
    else:
        _lines(catalogue.overview())


def _lines(families):
    from coopmpi.drivers.mpi import launch
    from coopmpi.report.text import wrapped

    width, room = launch.width(), max(len(name) for algorithms in families.values() for name, _ in algorithms)
    for family, algorithms in families.items():
        click.echo(_cut(family, width))
        for name, headline in algorithms:
            click.echo(_cut(f"  {name:<{room}}  {headline}", width))
        click.echo()
    more = "coopmpi algorithms NAME: all about one; --all: sources and keys; --parts: what else there is; --bibtex: the references"
    click.echo("\n".join(wrapped(more, width)))


def _cut(line, width):
    """The line, with dots at its end where it is longer."""
    return line if len(line) <= width else f"{line[:width - 3]}..."


def _print(things):
    from rich.console import Console

    console = Console(markup=False, highlight=False)
    for thing in things:
        console.print(thing, soft_wrap=isinstance(thing, str))
        console.print()
