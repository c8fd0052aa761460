"""The command line: one file per verb, loaded when it is called. The only package that imports click."""

import importlib
import os
import sys

import click

from coopmpi import __version__
from coopmpi.errors import CoopError, Interrupted, UserError, clean, unknown

# verb -> what --help says of it; the verb's file defines `command`
VERBS = {
    "train": "Train a model with a communication-efficient SGD, alone or under mpirun / srun.",
    "run": "Start a Python script on MPI ranks: a training loop of one's own, wrapped by coopmpi.torch.",
    "simulate": "Run the same description on virtual clocks: a network and stragglers of your choice.",
    "probe": "Measure this machine for a run: gradients, messages, all other work.",
    "plan": "Rank algorithms, periods, graphs, compressors and learning rates by their time to a target on a machine.",
    "sweep": "Tune methods over grids, compare them with several seeds, and rank them: many runs as one.",
    "resume": "Go on with a run that a signal stopped.",
    "watch": "Show how far a run is that goes on elsewhere.",
    "inspect": "Look into a result file, finished or being written.",
    "compare": "Rank result files: by the loss at the end, or by what it took to reach a target.",
    "plot": "Draw result files: curves, who waited when, the mixing graph; in the terminal, or as PDF, SVG, PNG, HTML.",
    "export": "Write the trained model (.safetensors, .pt, .npz), or the series as CSV, JSON lines, TensorBoard events.",
    "graph": "Degree, spectral gap, messages and bytes of a mixing choice.",
    "algorithms": "List the algorithms, their keys and their sources.",
    "check": "Try the rules on an algorithm, graph, compressor, sink or problem of your own.",
    "jobscript": "Print a Slurm job script that starts a run, goes on with it, and saves it in time.",
    "doctor": "Say what was found here: MPI, GPUs, HDF5, threads, and what to do about it.",
}


COMPLETE = "_COOPMPI_COMPLETE"  # a shell asks what may come next, or for the script that asks


class Verbs(click.Group):
    """Imports a verb's file only when the verb is called, so that --help stays instant."""

    def list_commands(self, context):
        return list(VERBS)

    def get_command(self, context, name):
        if name not in VERBS:
            return None
        command = importlib.import_module(f"coopmpi.cli.{name}").command
        if context.resilient_parsing:
            from coopmpi.cli.completion import complete_by_metavar

            complete_by_metavar(command)
        return command

    def resolve_command(self, context, arguments):
        if arguments and arguments[0] not in VERBS and not context.resilient_parsing:
            raise unknown("command", arguments[0], VERBS)
        return super().resolve_command(context, arguments)

    def format_commands(self, context, formatter):
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=Verbs, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="coopmpi")
@click.pass_context
def group(context):
    """Train models with communication-efficient SGD over MPI, and see which strategy is fastest on your cluster."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main():
    """Run a verb; a CoopError becomes one message and its exit status."""
    _open_what_is_closed()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # not every terminal has the signs of a curve
    if COMPLETE in os.environ:
        importlib.import_module("coopmpi.cli.completion")  # makes its shells known to click
    try:
        group(prog_name="coopmpi", standalone_mode=False)
        _give_up_a_broken_stdout()
    except CoopError as error:
        _end(str(error), error.status)
    except click.ClickException as error:
        _end(error.format_message(), UserError.status)
    except click.Abort:
        _end("interrupted", Interrupted.status)


def _open_what_is_closed():
    """A standard stream that was closed before the start: its number must not become that of a result file."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))


def _give_up_a_broken_stdout():
    """Whoever reads it may be gone, or its disk full: that is no failure of what was done."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _end(message, status):
    """Exit with one message: among ranks that all fail alike, rank 0 writes it."""
    if _rank() == 0:
        click.echo(f"coopmpi: {clean(message)}", err=True)
    sys.exit(status)


def _rank():
    from coopmpi.drivers.mpi.launch import launched_rank, launched_ranks

    if launched_ranks()[1] < 2:
        return 0
    from coopmpi.drivers.mpi.world import World

    world = World()
    if world.size == 1:
        return launched_rank()  # the launcher does not know this MPI
    return world.rank  # once MPI is initialised, no rank ends before rank 0 has written
