"""coopmpi graph: what a communication graph costs, and how fast it brings the workers together."""

from typing import NamedTuple

import click

from coopmpi.cli.completion import names_of
from coopmpi.errors import UserError, clean, quoted
from coopmpi.ranges import LARGEST_RUN

ITEMSIZE = {"float32": 4, "float64": 8}
LARGEST_MODEL = 1e15  # parameters


@click.command("graph", context_settings={"ignore_unknown_options": True})
@click.argument("graph", required=False, shell_complete=names_of("graph"))
@click.argument("keys", nargs=-1, type=click.UNPROCESSED, metavar="[--KEY VALUE]...")
@click.option("-m", "--workers", type=click.IntRange(1, LARGEST_RUN),
              help="Number of workers.  [default: 8, or as in the file]")
@click.option("--weights", default="metropolis", show_default=True, help="metropolis, uniform or best-constant.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Of the random graphs.")
@click.option("--size", type=click.FloatRange(min=1), default=1e6, show_default="1e6",
              help="Parameters of the model.")
@click.option("--dtype", type=click.Choice(list(ITEMSIZE)), default="float32", show_default=True)
@click.option("--save", type=click.Path(dir_okay=False), metavar="W.npy|W.h5", help="Write the mixing matrix.")
def command(graph, keys, workers, weights, seed, size, dtype, save):
    """Degree, spectral gap, messages and bytes of GRAPH: a built-in name, a file (edge list "i j" or "i j w",
    .graphml, or a mixing matrix in .npy or .h5), or your own as package.module:Class.

    After it come its own keys, as in [mixing]; `coopmpi algorithms --parts` lists those of the built-in graphs. An edge
    list takes --directed: "i j" is i sends to j, not j to i. Without GRAPH, all built-in graphs are compared.

    \b
    coopmpi graph
    coopmpi graph ring -m 16 --weights best-constant
    coopmpi graph torus -m 12 --shape 3 4 --save W.npy
    coopmpi graph matcha --base torus --budget 0.4
    coopmpi graph my_edges.txt
    coopmpi graph my_arrows.txt --directed
    """
    if not size <= LARGEST_MODEL:
        raise UserError(f"--size must be a number of parameters from 1 to {LARGEST_MODEL:g}, given {size}")
    model_bytes = round(size) * ITEMSIZE[dtype]
    model = f"{size:,.0f} {dtype} parameters"
    if graph and not graph.startswith("-"):
        mixing = bind(graph, workers, seed, weights, own_keys(keys))
        if save:
            _save(mixing, save)
        _print(_sheet(mixing, model_bytes, model))
    elif graph or save:
        raise UserError(f"{graph or '--save'} belongs to one graph: name it first, as in: coopmpi graph ring "
                        f"{graph or '--save W.npy'}")
    else:
        _print(*_comparison(workers or 8, seed, weights, model_bytes, model))


def own_keys(words):
    """{key: value} of the words --key value ...: several values make a list, none stands for true."""
    from coopmpi.config import toml_value

    found = {}
    for word in words:
        if word.startswith("--"):
            key, *values = word.removeprefix("--").split("=", 1)
            found[key.replace("-", "_")] = values
        elif found:
            found[key.replace("-", "_")].append(word)
        else:
            raise UserError(f"one graph at a time, given {quoted(word)} as well")
    values = {key: [toml_value(word) for word in given] for key, given in found.items()}
    return {key: True if not given else given[0] if len(given) == 1 else given for key, given in values.items()}


def bind(graph, workers, seed, weights, keys):
    """The MixingMatrix of a graph by its name with its own keys; workers None: as in its file, else 8."""
    from coopmpi.topology.graphs import GraphFile
    from coopmpi.topology.mixing import mixing_table

    mixing = mixing_table(graph=graph, weights=weights, **keys)
    if workers is None:
        workers = mixing.graph.size() if isinstance(mixing.graph, GraphFile) else 8
    return mixing.bind(workers, seed)


def _save(mixing, path):
    from coopmpi.topology import files

    if not mixing.fixed:
        does = f"goes through {mixing.cycle} in turn" if mixing.cycle else "draws another in every round"
        raise UserError(f"--save holds one matrix, but {mixing.description} {does}")
    files.write(path, mixing.matrix(0))


class Figures(NamedTuple):
    """What one mixing choice costs and does. Degrees and bytes are means over the rounds of a cycle."""

    least: float
    mean: float
    most: float  # degree of the busiest worker
    zeta: float
    rounds: float  # until the disagreement is ten times smaller
    bytes: float  # that the busiest worker sends in a round


