"""coopmpi check: does a class of your own keep to the contract?"""

import click

from coopmpi.errors import UserError

MARKS = {"holds": "ok", "broken": "BROKEN", "untried": "-"}


@click.command()
@click.argument("path", metavar="MODULE:NAME")
@click.option("--set", "overrides", metavar="TABLE.KEY=VALUE", multiple=True,
              help="A key of the run it is tried in, its own included; repeatable.")
def command(path, overrides):
    """Try the rules on an algorithm, graph, compressor, sink or problem of your own, and report rule by rule.

    The rules are those that the built-in ones are tested by. Exit status 2 if one is broken. The working directory is
    searched for the module.

    \b
    coopmpi check own_algorithm:GossipPGA
    coopmpi check own_algorithm:GossipPGA --set algorithm.average_every=2 --set workers=4
    coopmpi check own_task:RobustRegression --set task.options.features=5
    """
    from coopmpi.config import load
    from coopmpi.contract.candidates import candidate
    from coopmpi.contract.rules import verdicts

    what, rules, trial = candidate(path, load(None, overrides))
    click.echo(f"{path}: {what}")
    count = dict.fromkeys(MARKS, 0)
    for rule, state, why in verdicts(rules, trial):
        count[state] += 1
        click.echo(click.wrap_text(rule, 100, f"{MARKS[state]:<8}", " " * 8))
        if why:
            click.echo(click.wrap_text(why, 100, " " * 8 + "-> ", " " * 11))
    tried = f"{count['holds']} rules hold, {count['broken']} broken"
    click.echo(tried + (f", {count['untried']} not tried" if count["untried"] else ""))
    if count["broken"]:
        raise UserError(f"{path} does not keep to the contract")
