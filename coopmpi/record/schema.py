"""What a result file consists of: names, types, units."""

from math import prod
from typing import NamedTuple

import numpy as np

FORMAT, FORMAT_VERSION = "coopmpi-run", 2
SWEEP, SWEEP_VERSION = "coopmpi-sweep", 1  # the file of a sweep, coopmpi.record.sweeps
OWN, OF_MEAN = "own_", "_mean"  # around the names of the task's own state in /final
STATUS = "S16"  # fixed width: rewritten in place while others read the file
NO_COORDINATES = "This is a netCDF dimension but not a netCDF variable."  # how netCDF-4 marks them
EVENT = np.dtype([("step", "i8"), ("wall_time", "f8"), ("kind", "S32"), ("text", "S256")])
TIMES = ("wall_time", "virtual_time")  # series that are coordinates of the others


class Series(NamedTuple):
    """One column, or one per worker, that grows with the run."""

    dtype: str
    each: bool  # a column per worker?
    units: str
    description: str


TRAIN = {
    "wall_time": Series("f8", False, "s", "since the start of training, without evaluation and writing"),
    "tau": Series("i4", False, "1", "period in force, in steps"),
    "lr": Series("f8", False, "1", "learning rate of the local steps, as the schedule has it"),
    "pause_time": Series("f4", False, "s", "since the step before, on rank 0: evaluation and writing, which wall_time leaves out"),
    "loss": Series("f4", True, "1", "mini-batch loss of each worker"),
    "compute_time": Series("f4", True, "s", "gradient computation of the rank that hosts the worker"),
    "wait_time": Series("f4", True, "s", "blocked on communication, on the rank that hosts the worker"),
    "bytes_sent": Series("f8", True, "B", "sent by each worker in this step, as with one rank per worker; "
                                          "an average counts as a ring all-reduce"),
}
# ... and series that a simulation adds, or measures by virtual clocks
SIMULATED = TRAIN | {
    "virtual_time": Series("f8", False, "s", "latest of the workers' virtual clocks"),
    "compute_time": Series("f8", True, "s", "gradient computation of the worker, virtual"),
    "wait_time": Series("f8", True, "s", "worker blocked on communication, virtual"),
}
EVAL = {
    "wall_time": Series("f8", False, "s", "since the start of training, without evaluation and writing"),
    "consensus": Series("f8", False, "1", "(1/m) sum_i ||x_i - mean||^2"),
}
ROUNDS = {
    "posted": Series("f8", False, "s", "when rank 0 posted a transfer, since the start of training"),
    "finished": Series("f8", False, "s", "when its result was there and used, since the start of training"),
    "waited": Series("f8", False, "s", "how long the transfer blocked rank 0 between the two"),
    "hidden": Series("f8", False, "1", "share of the time between the two in which it did not"),
    "bytes": Series("f8", False, "B", "sent in it by the workers of rank 0, counted as in /train/bytes_sent"),
}


# what takes the place of the columns of all workers in a summary: {end of the name: (what it is, function of (n, m))}
SUMMARY = {"": ("mean", lambda values: values.mean(axis=1, dtype=float)),
           "_min": ("least", lambda values: values.min(axis=1)),
           "_max": ("most", lambda values: values.max(axis=1))}


def groups(about) -> dict[str, dict[str, Series]]:
    """The series of a run: {group: {name: Series}}; about: a coopmpi.sinks.About."""
    train = TRAIN if about.mode == "train" else SIMULATED
    if about.mode == "time-only":
        train = {name: series for name, series in SIMULATED.items() if name != "loss"}
    if not about.per_worker:
        train = dict(_summarised(train))
    if about.mode == "time-only":
        return {"train": train}
    figures = {name: Series("f8", False, *said) for name, said in about.figures.items()}
    if about.mode == "simulate":
        return {"train": train, "eval": EVAL | figures}
    return {"train": train, "eval": EVAL | figures, "rounds": ROUNDS}


def _summarised(train):
    for name, series in train.items():
        if not series.each:
            yield name, series
            continue
        for end, (what, _) in SUMMARY.items():
            yield name + end, series._replace(each=False, description=f"{series.description}; {what} of all workers")


def summarised(rows) -> dict:
    """The columns of some steps, those with a column per worker (n, m) as (n,) in the way of SUMMARY."""
    return {name + end: function(values) for name, values in rows.items() if np.ndim(values) == 2
            for end, (_, function) in SUMMARY.items()} | {name: values for name, values in rows.items() if np.ndim(values) < 2}


