"""Text and numbers for a terminal of any width."""

import re
import textwrap
from datetime import timedelta
from math import isfinite

from coopmpi.errors import clean

LONGEST = 86400 * 10**8  # seconds that can be told as days
TOGETHER = re.compile(r"(?<=\d) (?=(?:[kMGTP]?B|bytes|ms|s|steps/s)\b)| (?==)|(?<==) |(?<=\d,) (?=\d)")  # spaces at which no line ends
FIRM = "\xa0"


def wrapped(text: str, width: int) -> list[str]:
    """Lines of up to `width`, which end between words, but not between a number and its unit."""
    lines = textwrap.wrap(TOGETHER.sub(FIRM, clean(text)), width, break_on_hyphens=False)
    return [line.replace(FIRM, " ") for line in lines]


def duration(seconds: float) -> str:
    """Seconds in words; from a minute on as h:mm:ss."""
    if not 60 <= seconds < LONGEST:
        return f"{seconds:.2f} s" if seconds < 60 else f"{seconds:.3g} s"
    return str(timedelta(seconds=round(seconds)))


def size(count: float) -> str:
    """Bytes in words."""
    from rich.filesize import decimal

    return decimal(round(count)) if isfinite(count) else str(count)


def facts(rows: list[tuple[str, str]], width: int) -> list[str]:
    """Lines of (name, what there is to say), the latter beside each other."""
    label = max(len(name) for name, _ in rows) + 2
    lines = []
    for name, said in rows:
        first, *more = wrapped(said, max(20, width - label)) or [""]
        lines += [f"{clean(name):<{label}}{first}".rstrip(), *(f"{'':<{label}}{line}" for line in more)]
    return lines


def columns(header: list[str], rows: list[list[str]], width: int) -> list[str]:
    """Lines of a table of numbers, on the right of their columns; the last columns are left out where there is no room, and named."""
    header, left_out = list(map(clean, header)), []
    sizes = [max(map(len, column)) for column in zip(header, *rows)]
    while len(header) - len(left_out) > 1 and sum(sizes[:len(header) - len(left_out)]) + 2 * (len(header) - len(left_out) - 1) > width:
        left_out.insert(0, header[len(header) - len(left_out) - 1])
    shown = len(header) - len(left_out)
    lines = ["  ".join(f"{cell:>{room}}" for cell, room in zip(cells[:shown], sizes)) for cells in (header, *rows)]
    return lines + (wrapped(f"(no room for: {', '.join(left_out)})", width) if left_out else [])
