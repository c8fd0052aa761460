"""A sweep from its first run to its file."""

from collections.abc import Callable, Iterator
from time import monotonic, sleep

from coopmpi import config
from coopmpi.errors import CoopError, Interrupted, UserError
from coopmpi.record import sweeps
from coopmpi.report.runs import read_runs
from coopmpi.run.assemble import checked_mixing
from coopmpi.sweep import score
from coopmpi.sweep.crew import Crew
from coopmpi.sweep.description import Sweep, mistakes_of
from coopmpi.sweep.folder import Folder
from coopmpi.sweep.plan import Job, Plan, Result

TICK = 0.1  # seconds between two looks at the own runs
LOOK = 2.0  # ... and at those of other processes that carry out the same sweep


def check(sweep: Sweep):
    """UserError for a run description that would be refused, as far as that can be told without data."""
    pairs = set()
    for job in Plan(sweep).jobs:
        with mistakes_of(job.method):
            resolved = config.resolve(job.tables)
            if (job.setting, job.method) not in pairs:
                pairs.add((job.setting, job.method))
                checked_mixing(resolved, sweep.ranks, sweep.mode == "simulate")


def carry_out(sweep: Sweep, text: str, output, cores: int, watch: Callable[[Plan, list[Job]], None] | None = None,
              leave: bool = False, retry: bool = False) -> bool:
    """Do what is left to do of the sweep, and write its file; watch(plan, the jobs that go on) is called all the time.

    Other processes may carry out the same sweep at the same time: each run is done by one of them. leave: return False, without a
    file, when the others do all that is left. retry: do runs again that crashed or were killed. What was done stays when this raises a
    CoopError: UserError for what cannot be, Interrupted when a signal asks for an end.
    """
    folder, plan = Folder(output), Plan(sweep)
    folder.create()
    if retry:
        folder.forget_failures()
    with Crew(sweep, folder, cores) as crew:
        try:
            _work(plan, folder, crew, watch, leave)
        except OSError as error:
            raise CoopError(f"the sweep cannot go on: {error}; the same command goes on with it") from error
        finally:
            _wind_up(crew)
    if crew.asked:
        raise Interrupted(f"stopped by a signal; {len(plan.results)} of {plan.total} runs are done, and the same command goes on")
    if plan.complete:
        sweeps.write(output, text, _entries(plan, folder), sweep.keep.rows)
    return plan.complete


def _work(plan, folder, crew, watch, leave):
    looked = -LOOK
    while not crew.asked:
        if crew.ended() or monotonic() - looked > LOOK:
            looked = monotonic()
            while _advance(plan, folder, crew):
                pass  # what is done may bring further jobs
            if plan.complete or (leave and plan.settled and not crew.members):
                break
        if watch:
            watch(plan, [member.job for member in crew.members])
        sleep(TICK)


def _wind_up(crew):
    """Let no run go on; where nobody has asked for that, an error has."""
    if not crew.asked:
        crew.stop()
    while crew.members:
        crew.pass_on()
        crew.ended()
        sleep(TICK)


def _advance(plan, folder, crew):
    """Take in what is done, and start what there is room for; is anything new done?"""
    own, before = {member.job.name for member in crew.members}, len(plan.results)
    for job in plan.open():
        if job.name in own:
            continue
        lock = None if crew.full else folder.claim(job.name)
        # looked at under the lock: nobody can finish it in between
        if folder.done(job.name):
            plan.add(job.name, _result(plan.sweep, folder, job))
        elif lock is not None:
            crew.start(job, lock)
            continue
        if lock is not None:
            lock.release()
    return len(plan.results) > before


def _result(sweep, folder, job):
    failure = folder.failure(job.name)
    if failure:
        return Result(None, failure)
    run = read_runs([folder.result(job.name)])[0]
    if sweep.score.figure not in run.figures:
        raise UserError(f"[score] figure: the runs have no {sweep.score.figure!r}; allowed: {', '.join(run.figures)}")
    return Result(score.curve(run, sweep.score, job.tables.get("stop", {}).get("minutes")))


def _entries(plan, folder) -> Iterator[sweeps.Entry]:
    """What goes into the file: the jobs with what they came to."""
    finals = {(job.setting, job.name) for job in plan.jobs if job.role == "final"}
    for job in plan.jobs:
        if job.role == "target" and (job.setting, job.name) in finals:
            continue  # the same run
        failure = plan.results[job.name].failure
        series = job.role != "tuning" or plan.sweep.keep.tuning
        about = {name: getattr(job, name) for name in ("method", "setting", "seed", "role", "tuned")}
        yield sweeps.Entry(folder.result(job.name), about, failure, plan.final(job), plan.target(job), plan.took(job), series)
