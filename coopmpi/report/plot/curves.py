"""The curves of runs, ready to be drawn: seeds as mean and band, smoothed, and the part of the axis where they differ."""

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np

from coopmpi.errors import UserError, unknown
from coopmpi.report.plot import axes
from coopmpi.report.runs import AXES, RISING, by_setting, labelled, read_runs, require_same_clock

POINTS = 300  # of a smoothed line, about
WINDOWS = 40  # smoothing windows in the longest run, where nobody says how many steps
LEFT_OUT = (0.0, 0.05, 0.1, 0.2, 0.33)  # shares of a line's extent that a view may begin after ...
ANSWER = 0.25  # ... until the ends of the lines differ by that share of it
WORTH = 1.5  # a view is taken if all that there is reaches this many times as far


class Line(NamedTuple):
    """Runs that differ in the seed alone. x, mean, least, most: (points,)."""

    label: str
    runs: int
    x: np.ndarray
    mean: np.ndarray
    least: np.ndarray
    most: np.ndarray


class Panel(NamedTuple):
    """Lines over common axes. title: of a setting of a sweep; log: "", "x", "y" or "xy"; view: the least and most of y that is shown;
    left_out: what that hides; target: of y that the lines are to reach."""

    name: str
    x_label: str
    y_label: str
    lines: list[Line]
    log: str
    points: bool  # each run is one point?
    view: tuple[float, float]
    left_out: str
    title: str = ""
    target: float = np.nan

    @property
    def spread(self) -> str:
        """What the bands are."""
        most = max(line.runs for line in self.lines)
        return f"least to most of {most} seeds" if most > 1 else ""

    @property
    def caption(self) -> str:
        """What the picture shows, in words."""
        spread = f"{'bars' if self.points else 'bands'}: {self.spread}" if self.spread else ""
        target = "dotted: the target" if np.isfinite(self.target) else ""
        return ", ".join(filter(None, (self.title, f"{self.y_label} over {self.x_label}", self.left_out, spread, target)))


