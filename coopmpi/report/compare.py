"""What `coopmpi compare` says of several result files: who came furthest, or first to a target."""

import csv
import io
import json
from typing import NamedTuple

import numpy as np

from coopmpi.errors import UserError, clean
from coopmpi.report.runs import RISING, by_setting, labelled, read_runs, require_same_clock

SHOWN = {"loss": ".4g", "train_loss": ".4g", "accuracy": ".2%"}  # first among the figures, in this order
FEWEST, WIDEST = 4, 28  # columns of a table in a terminal; characters up to which the first is as wide as its labels
TARGET = ("steps to it", "s to it", "MB to it")
END = ("steps", "s", "MB")


class Row(NamedTuple):
    """Runs that differ in the seed alone. cells: {column: a number for each run, NaN where there is none}; setting: of a sweep."""

    setting: str
    label: str
    runs: int
    cells: dict[str, list[float]]


def compared(paths, target: tuple[str, float] | None = None) -> list[Row]:
    """A row for each set of runs that differ in the seed alone, the best one first, in each setting of a sweep.

    target: (figure, value); the rows tell what it took to reach it, and are ranked by the seconds. UserError for files that
    cannot be compared.
    """
    runs = read_runs(paths)
    _require_comparable(runs)
    for _, among in by_setting(runs):
        _require_same_task(among)
    there = runs[0].figures
    figures = [*(name for name in SHOWN if name in there), *(name for name in there if name not in (*SHOWN, "consensus"))]
    if target and target[0] not in figures:
        raise UserError(f"{runs[0].path}: has no figure {target[0]!r}; there are: {', '.join(figures)}")
    rows, best = [], "s to it" if target else figures[0]
    worst = -np.inf if best in RISING else np.inf
    for setting, among in by_setting(runs):
        found = [_row(setting, label, alike, figures, target) for label, alike in labelled(among)]
        rows += sorted(found, key=lambda row: np.nan_to_num(np.mean(row.cells[best]), nan=worst), reverse=best in RISING)
    return rows


def _row(setting, label, runs, figures, target):
    if runs[0].place:
        tuned = ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in runs[0].place["tuned"].items())
        label = f"{f'{setting}: ' * bool(setting)}{label}{f' ({tuned})' * bool(tuned)}"
    failed = sum(run.status == "failed" for run in runs)
    label += f", {failed} of {len(runs)} failed" * bool(failed)
    found = [_cells(run, figures, target) for run in runs]
    return Row(setting, label, len(runs), {name: [cells[name] for cells in found] for name in found[0]})


def _require_comparable(runs):
    for run in runs:
        if run.mode == "time-only" or (run.status == "failed" and not run.place):
            what = "a failed run" if run.status == "failed" else "a simulation of time alone"
            raise UserError(f"{run.path}: {what} has nothing to compare")
        if run.status != "failed" and not run.series["eval/step"].any():
            raise UserError(f"{run.path}: no evaluation after the first step is in the file yet")
    require_same_clock(runs)
    for run in runs[1:]:
        figures = set(run.figures) ^ set(runs[0].figures)
        if figures:
            raise UserError(f"{runs[0].path} and {run.path} have different figures: {', '.join(sorted(figures))}")


def _require_same_task(runs):
    first = runs[0]
    for run in runs[1:]:
        differ = [key for key in sorted(run.settings.keys() | first.settings.keys())
                  if key.startswith("task.") and run.settings.get(key) != first.settings.get(key)]
        if differ:
            told = ", ".join(f"{key} = {first.settings.get(key)!s:.40} and {run.settings.get(key)!s:.40}" for key in differ[:3])
            raise UserError(f"{first.path} and {run.path} have different tasks: {told}")


def _cells(run, figures, target):
    """{column: number} of one run, whose evaluation before the first step does not count; NaN of one that failed."""
    if run.status == "failed":
        return dict.fromkeys((*figures, *END) if target is None else (*TARGET, *figures), np.nan)
    later = run.series["eval/step"] > 0
    steps, seconds, sent = (run.along(axis, "eval")[later] for axis in ("steps", "time", "bytes"))
    values = {name: run.series[f"eval/{name}"][later] for name in figures}
    if target is None:
        return {name: column[-1] for name, column in values.items()} | dict(zip(END, (steps[-1], seconds[-1], sent[-1] / 1e6)))
    name, value = target
    reached = np.flatnonzero(values[name] >= value if name in RISING else values[name] <= value)
    took = (steps[reached[0]], seconds[reached[0]], sent[reached[0]] / 1e6) if len(reached) else (np.nan,) * len(TARGET)
    return dict(zip(TARGET, took)) | {name: column[-1] for name, column in values.items()}


