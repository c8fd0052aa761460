"""Experiments of papers, repeated: `python -m benchmarks papers NAME ...`, or all of them without a name.

Each runs NAME.toml on virtual clocks, stores results/NAME.h5, and renews the table in NAME.md and the picture in
docs/papers.
"""

import argparse
import os
import re

MARKS = "<!-- results -->", "<!-- end of results -->"


def main(arguments):
    from benchmarks.papers import experiment, results
    from benchmarks.papers.draw import draw
    from benchmarks.papers.tuning import carry_out

    known = experiment.names()
    parser = argparse.ArgumentParser(prog="python -m benchmarks papers", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of: {', '.join(known)}")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (default: %(default)s)")
    parser.add_argument("--redraw", action="store_true", help="table and picture from stored results")
    options = parser.parse_args(arguments)
    for name in options.names or known:
        if name not in known:
            parser.error(f"no experiment {name!r}; known: {', '.join(known)}")
        described = experiment.load(name)
        if not options.redraw:
            results.write(name, described, carry_out(described, options.jobs))
        found = results.read(name, described)
        page = experiment.FOLDER / f"{name}.md"
        text = with_table(page.read_text(encoding="utf-8"), *results.table(described, found))
        page.write_text(text, encoding="utf-8")
        draw(described, found, experiment.FOLDER.parents[1] / "docs" / "papers" / f"{name}.png")
        print(text)


def with_table(text, headings, rows):
    """A page with its results replaced."""
    lines = [headings, ["---"] * len(headings), *rows]
    table = "\n".join(f"| {' | '.join(row)} |" for row in lines)
    begin, end = MARKS
    return re.sub(f"{begin}.*{end}", lambda _: f"{begin}\n{table}\n{end}", text, flags=re.DOTALL)
