"""coopmpi plot: pictures of result files."""

import tomllib

import click

from coopmpi.errors import UserError, clean


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("words", metavar="RUN.h5...", nargs=-1, type=click.UNPROCESSED)
@click.option("-x", "axis", default="time", show_default=True, metavar="AXIS",
              help="steps, epochs, time (virtual in a simulation), bytes; or a key, as period.tau: a point for the end of each run.")
@click.option("-y", "figures", multiple=True, metavar="SERIES",
              help="A series of the file, as train/loss or accuracy; repeatable, a panel each.  [default: eval/loss, eval/accuracy]")
@click.option("-o", "--output", type=click.Path(), metavar="FILE", help=".pdf, .svg, .png or .html; default: the terminal.")
@click.option("--paper", "paper", flag_value="single", help="One column of a paper wide, serif, lines that differ in grey.")
@click.option("--paper-double", "paper", flag_value="double", help="The same, two columns wide.")
@click.option("--smooth", type=click.IntRange(1), metavar="STEPS",
              help="Mean over so many steps of series of the steps, 1 for none.  [default: a 40th of the run]")
@click.option("--log", type=click.Choice(["x", "y", "xy", "none"]), help="Logarithmic axes.  [default: as the numbers ask for]")
@click.option("--whole", is_flag=True, help="Leave nothing out: by default a steep beginning that hides the end is left out.")
@click.option("--timeline", is_flag=True, help="Who computed, waited and sent when, of one result file.")
@click.option("--steps", metavar="FIRST:LAST", help="... in these steps.  [default: some periods in the middle]")
@click.option("--graph", is_flag=True, help="The mixing graph and its spectrum, of RUN.h5, RUN.toml or as in coopmpi graph.")
@click.option("-m", "--workers", type=click.IntRange(1), help="... of so many workers.")
@click.option("--weights", help="... with such weights: metropolis, uniform or best-constant.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="... drawn with this seed.")
@click.option("--allow-code", is_flag=True, help="... importing the modules that a result of another user names.")
def command(words, output, paper, timeline, steps, graph, workers, weights, seed, allow_code, **curves):
    """Draw the curves of result files: files that differ only in the seed are one line, with a band from least to most.

    \b
    coopmpi plot *.h5
    coopmpi plot *.h5 -x bytes -y train/loss -o loss.pdf --paper
    coopmpi plot *.h5 -x period.tau -o tau.svg
    coopmpi plot --timeline run.h5 -o timeline.png
    coopmpi plot --graph run.h5 -o graph.pdf
    coopmpi plot --graph torus -m 12 --shape 3 4 -o torus.pdf
    """
    from coopmpi.report.plot import figure

    _require_one_kind(words, timeline, steps, graph, workers, weights, seed)
    if output:
        from coopmpi.record.writer import check_output

        figure.require_output(output)
        check_output(output, overwrite=True)
    if graph:
        _graph(words, workers, weights, seed, allow_code, output, paper)
    elif timeline:
        _timeline(words[0], steps, output, paper)
    else:
        _curves(words, output, paper, curves)


def _require_one_kind(words, timeline, steps, graph, *of_graph):
    """UserError for options that do not belong together."""
    if timeline and graph:
        raise UserError("--timeline and --graph are different pictures: give one of them")
    if not words:
        raise UserError("give result files, as in: coopmpi plot *.h5")
    if not graph:
        options = [word for word in words if word.startswith("-")]
        if options:
            raise click.NoSuchOption(options[0].partition("=")[0], possibilities=_near(options[0]))
        if any(value is not None for value in of_graph):
            raise UserError("-m, --weights and --seed belong to --graph")
    if steps and not timeline:
        raise UserError("--steps belongs to --timeline")
    if timeline and len(words) > 1:
        raise UserError(f"--timeline is of one result file, given {len(words)}")


def _near(option):
    from difflib import get_close_matches

    return get_close_matches(option.partition("=")[0], [name for parameter in command.params for name in parameter.opts], n=1)


def _curves(paths, output, paper, options):
    from coopmpi.report.plot import curves, figure, lines, terminal

    panels = curves.panels(paths, options["axis"], options["figures"], options["smooth"], options["log"], options["whole"])
    if not output:
        console = _console()
        click.echo(terminal.shown(panels, console.width, console.is_terminal and not console.no_color), nl=False)
        return
    with figure.look(paper):
        _save(lines.draw(panels, paper), output, "; ".join(panel.caption for panel in panels))


def _timeline(path, steps, output, paper):
    from coopmpi.report.plot import figure, timeline, workers

    if not output:
        click.echo(workers.shown(timeline.timeline(path, steps, workers.LINES), _console().width), nl=False)
        return
    found = timeline.timeline(path, steps)
    with figure.look(paper):
        _save(workers.draw(found, paper), output, found.caption)


def _graph(words, workers, weights, seed, allow_code, output, paper):
    from coopmpi.report.plot import figure, graph, network

    if not output:
        raise UserError("--graph needs -o FILE for the picture; in words: coopmpi graph")
    found = network.network(_mixing(words, workers, weights, seed, allow_code))
    with figure.look(paper):
        _save(graph.draw(found, paper), output, found.caption)


def _save(drawn, output, caption):
    from coopmpi.report.plot import figure

    figure.save(drawn, output, caption)
    click.echo(clean(f"{output}: {caption}"))


def _console():
    from rich.console import Console

    return Console()


def _mixing(words, workers, weights, seed, allow_code):
    """The MixingMatrix of a result file, of a run description, or of a graph with its keys."""
    from coopmpi import config
    from coopmpi.cli import graph, job
    from coopmpi.record.reader import description_of

    name, *keys = words
    description = description_of(name)
    if not name.endswith(".toml") and description is None:
        return graph.bind(name, workers, seed or 0, weights or "metropolis", graph.own_keys(keys))
    if keys or weights or seed is not None or (workers and description):
        raise UserError(f"{name} says itself which graph it has: leave out {' '.join(keys) or '-m, --weights and --seed'}")
    tables = tomllib.loads(description) if description else config.load(name)
    if description:
        job.require_own_code(name, tables, allow_code)
    run = config.resolve(tables)
    if not run.algorithm.uses_mixing:
        raise UserError(f"{name}: {run.algorithm.name} reads no [mixing]: it has no graph")
    if not (workers or run.workers):
        raise UserError(f"{name} does not say how many workers there are: add -m")
    return run.algorithm.bind_mixing(run.mixing, workers or run.workers, run.seed)
