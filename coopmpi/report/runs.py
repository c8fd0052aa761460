"""Runs of several result files as series that can be laid beside each other: what `compare` and `plot` read."""

import json
import tomllib
from base64 import b64decode, b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from coopmpi.errors import UserError
from coopmpi.record import apart
from coopmpi.record.reader import blocks, complete_rows, open_run, read_alive, refuse_truncated, require_complete, status_of

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
            return self._after(np.cumsum(self.series["train/bytes_sent"]), steps)
        if "train/virtual_time" in self.series:
            return self._after(self.series["train/virtual_time"], steps)
        return self.series[f"{group}/wall_time"]

    @staticmethod
    def _after(values, steps):
        # nothing has been sent, and no time is gone, at step 0
        return np.concatenate([[0.0], values])[steps.astype(int)]


def read_runs(paths: Iterable, steps: Iterable[str] = ()) -> list[Run]:
    """The runs in these files; steps: names of /train of which the series are wanted, too. UserError for what cannot be read."""
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
    """[(label, runs that differ in the seed alone)]; a label says what differs between the others.

    leave_out: a key in which they may differ, too.
    """
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
    with open_run(path) as file:
        yield json.dumps(_encoded(path, file, {*CLOCKS, *steps}))


def _encoded(path, place, wanted):
    """The Run of a result file, or of a group that holds the same, as JSON can have it."""
    require_complete(place)
    train, evaluations = place["train"], place["eval"] if "eval" in place else {}
    done, rows = complete_rows(list(train.values())), complete_rows(list(evaluations.values())) if evaluations else 0
    series = {f"train/{name}": _means(train[name], done) for name in train if name in wanted}
    series["train/step"] = np.arange(1.0, done + 1)
    found = {name: read_alive(evaluations[name], slice(rows)) for name in evaluations}
    for name, column in found.items():
        column = column[(found["step"] >= 0) & (found["step"] <= done)]
        if not len(column) or not np.isnan(column).all():
            series[f"eval/{name}"] = column
    settings = {key: value for key, value in _flat(tomllib.loads(place["config"].asstr()[()])) if key.partition(".")[0] not in APART}
    return {"path": path, "mode": str(place.attrs["mode"]), "status": status_of(place), "settings": settings,
            "steps_per_epoch": float(place.attrs.get("steps_per_epoch", np.nan)),
            "names": [f"{group}/{name}" for group in ("train", "eval") if group in place for name in place[group] if name != "step"],
            "series": {name: b64encode(np.asarray(column, float).tobytes()).decode() for name, column in series.items()}}


def _means(data, rows):
    """Of each row, over the workers."""
    found = (read_alive(data, span) for span in blocks(data, rows))
    return np.concatenate([block.reshape(len(block), -1).mean(axis=1, dtype=float) for block in found] or [np.zeros(0)])


def _flat(table, before=""):
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", json.dumps(value) if isinstance(value, list) else value


def _decoded(text):
    told = json.loads(text)
    return Run(**told | {"series": {name: np.frombuffer(b64decode(column)) for name, column in told["series"].items()}})
