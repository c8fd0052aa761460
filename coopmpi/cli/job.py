"""What the verbs that train have in common: ranks, the run description, the result file, the run itself."""

import os
import sys
from contextlib import ExitStack, contextmanager

import click

from coopmpi.errors import CoopError, Interrupted, UserError


TARGETS = {
    "train_loss": "Stop when the loss of the mean model on training data is at most this.",
    "loss": "Stop when its loss on held-out data is at most this.",
    "accuracy": "Stop when its accuracy on held-out data is at least this, a share of 1.",
    "minutes": "Stop after so many minutes of training, in a simulation of virtual time.",
}


def target_options(command):
    """Decorator: the options that stand for keys of the [stop] table."""
    for name, said in reversed(TARGETS.items()):
        command = click.option(f"--{name.replace('_', '-')}", name, type=float, metavar="NUMBER", help=said)(command)
    return command


def with_targets(overrides, targets):
    """The overrides, and those that {name of an option above: number, or None} stand for."""
    return [*overrides, *(f"stop.{name}={target!r}" for name, target in targets.items() if target is not None)]


def supervise(ranks, arguments, output, quiet=False, restarts=0, survive=False):
    """Start `coopmpi ARGUMENTS` on that many ranks, see them to their end, and exit with their status.

    arguments: those of train or resume, without -n. restarts: how often a run that ended by accident goes on from its
    newest checkpoint, or from the start where there is none yet. survive: the ranks outlive the loss of some of them.
    """
    from coopmpi.run.resume import Standing, standing

    arguments = [*arguments, *(["--quiet"] if quiet else []), *(["--survive"] if survive else [])]
    again = [word for word in arguments if word != "--overwrite"] + (["--continue"] if arguments[0] == "train" else [])
    attempts_in_vain, before = 0, None
    old = _file_at(output) if "--overwrite" in arguments else None
    while True:
        status = start(ranks, arguments, survive)
        if status in (UserError.status, Interrupted.status):
            break
        # a file that was to be replaced says nothing of this run
        where = Standing("missing") if old is not None and _file_at(output) == old else standing(output)
        if where.done:
            status = 0 if survive else status  # mpirun tells of the ranks that were lost
            break
        status = status or 1  # a lost node ends mpirun with 0
        if not where.by_accident:
            break
        if not restarts:
            if where.step:
                _note(f"the run ended by accident; coopmpi resume {output} -n {ranks} goes on from step {where.step}")
            break
        attempts_in_vain = attempts_in_vain + 1 if where.step == before else 0
        before = where.step
        if attempts_in_vain == 2:
            _note(f"gave up: two attempts have ended without a newer checkpoint than that of step {where.step}")
            break
        restarts -= 1
        _note(f"the run ended by accident (exit status {status}); it goes on from "
              f"{f'step {where.step}' if where.step else 'the start'}, {restarts} restarts are left")
        if where.status != "missing":
            arguments = again
    sys.exit(status)


def _file_at(path):
    """Tells a file from another of the same name; None: there is none."""
    return os.stat(path).st_ino if os.path.exists(path) else None


def start(ranks, arguments, survive=False):
    """`coopmpi ARGUMENTS` on that many ranks; the exit status of mpirun."""
    from coopmpi.drivers.mpi import launch
    from coopmpi.drivers.mpi.parent import Parent
    from coopmpi.report.progress import Progress
    from coopmpi.report.view import Display

    command, environment = launch.on_ranks(ranks, arguments, _note, survive)
    display = Display()

    def show(report):
        if report is None:
            display.close()
        else:
            display.show(Progress(**report))

    try:
        return Parent(command, environment, show).run()
    finally:
        display.close()


def _note(text):
    click.echo(f"coopmpi: {text}", err=True)


def read(description, overrides, ranks, machine=None, plan=None):
    """The validated run description; the built-in run has 4 workers where nothing says otherwise.

    machine: a file with the tables [compute] and [network] of coopmpi.planner.machine; plan: one of coopmpi.record.plan, of which
    the best choice is taken.
    """
    from coopmpi import config

    if plan is not None:
        tables = config.load(description) | chosen(plan)
        for override in overrides:
            config.set_key(tables, override)
    else:
        tables = config.load(description, overrides)
    if machine is not None:
        from coopmpi.planner.machine import load, require_fits

        found = load(machine)
        require_fits(found, machine, tables.get("workers"))
        tables |= found.tables()
    if description is None:
        tables.setdefault("workers", max(ranks, 4))
    return config.resolve(tables)


def chosen(plan):
    """The tables of the best choice of a plan; UserError if there is none."""
    import tomllib

    from coopmpi.record.plan import choices

    found = choices(plan)
    if not found:
        raise UserError(f"{plan}: no choice of this plan reaches its target")
    return tomllib.loads(found[0]["description"])


