"""coopmpi probe: measure this machine for a run, so that every strategy can be forecast."""

from pathlib import Path

import click

from coopmpi.cli import job
from coopmpi.drivers.join import on_this_rank
from coopmpi.errors import UserError


@click.command()
@click.argument("description", metavar="[RUN.toml]", required=False)
@click.option("-o", "--output", metavar="MACHINE.toml", default="machine.toml", show_default=True, help="Where to write what was found.")
@click.option("-n", "--ranks", type=click.IntRange(min=2), help="Start this many MPI ranks with mpirun.")
@click.option("--seconds", type=click.FloatRange(min=5), default=60.0, show_default=True, help="About how long it may take.")
@click.option("--set", "overrides", metavar="TABLE.KEY=VALUE", multiple=True, help="Override a key of RUN.toml; repeatable.")
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
@click.option("--show", metavar="MACHINE.toml", help="Say in words what a machine file holds, and stop.")
def command(description, output, ranks, seconds, overrides, overwrite, show):
    """Measure gradients of RUN.toml's own task, messages between the ranks, and all other work, as tables to simulate and plan with.

    \b
    coopmpi probe -n 4 RUN.toml -o machine.toml           4 MPI ranks, started here
    mpirun -n 64 coopmpi probe RUN.toml -o machine.toml   on the nodes that will train
    coopmpi probe --show machine.toml
    coopmpi simulate RUN.toml --machine machine.toml
    coopmpi plan RUN.toml --machine machine.toml --train-loss 0.1
    """
    if show:
        from coopmpi.planner import machine
        from coopmpi.report.machine import described

        click.echo(described(machine.load(show)))
        return
    if ranks is not None:
        from coopmpi.planner.probe import require_ranks

        require_ranks(job.read(description, overrides, ranks), ranks)
        _check(output, overwrite)
        again = [*([description] if description else []), "-o", output, f"--seconds={seconds}", *(f"--set={one}" for one in overrides),
                 *(["--overwrite"] if overwrite else [])]
        raise SystemExit(job.start(ranks, ["probe", *again]))
    on_this_rank(lambda world: _probe(world, description, output, seconds, overrides, overwrite))


def _check(output, overwrite):
    path = Path(output)
    if path.exists() and not overwrite:
        raise UserError(f"{output} exists; give --overwrite, or another name with -o")
    if not path.absolute().parent.is_dir():
        raise UserError(f"the folder of {output} does not exist")


def _probe(world, description, output, seconds, overrides, overwrite):
    from coopmpi.planner import machine
    from coopmpi.planner.probe import probe
    from coopmpi.run.assemble import together
    from coopmpi.run.threads import limit

    def read():
        if world.rank == 0:
            _check(output, overwrite)
        return job.read(description, overrides, world.size)

    config = together(world, read)
    limit(config, world.local_size)

    def tell(text):
        if world.rank == 0:
            click.echo(f"coopmpi: {text}", err=True)

    found = probe(config, world, seconds, tell)
    if world.rank == 0:
        Path(output).write_text(machine.text(found), encoding="utf-8")
        click.echo(f"coopmpi: {output} written; coopmpi probe --show {output} tells what is in it", err=True)
