"""Runs of several result files as series that can be laid beside each other: what `compare` and `plot` read."""

import json
import tomllib
from base64 import b64decode, b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from coopmpi import config
from coopmpi.errors import UserError
from coopmpi.record import apart, sweeps
from coopmpi.record.reader import complete_rows, means, open_run, read_alive, refuse_truncated, require_complete, status_of

APART = ("seed", "folder", "sinks", "record", "checkpoint", "survive", "stop", "plan", "forecast")  # keys in which runs may differ
RISING = ("accuracy",)  # figures that are better when they are larger
AXES = ("steps", "epochs", "time", "bytes")
CLOCKS = ("wall_time", "virtual_time", "bytes_sent")  # series of the steps that are always read: the axes need them


@dataclass(frozen=True)
class Run:
    """One run of a result file. series: {"eval/loss": float64 (rows,), ...}, those of the steps as means over the workers.

    All evaluations are there, except figures that are nowhere a number, and of the steps what was asked for.
    """

    path: str
    mode: str
    status: str
    settings: dict[str, Any]  # dotted keys of the run description, without those of APART
    steps_per_epoch: float  # NaN where the task does not tell
    names: list[str]  # of all series in the file
    series: dict[str, np.ndarray]
    place: dict[str, Any]  # in a sweep: method, setting, seed, tuned, ...; empty where it is no part of one

    @property
    def figures(self) -> list[str]:
        """What the evaluations tell, as in "eval/loss"."""
        found = (name.removeprefix("eval/") for name in self.series if name.startswith("eval/"))
        return [name for name in found if name not in ("step", "wall_time")]

    def along(self, axis: str, group: str) -> np.ndarray:
        """Where the rows of a group ("train", "eval") lie on one of AXES: steps, epochs, seconds (virtual ones in a simulation) or
        bytes per worker, (rows,)."""
        steps = self.series[f"{group}/step"]
        if axis == "steps":
            return steps
        if axis == "epochs":
            return steps / self.steps_per_epoch
        if axis == "bytes":
            return self.after(self.summed("bytes_sent"), steps)
        if "train/virtual_time" in self.series:
            return self.after(self.series["train/virtual_time"], steps)
        return self.series[f"{group}/wall_time"]

    def summed(self, name: str) -> np.ndarray:
        """The sum of a series of the steps up to the end of each of its rows, (rows,); a row of a sweep may stand for several steps."""
        return np.cumsum(self.series[f"train/{name}"] * np.diff(self.series["train/step"], prepend=0))

    def after(self, values: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """What values with one number for each row of the steps have come to after some of the steps; 0 at step 0."""
        return np.concatenate([[0.0], values])[np.searchsorted(self.series["train/step"], steps, side="right")]


def read_runs(paths: Iterable, steps: Iterable[str] = ()) -> list[Run]:
    """The runs in these files, of a sweep those after the tuning. UserError for what cannot be read.

    steps: names of /train of which the series are wanted, too.
    """
    found = []
    for path in dict.fromkeys(map(str, paths)):
        refuse_truncated(path)
        found += map(_decoded, apart.texts(path, partial(_texts, path, steps)))
    return found


def require_same_clock(runs: list[Run]):
    """UserError if some of them are trainings and some simulations."""
    for run in runs[1:]:
        if (run.mode == "train") != (runs[0].mode == "train"):
            raise UserError(f"{runs[0].path} is of `coopmpi {runs[0].mode}`, {run.path} of `coopmpi {run.mode}`: their seconds cannot "
                            "be compared")


def labelled(runs: list[Run], leave_out: str = "") -> list[tuple[str, list[Run]]]:
    """[(label, runs that differ in the seed alone)]; a label says what differs between the others, in a sweep it is the method's name.

    leave_out: a key in which they may differ, too.
    """
    if all(run.place for run in runs) and not leave_out:
        return _by_method(runs)
    sets = {}
    for run in runs:
        settings = {key: value for key, value in run.settings.items() if key != leave_out}
        sets.setdefault(json.dumps(settings, sort_keys=True), (settings, []))[1].append(run)
    settings = [one for one, _ in sets.values()]
    keys = list(dict.fromkeys(key for one in settings for key in one))
    keys.sort(key=lambda key: key != "algorithm.kind")
    # keys that an algorithm alone reads are left out, unless two labels would be the same
    differ = [key for key in keys if len({str(one[key]) for one in settings if key in one}) > 1]
    labels = [_label(one, differ) for one in settings]
    if len(set(labels)) < len(labels):
        labels = [_label(one, [key for key in keys if len({str(other.get(key)) for other in settings}) > 1]) for one in settings]
    return [(label or _name(alike), alike) for label, (_, alike) in zip(labels, sets.values())]


def by_setting(runs: list[Run]) -> list[tuple[str, list[Run]]]:
    """[(name, the runs of a setting of a sweep)]; what is not of sweeps is together, without a name."""
    several, sets = len({run.path for run in runs if run.place}) > 1, {}
    for run in runs:
        name = run.place.get("setting", "")
        sets.setdefault(f"{run.path} {name}".strip() if several and run.place else name, []).append(run)
    return list(sets.items())


def _by_method(runs):
    sets = {}
    for run in runs:
        sets.setdefault((run.path, run.place["setting"], run.place["method"]), []).append(run)
    return [(method, alike) for (_, _, method), alike in sets.items()]


def _name(runs):
    """Where nothing differs."""
    return runs[0].path if len(runs) == 1 else str(runs[0].settings["algorithm.kind"])


def _label(settings, keys):
    """Of the algorithm the name alone; of other keys the last part, where that tells which one it is."""
    last = [key.rpartition(".")[2] for key in keys]
    told = {key: f"{name if last.count(name) == 1 and name != 'kind' else key} = " for key, name in zip(keys, last)}
    return ", ".join(f"{told[key] if key != 'algorithm.kind' else ''}{settings[key]}" for key in keys if key in settings)


# in the child process
def _texts(path, steps):
    if not sweeps.is_sweep(path):
        with open_run(path) as file:
            require_complete(file)
            yield json.dumps(_encoded(path, file, {*CLOCKS, *steps}))
        return
    with sweeps.open_sweep(path) as file:
        for place, about in sweeps.runs(file):
            if about["role"] == "final" and "train" in place:
                yield json.dumps(_encoded(path, place, {*CLOCKS, *steps}, about))


def _encoded(path, place, wanted, about=None):
    """The Run of a result file, or of a group that holds the same, as JSON can have it."""
    train, evaluations = place["train"], place["eval"] if "eval" in place else {}
    done, rows = complete_rows(list(train.values())), complete_rows(list(evaluations.values())) if evaluations else 0
    series = {f"train/{name}": means(train[name], done) for name in train if name in wanted}
    series["train/step"] = read_alive(train["step"], slice(done))
    found = {name: read_alive(evaluations[name], slice(rows)) for name in evaluations}
    for name, column in found.items():
        column = column[(found["step"] >= 0) & (found["step"] <= (series["train/step"][-1] if done else 0))]
        if not len(column) or not np.isnan(column).all():
            series[f"eval/{name}"] = column
    tables = config.flat(tomllib.loads(place["config"].asstr()[()]))
    settings = {key: json.dumps(value) if isinstance(value, list) else value for key, value in tables.items()
                if key.partition(".")[0] not in APART}
    return {"path": path, "mode": str(place.attrs["mode"]), "status": status_of(place), "settings": settings,
            "steps_per_epoch": float(place.attrs.get("steps_per_epoch", np.nan)),
            "names": [f"{group}/{name}" for group in ("train", "eval") if group in place for name in place[group] if name != "step"],
            "series": {name: b64encode(np.asarray(column, float).tobytes()).decode() for name, column in series.items()}, "place": about or {}}


def _decoded(text):
    told = json.loads(text)
    return Run(**told | {"series": {name: np.frombuffer(b64decode(column)) for name, column in told["series"].items()}})
