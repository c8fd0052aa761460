"""The picture of an experiment: curves of the loss against time, steps or traffic, or measures over a key; coopmpi.report.plot draws it."""

import re
from itertools import product

import numpy as np

from benchmarks.papers.measures import HEADINGS
from coopmpi.report.plot import axes, lines
from coopmpi.report.plot.curves import Line, Panel, positive, view_of
from coopmpi.report.plot.figure import look, save

X = {"virtual_time": "virtual time (gradients)", "megabytes": "sent by all workers (MB)", "step": "steps"}
PAPER = "double"  # columns
SUFFIXES = ".png", ".pdf"


def draw(sweep, page, found, path):
    """Write the picture as PNG and PDF; path: without a suffix."""
    drawn = [*panels(sweep, page, found)]
    path.parent.mkdir(exist_ok=True)
    with look(PAPER):
        figure = lines.draw(drawn, PAPER)
        for suffix in SUFFIXES:
            save(figure, path.with_suffix(suffix), f"{sweep.title}: {'; '.join(panel.caption for panel in drawn)}")


def panels(sweep, page, found):
    """The Panels of the picture; found: as results.read has it."""
    return _over_key(page, found) if page.points else _over_x(sweep, page, found)


def _over_x(sweep, page, found):
    """A panel with curves of all methods for each setting."""
    log = "x" * page.log + "y" * page.excess
    label = axes.NAMES[f"eval/{sweep.score.figure}"] + " above the reference" * page.excess
    for setting, methods in found.items():
        drawn = [positive(_curve(method, curves, page), log) for method, (_, curves) in methods.items()]
        view, left_out = view_of(drawn, False, log)
        yield Panel(sweep.score.figure, X[page.x], label, drawn, log, False, view, left_out, setting, _target(methods, page))


def _curve(method, curves, page):
    """As far as all seeds have come."""
    x, y = curves.column(page.x), curves.smoothed() - _zero(curves, page)
    n = (~np.isnan(x) & ~np.isnan(y)).sum(axis=1).min()
    return _line(method, x[:, :n].mean(axis=0), y[:, :n])


def _zero(curves, page):
    return curves.reference.measure("final").mean() if page.excess else 0.0


def _target(methods, page):
    curves = next(iter(methods.values()))[1]
    return np.nan if curves.target is None else curves.target.mean() - _zero(curves, page)


def _over_key(page, found):
    """A panel for each measure and setting; a line joins the methods whose names differ in the key alone."""
    key = page.key.rpartition(".")[2]
    for measure, (setting, methods) in product(page.points, found.items()):
        families = {}
        for method, (_, curves) in methods.items():
            family = re.sub(rf",? *\b{key} = .*", "", method) or curves.tables["algorithm"]["kind"]
            families.setdefault(family, []).append((_value(curves.tables, page.key), curves.measure(measure)))
        drawn = [_ends(family, ends) for family, ends in families.items()]
        log = axes.logarithmic(drawn, True)
        view, left_out = view_of(drawn, "y" not in log, log)
        yield Panel(measure, key, HEADINGS[measure], drawn, log, True, view, left_out, setting)


def _value(tables, key):
    """Of a key of a description, 1 where it is not read: such methods exchange at every step."""
    for name in key.split("."):
        tables = tables.get(name, {})
    return tables or 1


def _ends(label, ends):
    """Without methods of which a run diverged."""
    ends = sorted(((key, values) for key, values in ends if not np.isnan(values).any()), key=lambda end: end[0])
    return _line(label, np.array([key for key, _ in ends], float), np.stack([values for _, values in ends], axis=1))


def _line(label, x, y):
    """y: (seeds, points)."""
    return Line(label, len(y), x, y.mean(axis=0), y.min(axis=0), y.max(axis=0))
