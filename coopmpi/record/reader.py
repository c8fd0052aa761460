"""Reading result files, also while they are written or after a kill."""

from pathlib import Path

import h5py

from coopmpi.errors import UserError
from coopmpi.record.schema import FORMAT


def open_run(path):
    """A result file, open for reading whatever its state: finished, being written, or cut off by a kill."""
    if not Path(path).is_file():
        raise UserError(f"file {str(path)!r} does not exist")
    try:
        file = h5py.File(path, "r", swmr=True)
    except OSError as error:
        raise UserError(f"{path}: not a readable HDF5 file: {error}") from error
    if file.attrs.get("format") != FORMAT:
        file.close()
        raise UserError(f"{path}: not a result of coopmpi train (attribute format is not {FORMAT!r})")
    return file
