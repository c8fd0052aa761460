"""The file of a sweep: one group for each of its runs, with what a result file has but the models.

    /               attributes: format = "coopmpi-sweep", format_version, sweep (its TOML text)
    /runs/0, 1, ... attributes: those of the result file, and method, setting, seed, role, tuned, failure, final, target, took
                    config, worker, events, train, eval: as in the result file
"""

import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from coopmpi.errors import CoopError, UserError, quoted
from coopmpi.inputs import DAMAGE, require_file, told
from coopmpi.record import schema
from coopmpi.record.reader import ended, open_run

PACKED = {"compression": "gzip", "shuffle": True}
AT_THE_END = ("step", "wall_time", "virtual_time", "tau", "lr")  # series that tell, of several steps in one row, of the last one
ABOUT = ("method", "setting", "seed", "role", "tuned", "failure", "final", "target", "took")  # attributes of each run
SAID = (f"a row may stand for several steps, from that of the row before up to `step`: {', '.join(AT_THE_END)} are those of the last one, "
        "loss_min and loss_max the least and most of all, all else means over them")


class Entry(NamedTuple):
    """A run on its way into the file."""

    path: Path  # of its result file
    about: dict[str, Any]  # method, setting, seed, role ("tuning", "final" or "target"), tuned ({dotted key: value})
    failure: str  # why it failed; empty if it did not
    final: float  # its figure at the end
    target: float  # what that was to reach, NaN without a target
    took: float  # what it took until then, inf if it never did
    series: bool  # are train, eval and events wanted?


def write(path, text: str, entries: Iterable[Entry], rows: int):
    """Write the file of a sweep, in place of an older one; text: its TOML; rows: of /train that a run has at most, evaluations apart."""
    path = Path(path)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            draft = Path(folder) / path.name
            with h5py.File(draft, "w", libver="latest") as file:
                file.attrs.update({"format": schema.SWEEP, "format_version": schema.SWEEP_VERSION, "sweep": text})
                runs = file.create_group("runs")
                for i, entry in enumerate(entries):
                    _add(runs.create_group(str(i)), entry, rows)
            os.replace(draft, path)
    except OSError as error:
        raise CoopError(f"writing {str(path)!r} failed: {error}; the runs are still there, and the same command writes it again") from error


def is_sweep(path) -> bool:
    """Is it the file of a sweep?"""
    require_file(path)
    try:
        with h5py.File(path, "r") as file:
            return str(file.attrs.get("format")) == schema.SWEEP
    except DAMAGE:
        return False


@contextmanager
def open_sweep(path):
    """The file of a sweep, open for reading; UserError for anything else, also for what turns out to be damaged inside the context."""
    require_file(path)
    try:
        with h5py.File(path, "r") as file:
            if str(file.attrs.get("format")) != schema.SWEEP:
                raise UserError(f"{path}: not the file of a sweep (attribute format is not {schema.SWEEP!r})")
            version = np.asarray(file.attrs.get("format_version")).tolist()
            if version != schema.SWEEP_VERSION:
                raise UserError(f"{path}: format_version is {quoted(version)}, this coopmpi reads {schema.SWEEP_VERSION}")
            yield file
    except DAMAGE as error:
        raise UserError(f"{path}: damaged: {told(error)}") from error


def text(file) -> str:
    """The TOML text of an open sweep."""
    return str(file.attrs["sweep"])


def runs(file) -> Iterator[tuple[h5py.Group, dict]]:
    """The groups of the runs of an open sweep, in order, and what is told of each: {name of ABOUT: value}."""
    for i in range(len(file["runs"])):
        group = file["runs"][str(i)]
        about = {name: group.attrs[name] for name in ABOUT}
        about = {name: value if isinstance(value, str) else value.item() for name, value in about.items()}
        yield group, about | {"tuned": json.loads(about["tuned"])}


def _add(group, entry, rows):
    about = entry.about | {"tuned": json.dumps(entry.about["tuned"])}
    group.attrs.update(about | {name: getattr(entry, name) for name in ("failure", "final", "target", "took")})
    if not ended(entry.path):
        return  # it crashed or was killed
    with open_run(entry.path) as file:
        group.attrs.update(file.attrs)
        file.copy("config", group)
        if not entry.series:
            return
        group["worker"] = file["worker"][:]
        group["worker"].make_scale("worker")
        schema.make_events(group)
        schema.resize_events(group, len(file["events"]))
        group["events"][:] = file["events"][:]
        _copy(file["train"], group.create_group("train"), _ends(file["train/step"][:], file["eval/step"][:], rows))
        _copy(file["eval"], group.create_group("eval"), None)


def _ends(steps, evaluated, rows):
    """The last step of each row, or None where each step keeps its own."""
    if len(steps) <= rows:
        return None
    every = np.arange(0, len(steps), -(-len(steps) // rows)) if rows else []
    ends = np.unique([*every, *evaluated, len(steps)])
    return ends[ends > 0].astype(int)


def _copy(source, group, ends):
    """The series of a group of a result file; ends: the last step of each row, None for all rows as they are."""
    group.attrs.update(source.attrs)
    for name, data in source.items():
        values = data[:] if ends is None else _gathered(name, data[:ends[-1]], ends)
        new = group.create_dataset(name, data=values, chunks=values.shape if values.size else None, **(PACKED if values.size else {}))
        new.attrs.update({key: data.attrs[key] for key in ("units", "description")})
    group["step"].make_scale("step")
    for name, data in group.items():
        if name != "step":
            data.dims[0].attach_scale(group["step"])
            if data.ndim == 2:
                data.dims[1].attach_scale(group.parent["worker"])
    if ends is not None:
        group.attrs["rows"] = SAID


def _gathered(name, values, ends):
    """One row for the steps up to each end."""
    starts = np.concatenate([[0], ends[:-1]])
    if name in AT_THE_END:
        return values[ends - 1]
    if name in ("loss_min", "loss_max"):
        return (np.minimum if name == "loss_min" else np.maximum).reduceat(values, starts)
    counts = (ends - starts).reshape(-1, *[1] * (values.ndim - 1))
    return (np.add.reduceat(values, starts, axis=0, dtype=float) / counts).astype(values.dtype)
