"""What an experiment came to, from the file of its sweep, and its table."""

import numpy as np

from benchmarks.papers.measures import COLUMNS, HEADINGS, Curves
from coopmpi.report.runs import read_runs

SERIES = ("tau", "wait_time")  # of the steps, beside those that are always read


def read(path, sweep, page):
    """{setting: {method: (chosen, Curves)}} of a file."""
    runs, found = read_runs([path], SERIES), {}
    for setting in sweep.settings:
        alike = {method.name: [run for run in runs if (run.place["setting"], run.place["method"]) == (setting.name, method.name)]
                 for method in sweep.methods_in(setting)}
        tables = {method.name: sweep.description(setting, method, alike[method.name][0].place["tuned"], sweep.seeds[0])
                  for method in sweep.methods_in(setting)}
        reference, target = None, sweep.target(setting)
        if target is not None:
            reference = _curves(alike[target], sweep, tables[target])
        limit = page.limits.get(setting.name)
        found[setting.name] = {name: (same[0].place["tuned"], _curves(same, sweep, tables[name], reference, limit)) for name, same in alike.items()}
    return found


def table(page, found):
    """Headings and rows of the table of an experiment."""
    several = len(found) > 1
    tuned = any(chosen for methods in found.values() for chosen, _ in methods.values())
    headings = [*(["setting"] * several), "method", *(["tuned"] * tuned), *(HEADINGS[c] for c in page.columns)]
    rows = []
    for setting, methods in found.items():
        for method, (chosen, curves) in methods.items():
            values = ", ".join(f"{key.split('.')[-1]} {value}" for key, value in chosen.items())
            rows.append([*([setting] * several), method, *([values] * tuned),
                         *(curves.cell(column) for column in page.columns)])
    return headings, rows


def _curves(runs, sweep, tables, reference=None, limit=None):
    minutes = tables.get("stop", {}).get("minutes", np.inf)
    columns = {name: _padded([column[name] for column in map(_columns, runs)]) for name in COLUMNS}
    target = np.array([run.place["target"] for run in runs])
    failed = np.array([run.status == "failed" for run in runs])
    return Curves(columns, failed, sweep.score, 60 * minutes, None if np.isnan(target).all() else target, reference, tables, limit)


def _columns(run):
    """Of the evaluations of a run: {name of COLUMNS: (evaluations,)}."""
    step, time = run.series["eval/step"], run.along("time", "eval")
    waited = run.after(run.summed("wait_time"), step)
    found = {"step": step, "virtual_time": time, "waiting": np.divide(waited, time, out=np.zeros_like(time), where=time > 0),
             "megabytes": run.along("bytes", "eval") * run.settings["workers"] / 1e6, "tau": run.after(run.series["train/tau"], step),
             "centre": run.series.get("eval/z_train_loss")}
    found |= {name: run.series.get(f"eval/{name}") for name in COLUMNS if name not in found}
    return {name: np.full(step.size, np.nan) if column is None else column for name, column in found.items()}


def _padded(columns):
    """(seeds, evaluations), NaN after the end of each."""
    found = np.full((len(columns), max(map(len, columns))), np.nan)
    for row, column in zip(found, columns):
        row[:len(column)] = column
    return found
