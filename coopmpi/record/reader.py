"""Reading result files, also while they are written or after a kill."""

import os
import struct
from time import sleep
from types import SimpleNamespace
from typing import NamedTuple

import h5py
import numpy as np

from coopmpi.errors import UserError, clean, quoted
from coopmpi.inputs import DAMAGE, require_file, told
from coopmpi.record import apart, schema

TRIES, PAUSE = 6, 0.01  # of reads beside a writer, which may just be writing the same chunk; seconds, growing
BLOCK = 1 << 20  # numbers read at once: a long run need not fit into memory
MODES = ("train", "simulate", "time-only")
PER_WORKER = ("all", "summary")
STATUSES = ("running", "finished", "interrupted", "failed")


def run_of(path) -> str:
    """What tells the run in a result file from all others."""
    with open_run(path) as file:
        return str(file.attrs.get("run", ""))


def status_of(place) -> str:
    """"finished", "interrupted", "failed" or "running": the last also where its writer was killed before it had closed it."""
    status = place.attrs["status"].decode(errors="replace")
    return status if _closed(place.file.filename) else "running"


def open_run(path):
    """A result file, open for reading whatever its state: finished, being written, or cut off by a kill."""
    require_file(path)
    if not os.path.getsize(path):
        raise UserError(f"{path}: not a readable HDF5 file: it is empty, as that of a run is until its data are read")
    try:
        # a reader beside a writer retries what it finds damaged, in a file without a writer without end
        file = h5py.File(path, "r", swmr=not _closed(path))
    except DAMAGE as error:
        raise UserError(f"{path}: not a readable HDF5 file: {told(error)}") from error
    try:
        _require_format(path, file)
    except BaseException:
        file.close()
        raise
    return file


def _require_format(path, file):
    try:
        found, version = file.attrs.get("format"), np.asarray(file.attrs.get("format_version")).tolist()
    except DAMAGE as error:
        raise UserError(f"{path}: damaged: its attributes cannot be read: {told(error)}") from error
    if isinstance(found, str) and found == schema.SWEEP:
        raise UserError(f"{path}: the file of a sweep, given where the result of a run is expected; coopmpi compare and plot take it")
    if not isinstance(found, str) or found != schema.FORMAT:
        raise UserError(f"{path}: not a result of coopmpi train (attribute format is not {schema.FORMAT!r})")
    if version != schema.FORMAT_VERSION:
        raise UserError(f"{path}: format_version is {quoted(version)}, this coopmpi reads {schema.FORMAT_VERSION}; read the file with "
                        "the coopmpi that wrote it")


def description_of(path) -> str | None:
    """The run description, TOML, in a result file; None for what is no result. UserError for a damaged one."""
    def work():
        with h5py.File(path, "r", swmr=not _closed(path)) as file:
            if file.attrs.get("format") == schema.FORMAT:
                _require_format(path, file)
                require_complete(file)
                yield file["config"].asstr()[()]

    if not os.path.isfile(path) or not h5py.is_hdf5(path):
        return None
    return "".join(apart.texts(path, work)) or None


def refuse_truncated(path):
    """UserError if less of a file is there than it says: a reader beside a writer would wait for the rest, without end."""
    require_file(path)
    with open(path, "rb") as raw:
        head = raw.read(48)
    version_3 = head[:9] == b"\x89HDF\r\n\x1a\n\x03" and head[9] == 8
    if version_3:
        size = os.path.getsize(path)
        end = struct.unpack("<Q", head[28:36])[0] if len(head) == 48 else 48
        if size < end:
            raise UserError(f"{path}: truncated: {size} bytes are there, at least {end} belong to it")


def _closed(path):
    """Had nobody an HDF5 file open for writing when it was left? So says byte 11 of superblocks of version 3."""
    with open(path, "rb") as raw:
        head = raw.read(12)
    return len(head) == 12 and head[8] == 3 and head[11] == 0


def ended(path) -> str:
    """The status with which a result file was closed; empty where there is none, or it was not closed."""
    if not os.path.exists(path) or not _closed(path):
        return ""
    with open_run(path) as file:
        return status_of(file)


def verify(path):
    """UserError if a result file is damaged or not complete. A child process tries it, which may hang or crash."""
    def work():
        with open_run(path) as file:
            require_complete(file)
        yield from ()

    tuple(apart.texts(path, work))


def require_complete(place):
    """UserError that names what is missing in an open result file, or a group that holds the same, or is not what schema.py says."""
    try:
        _check(place)
    except DAMAGE as error:
        raise UserError(f"{place.file.filename}: damaged: {told(error)}") from error


