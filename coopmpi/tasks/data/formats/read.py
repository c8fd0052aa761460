"""Which reader a path gets."""

from coopmpi import inputs
from coopmpi.errors import UserError
from coopmpi.tasks.data.formats import arrays, cifar, idx, images, table

ALLOWED = ("a .npz or .h5 file with x and y, a .csv or .tsv file, a folder with X.npy and y.npy, with train.csv and test.csv, or with "
           "a folder of PNG or JPEG files for each class, an IDX images file or the folder of the four MNIST files, or a "
           "CIFAR-10/100 binary folder")


def read(path, how):
    """The Raw arrays at `path` (file or folder); how: a How. Raises UserError."""
    try:
        reader, keys = _of_folder(path) if path.is_dir() else _of_file(path)
        how.require_only(keys, str(path))
        return reader(path, how)
    except OSError as error:
        raise UserError(f"{path}: may not be read ({error.strerror or error})") from error


def _of_file(path):
    """(reader, keys of [task] that it reads)."""
    inputs.require_file(path)
    name = path.name.lower()
    if name.endswith(".npz"):
        return arrays.read_npz, ()
    if name.endswith((".h5", ".hdf5")):
        return arrays.read_h5, ()
    if name.endswith(table.SUFFIXES):
        return table.read, ("label", "ignore")
    if "idx" in name:
        return idx.read, ()
    if name.endswith(".npy"):
        raise UserError(f"{path}: a .npy file holds one array; put X.npy and y.npy into a folder, and give the folder")
    raise UserError(f"{path}: unknown kind of data file; allowed: {ALLOWED}")


def _of_folder(folder):
    """(reader, keys of [task] that it reads)."""
    names = sorted(path.name for path in folder.iterdir())
    if cifar.is_binary(names):
        return cifar.read, ()
    cifar.refuse_python_version(folder, names)
    if idx.image_sets(names):
        return idx.read_folder, ()
    if any(name.endswith(".npy") for name in names):
        return arrays.read_folder, ()
    if table.pair(names):
        return table.read_folder, ("label", "ignore")
    if images.folders(folder):
        return images.read, ("size",)
    raise UserError(f"{folder}: no data set found in this folder; allowed: {ALLOWED}")
