"""What an experiment came to, in a small HDF5 file, and its table."""

import json

import h5py
import numpy as np

from benchmarks.papers.curve import COLUMNS
from benchmarks.papers.experiment import FOLDER
from benchmarks.papers.measures import HEADINGS, Curves


def path(name):
    return FOLDER / "results" / f"{name}.h5"


def write(name, experiment, found):
    """found: {setting: (target, {method: (chosen, tried, rows per seed)})}."""
    path(name).parent.mkdir(exist_ok=True)
    with h5py.File(path(name), "w") as file:
        file.attrs.update(title=experiment.title, columns=COLUMNS, seeds=experiment.seeds)
        for i, (setting, (target, methods)) in enumerate(found.items()):
            group = file.create_group(f"{i}")
            group.attrs["name"] = setting
            if target is not None:
                group.attrs["target"] = target
            for j, (method, (chosen, tried, rows)) in enumerate(methods.items()):
                data = group.create_dataset(f"{j}", data=stack(rows), compression="gzip", shuffle=True)
                data.attrs.update(name=method, chosen=json.dumps(chosen), tried=json.dumps(tried))


def read(name, experiment):
    """{setting: {method: (chosen, Curves)}} of a file."""
    found = {}
    with h5py.File(path(name)) as file:
        for group in file.values():
            setting = next(s for s in experiment.settings if s.name == group.attrs["name"])
            target, curves = group.attrs.get("target"), {}
            stored = {data.attrs["name"]: data for data in group.values()}
            reference = None
            if target is not None:
                reference = Curves(stored[experiment.target][()], experiment, setting, target)
            for method in experiment.methods_in(setting):
                data = stored[method.name]
                chosen = json.loads(data.attrs["chosen"])
                tables = experiment.description(setting, method, chosen, experiment.seeds[0])
                curves[method.name] = chosen, Curves(data[()], experiment, setting, target, reference, tables)
            found[setting.name] = curves
    return found


def table(experiment, found):
    """Headings and rows of the table of an experiment."""
    several = len(found) > 1
    tuned = any(chosen for methods in found.values() for chosen, _ in methods.values())
    headings = [*(["setting"] * several), "method", *(["tuned"] * tuned), *(HEADINGS[c] for c in experiment.columns)]
    rows = []
    for setting, methods in found.items():
        for method, (chosen, curves) in methods.items():
            values = ", ".join(f"{key.split('.')[-1]} {value}" for key, value in chosen.items())
            rows.append([*([setting] * several), method, *([values] * tuned),
                         *(curves.cell(column) for column in experiment.columns)])
    return headings, rows


def stack(runs):
    """(seeds, evaluations, columns): NaN after a run's end; a step of inf where it diverged."""
    rows = np.full((len(runs), max(map(len, runs)), len(COLUMNS)), np.nan, np.float32)
    for seed, run in zip(rows, runs):
        seed[:len(run)] = run
    return rows
