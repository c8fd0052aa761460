"""Figures by matplotlib: their look on a screen and in a paper, and their files."""

import html
import io
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path

from coopmpi.drafts import draft_of
from coopmpi.errors import CoopError, UserError, clean, unknown

SUFFIXES = (".pdf", ".svg", ".png", ".html")
COLOURS = ("#0072B2", "#D55E00", "#000000", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5)), (0, (2.5, 1.5)), (0, (8, 1.5, 1, 1, 1, 1.5)))
MARKERS = ("", "o", "s", "^", "D", "v")  # of the first lines, the next ones, ...
INCHES = {None: 6.4, "single": 3.3, "double": 6.8}  # width on a screen, and of one or two columns of a paper
POINTS_OF_TEXT = {None: 9.5, "single": 8, "double": 8}
DOTS = 200  # per inch of a PNG


def require_output(path):
    """UserError for a figure that cannot be written, because of its name or because matplotlib is missing."""
    if Path(path).suffix.lower() not in SUFFIXES:
        raise unknown("kind of figure", Path(path).suffix, SUFFIXES, where=f"output {str(path)!r}: ")
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError(f"-o needs matplotlib, which is not installed: pip install 'coopmpi[plot]' ({error.name} is missing); without "
                        "-o, curves and timelines are shown in the terminal") from error


@contextmanager
def look(paper: str | None):
    """What is drawn inside has the look of a screen (None) or of a paper ("single", "double")."""
    import matplotlib

    size = POINTS_OF_TEXT[paper]
    serif = {"font.family": "STIXGeneral", "mathtext.fontset": "stix"} if paper else {"font.family": "DejaVu Sans"}
    with matplotlib.rc_context(serif | {
            "font.size": size, "axes.titlesize": size, "axes.labelsize": size, "legend.fontsize": size - 0.5,
            "xtick.labelsize": size - 1, "ytick.labelsize": size - 1, "axes.linewidth": 0.6, "xtick.major.width": 0.6,
            "ytick.major.width": 0.6, "lines.linewidth": 1.0 if paper else 1.3, "lines.markersize": 3.5, "axes.spines.top": False,
            "axes.spines.right": False, "legend.frameon": False, "legend.handlelength": 3.2, "figure.dpi": 100, "savefig.dpi": DOTS,
            "svg.hashsalt": "coopmpi", "pdf.fonttype": 42, "axes.unicode_minus": False}):
        yield


def styles(number: int) -> list[dict]:
    """How that many lines are drawn: differently also in grey, and so that those below show through those above."""
    import matplotlib

    width = matplotlib.rcParams["lines.linewidth"]
    return [{"color": colour, "linestyle": dash, "marker": MARKERS[i // len(DASHES) % len(MARKERS)],
             "linewidth": width * (1 + 0.7 * (number - 1 - i) / number), "zorder": 2 + i / number}
            for i, (colour, dash) in enumerate(islice(zip(cycle(COLOURS), cycle(DASHES)), number))]


def save(figure, path, caption: str):
    """Write a figure in the format that its suffix names, the same bytes for the same figure. CoopError."""
    suffix = Path(path).suffix.lower()
    kind = suffix.removeprefix(".").replace("html", "svg")
    undated = {"pdf": {"CreationDate": None}, "svg": {"Date": None, "Creator": None, "Format": None, "Type": None}}.get(kind, {})
    out = io.BytesIO()
    figure.savefig(out, format=kind, metadata=undated | {"Title": clean(caption)})
    content = _page(out.getvalue().decode(), clean(caption)).encode() if suffix == ".html" else out.getvalue()
    try:
        with draft_of(path) as draft:
            draft.write_bytes(content)
    except OSError as error:
        raise CoopError(f"writing {str(path)!r} failed: {error.strerror or error}") from error


def _page(svg, caption):
    """A page that needs nothing else: the picture is in it."""
    svg = svg[svg.index("<svg"):]
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{html.escape(caption)}</title>
<style>
body {{ margin: 2em auto; max-width: 60em; padding: 0 1em; font-family: sans-serif; }}
svg {{ width: 100%; height: auto; }}
</style>
</head>
<body>
<figure>
{svg}
<figcaption>{html.escape(caption)}</figcaption>
</figure>
</body>
</html>
"""