def panels(paths, x: str = "time", ys: Sequence[str] = (), smooth: int | None = None, log: str | None = None,
           whole: bool = False) -> list[Panel]:
    """A Panel for each of ys, as they are called in the file: "train/loss", "eval/accuracy" or in short "accuracy"; of a sweep one
    for each of its settings.

    x: one of AXES, or a numeric key of the run description: each run is then a point, its end. smooth: steps of the moving mean
    over series of the steps. log: axes, None: where the numbers ask for it. whole: nothing is left out of the view.
    UserError for files that cannot be laid beside each other, and for names that they do not have.
    """
    runs = read_runs(paths, {y.rpartition("/")[2] for y in ys or (axes.WITHOUT_NUMBERS,)})
    require_same_clock(runs)
    names = _names(runs, ys)
    key = _require_axis(runs, x)
    longest = max(int(run.series["train/step"].max(initial=0)) for run in runs)
    window = max(1, min(smooth or longest // WINDOWS, longest))
    found = []
    for name, (title, among) in product(names, by_setting(runs)):
        if key:
            lines = _points([run for run in among if not _lost(run)], x, name)
        else:
            lines = [_line(label, [_curve(run, x, name, window) for run in alike if not _lost(run)], alike)
                     for label, alike in labelled(among) if not all(map(_lost, alike))]
        if lines:
            found.append(_panel(name, lines, among[0], x, window, log, whole)._replace(title=title))
    if not found:
        raise UserError(f"{runs[0].path}: nothing to draw: all runs have failed")
    return found


def _lost(run):
    """Is it a run of a sweep that failed? It is counted, and not drawn."""
    return bool(run.place) and run.status == "failed"


def told(panel: Panel, line: Line) -> int:
    """Which of its points is told of a line: the last one, of a line over a key the best one."""
    return -1 if not panel.points else int(line.mean.argmax() if rising(panel) else line.mean.argmin())


def ranked(panel: Panel) -> list[int]:
    """The places of the lines in a panel, the best first."""
    ends = [np.nan if not len(line.x) else line.mean[told(panel, line)] for line in panel.lines]
    return np.argsort([-end if rising(panel) else end for end in ends], kind="stable").tolist()


def rising(panel: Panel) -> bool:
    """Is more better?"""
    return panel.name.rpartition("/")[2] in RISING


def _names(runs, ys):
    there = [name for name in runs[0].names if all(name in run.names for run in runs)]
    if not ys:
        return [name for name in axes.FIRST if name in there] or [axes.WITHOUT_NUMBERS]
    names = []
    for y in ys:
        meant = [name for name in there if name == y] or [name for name in there if name.endswith(f"/{y}")]
        if len(meant) > 1:
            raise UserError(f"-y {y} may be any of {', '.join(meant)}: give the whole name")
        if not meant:
            without = [run.path for run in runs if not any(name == y or name.endswith(f"/{y}") for name in run.names)]
            where = f"{without[0]}: " if len(without) < len(runs) else ""
            raise unknown("series -y", y, there, where=where)
        names += meant
    for name in names:
        for run in runs:
            if name not in run.series:
                raise UserError(f"{run.path}: {name} is nowhere a number")
    return list(dict.fromkeys(names))


def _require_axis(runs, x):
    """Is x a key of the run description?"""
    if x in AXES:
        return False
    numeric = {key for run in runs for key, value in run.settings.items() if type(value) in (int, float)}
    if x not in numeric:
        differ = {key for key in numeric if len({run.settings.get(key) for run in runs}) > 1}
        raise unknown("axis -x", x, {*AXES, *differ})
    return True


def _curve(run, x, name, window):
    """(steps, x, y) of one run, where both are numbers."""
    group = name.partition("/")[0]
    if x == "epochs" and np.isnan(run.steps_per_epoch):
        raise UserError(f"{run.path}: does not tell how many steps an epoch has")
    steps, along, values = run.series[f"{group}/step"], run.along(x, group), run.series[name]
    if group == "train" and len(steps):
        window = max(1, round(window * len(steps) / steps[-1]))  # in rows, of which each may stand for several steps
        means = _smoothed(values, window)
        middle = slice((window - 1) // 2, (window - 1) // 2 + len(means))
        steps, along, values = (column[::max(1, len(means) // POINTS)] for column in (steps[middle], along[middle], means))
    known = np.isfinite(along) & np.isfinite(values)
    if not known.any():
        raise UserError(f"{run.path}: has nothing to draw of {name} yet")
    return steps[known], along[known], values[known]


def _smoothed(values, window):
    """The mean over each so many consecutive steps."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    return (sums[window:] - sums[:-window]) / window


def _line(label, curves, alike):
    """Means over the seeds at equal steps, as far as all have come; between the points of a curve it is straight."""
    first, last = max(steps[0] for steps, _, _ in curves), min(steps[-1] for steps, _, _ in curves)
    at = np.unique(np.concatenate([steps for steps, _, _ in curves]))
    at = at[(at >= first) & (at <= last)]
    if not len(at):
        raise UserError(f"{' and '.join(run.path for run in alike[:2])} differ in the seed alone, but have no steps in common yet")
    x = np.mean([np.interp(at, steps, along) for steps, along, _ in curves], axis=0)
    values = np.stack([np.interp(at, steps, y) for steps, _, y in curves])
    failed = sum(run.status == "failed" for run in alike)
    if failed:
        label += " (failed)" if len(alike) == 1 else f" ({failed} of {len(alike)} failed)"
    return Line(label, len(alike), x, values.mean(axis=0), values.min(axis=0), values.max(axis=0))


def _points(runs, x, name):
    """Lines of the ends of runs over a key of the run description; level ones where the key plays no part."""
    lines, reach = [], [run.settings[x] for run in runs if x in run.settings]
    for label, alike in labelled(runs, leave_out=x):
        ends = {}
        for run in alike:
            values = run.series[name][np.isfinite(run.series[name])]
            if not len(values) or run.status == "failed":
                raise UserError(f"{run.path}: {name} has no end, the run {'has failed' if run.status == 'failed' else 'has just begun'}")
            ends.setdefault(run.settings.get(x), []).append(values[-1])
        if None in ends:
            ends = {min(reach): ends[None], max(reach): ends[None]}
        at = sorted(ends)
        mean, least, most = (np.array([function(ends[key]) for key in at]) for function in (np.mean, np.min, np.max))
        lines.append(Line(label, max(map(len, ends.values())), np.array(at, float), mean, least, most))
    return lines


def _panel(name, lines, run, x, window, log, whole):
    points = x not in AXES
    x_scale, x_label = axes.of_x(x, run, max(line.x[-1] for line in lines))
    y_scale, y_label = axes.of_y(name, run, 1 if points else window, "at the end" * points)
    lines = [line._replace(x=line.x * x_scale, mean=line.mean * y_scale, least=line.least * y_scale, most=line.most * y_scale)
             for line in lines]
    log = axes.logarithmic(lines, points) if log is None else log.replace("none", "")
    lines = [positive(line, log) for line in lines]
    if not any(len(line.x) for line in lines):
        raise UserError(f"--log {log}: {name} over {x} has no point above 0")
    view, left_out = view_of([line for line in lines if len(line.x)], whole or points, log)
    return Panel(name, x_label, y_label, lines, log, points, view, left_out)


def positive(line: Line, log: str) -> Line:
    """Without points that a logarithmic axis cannot have."""
    kept = np.ones(len(line.x), bool)
    if "x" in log:
        kept &= line.x > 0
    if "y" in log:
        kept &= line.least > 0
    return line._replace(**{field: getattr(line, field)[kept] for field in ("x", "mean", "least", "most")})


def view_of(lines: list[Line], whole: bool, log: str) -> tuple[tuple[float, float], str]:
    """((least, most) of y to show, what is left out): the first steep part of curves that hides how they differ in the end, and on
    a logarithmic axis what is nothing but rounding beside the rest."""
    low, high = lowest, highest = _extent(lines, 0.0)
    if whole:
        pass
    elif "y" in log:
        low = max(lowest, high / axes.DEEPEST)
    elif len(lines) > 1:
        ends = [line.mean[-1] for line in lines]
        for share in LEFT_OUT:
            low, high = _extent(lines, share)
            if max(ends) - min(ends) >= ANSWER * (high - low):
                break
        if highest - lowest <= WORTH * (high - low):
            low, high = lowest, highest
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    view = (low / 1.2, high * 1.2) if "y" in log else (low - margin, high + margin)
    left_out = [f"the beginning, up to {highest:.3g}, is above this axis"] if highest > view[1] else []
    if lowest < view[0]:
        left_out += [f"{'more' if 'y' in log else 'the beginning'}, down to {lowest:.3g}, is below this axis"]
    return view, "; ".join(left_out)


def _extent(lines, share):
    """Least and most of y after that share of each line's extent."""
    later = [line.x >= line.x[0] + share * (line.x[-1] - line.x[0]) for line in lines]
    return (min(line.least[kept].min() for line, kept in zip(lines, later)), max(line.most[kept].max() for line, kept in zip(lines, later)))
