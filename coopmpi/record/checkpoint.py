"""Checkpoints: the state of a run beside its result file.

    RUN.h5.state/step-000000400/rank-00000.state     a file for each rank that wrote
    RUN.h5.state/step-000000400/manifest.json        last, by rename: without it there is no checkpoint

A rank's file holds rows of slots one after the other, then a table in JSON that says which row lies where, with a
checksum of each, then the length and the checksum of that table. Every rank reads the rows that it needs, whoever wrote
them: the number of ranks may differ.
"""

import json
import os
import shutil
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from coopmpi.errors import CoopError, UserError

VERSION = 1
MANIFEST = "manifest.json"
FOOT = struct.Struct("<QI")  # length and checksum of a file's table


def folder_of(result) -> Path:
    """Where the checkpoints of a result file lie."""
    return Path(f"{result}.state")


def step_folder(folder: Path, step: int) -> Path:
    return folder / f"step-{step:09d}"


def write_rows(folder: Path, rank: int, rows: Iterable[tuple[str, int, np.ndarray]]):
    """A rank's file: (slot, row number, contiguous 1-D array) one after the other; on the disk when this returns.

    Worker rows are numbered by worker. Raises OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    table, place = [], 0
    with open(folder / _name(rank), "wb") as file:
        for slot, row, values in rows:
            content = memoryview(values).cast("B") if values.size else b""
            file.write(content)
            table.append([slot, row, place, values.dtype.str, values.size, zlib.crc32(content)])
            place += len(content)
        text = json.dumps(table).encode()
        file.write(text + FOOT.pack(len(text), zlib.crc32(text)))
        file.flush()
        os.fsync(file.fileno())


def commit(folder: Path, ranks: int, run: str, step: int, wall_time: float):
    """From here on the checkpoint exists: all its ranks' files are on the disk. Raises OSError."""
    manifest = {"version": VERSION, "run": run, "step": step, "wall_time": wall_time,
                "files": {_name(rank): os.path.getsize(folder / _name(rank)) for rank in range(ranks)}}
    draft = folder / f".{MANIFEST}"
    with open(draft, "w", encoding="utf-8") as file:
        json.dump(manifest, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, folder / MANIFEST)
    _sync(folder)
    _sync(folder.parent)


def prune(folder: Path, keep: int):
    """Remove all but the newest so many checkpoints, and older ones that never became complete."""
    kept = 0
    for step in _steps(folder):
        complete = (step_folder(folder, step) / MANIFEST).exists()
        if kept >= keep or (kept and not complete):
            shutil.rmtree(step_folder(folder, step), ignore_errors=True)
        kept += complete


def remove(result):
    """Remove all checkpoints of a result file."""
    shutil.rmtree(folder_of(result), ignore_errors=True)


class Damaged(CoopError):
    """A checkpoint cannot be read; an older one may."""


class Checkpoint:
    """A complete checkpoint on the disk; `step` steps were done. Damaged if it cannot be used."""

    def __init__(self, folder: Path):
        self.folder = folder
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            self.run, self.step, self.wall_time = manifest["run"], int(manifest["step"]), float(manifest["wall_time"])
            version, files = manifest["version"], dict(manifest["files"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Damaged(f"{folder}: the manifest cannot be read: {error}") from error
        if version != VERSION:
            raise Damaged(f"{folder}: format version {version}, this coopmpi reads {VERSION}")
        self._rows = {}  # (slot, row): (file, place, dtype, size, checksum)
        for name, size in files.items():
            self._read_table(folder / name, size)

    def _read_table(self, path, size):
        try:
            if os.path.getsize(path) != size:
                raise ValueError(f"{os.path.getsize(path)} bytes are there, {size} were written")
            with open(path, "rb") as file:
                file.seek(-FOOT.size, os.SEEK_END)
                length, checksum = FOOT.unpack(file.read())
                file.seek(-FOOT.size - length, os.SEEK_END)
                text = file.read(length)
            if zlib.crc32(text) != checksum:
                raise ValueError("its table has a wrong checksum")
            for slot, row, *where in json.loads(text):
                self._rows[slot, row] = (path, *where)
        except (OSError, ValueError, TypeError, struct.error) as error:
            raise Damaged(f"{path}: damaged: {error}") from error

    def row(self, slot: str, row: int) -> np.ndarray:
        """One row of a slot, (columns,)."""
        if (slot, row) not in self._rows:
            raise Damaged(f"{self.folder}: there is no row {row} of {slot!r}")
        path, place, dtype, size, checksum = self._rows[slot, row]
        values = np.empty(size, dtype)
        content = memoryview(values).cast("B") if size else memoryview(b"")
        try:
            with open(path, "rb") as file:
                file.seek(place)
                read = file.readinto(content)
        except OSError as error:
            raise Damaged(f"{path}: cannot be read: {error}") from error
        if read != len(content) or zlib.crc32(content) != checksum:
            raise Damaged(f"{path}: damaged: row {row} of {slot!r} has a wrong checksum")
        return values


def checkpoints(result, run: str) -> Iterator[Checkpoint]:
    """The checkpoints of a run, newest first; those that are damaged or of another run are passed over."""
    folder = folder_of(result)
    for step in _steps(folder):
        if (step_folder(folder, step) / MANIFEST).exists():
            try:
                found = Checkpoint(step_folder(folder, step))
            except Damaged:
                continue
            if found.run == run:
                yield found


def require_checkpoint(result, run: str):
    """UserError unless the run has a checkpoint that can be read; says why none can."""
    folder = folder_of(result)
    if next(checkpoints(result, run), None) is not None:
        return
    complete = [step for step in _steps(folder) if (step_folder(folder, step) / MANIFEST).exists()]
    if not complete:
        raise UserError(f"{result}: there is no checkpoint in {folder}, so there is nothing to resume; a run saves its state "
                        "every [checkpoint] every_minutes or every_steps, and when SIGUSR1, SIGTERM or Ctrl-C stops it")
    for step in complete:
        try:
            other = Checkpoint(step_folder(folder, step)).run
        except Damaged as error:
            reason = str(error)
        else:
            reason = f"{step_folder(folder, step)} belongs to another run, {other}"
    raise UserError(f"{result}: none of {len(complete)} checkpoints can be used: {reason}")


def _name(rank):
    return f"rank-{rank:05d}.state"


def _steps(folder):
    """The steps of which there are folders, newest first."""
    names = [path.name.removeprefix("step-") for path in folder.glob("step-*")] if folder.is_dir() else []
    return sorted((int(name) for name in names if name.isdigit()), reverse=True)


def _sync(folder):
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
