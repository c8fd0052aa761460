"""What `coopmpi compare` says of several result files: who came furthest, or first to a target."""

import csv
import io
import json
import tomllib
from typing import Any, NamedTuple

import numpy as np

from coopmpi.errors import UserError, clean
from coopmpi.record import apart
from coopmpi.record.reader import blocks, complete_rows, open_run, read_alive, require_complete, status_of

RISING = ("accuracy",)  # figures that are better when they are larger
SHOWN = {"loss": ".4g", "train_loss": ".4g", "accuracy": ".2%"}  # first among the figures, in this order
FEWEST, NARROWEST = 4, 16  # columns of a table in a terminal; characters of the first
APART = ("seed", "sinks", "record", "checkpoint", "survive", "stop")  # keys in which comparable runs may differ without a word
TARGET = ("steps to it", "s to it", "MB to it")
END = ("steps", "s", "MB")


class Run(NamedTuple):
    """What is compared of a result file: figures are those of each evaluation."""

    path: str
    mode: str
    settings: dict[str, Any]  # dotted keys of the run description, without those of APART
    steps: list[int]  # of each evaluation, as what follows
    seconds: list[float]  # virtual ones in a simulation
    sent: list[float]  # bytes per worker
    figures: dict[str, list[float]]


class Row(NamedTuple):
    """Runs that differ in the seed alone. cells: {column: a number for each run, NaN where there is none}."""

    label: str
    runs: int
    cells: dict[str, list[float]]


def compared(paths, target: tuple[str, float] | None = None) -> list[Row]:
    """A row for each set of runs that differ in the seed alone, the best one first.

    target: (figure, value); the rows tell what it took to reach it, and are ranked by the seconds. UserError for files that
    cannot be compared.
    """
    runs = [_run(path) for path in dict.fromkeys(map(str, paths))]
    _require_comparable(runs)
    figures = [*(name for name in SHOWN if name in runs[0].figures), *(name for name in runs[0].figures if name not in (*SHOWN, "consensus"))]
    if target and target[0] not in figures:
        raise UserError(f"{runs[0].path}: has no figure {target[0]!r}; there are: {', '.join(figures)}")
    rows = []
    for label, alike in _alike(runs):
        found = [_cells(run, figures, target) for run in alike]
        rows.append(Row(label, len(alike), {name: [cells[name] for cells in found] for name in found[0]}))
    best = "s to it" if target else figures[0]
    worst = -np.inf if best in RISING else np.inf
    rows.sort(key=lambda row: np.nan_to_num(np.mean(row.cells[best]), nan=worst), reverse=best in RISING)
    return rows


def _run(path):
    def work():
        with open_run(path) as file:
            require_complete(file)
            yield json.dumps(_extract(path, file))

    return Run(**json.loads("".join(apart.texts(path, work))))


def _extract(path, file):
    if "eval" not in file or status_of(file) == "failed":
        raise UserError(f"{path}: {'a failed run' if 'eval' in file else 'a simulation of time alone'} has nothing to compare")
    train, evaluations = file["train"], file["eval"]
    done, rows = complete_rows(list(train.values())), complete_rows(list(evaluations.values()))
    values = {name: read_alive(evaluations[name], slice(rows)) for name in evaluations}
    # nothing has been sent, and no time is gone, at step 0
    steps = values.pop("step")
    kept = (steps <= done) & (steps > 0)
    steps, wall = steps[kept], values.pop("wall_time")[kept]
    if not len(steps):
        raise UserError(f"{path}: no evaluation after the first step is in the file yet")
    sent = np.concatenate([[0.0], np.cumsum(_means(train["bytes_sent"], done))])[steps]
    seconds = read_alive(train["virtual_time"], slice(done))[steps - 1] if "virtual_time" in train else wall
    figures = {name: column[kept].tolist() for name, column in values.items() if not np.isnan(column[kept]).all()}
    tables = tomllib.loads(file["config"].asstr()[()])
    settings = {key: value for key, value in _flat(tables) if key.partition(".")[0] not in APART}
    return {"path": str(path), "mode": str(file.attrs["mode"]), "settings": settings, "steps": steps.tolist(), "seconds": seconds.tolist(),
            "sent": sent.tolist(), "figures": figures}