def _figures(mixing, model_bytes):
    from coopmpi.topology import spectra

    topology = mixing.topology
    alike = 1 if topology.regular else mixing.workers
    degrees = [topology.mean_degree(i) for i in range(alike)]
    share = _all_reduce_share(mixing.workers) if mixing.average(0) else max(degrees)
    zeta = spectra.cycle_zeta(mixing)
    return Figures(min(degrees), sum(degrees) / alike, max(degrees), zeta,
                   spectra.rounds_to_shrink(10, zeta, mixing.cycle or 1), share * model_bytes)


def _all_reduce_share(workers):
    # a ring all-reduce sends 2 (m - 1) / m models per worker
    return 2 * (workers - 1) / workers


def _sheet(mixing, model_bytes, model):
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    m, f = mixing.workers, _figures(mixing, model_bytes)
    links = f.mean * m
    table = Table(title=escape(clean(mixing.description)), title_justify="left", box=box.SIMPLE, show_header=False)
    table.add_row("links", f"{links:g} directed" if mixing.topology.directed else f"{links / 2:g}, both ways")
    table.add_row("degree", f"{f.most:g} at every worker" if mixing.topology.regular
                  else f"{f.least:g} to {f.most:g}, mean {f.mean:.3g}")
    if mixing.cycle is None:
        table.add_row("cycle", "none: every round draws its links, zeta is that of one in the mean square")
    elif mixing.cycle > 1:
        table.add_row("cycle", f"{mixing.cycle} rounds with a matrix each, zeta is that of their product")
    table.add_row("zeta = ||W - J||_2", _number(f.zeta))
    table.add_row("spectral gap 1 - zeta", _number(1 - f.zeta))
    table.add_row("rounds to disagree 10x less", _rounds(f.rounds))
    all_reduce = _size(_all_reduce_share(m) * model_bytes)
    if mixing.average(0):
        table.add_row("messages per round", "one all-reduce (W averages over all workers)")
        table.add_row("sent per worker and round", f"{all_reduce}, 2 (m-1)/m models ({model})")
    else:
        busiest = "" if mixing.topology.regular else f", {f.most:g} at the busiest"
        table.add_row("messages per round", f"{f.mean:.3g} per worker{busiest}, {links:g} in all")
        busiest = "" if mixing.topology.regular else f", {_size(f.bytes)} at the busiest"
        table.add_row("sent per worker and round", f"{_size(f.mean * model_bytes)}{busiest} ({model})")
        table.add_row("a ring all-reduce instead", f"{all_reduce} in {2 * (m - 1)} steps, 2 (m-1)/m models")
    return table


def _comparison(workers, seed, weights, model_bytes, model):
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from coopmpi.registry import parts

    table = Table(title=escape(clean(f"workers = {workers}, weights = {weights}, {model}")), title_justify="left",
                  box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("graph", no_wrap=True)
    for heading in ("degree", "zeta", "gap", "rounds\nto 1/10", "sent per\nround", "sent\nto 1/10"):
        table.add_column(heading, justify="right")
    impossible = []
    for name in parts("graph"):
        try:
            f = _figures(bind(name, workers, seed, weights, {}), model_bytes)
        except UserError as error:
            impossible.append(f"[bold]{name}[/bold]: {escape(clean(str(error)))}")
            continue
        degree = f"{f.most:g}" if f.least == f.most else f"{f.least:g}-{f.most:g}"
        whole_rounds = -(-f.rounds // 1)
        table.add_row(name, degree, _number(f.zeta), _number(1 - f.zeta), _rounds(f.rounds), _size(f.bytes),
                      _size(whole_rounds * f.bytes))
    if not table.row_count:
        bind("ring", workers, seed, weights, {})  # raises the error that all graphs have in common
    notes = ("zeta = ||W - J||_2 over a cycle of rounds, gap = 1 - zeta; to 1/10: until the workers disagree ten "
             "times less; sent: by the busiest worker, an all-reduce where W averages over all workers.")
    return table, notes, *impossible


def _number(value):
    return f"{value:.4f}" if value > 1e-3 or value < 1e-12 else f"{value:.1e}"


def _rounds(rounds):
    return "never" if rounds == float("inf") else f"{rounds:.1f}" if rounds < 1000 else f"{rounds:,.0f}"


def _size(count):
    from rich.filesize import decimal

    return "-" if count == float("inf") else decimal(round(count))


def _print(*renderables):
    from rich.console import Console

    console = Console(highlight=False)
    for renderable in renderables:
        console.print(renderable)
