"""The closing screen of a run, from its result file: how it went, curves, where the workers' time went, and advice. It fits 80 x 24."""

import numpy as np

from coopmpi.errors import clean
from coopmpi.record.reader import open_run
from coopmpi.report.advice import advice
from coopmpi.report.curve import POINT, curve
from coopmpi.report.learning import not_learnt
from coopmpi.report.progress import ordered
from coopmpi.report.recorded import Recorded, recorded
from coopmpi.report.text import wrapped

LINES = 23  # of a terminal with 24, whose last one has the prompt
LOWEST, HIGHEST = 6, 12  # lines of the curves, with their axis
WORKERS = 6  # that have a bar each; of more the extremes
COMPUTING, WAITING, ELSE = "█", "▒", "·"


def closing(path, width: int) -> str:
    """The screen for the result file at `path`, of lines up to `width`. UserError if it cannot be read."""
    with open_run(path) as file:
        return "\n".join(screen(recorded(path, file), width)) + "\n"


def screen(run: Recorded, width: int) -> list[str]:
    """Its lines."""
    head, tail = _head(run, width), [*_times(run, width), *wrapped(advice(run), width)]
    tail.append(clean(f"more: coopmpi inspect {run.path}"))
    room = LINES - len(head) - len(tail) - 1
    lines = [*head, *_curves(run, width, min(HIGHEST, room)), *tail] if room >= LOWEST else [*head, *tail]
    return lines


def _head(run, width):
    """How it went, in some lines."""
    pace = run.steps / run.seconds if run.seconds else np.inf
    of = "" if run.total is None else f" of {run.total}"
    time = f"virtual time {run.virtual_time:.5g} s" if run.simulated else f"{run.wall_time:.4g} s, {pace:.4g} steps/s"
    where = f"{run.workers} workers on {run.ranks} rank{'s' * (run.ranks > 1)}"
    said = [f"{run.tables['algorithm']['kind']}, {where}: {run.status}, {run.steps}{of} steps, {time}"]
    figures = [f"{name} {run.figures[name]:{form}}" for name, form in ordered(run.figures) if name != "consensus"]
    said.append("  ".join([*figures, f"waiting {run.share(run.waited.mean()):.1%}", f"{run.sent.mean() / 1e6:.3g} MB sent per worker"]))
    said += [f"target reached: {text}" for step, _, kind, text in run.events if kind == "target" and step == run.steps]
    if run.tables.get("stop") and len(said) == 2:
        said.append(f"target not reached: {' or '.join(f'{name} = {value:g}' for name, value in run.tables['stop'].items())}")
    said += [text] if (text := not_learnt(run)) else []
    return [line for text in said for line in wrapped(text, width)]


def _curves(run, width, height):
    """Losses over steps: of mini-batches a line, of evaluations points."""
    y = run.losses
    x = np.minimum(run.steps, run.piece * np.arange(1, len(y) + 1) - (run.piece - 1) / 2)
    points = np.array([run.evaluations.get("step", ()), run.evaluations.get("loss", run.evaluations.get("step", ()))], float)
    points = points[:, np.isfinite(points).all(axis=0)] if "loss" in run.evaluations else np.zeros((2, 0))
    x, y = x[np.isfinite(y)], y[np.isfinite(y)]
    if len(x) + points.shape[1] < 2:
        return []
    mean = f", mean of {run.piece} steps" if run.piece > 1 else ""
    title = f"⣀⡠⠔ mini-batch loss{mean}" + (f"   {POINT} held-out loss" if points.size else "")
    return [title[:width], *curve(x, y, points, width, height)]


def _times(run, width):
    """A bar for each worker, or for the extremes of many: what part of the time it computed, waited, did something else."""
    rows = _rows(run)
    label = max(len(name) for name, _, _ in rows)
    lines = [f"{'time':<{label}}  {COMPUTING} computing  {WAITING} waiting  {ELSE} else"[:width]]
    for name, computing, waiting in rows:
        end = f"{computing:4.0%} {waiting:4.0%}"
        room = width - label - len(end) - 4
        first, second = (round(room * min(1.0, share)) for share in (computing, computing + waiting))
        lines.append(f"{name:<{label}}  {COMPUTING * first}{WAITING * (second - first)}{ELSE * (room - second)}  {end}")
    return lines


def _rows(run):
    """[(name, share of computing, share of waiting)]."""
    computing, waiting = run.share(run.computed), run.share(run.waited)
    mean = ("mean of all", computing.mean(), waiting.mean())
    if len(computing) == 1 < run.workers:
        return [mean]
    # workers of one rank have its times together
    changes = np.flatnonzero((np.diff(computing) != 0) | (np.diff(waiting) != 0)) + 1
    firsts, lasts = [0, *changes], [*changes - 1, len(computing) - 1]
    names = [f"worker {first}" if first == last else f"workers {first}-{last}" for first, last in zip(firsts, lasts)]
    rows = [(name, computing[first], waiting[first]) for name, first in zip(names, firsts)]
    if len(rows) <= WORKERS:
        return rows
    most, longest = (max(rows, key=lambda row: row[place]) for place in (1, 2))
    return [(f"{most[0]}, computes most", *most[1:]), (f"{longest[0]}, waits most", *longest[1:]), mean]