# forms of output
def as_table(rows: list[Row], columns: int | None = None) -> str:
    """For a terminal that many columns wide, with as many figures as fit: least and most of what the rows are ranked by, else means."""
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False, highlight=False, emoji=False, width=columns)
    first = TARGET[1] if TARGET[1] in rows[0].cells else next(iter(rows[0].cells))
    header, body = _told(rows, spread=(first,))
    header = [name.removesuffix(" to it") for name in header]
    labels = min(WIDEST, max(len(row.label) for row in rows))
    while len(header) > FEWEST and labels + sum(1 + max(map(len, column)) for column in list(zip(header, *body))[1:]) > console.width:
        # figures are the last ones, and what the rows are ranked by is among the first
        header, body = header[:-1], [cells[:-1] for cells in body]
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column(header[0], overflow="fold")
    for name in header[1:]:
        table.add_column(clean(name), justify="right", no_wrap=True)
    for cells in body:
        table.add_row(*map(clean, cells))
    with console.capture() as capture:
        console.print(table)
    return "".join(f"{line.rstrip()}\n" for line in capture.get().splitlines())


def as_latex(rows: list[Row]) -> str:
    """A tabular; nothing but text and numbers, the lines of booktabs."""
    header, body = _told(rows)
    lines = [" & ".join(map(_escaped, cells)) + r" \\" for cells in (header, *body)]
    begin = rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}"
    return "\n".join([begin, r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule", r"\end{tabular}"]) + "\n"


def as_csv(rows: list[Row]) -> str:
    """A line for each row: mean, least and most of each column."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = list(rows[0].cells)
    writer.writerow(["run", "runs", *(f"{name}{end}" for name in names for end in ("", " (least)", " (most)"))])
    for row in rows:
        writer.writerow([row.label, row.runs, *(repr(number) for name in names for number in _three(row.cells[name]))])
    return out.getvalue()


def as_json(rows: list[Row]) -> str:
    """A list of {"run", "runs", column: a number for each run, null where a target was not reached}."""
    plain = [{"run": row.label, "runs": row.runs} | {name: [None if np.isnan(value) else value for value in values]
                                                     for name, values in row.cells.items()} for row in rows]
    return json.dumps(plain, indent=1) + "\n"


def _told(rows, spread=None):
    """(header, cells of each row) as text; spread: the columns with least and most, None: all."""
    seeds = any(row.runs > 1 for row in rows)
    names = list(rows[0].cells)
    by_time = "s to it" if "s to it" in names else None
    best = {row.setting: np.mean(row.cells[by_time]) for row in reversed(rows)} if by_time else {}
    body = []
    for row in rows:
        cells = [_cell(name, row.cells[name], spread is None or name in spread) for name in names]
        if by_time:
            ratio = np.mean(row.cells[by_time]) / best[row.setting]
            cells.insert(len(TARGET), "" if np.isnan(ratio) else f"{ratio:.2f}")
        body.append([row.label, *([str(row.runs)] if seeds else []), *cells])
    if by_time:
        names.insert(len(TARGET), "ratio")
    return ["run", *(["runs"] if seeds else []), *names], body


def _cell(name, values, spread):
    form = SHOWN.get(name, ".4g")
    missing = int(np.isnan(values).sum())
    if missing:
        if name != TARGET[1]:
            return "-"
        return "not reached" if len(values) == missing else f"{missing} of {len(values)} never"
    mean, least, most = _three(values)
    return f"{mean:{form}}" if least == most or not spread else f"{mean:{form}} ({least:{form}} to {most:{form}})"


def _three(values):
    return float(np.mean(values)), float(np.min(values)), float(np.max(values))


def _escaped(text):
    for special in "&%$#_{}":
        text = text.replace(special, "\\" + special)
    return text