def _means(data, rows):
    """Of each row, over the workers."""
    found = (read_alive(data, span) for span in blocks(data, rows))
    return np.concatenate([block.reshape(len(block), -1).mean(axis=1) for block in found] or [np.zeros(0)])


def _flat(table, before=""):
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", json.dumps(value) if isinstance(value, list) else value


def _require_comparable(runs):
    first = runs[0]
    for run in runs[1:]:
        if run.mode != first.mode:
            raise UserError(f"{first.path} is of `coopmpi {first.mode}`, {run.path} of `coopmpi {run.mode}`: their seconds cannot be compared")
        differ = [key for key in sorted(run.settings.keys() | first.settings.keys())
                  if key.startswith("task.") and run.settings.get(key) != first.settings.get(key)]
        if differ:
            told = ", ".join(f"{key} = {first.settings.get(key)!s:.40} and {run.settings.get(key)!s:.40}" for key in differ[:3])
            raise UserError(f"{first.path} and {run.path} have different tasks: {told}")
        if run.figures.keys() != first.figures.keys():
            raise UserError(f"{first.path} and {run.path} have different figures: {', '.join(sorted(run.figures.keys() ^ first.figures.keys()))}")


def _alike(runs):
    """[(label, runs that differ in the seed alone)]; a label says what differs between the others."""
    sets = {}
    for run in runs:
        sets.setdefault(json.dumps(run.settings, sort_keys=True), []).append(run)
    settings = [alike[0].settings for alike in sets.values()]
    keys = list(dict.fromkeys(key for one in settings for key in one))
    keys.sort(key=lambda key: key != "algorithm.kind")
    # keys that an algorithm alone reads are left out, unless two labels would be the same
    differ = [key for key in keys if len({str(one[key]) for one in settings if key in one}) > 1]
    labels = [_label(one, differ) for one in settings]
    if len(set(labels)) < len(labels):
        labels = [_label(one, [key for key in keys if len({str(other.get(key)) for other in settings}) > 1]) for one in settings]
    return [(label or alike[0].path, alike) for label, alike in zip(labels, sets.values())]


def _label(settings, keys):
    """Of the algorithm the name alone."""
    return ", ".join(str(settings[key]) if key == "algorithm.kind" else f"{key} = {settings[key]}" for key in keys if key in settings)


def _cells(run, figures, target):
    """{column: number} of one run."""
    end = (run.steps[-1], run.seconds[-1], run.sent[-1] / 1e6)
    cells = {name: run.figures[name][-1] for name in figures} | dict(zip(END, end))
    if target is None:
        return cells
    name, value = target
    values = np.array(run.figures[name])
    reached = np.flatnonzero(values >= value if name in RISING else values <= value)
    at = reached[0] if len(reached) else None
    took = (np.nan,) * 3 if at is None else (run.steps[at], run.seconds[at], run.sent[at] / 1e6)
    return dict(zip(TARGET, took)) | {name: cells[name] for name in figures}


# forms of output
def as_table(rows: list[Row], columns: int | None = None) -> str:
    """For a terminal, with as many figures as fit: least and most of what the rows are ranked by, of all else the mean. columns: its width."""
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False, highlight=False, emoji=False, width=columns)
    first = TARGET[1] if TARGET[1] in rows[0].cells else next(iter(rows[0].cells))
    header, body = _told(rows, spread=(first,))
    header = [name.removesuffix(" to it") for name in header]
    while len(header) > FEWEST and NARROWEST + sum(1 + max(map(len, column)) for column in list(zip(header, *body))[1:]) > console.width:
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
    best = np.mean(rows[0].cells[by_time]) if by_time else np.nan
    body = []
    for row in rows:
        cells = [_cell(name, row.cells[name], spread is None or name in spread) for name in names]
        if by_time:
            ratio = np.mean(row.cells[by_time]) / best
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
