"""One sentence on where the time went and what would save it, if the recorded times alone support one."""

import numpy as np

from coopmpi.report.recorded import Recorded

FEWEST = 20  # steps; before that the first ones, which are slower, count too much
MUCH = 0.1  # share of the time that is worth a sentence
MOST = 0.99  # share of waiting that is reckoned with
TOLERABLE = 0.25  # share of waiting that a longer period is to leave
EVALUATING, RARELY = 0.3, 0.1  # shares of evaluation that are too much, and that are not ...
FELT = 0.5  # ... from so many seconds of it on
# the same algorithm with its communication hidden behind the steps that follow, and those that hide it already
OVERLAPPED = {"local-sgd": "overlap-local-sgd", "dpa": "overlap-dpa", "sgp": "overlap-sgp", "choco-sgd": "overlap-choco-sgd",
              "diloco": "streaming-diloco"}
HIDING = {*OVERLAPPED.values(), "cocod-sgd", "d-psgd"}
# what has a period where an algorithm communicates in every step
PERIODIC = {"sync-sgd": "local-sgd", "powersgd": "local-sgd", "d-psgd": "overlap-dpa", "choco-sgd": "squarm-sgd"}


def advice(run: Recorded) -> str:
    """The sentence; empty where nothing is to be gained, or the times do not tell how."""
    if run.steps < FEWEST or not run.seconds:
        return ""
    return _evaluations(run) or _cores(run) or _waiting(run)


def _evaluations(run):
    """Less often, where they take longer than training allows."""
    whole = run.wall_time + run.evaluating + run.recording
    share, steps = run.evaluating / whole, run.evaluations.get("step", ())
    if run.simulated or share < EVALUATING or run.evaluating < FELT or len(steps) < 3:
        return ""
    every = _rounded_up((steps[1] - steps[0]) * run.evaluating / (RARELY * run.wall_time))
    return (f"{share:.0%} of the {whole:.3g} s went into evaluation, which the times above leave out: record.eval_every = {every} "
            "evaluates less often.")


def _cores(run):
    """Ranks that share cores wait for each other's computing, whatever the network is."""
    waiting = run.share(run.waited.mean())
    if run.simulated or run.node_ranks <= run.node_cores or waiting < MUCH:
        return ""
    alone = run.ranks == run.node_ranks
    fewer = f"-n {run.node_cores} hosts the same {run.workers} workers" if alone else "fewer ranks can host the same workers"
    return (f"{run.node_ranks} ranks share {run.node_cores} core{'s' * (run.node_cores > 1)}, so the waiting, {waiting:.0%} of the time, is "
            f"for a core and says nothing of a network: {fewer}.")


def _waiting(run):
    """By its largest part: for one slow worker, for whoever is slow at the moment, for messages."""
    waiting, longest, mean = run.share(run.waited.mean()), run.computed.max(), run.computed.mean()
    slowest = min(waiting, run.share(longest - mean))
    in_turns = min(waiting - slowest, run.share(max(0.0, run.in_turns - longest)))
    messages = waiting - slowest - in_turns
    part = max((slowest, _slowest), (in_turns, _in_turns), (messages, _messages), key=lambda part: part[0])
    return part[1](run, part[0]) if part[0] >= MUCH else ""


def _slowest(run, share):
    which, others = np.flatnonzero(run.computed == run.computed.max()), run.computed[run.computed < run.computed.max()]
    if run.workers % run.ranks and len(which) > run.workers // run.ranks:
        return (f"{share:.0%} of the time is waiting for ranks that host one worker more than the others: a number of ranks that divides "
                f"{run.workers} ends that.")
    whom = f"worker {which[0]}" if len(which) == 1 else f"workers {which[0]} to {which[-1]}, on one rank"
    times = run.computed.max() / others.mean()
    return (f"{share:.0%} of the time is waiting for {whom}, which compute{'s' * (len(which) == 1)} {times:.2g} times as long as the others: no period and no overlap hides that{'' if run.simulated else '; look at that node'}.")


def _in_turns(run, share):
    return _with_period(run, 4 * _tau(run), f"{share:.0%} of the time is waiting for whoever computes longest at the moment, in turns",
                        " evens it out, to about half")


def _messages(run, share):
    kind, tau = run.tables["algorithm"]["kind"], _tau(run)
    # a run of little but waiting may, by its clocks, have waited a little longer than it took
    share, computing = min(share, MOST), max(1 - MOST, 1 - run.share(run.waited.mean()))
    what = "exchanges with neighbours" if "mixing" in run.tables else "averages"
    if kind in HIDING or run.tables["algorithm"].get("overlap"):
        # a message takes as long as the steps that it travels beside, and what is waited for it
        longer = _power_of_two(tau * (computing + share) / computing)
        said = f"{share:.0%} of the time is waiting for {what} that are longer under way than the steps beside them"
        return _with_period(run, longer, said, " gives them the time")
    longer = _power_of_two(tau * share / (1 - share) * (1 - TOLERABLE) / TOLERABLE)
    if kind == "easgd":
        hidden = "algorithm.overlap = true"
    else:
        hidden = f'algorithm.kind = "{OVERLAPPED[kind]}"' if kind in OVERLAPPED else ""
    said = f"{share:.0%} of the time is waiting for {what}"
    if hidden and share <= computing:
        period = f", or period.tau = {longer}" if longer > tau and _settable(run) else ""
        return f"{said} that would fit behind the next {'period' if _periodic(run) else 'gradient'}: {hidden}{period}."
    return _with_period(run, longer, said, f" leaves about {TOLERABLE:.0%}") if longer > tau else ""


def _with_period(run, tau, said, effect):
    """The sentence that advises a period; empty where the algorithm and its kin have none to set."""
    kind = run.tables["algorithm"]["kind"]
    if _settable(run):
        return f"{said}: period.tau = {tau}{effect}."
    if kind in PERIODIC and not _periodic(run):
        return f'{said}: algorithm.kind = "{PERIODIC[kind]}" with period.tau = {tau}{effect}.'
    return ""


def _periodic(run):
    return "period" in run.tables


def _settable(run):
    return run.tables.get("period", {}).get("kind") == "every"


def _tau(run):
    return run.tables["period"]["tau"] if _settable(run) else 1


def _power_of_two(number):
    """The least that is not below the number, but for rounding."""
    return 2 ** max(1, int(np.ceil(np.log2(number) - 1e-6)))


def _rounded_up(number):
    """To one digit."""
    unit = 10 ** int(np.log10(max(1.0, number)))
    return int(np.ceil(number / unit)) * unit
