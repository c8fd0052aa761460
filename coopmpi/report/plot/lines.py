"""Panels of curves as a figure: labels at the ends of lines where there is room, else a legend beside the axes."""

import numpy as np

from coopmpi.errors import clean
from coopmpi.report.plot.curves import Panel
from coopmpi.report.plot.figure import INCHES, styles

ACROSS = {None: 3, "single": 1, "double": 3}  # panels beside each other, at most
TALL = {None: 4.0, "single": 2.2, "double": 2.3}  # inches of a panel
LONG = 30  # characters beside an axis that make two lines
NAMED = 10  # values of a key that stand at the axis
SHORT, FEW = 24, 8  # characters of a label and lines up to which labels stand at the ends
MARKS = 8  # along a line that has some
BESIDE, POINTS = 0.018, "os^Dv<>p"  # of the axis between the marks of lines at the same key; the marks
LETTER = 0.03  # of the axis, of the narrowest panel
FEW_DECADES = 2  # of a logarithmic axis that also has ticks at 2 and 5
REACHES = 0.8  # of the axis, where a line with a label ends at least


def draw(panels: list[Panel], paper: str | None):
    """The Figure of these panels, in the look that is in force."""
    from matplotlib.figure import Figure

    down = -(-len(panels) // ACROSS[paper])
    across = -(-len(panels) // down)
    width = INCHES[paper] if paper or across == 1 else 3.6 * across
    tall = TALL[paper] if across == 1 or paper else 3.0
    # a label looks the same in all panels
    labels = list(dict.fromkeys(line.label for panel in panels for line in panel.lines))
    looks = dict(zip(labels, styles(len(labels))))
    legend = len(labels) > 1 and not (len(panels) == 1 and _room_for_ends(panels[0]))
    figure = Figure(figsize=(width, tall * down + (_legend_height(labels, width) if legend else 0.0)), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03)
    places = figure.subplots(down, across, squeeze=False).ravel()
    for place in places[len(panels):]:
        place.set_axis_off()
    handles = {}
    for place, panel in zip(places, panels):
        handles |= _panel(place, panel, looks)
    if legend:
        _legend(figure, handles, width)
    elif len(labels) > 1:
        _label_ends(figure, places[0], panels[0])
    return figure


def _panel(place, panel, looks):
    """Draws the lines; their handles for a legend, {label: handle}, in the order in which the lines end, from top to bottom."""
    one, number = _ends if panel.points else _curve, len(panel.lines)
    handles = [one(place, line, looks[line.label], i, number) for i, line in enumerate(_beside(panel) if panel.points else panel.lines)]
    y_label = clean(panel.y_label)
    place.set(xlabel=clean(panel.x_label), ylabel=y_label.replace(" (", "\n(", 1) if len(y_label) > LONG else y_label)
    place.set(xscale="log" if "x" in panel.log else "linear", yscale="log" if "y" in panel.log else "linear", ylim=panel.view)
    if panel.points:
        _tick_values(place, panel)
    elif "x" in panel.log:
        place.set_xlim(left=min(line.x[_in_view(line, panel)].min() for line in panel.lines if _in_view(line, panel).any()))
        _tick_decades(place)
    if np.isfinite(panel.target):
        place.axhline(panel.target, color="0.35", linewidth=0.8, linestyle=":", zorder=1)
        place.annotate("target", (0.01, panel.target), xycoords=("axes fraction", "data"), xytext=(0, 1), textcoords="offset points",
                       fontsize="small", color="0.35", va="bottom")
    if panel.left_out:
        place.set_title(panel.left_out, loc="left", fontsize="small", fontstyle="italic", color="0.35")
    if panel.title:
        place.set_title("\n".join([clean(panel.title), *([""] if panel.left_out else [])]), fontsize="medium")
    order = np.argsort([-line.mean[-1] if len(line.x) else np.inf for line in panel.lines], kind="stable")
    return {panel.lines[i].label: handles[i] for i in order}


def _in_view(line, panel):
    return (line.mean >= panel.view[0]) & (line.mean <= panel.view[1])


def _curve(place, line, look, i, number):
    """Line i of so many, with its band; marks stand elsewhere than those of the others."""
    if line.runs > 1:
        place.fill_between(line.x, line.least, line.most, color=look["color"], alpha=0.15, linewidth=0)
    step = max(1, len(line.x) // MARKS)
    return place.plot(line.x, line.mean, markevery=(i * step // number, step), **look)[0]


def _beside(panel):
    """The lines over a key, those that have a value of it in common moved a little along the axis."""
    log = "x" in panel.log
    at = [np.log10(line.x) if log else line.x for line in panel.lines]
    step = BESIDE * (np.ptp(np.concatenate(at)) or 1.0)
    for i, (line, places) in enumerate(zip(panel.lines, at)):
        before, after = ([np.isin(places, other) for other in others] for others in (at[:i], at[i + 1:]))
        moved = places + step / 2 * (np.sum(before, axis=0) - np.sum(after, axis=0))
        yield line._replace(x=10**moved if log else moved)


def _ends(place, line, look, i, number):
    """Line i of so many: the ends of runs over a key."""
    # the mean of equal numbers may be off by rounding
    spread = np.maximum(0, [line.mean - line.least, line.most - line.mean]) if line.runs > 1 else None
    return place.errorbar(line.x, line.mean, spread, capsize=2, elinewidth=0.8, **look | {"marker": POINTS[i % len(POINTS)]})


def _tick_values(place, panel):
    """The values of a key stand at the axis themselves, with room at both ends."""
    values = np.unique(np.concatenate([line.x for line in panel.lines]))
    low, high = np.log10(values[[0, -1]]) if "x" in panel.log else values[[0, -1]]
    around = 0.08 * (high - low) or 1.0
    ends = np.array([low - around, high + around])
    place.set_xlim(10**ends if "x" in panel.log else ends)
    if len(values) <= NAMED:
        along = (np.log10(values) if "x" in panel.log else values) / ((high - low) or 1.0)
        place.set_xticks(values, _apart(along, [f"{value:g}" for value in values]))
        place.minorticks_off()


def _apart(along, labels):
    """The labels at places along an axis of length 1, empty where one would meet the one before."""
    kept = [labels[0]]
    last = 0
    for i in range(1, len(labels)):
        free = along[i] - along[last] >= LETTER * ((len(labels[i]) + len(labels[last])) / 2 + 1)
        kept.append(labels[i] if free else "")
        last = i if free else last
    return kept


def _tick_decades(place):
    """Labels that do not meet along a logarithmic axis."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    left, right = place.get_xlim()
    place.xaxis.set_minor_formatter(NullFormatter())
    if right < 10**FEW_DECADES * left:
        place.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        place.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _room_for_ends(panel):
    last = max(line.x[-1] for line in panel.lines if len(line.x))
    return (len(panel.lines) <= FEW and max(len(line.label) for line in panel.lines) <= SHORT
            and all(len(line.x) and line.x[-1] >= REACHES * last and _in_view(line, panel)[-1] for line in panel.lines))


def _label_ends(figure, place, panel):
    """The label of each line at the right border, as high as its end, or higher or lower where two would meet."""
    place.set_xlim(right=max(line.x[-1] for line in panel.lines))
    labels = [place.annotate(clean(line.label), (1, 0), (1, 0), xycoords="axes fraction", textcoords="axes fraction", va="center",
                             color=look["color"], fontsize="small", annotation_clip=False)
              for line, look in zip(panel.lines, styles(len(panel.lines)))]
    figure.draw_without_rendering()  # now it is known where the ends are
    high = 1.05 * max(label.get_window_extent().height for label in labels)
    ends = [place.transData.transform((line.x[-1], line.mean[-1]))[1] for line in panel.lines]
    inside = place.transAxes.inverted().transform
    for label, free in zip(labels, spread_out(ends, high)):
        label.set_position((1.015, inside((0, free))[1]))


def spread_out(wanted: list[float], gap: float) -> list[float]:
    """The places nearest to those wanted, in the same order, that are at least `gap` from each other."""
    order = np.argsort(wanted, kind="stable")
    # with the gaps taken out the places must not fall: neighbours that do share their mean
    groups = []
    for rank, i in enumerate(order):
        groups.append([wanted[i] - gap * rank])
        while len(groups) > 1 and np.mean(groups[-2]) > np.mean(groups[-1]):
            groups[-2:] = [groups[-2] + groups[-1]]
    level = [np.mean(group) for group in groups for _ in group]
    places = np.empty(len(wanted))
    places[order] = np.array(level) + gap * np.arange(len(wanted))
    return places.tolist()


def _legend(figure, handles, width):
    """Above all panels."""
    figure.legend(handles.values(), map(clean, handles), loc="outside upper left", ncols=_columns(handles, width), borderaxespad=0.2,
                  columnspacing=1.2)


def _columns(labels, width):
    """How many labels fit beside each other; a letter is about half as wide as high."""
    size = _text_size() / 72
    return max(1, min(len(labels), int(width / (0.55 * size * max(map(len, labels)) + 5 * size))))


def _legend_height(labels, width):
    return 1.45 * _text_size() / 72 * -(-len(labels) // _columns(labels, width))


def _text_size():
    from matplotlib import rcParams

    return rcParams["legend.fontsize"]
