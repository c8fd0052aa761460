"""Writes a run's HDF5 file: readable from the first second (SWMR), whatever ends the run."""

import os
from pathlib import Path

import h5py
import numpy as np

from coopmpi import __version__
from coopmpi.errors import CoopError, UserError
from coopmpi.record import schema
from coopmpi.record.checkpoint import copy_run
from coopmpi.sinks.sink import About, StepRows

METADATA = 65536  # bytes that HDF5 may need for its own when something is added


def check_output(path, overwrite):
    """Raise UserError if the result cannot be written there; called before anything expensive."""
    path = Path(path)
    if not os.path.isdir(path.parent):
        raise UserError(f"output {str(path)!r}: the folder {str(path.parent)!r} does not exist or may not be entered")
    if os.path.isdir(path):
        raise UserError(f"output {str(path)!r} is a folder; give the name of a file")
    if os.path.exists(path) and not os.path.isfile(path):
        raise UserError(f"output {str(path)!r} is not a regular file; give the name of one")
    if os.path.exists(path) and not overwrite:
        raise UserError(f"output {str(path)!r} exists already; choose another -o, or pass --overwrite")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"output {str(path)!r}: this user may not write into the folder {str(path.parent)!r}")


class Writer:
    """The open result file: the sink on rank 0 that may end a run. CoopError when the disk is full.

    It gets its name when it is ready for rows: until then an older file of that name stays as it was.
    """

    def __init__(self, path):
        self.path = Path(path)
        self.broken = False  # a write has failed: no more rows can be added

    def open(self, about: About):
        self._create(about, lambda: None)

    def reopen(self, about: About, checkpoint):
        """A new file with the rows up to the checkpoint's step takes the place of the old one."""
        def copy():
            self._make_room(os.path.getsize(checkpoint.path))
            copy_run(checkpoint.file, self._file, checkpoint.step)

        self._create(about, copy)

    def _create(self, about, fill):
        self._series = schema.groups(about)
        place = self.path.resolve()
        draft = place.with_name(f".{place.name}.new")
        try:
            with self._guarded():
                self._file = file = h5py.File(draft, "w", libver="latest")
                self._make_room(len(about.config) + 8 * about.workers + 256 * len(about.layout))
                file.attrs.update({"format": schema.FORMAT, "format_version": schema.FORMAT_VERSION,
                                   "coopmpi": __version__, "mode": about.mode})
                file.attrs.update(dict(about.attributes))
                file.attrs["status"] = np.array("running", schema.STATUS)
                file["config"] = about.config
                schema.make_series(file, about.workers, self._series)
                self._events = file.create_dataset("events", (0,), schema.EVENT, maxshape=(None,), chunks=(64,))
                if about.mode != "time-only":
                    schema.make_final(file, about)
                    schema.make_state(file, about)
                fill()
                file.swmr_mode = True  # from here on nothing can be created, only filled
                file.flush()
                os.replace(draft, place)
        except CoopError:
            draft.unlink(missing_ok=True)
            raise

    def steps(self, rows: StepRows):
        columns = rows._asdict() | {"step": np.arange(rows.first, rows.first + len(rows.wall_time)) + 1}
        self._append("train", {name: columns[name] for name in ("step", *self._series["train"])})

    def rounds(self, rows):
        if "rounds" not in self._series:
            return  # a simulation hides nothing
        step, posted, finished, waited, nbytes = np.transpose(rows)
        hidden = 1 - waited / (finished - posted)
        columns = {"posted": posted, "finished": finished, "waited": waited, "hidden": hidden, "bytes": nbytes}
        self._append("rounds", {"step": step} | columns)

    def evaluation(self, step, wall_time, figures):
        if "eval" not in self._series:
            return  # no numbers
        known = {"step": step, "wall_time": wall_time} | dict(figures)
        self._append("eval", {name: [known.get(name, np.nan)] for name in ("step", *self._series["eval"])})

    def _append(self, group, columns):
        series = self._file[group]
        with self._guarded():
            # what is added, and a fresh chunk of each series
            self._make_room(sum(np.asarray(values).nbytes + np.prod(series[name].chunks, dtype=int) * series[name].dtype.itemsize
                                for name, values in columns.items()))
            for name, values in columns.items():
                data = series[name]
                start = data.shape[0]
                data.resize(start + len(values), axis=0)
                data[start:] = values
            self._file.flush()

    def event(self, step, wall_time, kind, text):
        """Append to /events what happened at a step."""
        with self._guarded():
            self._make_room(self._events.chunks[0] * schema.EVENT.itemsize)
            self._events.resize(self._events.shape[0] + 1, axis=0)
            self._events[-1] = (step, wall_time, kind.encode(), text.encode()[:256])
            self._file.flush()

    def final(self, worker, row):
        with self._guarded():
            self._make_room(row.nbytes)
            self._file["final/x"][worker] = row

    def final_mean(self, row):
        with self._guarded():
            self._make_room(row.nbytes)
            self._file["final/mean"][:] = row

    def state(self, name, row, values):
        """One row of a slot."""
        with self._guarded():
            self._make_room(values.nbytes)
            self._file["state"][name][row] = values

    def state_complete(self, step):
        """All slots have been written as they were after `step` steps."""
        with self._guarded():
            self._file.flush()
            self._file["state"].attrs.modify("step", np.int64(step))
            self._file.flush()

    def close(self, status):
        """Write the status (finished, interrupted, failed) and close the file."""
        with self._guarded():
            self._file.attrs.modify("status", np.array(status, schema.STATUS))
            self._file.flush()
            # give back the room that was not needed
            os.ftruncate(self._file.id.get_vfd_handle(), self._file.id.get_filesize())
            self._file.close()

    def _make_room(self, nbytes):
        """Reserve space on the disk for so many bytes more: HDF5 does not survive a write for which there is none."""
        if hasattr(os, "posix_fallocate"):
            end = self._file.id.get_filesize()
            os.posix_fallocate(self._file.id.get_vfd_handle(), end, int(nbytes) + METADATA)

    def _guarded(self):
        return _DiskErrors(self)


class _DiskErrors:
    """Turns HDF5's errors about the disk into one clear message."""

    def __init__(self, writer):
        self.writer = writer

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        # h5py reports failed writes as OSError or RuntimeError, depending on the call
        if isinstance(error, (OSError, RuntimeError)):
            self.writer.broken = True
            path = self.writer.path
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            free = os.statvfs(path.parent)
            raise CoopError(f"writing {str(path)!r} failed: {reason} ({free.f_bavail * free.f_frsize / 1e6:.1f} MB are free "
                            "there)") from error
