"""coopmpi plan: which strategy reaches a target first on a machine."""

import signal
from pathlib import Path
from types import SimpleNamespace

import click

from coopmpi.drivers.join import on_this_rank
from coopmpi.errors import Interrupted, UserError

READY = 3  # run descriptions that are written


@click.command()
@click.argument("description", metavar="[RUN.toml]", required=False)
@click.option("--machine", metavar="MACHINE.toml", required=True, help="The machine, as `coopmpi probe` has written it.")
@click.option("--train-loss", type=float, metavar="NUMBER", help="The target: loss of the mean model on training data.")
@click.option("--loss", type=float, metavar="NUMBER", help="The target: its loss on held-out data.")
@click.option("--accuracy", type=float, metavar="NUMBER", help="The target: its accuracy on held-out data, a share of 1.")
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), default=10.0, show_default=True,
              help="Begin no further candidate after so many minutes.")
@click.option("--pilot", type=click.IntRange(min=1), help="Under mpirun: run the best so many for some rounds, and decide by their speed.")
@click.option("--on-ranks", is_flag=True, help="Under mpirun: train the candidates on the ranks; for tasks too large for one process.")
@click.option("-o", "--output", metavar="PLAN.h5", default="plan.h5", show_default=True,
              help="Where the plan goes; the curves of a plan that is there are used again.")
@click.option("--figure", metavar="FILE", help="Draw the best choices over predicted seconds: .pdf, .svg, .png or .html.")
@click.option("--set", "overrides", metavar="TABLE.KEY=VALUE", multiple=True, help="Override a key; repeatable.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
@click.option("--quiet", is_flag=True, help="No progress.")
def command(train_loss, loss, accuracy, **options):
    """Rank algorithms, periods, graphs, compressors and learning rates by the seconds that they take to a target.

    Their losses come from training on virtual clocks, their seconds from MACHINE.toml. The [plan] table of RUN.toml says what is
    tried; without it all algorithms are. PLAN-1.toml, ... are ready to train.

    \b
    coopmpi probe -n 4 RUN.toml -o machine.toml
    coopmpi plan RUN.toml --machine machine.toml --train-loss 0.1
    coopmpi train -n 4 RUN.toml --plan plan.h5
    mpirun -n 4 coopmpi plan RUN.toml --machine machine.toml --train-loss 0.1 --pilot 5
    """
    targets = {name: value for name, value in (("train_loss", train_loss), ("loss", loss), ("accuracy", accuracy)) if value is not None}
    if len(targets) != 1:
        raise UserError(f"plan takes one target: --train-loss, --loss or --accuracy; given {' and '.join(targets) or 'none'}")
    on_this_rank(lambda world: _plan(world, *targets.popitem(), SimpleNamespace(**options)))


def _plan(world, figure, value, options):
    """All of it on one rank, to a value of a figure."""
    from coopmpi import config
    from coopmpi.planner import machine as machines
    from coopmpi.planner.curves import Target
    from coopmpi.planner.plan import with_pilots
    from coopmpi.planner.ranks import Ranks
    from coopmpi.run.assemble import together

    target, ranked, machine = Target(figure, value), options.pilot or options.on_ranks, options.machine

    def tell(text):
        if world.rank == 0 and not options.quiet:
            click.echo(f"coopmpi: {text}", err=True)

    def read():
        if options.figure:
            from coopmpi.report.plot.figure import require_output

            require_output(options.figure)
        tables, found = config.load(options.description, options.overrides), machines.load(machine)
        machines.require_fits(found, machine, tables.get("workers"))
        if ranked and world.size != found.about.ranks:
            raise UserError(f"{'--pilot' if options.pilot else '--on-ranks'} runs on the {found.about.ranks} ranks that {machine} tells of, given "
                            f"{world.size}: mpirun -n {found.about.ranks} coopmpi plan ...")
        if world.size > 1 and not ranked:
            raise UserError(f"plan is one process, given {world.size} ranks; ranks are for --pilot and --on-ranks")
        return tables, found

    def search():
        ranks = Ranks(world, target) if options.on_ranks else None
        if world.rank:
            return ranks.serve() if ranks else world.wait_for_first()
        try:
            return _searched(*read_in, target, options, tell, ranks)
        finally:
            ranks.dismiss() if ranks else world.wait_for_first()

    read_in = together(world, read)
    found = together(world, search)
    if options.pilot:
        found = with_pilots(found, world, options.pilot, tell)
    if world.rank == 0:
        _write(found, options.output, tell)
        if options.figure and found.choices:
            _draw(found, options.figure)
        click.echo(_text(found, options.as_json))


def _searched(tables, machine, target, options, tell, ranks):
    """The plan; where a signal ends the search, its curves are kept for the next one."""
    from coopmpi.planner.plan import plan

    output, known = options.output, _known(options.output)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return plan(tables, machine, target, options.minutes, known, tell, ranks)
    except KeyboardInterrupt as error:
        _save(output, {}, {}, {}, dict(known))
        raise Interrupted(f"stopped; {output} keeps the {len(known)} curves so far, from which the same command goes on") from error


def _known(output):
    from coopmpi.planner.curves import Curve
    from coopmpi.record import plan as record

    if not Path(output).exists():
        return {}
    return {key: Curve(steps, values, [], end) for key, (steps, values, end) in record.curves(output).items()}


def _text(found, as_json):
    from coopmpi.drivers.mpi import launch
    from coopmpi.report import plan as report

    return report.as_json(found) if as_json else report.shown(found, launch.columns() or None)


def _draw(found, path):
    from coopmpi.report.plot import figure, lines
    from coopmpi.report.plot.plan import panels

    drawn = panels(found)
    with figure.look(None):
        figure.save(lines.draw(drawn, None), path, "; ".join(panel.caption for panel in drawn))


def _write(found, output, tell):
    import tomli_w

    from coopmpi.planner import machine as machines
    from coopmpi.report import plan as report

    target = {"figure": found.target.figure, "target": found.target.value, "seconds_of_planning": found.took}
    ready = [tomli_w.dumps(choice.description(found.target)) for choice in found.choices]
    columns = {name: [getattr(choice, name) for choice in found.choices] for name in
               ("label", "lr", "seconds", "low", "high", "per_step", "steps", "seeds", "sent", "gradient", "other", "network", "tie", "edge")}
    texts = {"machine": machines.text(found.machine), "answer": report.as_json(found)}
    _save(output, target, texts, columns | {"description": ready} if ready else {}, found.known)
    for number, text in enumerate(ready[:READY], start=1):
        Path(f"{Path(output).with_suffix('')}-{number}.toml").write_text(text, encoding="utf-8")
    tell(f"{output} written{f', with {Path(output).stem}-1.toml and the next ones ready to train' if ready else ''}")


def _save(output, attributes, texts, columns, known):
    from coopmpi.record import plan as record

    record.save(output, attributes, texts, columns, {key: (curve.steps, curve.values, curve.end) for key, curve in known.items()})
