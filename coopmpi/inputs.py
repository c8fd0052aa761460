"""Reading users' files of numbers: .npy, .npz, HDF5 and text. A UserError names what is wrong.

Nothing is ever unpickled, and a file is read by itself: what it refers to in other files is refused.
"""

import csv
import lzma
import os
import stat
import struct
import warnings
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError

import numpy as np

from coopmpi.errors import UserError, clean, quoted, shortened

# what NumPy, h5py, Pillow, csv and zipfile raise for files that are damaged or of another kind
DAMAGE = (ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError, SyntaxError,
          TypeError,
          ValueError, TokenError, csv.Error, lzma.LZMAError, struct.error, zipfile.BadZipFile, zlib.error)
PICKLED = ("expected arrays of numbers, found an object array, which only a pickle can hold; save it with a numeric "
           "dtype, and text with .astype(str)")
LINKS = 16  # that lead from one to the next, at most
# a data set of more bytes than this must be in the file, not only declared; compressed it is at most so much smaller
DECLARED, COMPRESSION = 1 << 30, 1100
KINDS = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket", stat.S_IFCHR: "device",
         stat.S_IFBLK: "device"}


def told(error):
    """What an error of a library says, in one line."""
    text = " ".join(str(error.args[0] if isinstance(error, KeyError) and error.args else error).split())
    return shortened(text) or type(error).__name__


def require_file(path):
    """UserError unless there is a regular file of this name: reading a pipe or a device may never end."""
    name = quoted(str(path))
    try:
        kind = stat.S_IFMT(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"file {name} does not exist") from error
    except (OSError, ValueError) as error:
        raise UserError(f"file {name} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if kind != stat.S_IFREG:
        raise UserError(f"file {name} is a {KINDS.get(kind, 'special file')}, not a regular file")


@contextmanager
def reading(path, kind):
    """Errors inside this context come from the file and become a UserError. kind: what the file should be."""
    require_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a file is either read or refused
            yield
    except UserError:
        raise
    except PermissionError as error:
        raise UserError(f"{path}: may not be read ({error.strerror})") from error
    except MemoryError as error:
        raise UserError(f"{path}: there is not enough memory for what it declares to hold: {error}") from error
    except DAMAGE as error:
        if "allow_pickle" in str(error):
            raise UserError(f"{path}: {PICKLED}") from error
        raise UserError(f"{path}: no numbers can be read, it is truncated, damaged or no {kind} file: "
                        f"{told(error)}") from error


@contextmanager
def open_hdf5(path):
    """A user's HDF5 file, open for reading; damage that shows only while it is read is translated, too."""
    import h5py

    with reading(path, "HDF5"), h5py.File(path, "r") as file:
        yield file


def dataset(file, name, text=False):
    """The data set of real numbers of that name in an open HDF5 file; UserError if there is none. text: strings will do, too.

    Links that lead to other files and data that lie there are refused before anything of them is read.
    """
    import h5py

    where = f"{file.filename}: dataset {quoted(name)}"
    found = _follow(file, name)
    if found is None:
        raise UserError(f"{file.filename}: there is no dataset {quoted(name)}; in the file: "
                        f"{clean(shortened(', '.join(file))) or 'nothing'}")
    if not isinstance(found, h5py.Dataset):
        raise UserError(f"{file.filename}: {clean(name)} is a {type(found).__name__.lower()}, not a dataset of numbers")
    if found.external or found.is_virtual:
        raise UserError(f"{where} keeps its numbers in other files; copy them into this one")
    is_text = text and h5py.check_string_dtype(found.dtype) is not None
    if found.shape is None or (found.dtype.kind not in "biuf" and not is_text):
        kind = "nothing" if found.shape is None else shortened(str(found.dtype))
        raise UserError(f"{where}: expected integers or floats{' or strings' * text}, found {kind}")
    if found.nbytes > max(DECLARED, COMPRESSION * found.id.get_storage_size()):
        raise UserError(f"{where} declares {found.nbytes} bytes (shape {found.shape}), but holds "
                        f"{found.id.get_storage_size()}: it is damaged or was never written")
    return found


def datasets(file):
    """The names of all data sets at the root of an open HDF5 file."""
    import h5py

    return [name for name in file if isinstance(_follow(file, name), h5py.Dataset)]


def _follow(file, name):
    """What is at a path in an open HDF5 file, along links within the file; None if there is nothing."""
    import h5py

    place, rest, followed = file, _steps(name), 0
    while rest:
        part = rest.pop(0)
        link = place.get(part, getlink=True) if isinstance(place, h5py.Group) else None
        if link is None:
            return None
        if isinstance(link, h5py.ExternalLink):
            raise UserError(f"{file.filename}: {quoted(name)} is a link to another file, {quoted(link.filename)}; "
                            f"copy the numbers into this one")
        if isinstance(link, h5py.SoftLink):
            followed += 1
            if followed > LINKS:
                raise UserError(f"{file.filename}: {quoted(name)} is a link that leads to nothing but links")
            place = file if link.path.startswith("/") else place
            rest = _steps(link.path) + rest
        else:
            place = place[part]
    return place


def _steps(path):
    return [step for step in path.split("/") if step not in ("", ".")]


def attribute(file, name, default):
    """The number in an attribute of an open HDF5 file, finite and not negative; `default` if there is none."""
    if name not in file.attrs:
        return default
    found = np.asarray(file.attrs[name])
    if found.shape not in ((), (1,)) or found.dtype.kind not in "biuf" or not 0 <= found.item() < np.inf:
        raise UserError(f"{file.filename}: attribute {name} must be a finite number >= 0, given "
                        f"{quoted(found.tolist())}")
    return float(found.item())


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
        return _npy_header(file)


def npy_shape(path):
    """(shape, dtype) of the array in a .npy file, from its header alone."""
    with reading(path, ".npy"), open(path, "rb") as file:
        return _npy_header(file)


def _npy_header(file):
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    return shape, dtype


def read_numbers(path, name):
    """The numbers in a .npy file, in the data set `name` of an HDF5 file, or in a text file (always 2-D); float64."""
    suffix = Path(path).suffix.lower()
    if suffix in (".h5", ".hdf5"):
        with open_hdf5(path) as file:
            return np.asarray(dataset(file, name)[()]).astype(float)
    if suffix == ".npy":
        found = read_npy(path)
    else:
        with reading(path, "text"):
            found = np.loadtxt(path, ndmin=2, encoding="utf-8")
    if found.dtype.kind not in "biuf" or not found.size:
        what = "none" if not found.size else f"dtype {found.dtype}"
        raise UserError(f"{path}: expected integers or floats, found {what}")
    return found.astype(float)
