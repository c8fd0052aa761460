"""Experiments of papers, repeated: `python -m benchmarks papers NAME ...`, or all of them without a name.

Each is a sweep, NAME.toml, as `coopmpi sweep` carries it out, whose file is results/NAME.h5; then the table in NAME.md and the picture
in docs/papers are renewed.
"""

import argparse
import os
import re

MARKS = "<!-- results -->", "<!-- end of results -->"


def main(arguments):
    from benchmarks.papers import results
    from benchmarks.papers.page import FOLDER, names, page_of, results_of, sweep_of
    from benchmarks.papers.pictures import draw
    from coopmpi.drivers.mpi.launch import columns
    from coopmpi.sweep.session import carry_out
    from coopmpi.sweep.progress import Progress

    parser = argparse.ArgumentParser(prog="python -m benchmarks papers", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of: {', '.join(names())}")
    parser.add_argument("--cores", type=int, default=os.cpu_count(), help="to use (default: %(default)s)")
    parser.add_argument("--redraw", action="store_true", help="table and picture from stored results")
    options = parser.parse_args(arguments)
    for name in options.names or names():
        if name not in names():
            parser.error(f"no experiment {name!r}; known: {', '.join(names())}")
        (sweep, text), page = sweep_of(name), page_of(name)
        if not options.redraw:
            print(sweep.title)
            with Progress(columns()) as progress:
                carry_out(sweep, text, results_of(name), options.cores, progress.show)
        found = results.read(results_of(name), sweep, page)
        path = FOLDER / f"{name}.md"
        shown = with_table(path.read_text(encoding="utf-8"), *results.table(page, found))
        path.write_text(shown, encoding="utf-8")
        draw(sweep, page, found, FOLDER.parents[1] / "docs" / "papers" / name)
        print(shown)


def with_table(text, headings, rows):
    """A page with its results replaced."""
    lines = [headings, ["---"] * len(headings), *rows]
    table = "\n".join(f"| {' | '.join(row)} |" for row in lines)
    begin, end = MARKS
    return re.sub(f"{begin}.*{end}", lambda _: f"{begin}\n{table}\n{end}", text, flags=re.DOTALL)
