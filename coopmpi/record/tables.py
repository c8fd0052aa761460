"""A result file as comma-separated values: a file for each kind of row."""

import csv
from pathlib import Path

import numpy as np

from coopmpi.record.reader import Event, blocks, complete_rows, events_of, open_run, read_sound
from coopmpi.record.schema import TIMES, summarised

# name of a table, and the group of the result file; those of workers and events come besides
GROUPS = {"steps": "train", "evaluations": "eval", "transfers": "rounds"}
TABLES = (*GROUPS, "workers", "events")
FIRST = ("step", "worker", *TIMES, "tau", "loss", "loss_min", "loss_max")  # of the columns


def write_csv(path, folder) -> dict[str, int]:
    """Write NAME.csv of TABLES into an existing folder; {name: rows} of those for which there is something.

    `steps` has mean, least and most of the workers, `workers` a row per step and worker. UserError where the file is damaged, OSError.
    """
    with open_run(path) as file:
        tables = {name: _series(file[group]) for name, group in GROUPS.items() if group in file}
        if file.attrs["per_worker"] == "all":
            tables["workers"] = _of_workers(file["train"])
        if events := events_of(file):
            tables["events"] = [dict(zip(Event._fields, zip(*events)))]
        return {name: count for name, blocks in tables.items() if (count := _write(Path(folder) / f"{name}.csv", blocks))}


def _write(path, blocks):
    """Write blocks of rows, {column: values}; how many rows there are. Without any there is no file."""
    count = 0
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        for columns in blocks:
            names = sorted(columns, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))
            if not count:
                writer.writerow(names)
            writer.writerows(zip(*(_texts(columns[name]) for name in names)))
            count += len(columns["step"])
    if not count:
        Path(path).unlink()
    return count


def _texts(values):
    """Each number in as few digits as tell it from all others of its type; nothing for one that is none."""
    values = np.asarray(values)
    texts = values.astype(str)
    return np.where(np.isnan(values), "", texts).tolist() if values.dtype.kind == "f" else texts.tolist()


def _blocks(group):
    """The complete rows of all series of a group, block by block."""
    series = dict(group.items())
    for span in blocks(max(series.values(), key=lambda data: data.ndim), complete_rows(list(series.values()))):
        yield {name: read_sound(data, span) for name, data in series.items()}


def _series(group):
    return map(summarised, _blocks(group))


def _of_workers(group):
    for columns in _blocks(group):
        each = {name: values for name, values in columns.items() if values.ndim == 2}
        n, workers = each["bytes_sent"].shape
        yield {"step": np.repeat(columns["step"], workers), "worker": np.tile(np.arange(workers), n)} | {
            name: values.ravel() for name, values in each.items()}
