"""Writes a run's HDF5 file: readable from the first second (SWMR), whatever ends the run."""

import glob
import os
import secrets
import tempfile
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from coopmpi import __version__
from coopmpi.errors import CoopError, UserError
from coopmpi.record import schema
from coopmpi.record import checkpoint
from coopmpi.record.lock import Lock
from coopmpi.record.reader import open_run
from coopmpi.sinks.sink import About, StepRows

METADATA = 65536  # bytes that HDF5 may need for its own when something is added
DYING = 2.0  # seconds for which ranks that were killed may still hold a file that is to be replaced
PATIENCE = 10.0  # seconds for which ranks may outlive the mpirun that started them ...
PATIENCE_REQUEUED = 60.0  # ... and those of a Slurm job that was requeued, which has 30 by default to end them


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

    The file gets its name when it is ready for rows: until then an older file of that name stays as it was.
    """

    def __init__(self, path, overwrite=False):
        self.path, self.overwrite = Path(path), overwrite
        self.broken = False  # a write has failed: no more rows can be added
        self.written = 0  # steps of which the rows are in the file
        self._file = None
        self.run = secrets.token_hex(8)  # tells this run from others of the same name, in its checkpoints, too

    def open(self, about: About):
        self._lock = Lock(self.path, DYING if self.overwrite else 0.0)
        with self._unlocked_on_error():
            if self.path.exists() and not self.overwrite:
                raise UserError(f"output {str(self.path)!r} exists already; choose another -o, or pass --overwrite")
            checkpoint.remove(self.path)
            self._create(about, lambda: None)

    def reopen(self, about: About, step: int):
        """A new file with the rows up to that step takes the place of the old one."""
        def copy():
            self._make_room(os.path.getsize(self.path))
            copy_rows(old, self._file, step)
            self.written = step

        self._lock = Lock(self.path, PATIENCE_REQUEUED if "SLURM_RESTART_COUNT" in os.environ else PATIENCE)
        with self._unlocked_on_error(), open_run(self.path) as old:
            self.run = old.attrs["run"]
            self._create(about, copy)

    @property
    def opened(self) -> bool:
        """Is the file there, and not closed?"""
        return bool(self._file)

    @contextmanager
    def _unlocked_on_error(self):
        try:
            yield
        except BaseException:
            self._lock.release()
            raise

    def _create(self, about, fill):
        self._series, self._per_worker = schema.groups(about), about.per_worker
        place = self.path.resolve()
        try:
            with self._guarded():
                # under the lock: what a writer left that was killed at its start
                for left in place.parent.glob(f".{glob.escape(place.name)}.*.new"):
                    left.unlink()
                # a name that nobody can foresee, created by us alone
                handle, draft = tempfile.mkstemp(prefix=f".{place.name}.", suffix=".new", dir=place.parent)
                os.fchmod(handle, 0o666 & ~_umask())
                os.close(handle)
                self._file = file = h5py.File(draft, "w", libver="latest")
                layout = schema.layout_table(about.layout).nbytes if about.layout else 0
                self._make_room(len(about.config) + 8 * about.workers + layout)
                file.attrs.update({"format": schema.FORMAT, "format_version": schema.FORMAT_VERSION,
                                   "coopmpi": __version__, "mode": about.mode, "run": self.run,
                                   "per_worker": "all" if about.per_worker else "summary"})
                file.attrs.update(dict(about.attributes))
                file.attrs["status"] = np.array("running", schema.STATUS)
                file["config"] = about.config
                schema.make_series(file, about.workers, self._series)
                for name, value in about.chance.items():
                    file["eval"][name].attrs["chance"] = value
                # looking them up takes as long as adding to them
                self._open_series = {name: dict(file[name]) for name in self._series}
                self._chunk_bytes = {name: sum(np.prod(data.chunks, dtype=int) * data.dtype.itemsize for data in series.values())
                                     for name, series in self._open_series.items()}
                schema.make_events(file)
                if about.mode != "time-only":
                    schema.make_final(file, about)
                fill()
                file.swmr_mode = True  # from here on nothing can be created, only filled
                file.flush()
                os.replace(draft, place)
                self._inode = os.stat(place).st_ino
        except CoopError:
            Path(draft).unlink(missing_ok=True)
            raise

    def steps(self, rows: StepRows):
        columns = rows._asdict() | {"step": np.arange(rows.first, rows.first + len(rows.wall_time)) + 1}
        if not self._per_worker:
            columns = schema.summarised(columns)
        self._append("train", {name: columns[name] for name in ("step", *self._series["train"])})
        self.written = rows.first + len(rows.wall_time)

    def rounds(self, rows):
        if "rounds" not in self._series:
            return  # of a simulation: no transfer goes on beside the computation
        step, posted, finished, waited, nbytes = np.transpose(rows)
        hidden = 1 - waited / (finished - posted)
        columns = {"posted": posted, "finished": finished, "waited": waited, "hidden": hidden, "bytes": nbytes}
        self._append("rounds", {"step": step} | columns)

    def evaluation(self, step, wall_time, figures):
        if "eval" not in self._series:
            return  # time-only: nothing is evaluated
        known = {"step": step, "wall_time": wall_time} | dict(figures)
        self._append("eval", {name: [known.get(name, np.nan)] for name in ("step", *self._series["eval"])})

    def _append(self, group, columns):
        series = self._open_series[group]
        with self._guarded():
            # what is added, and a fresh chunk of each series
            self._make_room(sum(np.asarray(values).nbytes for values in columns.values()) + self._chunk_bytes[group])
            for name, values in columns.items():
                data = series[name]
                start = data.shape[0]
                data.resize(start + len(values), axis=0)
                data[start:] = values
            self._file.flush()

    def event(self, step, wall_time, kind, text):
        """Append to /events what happened at a step."""
        with self._guarded():
            events = self._file["events"]
            self._make_room(events.chunks[0] * schema.EVENT.itemsize)
            schema.resize_events(self._file, len(events) + 1)
            events[-1] = (step, wall_time, kind.encode(), text.encode()[:256])
            self._file.flush()

    def final(self, worker, row):
        with self._guarded():
            self._make_room(row.nbytes)
            self._file["final/x"][worker] = row

    def final_mean(self, row):
        with self._guarded():
            self._make_room(row.nbytes)
            self._file["final/mean"][:] = row

    def final_own(self, name, worker, row):
        with self._guarded():
            self._make_room(row.nbytes)
            place = f"final/{schema.OWN}{name}"
            if worker is None:
                self._file[place + schema.OF_MEAN][:] = row
            else:
                self._file[place][worker] = row

    def cut(self, step: int):
        """Drop the rows of later steps: they are done once more."""
        self.written = step
        with self._guarded():
            for group in self._series:
                kept = _rows_up_to(self._file[group]["step"], step)
                for data in self._file[group].values():
                    data.resize(kept, axis=0)
            self._file.flush()

    def close(self, status):
        """Write the status (finished, interrupted, failed) and close the file."""
        if not self._file:
            return  # closed before, though not in its place
        try:
            with self._guarded():
                self._file.attrs.modify("status", np.array(status, schema.STATUS))
                self._file.flush()
                # give back the room that was not needed
                os.ftruncate(self._file.id.get_vfd_handle(), self._file.id.get_filesize())
                self._file.close()
            self._require_place()
        finally:
            self._lock.release()

    def _require_place(self):
        """CoopError if the file is no longer where it was created: nobody will find what was written."""
        try:
            there = os.stat(self.path.resolve()).st_ino == self._inode
        except OSError:
            there = False
        if not there:
            self.broken = True
            raise CoopError(f"output {str(self.path)!r} was removed or replaced by another program while the run went on; what "
                            "was written into it is lost")

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


def copy_rows(old, file, step):
    """Copy the rows of the steps up to `step`, and the events, from one open result file to another."""
    for group in ("train", "eval", "rounds"):
        kept = _rows_up_to(old[group]["step"], step)
        for name, target in file[group].items():
            data = old[group].get(name)
            target.resize(kept, axis=0)
            for start in range(0, kept, 1024) if data is not None else ():
                target[start:min(kept, start + 1024)] = data[start:min(kept, start + 1024)]
    events = old["events"][:]
    schema.resize_events(file, len(events))
    file["events"][:] = events


def _rows_up_to(steps, step):
    """How many rows belong to the steps up to `step`."""
    return int(np.searchsorted(steps[:], step, side="right"))


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask
