"""Curves in the terminal: one plot below the other, each line with a letter that the list below it explains."""

import textwrap

import numpy as np

from coopmpi.errors import clean
from coopmpi.report.plot import axes
from coopmpi.report.plot.curves import Panel, ranked, told

COLOURS = ("blue+", "red+", "green+", "magenta+", "cyan+", "orange+", "gray")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
ROWS = 16  # of a plot
MARKS = 4  # letters along a line, and one at its end
NARROWEST = 40  # columns


def shown(panels: list[Panel], columns: int, coloured: bool) -> str:
    """The text of all panels, that many columns wide."""
    columns = max(columns, NARROWEST)
    return "\n".join("\n".join([*_heading(panel, columns), *_plot(panel, columns, coloured), *_list(panel, columns, coloured)]) + "\n"
                     for panel in panels)


def _heading(panel, columns):
    said = "; ".join(filter(None, (panel.title, f"{panel.y_label} over {panel.x_label}", panel.left_out)))
    return textwrap.wrap(clean(said), columns)


def _plot(panel, columns, coloured):
    import plotext

    figure = plotext.figure
    figure.clear()
    plotext.terminal.limit(False, False)
    figure.theme("simple")
    figure.plot_size(columns, ROWS)
    lines = [_visible(line, panel) for line in panel.lines]
    for (x, y), colour in zip(lines, COLOURS * len(lines)):
        figure.draw(figure.signal(x, y, marker=plotext.marker("braille", colour)).lines())
    x = sorted({value for along, _ in lines for value in along})
    cell = (x[-1] - x[0]) / columns
    # letters last: no line hides them; those at equal keys stand beside each other
    for i, ((along, y), colour) in enumerate(zip(lines, COLOURS * len(lines))):
        at = np.array(along) if panel.points else _marked(along, i, len(lines))
        aside = (i - len(lines) // 2) * cell * panel.points
        if len(at):
            figure.draw(figure.signal((at + aside).tolist(), np.interp(at, along, y).tolist(), marker=plotext.marker(_letter(i), colour)))
    set_ruler(figure.ruler("y"), *_position(panel.view, "y" in panel.log), 0.0, None, 5, "y" in panel.log)
    keys = x if panel.points and len(x) <= columns // 6 else None
    set_ruler(figure.ruler("x"), x[0], x[-1], len(lines) * cell * panel.points, keys, columns // 12, "x" in panel.log)
    return [line.rstrip() for line in figure.build().string(colorless=not coloured).rstrip("\n").splitlines()]


def set_ruler(ruler, low: float, high: float, around: float, at: list[float] | None, most: int, log: bool):
    """The limits of an axis, with room around them, and its ticks: at these places, or at most so many round ones."""
    high = high if high > low else low + 1.0
    ruler.lim(float(low - around), float(high + around))
    ruler.ticks(*axes.ticks(low, high, most, log) if at is None else (at, [f"{10**place if log else place:.6g}" for place in at]))


def _visible(line, panel):
    """(x, y) as lists of what lies in the view, logarithms along logarithmic axes."""
    kept = (line.mean >= panel.view[0]) & (line.mean <= panel.view[1])
    return [_position(values[kept], axis in panel.log).tolist() for axis, values in (("x", line.x), ("y", line.mean))]


def _position(values, log):
    return np.log10(values) if log else np.asarray(values)


def _marked(x, i, lines):
    """Where line i of so many has its letter: at its end, and here and there along it, where lines that coincide have theirs apart."""
    if not x:
        return np.zeros(0)
    return np.append(x[0] + (np.arange(MARKS) + (i + 0.5) / lines) / MARKS * (x[-1] - x[0]), x[-1])


def _letter(i):
    return LETTERS[i % len(LETTERS)]


def _list(panel, columns, coloured):
    """The lines, the best first."""
    import plotext

    texts = []
    for i in ranked(panel):
        line, end = panel.lines[i], ""
        if len(line.x):
            k = told(panel, line)
            spread = f" ({line.least[k]:.4g} to {line.most[k]:.4g})" if line.runs > 1 else ""
            end = f": {line.mean[k]:.4g}{spread} at {line.x[k]:.4g}"
        first, *rest = textwrap.wrap(clean(f"{line.label}{end}"), columns - 4) or [""]
        letter = _letter(i)
        if coloured:
            letter = plotext.colorize(letter, COLOURS[i % len(COLOURS)]).string()
        texts += [f" {letter}  {first}", *(f"    {text}" for text in rest)]
    said = ", ".join(filter(None, (panel.spread and f"in brackets: {panel.spread}", "best" * panel.points)))
    return texts + ([f"    ({said})"] if said else [])
