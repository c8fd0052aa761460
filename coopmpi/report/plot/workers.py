"""Pictures of a timeline: a row per worker, beside it the shares of the whole run."""

import textwrap

import numpy as np

from coopmpi.report.plot.figure import INCHES
from coopmpi.report.plot.timeline import Timeline

COMPUTING, WAITING = "#0072B2", "#F2C879"  # dark and light, also in grey
HIGH = 0.8  # of a row that a bar fills
NAMED = 16  # rows of which each has its name
NOTICED = 0.01  # what is neither computing nor waiting, beside computing
LINES = 16  # in a terminal
COMPUTES, WAITS, SHADES = "█", "░", "░▒▓█"
LEAST_TALL, MOST_TALL = 1.6, 5.5  # inches


def draw(timeline: Timeline, paper: str | None):
    """The Figure of a timeline, in the look that is in force."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    rows = timeline.compute.shape[1]
    tall = float(np.clip(0.9 + 0.22 * rows, LEAST_TALL, MOST_TALL))
    figure = Figure(figsize=(INCHES[paper] if paper else 8.0, tall), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03)
    time, shares = figure.subplots(1, 2, sharey=True, width_ratios=(4, 1))
    unit = _bars(time, timeline)
    _shares(shares, timeline)
    time.set(ylim=(rows - 0.5, -0.5), ylabel="worker", xlabel=f"{_clock(timeline)} ({unit}), steps {timeline.first} to {timeline.last}")
    named = range(rows) if rows <= NAMED else np.unique(np.linspace(0, rows - 1, 9).round().astype(int))
    time.set_yticks(named, [timeline.name(row) for row in named])
    handles = [Patch(facecolor=COMPUTING, label="computing"), Patch(facecolor=WAITING, label="waiting")]
    if timeline.other.sum() > NOTICED * timeline.compute.sum():
        handles.append(Patch(facecolor="white", edgecolor="0.6", linewidth=0.5, label="neither"))
    if timeline.each == 1 and timeline.sent.any():
        handles.append(time.plot([], [], "|", color="black", label="sends")[0])
    figure.legend(handles=handles, loc="outside upper left", ncols=len(handles), borderaxespad=0.2, handlelength=1.5)
    return figure


def _bars(place, timeline):
    """One step after the other where a block is one, else the shares of each block stacked; the unit of time."""
    from matplotlib.collections import PolyCollection

    begins = timeline.begins
    scale, unit = next((scale, unit) for least, scale, unit in ((1.0, 1.0, "s"), (1e-3, 1e3, "ms"), (0.0, 1e6, "us"))
                       if begins.max() >= least)
    row = np.broadcast_to(np.arange(timeline.compute.shape[1]), timeline.compute.shape)
    top, bottom = row - HIGH / 2, row + HIGH / 2
    if timeline.each == 1:
        computed = begins[:-1] + timeline.compute
        boxes = {COMPUTING: (begins[:-1], computed, top, bottom), WAITING: (computed, computed + timeline.wait, top, bottom)}
        rows, steps = np.nonzero(timeline.sent.T)
        place.vlines(scale * computed[steps, rows], rows - 0.45, rows + 0.45, color="black", linewidth=0.7, zorder=3)
    else:
        whole = np.maximum(np.diff(begins, axis=0), 1e-30)
        middle = bottom - HIGH * timeline.compute / whole
        boxes = {COMPUTING: (begins[:-1], begins[1:], middle, bottom),
                 WAITING: (begins[:-1], begins[1:], middle - HIGH * timeline.wait / whole, middle)}
    for colour, (left, right, upper, lower) in boxes.items():
        corners = np.stack([np.stack([scale * x, y], -1) for x, y in ((left, upper), (right, upper), (right, lower), (left, lower))], -2)
        place.add_collection(PolyCollection(corners.reshape(-1, 4, 2), facecolor=colour, linewidth=0))
    place.set_xlim(scale * begins.min(), scale * begins.max())
    return unit


def _shares(place, timeline):
    """Of the whole run, each worker for itself."""
    size = 1 if timeline.summary else 1 / timeline.together
    at, high = np.arange(len(timeline.computed)) * size + (size - 1) / 2, HIGH if size == 1 else size
    place.barh(at, 100 * timeline.computed, high, color=COMPUTING, linewidth=0)
    place.barh(at, 100 * timeline.waited, high, 100 * timeline.computed, color=WAITING, linewidth=0)
    if len(timeline.computed) <= NAMED:
        for row, (computed, waited) in enumerate(zip(timeline.computed, timeline.waited)):
            if waited >= 0.15:
                place.text(100 * (computed + waited / 2), row, f"{waited:.0%}", ha="center", va="center", fontsize="x-small")
    place.set(xlim=(0, 100), xlabel="% of the run")
    place.tick_params(left=False)
    place.spines["left"].set_visible(False)


def _clock(timeline):
    return "time" if timeline.mode == "train" else "virtual time"


def shown(timeline: Timeline, columns: int) -> str:
    """The same in the terminal: a line per row, each cell what goes on in its middle, or how much of a block is computing."""
    begins, rows = timeline.begins, timeline.compute.shape[1]
    names = [timeline.name(row) for row in range(rows)]
    widest = max(map(len, [*names, "worker"]))
    cells = max(10, columns - widest - 9)
    at = begins.min() + (np.arange(cells) + 0.5) / cells * (begins.max() - begins.min())
    span = f"steps {timeline.first} to {timeline.last} of {timeline.done}, {begins.max() - begins.min():.3g} s of {_clock(timeline)}"
    lines = [f"{'worker':<{widest}} {span[:cells]:<{cells}} waits"]
    for row in range(rows):
        waited = timeline.waited if timeline.summary else timeline.waited[row * timeline.together:(row + 1) * timeline.together]
        drawn = "".join(_cell(timeline, row, begins[:, row], moment) for moment in at)
        lines.append(f"{names[row]:<{widest}} {drawn} {waited.mean():6.1%}")
    said = f"{COMPUTES} computing  {WAITS} waiting" if timeline.each == 1 else f"{SHADES} from waiting to computing"
    lines += textwrap.wrap(f"{said}; waits: share of the whole run", columns) + textwrap.wrap(timeline.straggler, columns)
    return "\n".join(lines) + "\n"


def _cell(timeline, row, begins, moment):
    block = int(np.searchsorted(begins, moment, side="right")) - 1
    if not 0 <= block < len(begins) - 1:
        return " "
    compute, wait, other = (values[block, row] for values in (timeline.compute, timeline.wait, timeline.other))
    if timeline.each > 1:
        return SHADES[min(len(SHADES) - 1, int(len(SHADES) * compute / (compute + wait + other)))]
    within = moment - begins[block]
    return COMPUTES if within < compute else WAITS if within < compute + wait else " "
