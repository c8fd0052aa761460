"""coopmpi algorithms: what there is, with keys and sources."""

import click

from coopmpi.cli.completion import names_of
from coopmpi.errors import UserError


@click.command()
@click.argument("name", required=False, shell_complete=names_of("algorithm"))
@click.option("--bibtex", is_flag=True, help="Print BibTeX entries only.")
@click.option("--parts", is_flag=True, help="List what else there is: optimizers, graphs, tasks, ...")
def command(name, bibtex, parts):
    """List the algorithms, or tell all about NAME (also your own: my_module:MyClass).

    \b
    coopmpi algorithms
    coopmpi algorithms easgd
    coopmpi algorithms --bibtex > coopmpi.bib
    coopmpi algorithms --parts
    """
    from coopmpi.report import catalogue

    if parts and (name or bibtex):
        raise UserError("--parts lists everything but the algorithms: leave NAME and --bibtex out")
    if bibtex:
        chosen = catalogue.references(catalogue.algorithm(name).bibtex if name else None)
        click.echo("\n\n".join(chosen.values()))
    elif parts:
        _print(catalogue.parts())
    elif name:
        _print(catalogue.story(name))
    else:
        _print([catalogue.overview(), "coopmpi algorithms NAME: all about one; --bibtex: the references; --parts: "
                                      "what else there is"])


def _print(things):
    from rich.console import Console

    console = Console(markup=False, highlight=False)
    for thing in things:
        console.print(thing, soft_wrap=isinstance(thing, str))
        console.print()
