"""A plan: candidates ranked by the seconds that they take to a target on a machine."""

import json
from collections.abc import Callable
from math import exp, log, sqrt
from statistics import fmean
from time import monotonic
from typing import NamedTuple

import numpy as np

from coopmpi import config, registry
from coopmpi.drivers.solo import Solo
from coopmpi.errors import UserError
from coopmpi.planner.candidates import CHOSEN, candidates, named, without_choice
from coopmpi.planner.curves import Curve, Target
from coopmpi.planner.machine import Machine, require_fits
from coopmpi.planner.pilot import pilot
from coopmpi.planner.ranks import Ranks
from coopmpi.planner.search import Search, Tried
from coopmpi.run.assemble import DEFAULT_STEPS, assemble, follows_numbers
from coopmpi.vocabulary import Family

CONFIRMED, SEEDS = 5, 2  # of the best are trained on so many further seeds
MODEL_ERROR = 0.1  # of a forecast of seconds per step, relative: what 52 of them were off by, root mean square, see docs/plan.md
LEVEL = 0.8  # of the interval
EVALUATIONS = 100  # in a run, where the description does not say


class Choice(NamedTuple):
    """A candidate in the ranking. seconds: to the target, with an interval of LEVEL for one real run."""

    label: str
    tables: dict  # of the run, without the machine
    lr: float
    seconds: float
    low: float
    high: float
    per_step: float
    steps: float
    seeds: int  # on which seconds and steps rest
    sent: float  # bytes per worker and step
    gradient: float  # shares of the time
    other: float
    network: float
    tie: bool  # it may be as fast as the best
    edge: bool  # no larger, or no smaller, learning rate was tried
    piloted: float | None = None  # measured seconds per step, on which `seconds` rests then

    def description(self, target: Target) -> dict:
        """The tables of a run that trains this choice to the target."""
        parts = {name: getattr(self, name) * self.per_step for name in ("gradient", "other", "network")}
        forecast = {"seconds": self.seconds, "steps": self.steps} | parts
        return self.tables | {"stop": {target.figure: target.value}, "forecast": {key: float(f"{value:.4g}") for key, value in forecast.items()}}

    @property
    def limit(self) -> str:
        """What most of the time goes to."""
        shares = {"gradients": self.gradient, "compressing, sums": self.other, "network": self.network}
        return max(shares, key=shares.get)


class WhatIf(NamedTuple):
    """The best choice on another machine, by what is known already. open: labels of others that may be faster."""

    change: str
    label: str
    seconds: float
    open: tuple[str, ...]


class Plan(NamedTuple):
    """The answer. missed: {label: (figure, seconds) where it ended} of those that did not reach the target."""

    target: Target
    machine: Machine
    choices: list[Choice]
    missed: dict[str, tuple[float, float]]
    refused: list[tuple[str, str]]
    left_out: list[str]
    what_if: list[WhatIf]
    described: str | None  # label of the run as it was described
    took: float  # seconds of planning
    trained: int  # steps of workers
    curves: dict[str, Curve]  # of the choices, by label
    known: dict[str, Curve]


def plan(tables: dict, machine: Machine, target: Target, minutes: float, known: dict, tell: Callable[[str], None],
         ranks: Ranks | None = None) -> Plan:
    """The Plan for a run description, given as tables; UserError for what cannot be planned.

    known: curves of earlier plans, which is added to; minutes: after which no further candidate is begun; ranks: where the
    candidates are trained, by default in this process.
    """
    begin = monotonic()
    family = registry.convert(tables.get("plan", {}), Family, "[plan]")
    tables = _complete(tables, machine)
    found, refused = candidates(tables, family)
    if not found:
        raise UserError(f"[plan] no candidate fits this run; the first was refused because: {refused[0][1] if refused else 'there is none'}")
    outline = assemble(config.resolve(without_choice(tables)), Solo(), "time-only").driver.task
    require_fits(machine, "the machine file", None, outline.dimension)
    if ranks is not None:
        unforeseen = [one for one in found if follows_numbers(config.resolve(without_choice(tables) | one.tables))]
        refused += [(one.label, "what it sends follows numbers, so that its time cannot be forecast alone") for one in unforeseen]
        found = [one for one in found if one not in unforeseen]
    tell(f"{len(found)} candidates, {len(refused)} pairs left out")
    with Search(tables, machine.tables(), target, known, begin + 60 * minutes, tell, ranks) as search:
        search.run(found)
        choices = confirmed(search, machine.about.noise)
        what_if = list(_what_ifs(search, machine, choices)) if choices else []
        missed = {one.candidate.label: (one.curve.values[-1], one.curve.seconds[-1]) for one in _missed(search)}
        described = named({key: tables[key] for key in CHOSEN if key in tables}).label if "algorithm" in tables else None
        curves = {one.candidate.label: one.curve for one in search.best()}
    return Plan(target, machine, choices, missed, refused, [one.label for one in search.left_out], what_if, described,
                monotonic() - begin, search.trained, curves, search.known)