def _check(top):
    file = top.file

    def require(holds, what):
        if not holds:
            raise UserError(f"{file.filename}: damaged, or not a complete result: {clean(what)}")

    def dataset(place, name, dtype, shape):
        """The data set, if it has this type and shape (None: any length)."""
        path = f"{place.name.rstrip('/')}/{name}"
        require(isinstance(place.get(name, getlink=True), h5py.HardLink), f"{path} is missing")
        found = place[name]
        require(isinstance(found, h5py.Dataset), f"{path} must be a dataset")
        require(found.shape is not None and len(found.shape) == len(shape)
                and all(n is None or n == size for n, size in zip(shape, found.shape)),
                f"{path} must have shape {_written(shape)}, found {found.shape}")
        require(dtype is None or found.dtype == dtype, f"{path} must be of type {dtype}, found {found.dtype}")
        require(not found.external and not found.is_virtual, f"{path} keeps its numbers in other files")
        return found

    def group(name):
        require(isinstance(top.get(name, getlink=True), h5py.HardLink), f"/{name} is missing")
        require(isinstance(top[name], h5py.Group), f"/{name} must be a group")
        return top[name]

    def attribute(name):
        require(top.attrs.get(name) is not None, f"the attribute {name} is missing")
        return top.attrs[name]

    for name in ("ranks", "node_ranks", "node_cores"):
        found = np.asarray(attribute(name))
        require(found.shape == () and found.dtype.kind in "iu" and found >= 1,
                f"the attribute {name} must be a number >= 1, found {quoted(found.tolist())}")
    mode, per_worker, status = map(attribute, ("mode", "per_worker", "status"))
    status = status.decode(errors="replace") if isinstance(status, bytes) else status
    for name, value, allowed in (("mode", mode, MODES), ("per_worker", per_worker, PER_WORKER), ("status", status, STATUSES)):
        require(isinstance(value, str) and value in allowed,
                f"{name} must be one of {', '.join(allowed)}, found {quoted(value)}")
    for name in ("mpi", "device"):
        require(isinstance(attribute(name), str), f"the attribute {name} must be text")

    config = dataset(top, "config", None, ())
    require(h5py.check_string_dtype(config.dtype) is not None, "/config must be text")
    workers = dataset(top, "worker", None, (None,)).shape[0]
    require(workers >= 1, "/worker must name one worker or more")
    dataset(top, "events", schema.EVENT, (None,))
    dataset(top, "event", None, (None,))
    if "final" in top:
        group("final")
    about = SimpleNamespace(mode=mode, per_worker=per_worker == "all", figures={})
    for name, columns in schema.groups(about).items():
        if name == "rounds" and name not in top:
            continue
        place = group(name)
        dataset(place, "step", "i8", (None,))
        for short, series in columns.items():
            dataset(place, short, series.dtype, (None, workers) if series.each else (None,))
        for short in place:
            if short not in columns and short != "step":
                dataset(place, short, "f8", (None,))
        if not file.swmr_mode:
            for short, data in place.items():
                require(len(data) <= _held(data), f"/{name}/{short} has {len(data)} rows, but {_held(data)} are there")
    events = top["events"]
    require(file.swmr_mode or len(events) <= _held(events),
            f"/events has {len(events)} rows, but {_held(events)} are there")


def _written(shape):
    return f"({', '.join('n' if n is None else str(n) for n in shape)}{',' * (len(shape) == 1)})"


def _held(data):
    """How many rows the chunks of a data set have room for that are in the file."""
    return len(data) if data.chunks is None else data.id.get_num_chunks() * data.chunks[0]


def complete_rows(series) -> int:
    """How many rows all of these data sets have: while rows are being added, some are longer than others.

    A last chunk that cannot be read, because a writer was just writing it or was killed while it did, is left out.
    """
    rows = min(len(data) for data in series)
    for data in series:
        if not rows or not data.file.swmr_mode:
            continue
        rows = min(rows, _held(data))
        while rows:
            last = (rows - 1) // data.chunks[0] * data.chunks[0]
            try:
                read(data, slice(last, rows))
                break
            except OSError:
                rows = last
    return rows


def read(data, span):
    """data[span]; beside a writer, which may be writing the same chunk, several times if need be."""
    for attempt in range(TRIES):
        try:
            return data[span]
        except OSError:
            if attempt == TRIES - 1 or not data.file.swmr_mode:
                raise
            sleep(PAUSE * 2**attempt)


def read_sound(data, span):
    """The same; UserError where the numbers are damaged."""
    try:
        return read(data, span)
    except (OSError, RuntimeError) as error:
        raise UserError(f"{data.file.filename}: damaged: {data.name}: {told(error)}") from error


class Event(NamedTuple):
    """What happened in a run, after so many steps."""

    step: int
    wall_time: float  # seconds
    kind: str
    text: str


def events_of(file) -> list[Event]:
    """The events in an open result file. UserError where they are damaged."""
    found = read_sound(file["events"], slice(complete_rows([file["events"]])))
    return [Event(step, wall_time, kind.decode(errors="replace"), text.decode(errors="replace"))
            for step, wall_time, kind, text in found.tolist()]


def read_alive(data, span):
    """The same in a child process that is to read on, however long the whole takes."""
    apart.alive()
    values = read(data, span)
    apart.alive()
    return values


def means(data, rows) -> np.ndarray:
    """Of each of the first rows, over the workers, float64 (rows,); in a child process that is to read on."""
    found = (read_alive(data, span) for span in blocks(data, rows))
    return np.concatenate([block.reshape(len(block), -1).mean(axis=1, dtype=float) for block in found] or [np.zeros(0)])


def blocks(data, rows) -> list[slice]:
    """Slices that cover the first rows, of at most BLOCK numbers each."""
    length = max(1, BLOCK // max(1, int(np.prod(data.shape[1:]))))
    return [slice(start, min(start + length, rows)) for start in range(0, rows, length)]
