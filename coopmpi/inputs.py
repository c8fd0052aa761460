"""Reading users' files of numbers: .npy, .npz, HDF5 and text. A UserError names what is wrong.

Nothing is ever unpickled.
"""

import zipfile
import zlib
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError

import numpy as np

from coopmpi.errors import UserError

# what NumPy and h5py raise for files that are damaged or of another kind
DAMAGE = (OSError, RuntimeError, KeyError, TypeError, ValueError, AttributeError, EOFError, MemoryError, TokenError,
          zipfile.BadZipFile, zlib.error)
PICKLED = ("expected arrays of numbers, found an object array, which only a pickle can hold; save it with a numeric "
           "dtype")


@contextmanager
def reading(path, kind):
    """Errors inside this context come from the file and become a UserError. kind: what the file should be."""
    if not Path(path).is_file():
        raise UserError(f"file {str(path)!r} does not exist")
    try:
        yield
    except UserError:
        raise
    except PermissionError as error:
        raise UserError(f"{path}: may not be read ({error.strerror})") from error
    except DAMAGE as error:
        if "allow_pickle" in str(error):
            raise UserError(f"{path}: {PICKLED}") from error
        raise UserError(f"{path}: no numbers can be read, it is truncated, damaged or no {kind} file: {error}") from error


@contextmanager
def open_hdf5(path):
    """A user's HDF5 file, open for reading; damage that shows only while it is read is translated, too."""
    import h5py

    with reading(path, "HDF5"), h5py.File(path, "r") as file:
        yield file


def dataset(file, name):
    """The data set of that name in an open HDF5 file; UserError if there is none."""
    import h5py

    found = file.get(name)
    if not isinstance(found, h5py.Dataset):
        wrong = (f"{name} is a group, not a dataset of numbers" if found is not None else
                 f"there is no dataset {name!r}; in the file: {', '.join(file) or 'nothing'}")
        raise UserError(f"{file.filename}: {wrong}")
    return found


def read_npy(path):
    """The array in a .npy file."""
    with reading(path, ".npy"), open(path, "rb") as file:
        return np.lib.format.read_array(file, allow_pickle=False)


@contextmanager
def open_npz(path):
    """The arrays of an .npz archive by name; each is read when it is asked for."""
    with reading(path, ".npz"):
        if not zipfile.is_zipfile(path):
            raise UserError(f"{path}: expected an .npz archive, found a truncated or different file")
        with np.load(path, allow_pickle=False) as archive:
            yield archive


def npz_shape(archive, name):
    """(shape, dtype) of an array in an open .npz archive, from its header alone."""
    with archive.zip.open(f"{name}.npy") as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    return shape, dtype


def read_numbers(path, name):
    """The numbers in a .npy file, in the data set `name` of an HDF5 file, or in a text file (always 2-D); float64."""
    suffix = Path(path).suffix.lower()
    if suffix in (".h5", ".hdf5"):
        with open_hdf5(path) as file:
            return dataset(file, name)[()].astype(float)
    with reading(path, ".npy" if suffix == ".npy" else "text"):
        return read_npy(path).astype(float) if suffix == ".npy" else np.loadtxt(path, ndmin=2)