def _complete(tables, machine):
    """With all that decides when a run is looked at, as the simulator and `train` would have it."""
    tables = {key: value for key, value in tables.items() if key not in ("compute", "network", "sinks")} | {"workers": machine.about.ranks}
    record = dict(tables.get("record", {}))
    if not record.get("eval_every"):
        if "epochs" in tables:
            raise UserError("plan needs [record] eval_every where the length of a run is in epochs")
        record["eval_every"] = max(1, tables.get("steps", DEFAULT_STEPS) // EVALUATIONS)
    return tables | {"record": record | {"final": "mean"}}


def confirmed(search: Search, noise: float) -> list[Choice]:
    """The choices, the first CONFIRMED of which were all trained on further seeds, as long as there is time."""
    while True:
        choices = ranking(search, noise)
        once = [choice.label for choice in choices[:CONFIRMED] if choice.seeds == 1]
        if not once or monotonic() > search.deadline:
            return choices
        search.confirm(once, SEEDS)


def ranking(search: Search, noise: float) -> list[Choice]:
    """The choices, the fastest first: mean over the seeds that were tried."""
    best = search.best()
    spread = _spread([[one.curve, *search.again(one)] for one in best])
    found = [_choice(search, one, spread, noise) for one in best]
    return [choice._replace(tie=number > 0 and choice.low < found[0].high and choice.seconds < found[0].high) for number, choice in enumerate(found)]


def _choice(search, tried: Tried, spread, noise):
    candidate, forecast, curves = tried.candidate, search.forecasts[tried.candidate.label], [tried.curve, *search.again(tried)]
    seconds, steps = search.seconds(tried), exp(fmean(log(max(1, one.steps[-1])) for one in curves))
    factor = interval(spread, len(curves), noise)
    rates = sorted({one.lr for one in search.tried if one.candidate.label == candidate.label and one.seed == search.seed})
    return Choice(candidate.label, search.tables(candidate, tried.lr, search.seed), tried.lr, seconds, seconds / factor, seconds * factor,
                  seconds / steps, steps, len(curves), forecast.sent, forecast.gradient, forecast.other, forecast.network, False, tried.lr in (rates[0], rates[-1]))


def _spread(found) -> tuple[float, int]:
    """(standard deviation of the logarithm of the steps to the target between seeds, its degrees of freedom), pooled over candidates."""
    steps = [np.log([max(1, one.steps[-1]) for one in curves]) for curves in found if len(curves) > 1]
    freedom = sum(len(one) - 1 for one in steps)
    if not freedom:
        return 0.2, 1  # nothing is known of it
    return sqrt(sum(((one - one.mean())**2).sum() for one in steps) / freedom), freedom


def interval(spread: tuple[float, int], seeds: int, noise: float) -> float:
    """The factor within which one real run lies with probability LEVEL: other seeds, errors of the forecast, noise of the machine."""
    from scipy.stats import t

    deviation, freedom = spread
    return exp(t.ppf((1 + LEVEL) / 2, freedom) * sqrt(deviation**2 * (1 + 1 / seeds) + MODEL_ERROR**2 + noise**2))


def _missed(search):
    """Of each candidate that did not reach the target, the learning rate that came closest."""
    reached, best = {one.candidate.label for one in search.ranked()}, {}
    for one in search.tried:
        if one.candidate.label not in reached and one.curve.end != "diverged":
            before = best.get(one.candidate.label)
            if before is None or search.target.worse(one.curve.values[-1]) < search.target.worse(before.curve.values[-1]):
                best[one.candidate.label] = one
    return sorted(best.values(), key=lambda one: search.target.worse(one.curve.values[-1]))


# other machines
def slower_network(machine: Machine, factor: float) -> dict:
    """The tables of a machine whose links carry fewer bytes per second."""
    network = dict(machine.network)
    if "bandwidth" in network:
        slow = network["bandwidth"]
        network["bandwidth"] = [each / factor for each in slow] if isinstance(slow, (list, tuple)) else slow / factor
    for key in ("allreduce", "all_to_all"):
        if key in network and not isinstance(network[key], str):
            first = network[key][0][1]
            network[key] = [[nbytes, first + factor * max(0.0, seconds - first)] for nbytes, seconds in network[key]]
    return machine.tables() | {"network": network}


def with_straggler(machine: Machine, factor: float) -> dict:
    """The tables of a machine with constant or recorded seconds of a gradient, whose last worker computes slower."""
    compute, ranks = dict(machine.compute), machine.about.ranks
    if compute["kind"] == "constant":
        return machine.tables() | {"compute": compute | {"kind": "slow-worker", "worker": ranks - 1, "factor": factor}}
    factors = np.array(compute.get("factor", 1.0)) * np.ones(ranks)
    factors[-1] *= factor
    return machine.tables() | {"compute": compute | {"factor": factors.tolist()}}


def more_workers(machine: Machine, factor: int) -> dict:
    """The tables of such a machine with so many times the workers."""
    compute = dict(machine.compute)
    if "times" in compute:
        compute["times"] = [list(row) * factor for row in compute["times"]]
    if isinstance(compute.get("factor"), (list, tuple)):
        compute["factor"] = list(compute["factor"]) * factor
    return machine.tables() | {"compute": compute, "workers": factor * machine.about.ranks}


def _what_ifs(search, machine, choices):
    if search.ranks is not None:
        return  # seconds are those of this machine
    yield _on(search, "the network ten times slower", slower_network(machine, 10))
    if machine.compute.get("kind") == "constant" or "times" in machine.compute:
        yield _on(search, "one worker three times slower", with_straggler(machine, 3))
        yield _twice(search, more_workers(machine, 2), choices)


def _on(search, change, tables):
    """By the curves that are known, on the clocks of another machine."""
    best = {}
    for one in search.tried:
        label = one.candidate.label
        if one.seed == search.seed and one.curve.end in ("target", "late") and (label not in best or one.curve.reached > best[label].curve.reached):
            best[label] = one
    for one in search.best():
        best[one.candidate.label] = one
    times = search.on(tables, list(best.values()))
    done = sorted((seconds, one.candidate.label) for one, seconds in times if one.curve.reached)
    seconds, label = done[0]
    return WhatIf(change, label, seconds, tuple(one.candidate.label for one, least in times if not one.curve.reached and least < seconds))


def _twice(search, tables, choices):
    """The best two, trained with twice the workers."""
    found = [(choice, search.elsewhere(tables, choice.tables)) for choice in choices[:2]]
    seconds, label = min(((curve.seconds[-1], choice.label) for choice, curve in found if curve.reached), default=(np.inf, choices[0].label))
    return WhatIf("twice the workers", label, seconds, ())


def with_pilots(found: Plan | None, world, number: int, tell) -> Plan | None:
    """The plan with measured seconds per step of the best so many; all ranks call it, found is on rank 0."""
    chosen = json.loads(world.from_first(json.dumps([[choice.tables, choice.per_step, choice.steps] for choice in found.choices[:number]]) if found else None))
    measured = []
    for tables, forecast, steps in chosen:
        tell(f"pilot {len(measured) + 1} of {len(chosen)}")
        measured.append(pilot(tables, world, forecast, steps))
    if found is None:
        return None
    choices = [choice._replace(piloted=seconds, seconds=seconds * choice.steps, low=choice.low * seconds / choice.per_step,
                               high=choice.high * seconds / choice.per_step)
               for choice, seconds in zip(found.choices, measured)]
    return found._replace(choices=[*sorted(choices, key=lambda choice: choice.seconds), *found.choices[number:]])
