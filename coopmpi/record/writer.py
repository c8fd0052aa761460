"""Writes a run's HDF5 file: readable from the first second (SWMR), whatever ends the run."""

import os
from pathlib import Path

import h5py
import numpy as np

from coopmpi import __version__
from coopmpi.errors import CoopError, UserError
from coopmpi.record import schema
from coopmpi.record.checkpoint import copy_run

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
    """The open result file; lives on rank 0. CoopError when the disk is full.

    It gets its name when it is ready for rows: until then an older file of that name stays as it was.
    """

    def __init__(self, path, config_text, workers, dimension, dtype, attributes=(), layout=(), slots=(),
                 simulated=False, checkpoint=None):
        self.path = Path(path)
        self._train = schema.TRAIN | (schema.SIMULATED if simulated else {})
        self._rounds = {} if simulated else schema.ROUNDS  # one process hides nothing
        self.broken = False  # a write has failed: no more rows can be added
        place = self.path.resolve()
        draft = place.with_name(f".{place.name}.new")
        try:
            with self._guarded():
                self._file = file = h5py.File(draft, "w", libver="latest")
                self._make_room(len(config_text) + 8 * workers + 256 * len(layout))
                file.attrs.update({"format": schema.FORMAT, "format_version": schema.FORMAT_VERSION, "coopmpi": __version__,
                                   "mode": "simulate" if simulated else "train"})
                file.attrs.update(dict(attributes))
                file.attrs["status"] = np.array("running", schema.STATUS)
                file["config"] = config_text
                self._make_series(workers)
                self._events = file.create_dataset("events", (0,), schema.EVENT, maxshape=(None,), chunks=(64,))
                self._make_final(workers, dimension, dtype, layout)
                schema.make_state(file, slots, workers, dimension, dtype)
                if checkpoint is not None:
                    self._make_room(os.path.getsize(checkpoint.path))
                    copy_run(checkpoint.file, file, checkpoint.step)
                file.swmr_mode = True  # from here on nothing can be created, only filled
                file.flush()
                os.replace(draft, place)
        except CoopError:
            draft.unlink(missing_ok=True)
            raise

    def _make_series(self, workers):
        file = self._file
        file["worker"] = np.arange(workers)
        file["worker"].make_scale("worker")
        rows = max(1, min(1024, 65536 // workers))
        groups = [file.create_group(name) for name in ("train", "eval", *(["rounds"] if self._rounds else []))]
        train, evaluation = groups[:2]
        for group in groups:
            step = group.create_dataset("step", (0,), "i8", maxshape=(None,), chunks=(1024,))
            step.attrs.update({"units": "1", "description": "steps done"})
            step.make_scale("step")
        for name, (dtype, each, units, description) in self._train.items():
            shape, chunks = ((0, workers), (rows, workers)) if each else ((0,), (1024,))
            data = train.create_dataset(name, shape, dtype, maxshape=(None, *shape[1:]), chunks=chunks)
            self._describe(data, train["step"], units, description)
            if each:
                data.dims[1].attach_scale(file["worker"])
        for name, description in schema.EVAL.items():
            data = evaluation.create_dataset(name, (0,), "f8", maxshape=(None,), chunks=(256,))
            self._describe(data, evaluation["step"], "s" if name == "wall_time" else "1", description)
        for name, (units, description) in self._rounds.items():
            rounds = file["rounds"]
            data = rounds.create_dataset(name, (0,), "f8", maxshape=(None,), chunks=(1024,))
            self._describe(data, rounds["step"], units, description)

    @staticmethod
    def _describe(data, step, units, description):
        data.dims[0].attach_scale(step)
        data.attrs.update({"units": units, "description": description})

    def _make_final(self, workers, dimension, dtype, layout):
        # not allocated before it is written: chunks of a row cost nothing until then
        final = self._file.create_group("final")
        final.create_dataset("x", (workers, dimension), dtype, chunks=(1, dimension))
        final.create_dataset("mean", (dimension,), dtype, chunks=(dimension,))
        final["x"].attrs["description"] = "models of the workers at the end"
        final["mean"].attrs["description"] = "their mean"
        final["x"].dims[0].attach_scale(self._file["worker"])
        for name in final:
            final[name].attrs["units"] = "1"
        if layout:
            table = [(name, str(list(shape)), offset) for name, shape, offset in layout]
            final["layout"] = np.array(table, [("name", "S64"), ("shape", "S64"), ("offset", "i8")])

    def steps(self, first, wall_time, tau, loss, compute_time, wait_time, bytes_sent, virtual_time=None):
        """Append the rows of steps first, first + 1, ...: 1-D series and (n, m) arrays."""
        columns = {"step": np.arange(first, first + len(wall_time)) + 1, "wall_time": wall_time, "tau": tau, "loss": loss,
                   "compute_time": compute_time, "wait_time": wait_time, "bytes_sent": bytes_sent,
                   "virtual_time": virtual_time}
        self._append("train", {name: columns[name] for name in ("step", *self._train)})

    def rounds(self, rows):
        """Append rows (step, posted, finished, waited, bytes) of /rounds."""
        step, posted, finished, waited, nbytes = np.transpose(rows)
        hidden = 1 - waited / (finished - posted)
        columns = {"posted": posted, "finished": finished, "waited": waited, "hidden": hidden, "bytes": nbytes}
        self._append("rounds", {"step": step} | columns)

    def evaluation(self, step, wall_time, figures):
        """Append one row of /eval; figures that the task does not have are NaN."""
        columns = {name: [figures.get(name, np.nan)] for name in schema.EVAL}
        self._append("eval", columns | {"step": [step], "wall_time": [wall_time]})

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
