"""Arrays with names: .npz and HDF5 files, and folders of .npy files."""

import numpy as np

from coopmpi import inputs
from coopmpi.device.hollow import HollowArray
from coopmpi.errors import UserError
from coopmpi.tasks.data.formats.raw import Raw, listed

# names that are understood, in upper or lower case; in a file that has several of a kind, the first of these counts
INPUTS = ("x", "data", "images", "features", "inputs")
TARGETS = ("y", "target", "targets", "labels", "label")
HELD_OUT = ("test", "val")  # the first of these that is there
UNNAMED = ("arr_0", "arr_1")  # what numpy.savez(file, x, y) makes
EXPECTED = (f"inputs ({', '.join(INPUTS)}) and targets ({', '.join(TARGETS)}), both alone or both with train, as in x_train or "
            f"train_images, and optionally both with {' or '.join(HELD_OUT)}")


def read_npz(path, how):
    with inputs.open_npz(path) as archive:
        return _named(path, archive.files, archive.__getitem__, archive.__getitem__,
                      lambda name: inputs.npz_shape(archive, name), how)


def read_h5(path, how):
    def targets(name):
        found = inputs.dataset(file, name, text=True)
        return np.asarray(found[()]) if found.dtype.kind in "biuf" else np.asarray(found.asstr("utf-8")[()], str)

    def shape(name):
        found = inputs.dataset(file, name)
        return found.shape, found.dtype

    with inputs.open_hdf5(path) as file:
        return _named(path, list(file), lambda name: np.asarray(inputs.dataset(file, name)[()]), targets, shape, how)


def read_folder(folder, how):
    """The Raw arrays of .npy files, whose names without .npy are those of the arrays."""
    def get(name):
        return inputs.read_npy(folder / f"{name}.npy")

    names = sorted(path.stem for path in folder.glob("*.npy"))
    return _named(folder, names, get, get, lambda name: inputs.npy_shape(folder / f"{name}.npy"), how)


def _named(path, names, inputs_at, targets_at, shape_of, how):
    """Raw from the arrays of these names; the functions give inputs, targets, and the (shape, dtype) of inputs by name."""
    (x, y), notes = _training(path, names)
    wanted = [x, y, *_held_out(path, names)]
    take = (lambda name: HollowArray(*shape_of(name))) if how.headers else inputs_at
    return Raw(*(targets_at(name) if i % 2 else take(name) for i, name in enumerate(wanted)), notes=notes)


def _training(path, names):
    """((name of the inputs, name of the targets), notes)."""
    if set(names) == set(UNNAMED):
        return UNNAMED, ("the array arr_0 is taken for the inputs, arr_1 for the targets",)
    for part in ("train", ""):
        x, y = _named_like(INPUTS, part, names), _named_like(TARGETS, part, names)
        if x and y:
            several = [found for found in (x, y) if len(found) > 1]
            return (x[0], y[0]), tuple(f"each of the arrays {', '.join(found)} may be meant: {found[0]} is read" for found in several)
    raise UserError(f"{path}: no array {'x' if not x else 'y'!r}; expected {EXPECTED}; found {listed(names)}")


def _held_out(path, names):
    """The names of the inputs and the targets of the test part; empty without one."""
    for part in HELD_OUT:
        x, y = _named_like(INPUTS, part, names), _named_like(TARGETS, part, names)
        if bool(x) != bool(y):
            raise UserError(f"{path}: expected both x_{part} and y_{part} or neither; found {listed(names)}")
        if x:
            return x[0], y[0]
    return ()


def _named_like(kinds, part, names):
    """Those of the names that are one of the kinds with that part before or behind it, as x_train, trainX or Train_Images."""
    plain = {name: name.lower().replace("_", "") for name in names}
    return [name for kind in kinds for name in names if plain[name] in (kind + part, part + kind)]
