"""What a sweep came to, from its file: a ranking for each setting, what failed, and where a grid was too small."""

import textwrap
from collections import Counter
from typing import NamedTuple

import numpy as np

from coopmpi.errors import clean
from coopmpi.record import sweeps
from coopmpi.sweep import score
from coopmpi.sweep.description import Sweep
from coopmpi.sweep.grid import edges, values
from coopmpi.sweep.plan import Plan

UNITS = {"seconds": ("s", 1.0), "steps": ("steps", 1.0), "bytes": ("MB", 1e6)}
TOLD = 5  # failures that are told one by one


class Row(NamedTuple):
    """A method in a setting. final, took: of its runs with the several seeds, NaN and inf where one failed or did not get there."""

    setting: str
    method: str
    chosen: dict
    final: np.ndarray
    took: np.ndarray
    failures: list[str]


def ranked(sweep: Sweep, runs: list[dict]) -> list[Row]:
    """The best of each setting first; runs: what the file of the sweep tells of each."""
    found = []
    for setting in sweep.settings:
        rows = [_row(setting.name, method.name, runs) for method in sweep.methods_in(setting)]
        found += sorted(rows, key=lambda row: (_mean(row.took, np.inf), _mean(score.loss(row.final, sweep.score), np.nan)))
    return found


def screen(sweep: Sweep, path, columns: int | None = None) -> str:
    """The closing screen for the file of a sweep. columns: its width, by default that of the terminal."""
    from rich.console import Console

    with sweeps.open_sweep(path) as file:
        runs = [about for _, about in sweeps.runs(file)]
    console = Console(markup=False, highlight=False, emoji=False, width=columns)
    with console.capture() as capture:
        for setting in sweep.settings:
            if setting.name:
                console.print(clean(setting.name))
            console.print(_table(sweep, setting, [row for row in ranked(sweep, runs) if row.setting == setting.name]))
            if setting.name:
                console.print()
        for line in (*_failures(runs), *_edges(runs, sweep)):
            console.print(textwrap.fill(clean(line), console.width, subsequent_indent="  "))
        console.print(f"{path}: {len(runs)} runs; coopmpi compare and coopmpi plot take it")
    return "".join(f"{line.rstrip()}\n" for line in capture.get().splitlines())


def outlook(sweep: Sweep) -> str:
    """What is to be run, a line for each method and setting."""
    counts = Counter((job.setting, job.method) for job in Plan(sweep).jobs if job.role == "tuning")
    lines = [f"{_where(setting.name, method.name)}: {counts[setting.name, method.name]} runs to tune "
             f"{', '.join(sweep.grid(setting, method)) or 'nothing'}, then {len(sweep.seeds)}"
             for setting in sweep.settings for method in sweep.methods_in(setting)]
    return "\n".join([*lines, f"at most {Plan(sweep).total} runs in all"]) + "\n"


def _row(setting, method, runs):
    alike = [run for run in runs if (run["setting"], run["method"], run["role"]) == (setting, method, "final")]
    final, took = (np.array([run[name] for run in alike], float) for name in ("final", "took"))
    return Row(setting, method, alike[0]["tuned"], final, took, [run["failure"] for run in alike if run["failure"]])


def _mean(values, missing):
    """Over the seeds; infinite if one of them is missing."""
    return np.inf if np.isnan(values).any() or (values == missing).any() else values.mean()


def _table(sweep, setting, rows):
    from rich.table import Table

    target, table = sweep.target(setting), Table(box=None, padding=(0, 1, 0, 0))
    tuned = any(row.chosen for row in rows)
    table.add_column("method", overflow="fold")
    if tuned:
        table.add_column("tuned", overflow="fold")
    table.add_column(sweep.score.figure, justify="right", no_wrap=True)
    if target is not None:
        table.add_column(f"{UNITS[sweep.score.by][0]} to {target if not isinstance(target, str) else 'target'}", justify="right", no_wrap=True)
        table.add_column("ratio", justify="right", no_wrap=True)
    first = rows[0].took.mean()
    for row in rows:
        cells = [row.method, *([values(row.chosen)] if tuned else []), _final(row, sweep.score)]
        if target is not None:
            ratio = row.took.mean() / first
            cells += [_took(row, sweep.score), f"{ratio:.2f}" if np.isfinite(ratio) else ""]
        table.add_row(*map(clean, cells))
    return table


def _final(row, kind):
    sound = row.final[~np.isnan(row.final)]
    if sound.size < row.final.size:
        why = row.failures[0].split()[0] if row.failures else "none"
        return why if not sound.size else f"{why} in {row.final.size - sound.size} of {row.final.size}"
    return spread(sound, ".2%" if kind.figure == "accuracy" else ".4g")


def _took(row, kind):
    missing = int(np.isinf(row.took).sum())
    if missing:
        return "never" if missing == row.took.size else f"never in {missing} of {row.took.size}"
    return spread(row.took / UNITS[kind.by][1], ".4g")


def spread(numbers: np.ndarray, form: str) -> str:
    """Mean and standard deviation."""
    if numbers.size < 2:
        return f"{numbers.mean():{form}}"
    return f"{numbers.mean():{form}} ± {numbers.std(ddof=1):{form.replace('4', '2')}}"


def _failures(runs):
    failed = [run for run in runs if run["failure"]]
    final, tuning = ([run for run in failed if (run["role"] == "tuning") == wanted] for wanted in (False, True))
    for run in final[:TOLD]:
        yield f"failed: {_where(run['setting'], run['method'])}, seed {run['seed']}: {run['failure']}"
    if len(final) > TOLD:
        yield f"failed: {len(final) - TOLD} more"
    if tuning:
        why = Counter(run["failure"].partition(":")[0] for run in tuning)
        count = sum(run["role"] == "tuning" for run in runs)
        yield f"failed in tuning: {len(tuning)} of {count} runs ({', '.join(f'{n} {how}' for how, n in why.items())})"


def _edges(runs, sweep):
    tried, found = {}, {}
    for run in runs:
        if run["role"] == "tuning":
            tried.setdefault((run["setting"], run["method"]), []).append(run["tuned"])
    for row in ranked(sweep, runs):
        for edge in edges(tried.get((row.setting, row.method), []), row.chosen):
            if not np.isnan(row.final).all():
                found.setdefault(edge, []).append(_where(row.setting, row.method))
    for edge, rows in found.items():
        yield f"warning: {edge.key} = {edge.value}, the {edge.side} value that was tried, is the best for {'; '.join(rows)}"
    if found:
        yield f"a better one may lie beyond the edge of a grid: add values to it, or let it grow by itself, as with widen = {sweep.widen + 2}"


def _where(setting, method):
    return ", ".join(filter(None, (setting, method)))
