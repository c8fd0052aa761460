"""coopmpi compare: rank result files."""

import click

from coopmpi.errors import UserError


@click.command()
@click.argument("paths", metavar="RUN.h5...", nargs=-1, required=True)
@click.option("--train-loss", type=float, metavar="NUMBER", help="What it took until this training loss was reached.")
@click.option("--loss", type=float, metavar="NUMBER", help="... this loss on held-out data.")
@click.option("--accuracy", type=float, metavar="SHARE", help="... this accuracy, 0.97 for 97 %.")
@click.option("--csv", "form", flag_value="csv", help="Print comma-separated values: mean, least and most.")
@click.option("--json", "form", flag_value="json", help="Print all numbers as JSON.")
@click.option("--latex", "form", flag_value="latex", help="Print a LaTeX tabular, with the lines of booktabs.")
def command(paths, train_loss, loss, accuracy, form):
    """Rank results of the same task: by the loss at the end, or by the seconds to a target.

    Files that differ only in the seed are one row, with mean, least and most. Targets are looked for in the evaluations.

    \b
    coopmpi compare *.h5
    coopmpi compare *.h5 --train-loss 0.1
    coopmpi compare *.h5 --accuracy 0.97 --latex > table.tex
    """
    from coopmpi.report import compare

    given = [(name, value) for name, value in (("train_loss", train_loss), ("loss", loss), ("accuracy", accuracy)) if value is not None]
    if len(given) > 1:
        raise UserError("--train-loss, --loss and --accuracy are different targets: give one of them")
    rows = compare.compared(paths, given[0] if given else None)
    if form is None and given:
        name, value = given[0]
        click.echo(f"until {name} {'>=' if name in compare.RISING else '<='} {value:g}, and figures at the end:")
    click.echo(getattr(compare, f"as_{form or 'table'}")(rows), nl=False)