@contextmanager
def result_file(output, overwrite, world):
    """(name of the result file, may one of that name be replaced?), alike on all ranks; output: as it was given, None for a free name.

    UserError if it cannot be written.
    """
    from coopmpi.record.names import free_name
    from coopmpi.record.writer import check_output
    from coopmpi.run.assemble import together

    with ExitStack() as stack:
        def name():
            if output is not None and world.rank == 0:
                check_output(output, overwrite)
            return output or (stack.enter_context(free_name()) if world.rank == 0 else None)

        yield world.from_first(together(world, name)), overwrite or output is None


def verify(result):
    """UserError if a result file is damaged; before MPI starts, and on one rank of the job."""
    from coopmpi.drivers.mpi import launch
    from coopmpi.record import reader

    if launch.launched_rank() == 0:
        reader.verify(result)


def description_of(result, overrides, allow_code=False):
    """The run description of a run that goes on, with what is changed now; UserError if it cannot go on.

    allow_code: may modules be imported that a result of somebody else names?
    """
    from coopmpi import config
    from coopmpi.run.resume import continued

    tables = continued(result, overrides)
    require_own_code(result, tables, allow_code)
    return config.resolve(tables)


def require_own_code(result, tables, allow_code):
    """UserError for a result of somebody else whose tables name modules that would be imported."""
    from coopmpi import registry

    modules = registry.own_code(tables)
    if modules and os.stat(result).st_uid != os.geteuid() and not allow_code:
        raise UserError(f"{result} belongs to another user and would run code of the modules {', '.join(modules)} found here; "
                        "pass --allow-code if you trust it")


def forecast_of_ranks(config, ranks):
    """The forecast for rank 0 of so many ranks, none of which is started."""
    from coopmpi.run.assemble import assemble
    from coopmpi.run.cost import Rehearsal
    from coopmpi.run.threads import limit

    limit(config, 1)
    forecast(assemble(config, Rehearsal(0, ranks)))


def forecast(assembly):
    """Print the resolved run description, with what it will cost as comments: the output is a description too."""
    import tomllib

    from coopmpi import config, registry
    from coopmpi.run.cost import estimate

    cost, driver = estimate(assembly), assembly.driver
    text = config.dump(assembly.config)
    click.echo(text)
    for module in registry.own_code(tomllib.loads(text)):
        click.echo(f"# runs code of the module {module}")
    for note in assembly.notes:
        click.echo(f"# note: {note}")
    click.echo(f"# model: {driver.task.dimension} parameters, {len(driver.hosted)} workers on rank 0 of {driver.world.size}")
    click.echo(f"# a round every {cost.tau} steps; per worker and round: {cost.bytes_sent / 1e6:.4g} MB sent, "
               f"{cost.messages}")
    if assembly.stop.targets:
        click.echo(f"# stops when {' or '.join(assembly.stop.rules())}, looked at every {assembly.eval_every} steps")
    click.echo(f"# memory of rank 0: {sum(cost.memory.values()) / 1e6:.4g} MB")
    for name, nbytes in cost.memory.items():
        click.echo(f"#   {name:<26} {nbytes / 1e6:12.4g} MB")


def run(config, world, output, quiet, overwrite=False, resume=False):
    """Train, with progress and the closing table on rank 0; where the world is tolerant, with those that are left."""
    from coopmpi.run.assemble import assemble

    if world.tolerant:
        _run_and_survive(config, world, output, quiet, overwrite, resume)
    else:
        run_assembled(assemble(config, world), world, output, quiet, overwrite, resume)


def run_assembled(assembly, world, output, quiet, overwrite=False, resume=False):
    """The same for what is assembled already."""
    from coopmpi.run.session import train

    watched = world.rank == 0 and not quiet
    for note in assembly.notes if watched else ():
        _note(f"note: {note}")
    train(assembly, world, output, _sinks(assembly.config, watched), overwrite, resume)
    if watched:
        _closing(output)


def _run_and_survive(config, world, output, quiet, overwrite, resume):
    from coopmpi.run.survival import train_and_survive

    place, status = {"world": world}, 0
    try:
        train_and_survive(config, world, output, lambda: _sinks(config, not quiet), overwrite, resume, place)
        if place["world"].rank == 0 and not quiet:
            _closing(output)
    except CoopError as error:
        if not place["world"].losses:
            raise
        status = error.status
        if place["world"].rank == 0:
            _note(str(error))
    if place["world"].losses:
        # MPI_Finalize may wait for the ranks that are gone
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(status)


def _sinks(config, watched):
    from coopmpi.drivers.mpi import launch
    from coopmpi.report import console

    return [*([console.watcher(launch.columns(), launch.relayed())] if watched else []), *config.sinks]


def _closing(output):
    """The closing screen."""
    from coopmpi.drivers.mpi import launch
    from coopmpi.report.closing import closing

    try:
        click.echo(closing(output, launch.width()), nl=False)
    except OSError as error:  # stdout is closed or full: the result is in its file
        _note(f"the closing screen cannot be printed: {error.strerror}")