def make_series(file, workers, series):
    """Empty series with dimension scales, in the open HDF5 file; nothing is allocated before it is written."""
    file["worker"] = np.arange(workers)
    file["worker"].attrs.update({"units": "1", "description": "number of the worker"})
    file["worker"].make_scale("worker")
    rows = max(1, min(1024, 65536 // workers))
    for name, columns in series.items():
        group = file.create_group(name)
        if "wall_time" in columns:
            group.attrs["coordinates"] = " ".join(time for time in TIMES if time in columns)
        step = group.create_dataset("step", (0,), "i8", maxshape=(None,), chunks=(1024,), fletcher32=True)
        step.attrs.update({"units": "1", "description": "steps done"})
        step.make_scale("step")
        for short, (dtype, each, units, description) in columns.items():
            shape, chunks = ((0, workers), (rows, workers)) if each else ((0,), (256 if name == "eval" else 1024,))
            data = group.create_dataset(short, shape, dtype, maxshape=(None, *shape[1:]), chunks=chunks, fletcher32=True)
            data.attrs.update({"units": units, "description": description})
            _attach(data, step, *([file["worker"]] if each else []))


def make_events(file):
    """The empty table of events, whose rows are counted by the dimension `event`."""
    events = file.create_dataset("events", (0,), EVENT, maxshape=(None,), chunks=(64,), fletcher32=True)
    events.attrs["description"] = "what happened: after which step, at which wall_time in s, of which kind, in words"
    _attach(events, _dimension(file, "event", 0, maxshape=(None,), chunks=(1024,)))


def resize_events(file, count):
    """Room for so many rows of events."""
    for name in ("event", "events"):
        file[name].resize(count, axis=0)


def make_final(file, about):
    """Room for the models at the end, and the names of their tensors. Chunks of a row cost nothing until then."""
    final, worker = file.create_group("final"), file["worker"]
    parameter = _dimension(final, "parameter", about.dimension)
    if about.all_models:
        _make_rows(final, "x", (worker, parameter), about.dtype, "models of the workers at the end")
    _make_rows(final, "mean", (parameter,), about.dtype, "mean of the workers' models at the end")
    for name, columns, dtype in about.own:
        column = _dimension(final, f"column_of_{name}", columns)
        if about.all_models:
            _make_rows(final, f"{OWN}{name}", (worker, column), dtype, f"{name} of the workers at the end")
        _make_rows(final, f"{OWN}{name}{OF_MEAN}", (column,), dtype, f"{name} that go with the mean model")
    if about.layout:
        final["layout"] = layout_table(about.layout)
        final["layout"].attrs["description"] = "tensors of a model: each is row[offset:offset + size].reshape(shape[:ndim])"
        _attach(final["layout"], _dimension(final, "tensor", len(about.layout)))


def layout_table(layout):
    """The (name, shape, offset) of tensors as an array with a row for each and the columns name, offset, size, ndim, shape."""
    longest = max(1, *(len(name.encode()) for name, *_ in layout))
    most = max(1, *(len(shape) for _, shape, _ in layout))
    columns = [("name", f"S{longest}"), ("offset", "i8"), ("size", "i8"), ("ndim", "i8"), ("shape", "i8", (most,))]
    rows = [(name.encode(), offset, prod(shape), len(shape), (*shape, *[0] * (most - len(shape))))
            for name, shape, offset in layout]
    return np.array(rows, columns)


def only_counts(data) -> bool:
    """Is a data set a dimension scale without coordinates?"""
    name = data.attrs.get("NAME")
    return isinstance(name, bytes) and name.startswith(NO_COORDINATES.encode())


def _dimension(place, name, length, **options):
    """A dimension scale without coordinates, of which nothing is ever written."""
    scale = place.create_dataset(name, (length,), "f4", **options)
    scale.make_scale(f"{NO_COORDINATES}{length:10d}")
    return scale


def _make_rows(place, name, scales, dtype, description):
    """A data set with these dimension scales, whose rows are written one by one."""
    shape = tuple(map(len, scales))
    data = place.create_dataset(name, shape, dtype, chunks=(1, *shape[1:]) if shape[1:] else shape, fletcher32=True)
    data.attrs.update({"units": "1", "description": description})
    _attach(data, *scales)


def _attach(data, *scales):
    for dimension, scale in zip(data.dims, scales):
        dimension.attach_scale(scale)
