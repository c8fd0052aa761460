"""A curve in a few lines of a terminal, with single points on top of it."""

import numpy as np

from coopmpi.report.plot.terminal import set_ruler

POINT = "o"
SPAN = 10.0  # ratio of most to least from which the vertical axis is logarithmic


def curve(x, y, points, width: int, height: int) -> list[str]:
    """So many lines: the line through (x, y), points (x, y) on top of it, and axes; 1-D arrays of numbers that are finite."""
    import plotext

    every_x, every_y = np.concatenate([x, points[0]]), np.concatenate([y, points[1]])
    logarithmic = bool(every_y.min() > 0 and every_y.max() > SPAN * every_y.min())
    scale = np.log10 if logarithmic else np.asarray
    figure = plotext.figure
    figure.clear()
    plotext.terminal.limit(False, False)
    figure.theme("colorless")
    figure.plot_size(width, height)
    for side, axis in (("upper", "x"), ("right", "y")):
        figure.axes(False, axis=axis, side=side)
    if len(x):
        figure.draw(figure.signal(x.tolist(), scale(y).tolist(), marker=plotext.marker("braille")).lines())
    if points.size:
        figure.draw(figure.signal(points[0].tolist(), scale(points[1]).tolist(), marker=plotext.marker(POINT)))
    for axis, values, most, log in (("x", every_x, width // 12, False), ("y", scale(every_y), height // 2, logarithmic)):
        set_ruler(figure.ruler(axis), values.min(), values.max(), 0.0, None, most, log)
    return [line.rstrip() for line in figure.build().string(colorless=True).rstrip("\n").splitlines()]
