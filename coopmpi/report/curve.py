"""Curves in a terminal, in the dots of Braille characters: four times as fine as its lines, twice as fine as its columns."""

import numpy as np

DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])  # bit of each dot in a Braille character
BLANK = 0x2800
POINT = "o"


def curve(x, y, points, width: int, height: int) -> list[str]:
    """Lines of a picture: the line through (x, y), and single points (x, y) on top of it; 1-D arrays, numbers that are finite.

    The vertical axis is logarithmic where all values are positive and span more than a factor of ten.
    """
    every_x, every_y = np.concatenate([x, points[0]]), np.concatenate([y, points[1]])
    logarithmic = every_y.min() > 0 and every_y.max() > 10 * every_y.min()
    scale = np.log if logarithmic else np.asarray
    low, high = scale(every_y.min()), scale(every_y.max())
    marks = [f"{np.exp(value) if logarithmic else value:.3g}" for value in np.linspace(high, low, 3)]
    margin = max(map(len, marks)) + 1
    columns = width - margin - 1

    def places(values, least, most, n):
        """Of n places from the least to the most."""
        return np.round((values - least) / ((most - least) or 1) * (n - 1)).astype(int)

    # the line, interpolated at each column of dots that it spans
    dots = np.zeros((4 * height, 2 * columns), bool)
    if len(x):
        at = places(x, every_x.min(), every_x.max(), 2 * columns)
        across = np.arange(at[0], at[-1] + 1)
        rows = places(-np.interp(across, at, scale(y)), -high, -low, 4 * height)
        for column, row, before in zip(across, rows, [rows[0], *rows[:-1]]):
            dots[min(row, before + (row > before)):max(row, before - (row < before)) + 1, column] = True
    bits = (dots.reshape(height, 4, columns, 2) * DOTS[:, None, :]).sum(axis=(1, 3))
    text = [[chr(BLANK + code) if code else " " for code in row] for row in bits]
    for column, row in zip(places(points[0], every_x.min(), every_x.max(), columns), places(-scale(points[1]), -high, -low, height)):
        text[row][column] = POINT

    at_line = {0: marks[0], (height - 1) // 2: marks[1], height - 1: marks[2]}
    picture = [f"{at_line.get(number, ''):>{margin - 1}} ┤{''.join(line)}".rstrip() for number, line in enumerate(text)]
    begin, end = (f"{value:g}" for value in (every_x.min(), every_x.max()))
    return [*picture, f"{'':>{margin}}{begin}{end:>{columns + 1 - len(begin)}}"]
