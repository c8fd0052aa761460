"""Runs that are started from Python: what `coopmpi train` and `coopmpi simulate` do, without a word on the screen."""

from coopmpi import config
from coopmpi.drivers.join import on_this_rank
from coopmpi.drivers.solo import Solo
from coopmpi.errors import UserError
from coopmpi.record.writer import check_output
from coopmpi.run import session
from coopmpi.run.assemble import assemble, together
from coopmpi.run.session import Outcome
from coopmpi.run.threads import limit


def train(tables: dict, output, overwrite: bool = False) -> Outcome:
    """Train as the tables of a run description say, on all ranks that mpirun or srun has started, or on this one alone.

    output: the result file. What comes back counts on rank 0. Raises CoopError on all ranks alike: UserError for what cannot be,
    Interrupted after a signal, NumericalFailure.
    """
    return on_this_rank(lambda world: _run(tables, world, "train", output, overwrite))


def simulate(tables: dict, output, overwrite: bool = False, time_only: bool = False) -> Outcome:
    """The same on virtual clocks, in this process alone. time_only: without any numbers. Raises CoopError."""
    return _run(tables, Solo(), "time-only" if time_only else "simulate", output, overwrite)


def _run(tables, world, mode, output, overwrite):
    if not isinstance(tables, dict):
        raise UserError(f"the tables of a run description are a dict, as tomllib gives it; given {tables!r:.100}")

    def read():
        if world.rank == 0:
            check_output(output, overwrite)
        return config.resolve(tables)

    resolved = together(world, read)
    limit(resolved, world.local_size)
    return session.train(assemble(resolved, world, mode), world, output, resolved.sinks, overwrite)
