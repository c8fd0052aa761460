"""What a data set is, and how one is made from a built-in name or a path: read, check, convert, split."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from coopmpi.errors import UserError, quoted, unknown
from coopmpi.streams import Purpose, stream
from coopmpi.tasks.data import builtin, formats
from coopmpi.tasks.data.scaling import Scaling

BUILTIN = ("digits", "teacher")


@dataclass(frozen=True)
class Dataset:
    """Inputs are rows (n, features) of the run's dtype, or bytes that `scaling` makes such; images lie channel first in a row.

    Targets are class labels (n,) int64, or outputs (n, outputs) of the run's dtype.
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    shape: tuple | None = None  # (channels, height, width) of images
    classes: int | None = None  # None: regression
    scaling: Scaling | None = None  # of inputs that are uint8

    def inputs(self, rows):
        """Rows of x_train or x_test as numbers of the run's dtype."""
        return self.scaling(np, rows) if self.scaling else rows


class Outline(NamedTuple):
    """What a model and a run need to know of a data set before it is read."""

    features: int
    shape: tuple | None  # (channels, height, width) of images
    outputs: int  # classes, or outputs of a regression
    samples: int  # for training


def outline(source, kind, *, test_fraction=0.2, samples=10000, features=32, classes=None, outputs=1):
    """The Outline of `load` with the same arguments; of a file only the header is read, and the
    labels where nothing else tells how many classes there are. Raises UserError."""
    if source == "teacher":
        targets = outputs if kind == "regress" else classes or 10
        return Outline(features, None, targets, samples - round(samples * test_fraction))
    raw = builtin.digits() if source == "digits" else formats.read(_existing(source), headers=True)
    where = f"data {str(source)!r}"
    shape = _image_shape(raw.x.shape, f"{where}: x")
    n = len(raw.x)
    if raw.classes is None:
        _check_targets(raw.y, n, f"{where}: y")
    targets = raw.y.size // n if kind == "regress" else classes or raw.classes
    if targets is None:
        targets = _count_classes(_targets(raw.y, kind, None, n, f"{where}: y"), None, f"{where}: y")
    return Outline(raw.x.size // n, shape, targets, n - (round(n * test_fraction) if raw.x_test is None else 0))


def load(source, kind, dtype, seed, *, test_fraction=0.2, standardize=False,
         samples=10000, features=32, classes=None, outputs=1, noise=0.0):
    """The Dataset behind `source`: "digits", "teacher", or a path (see coopmpi.tasks.data.formats).

    kind: "classify" or "regress". test_fraction: what is split off where the source has no test part, the same
    for every seed. standardize: mean 0 and variance 1 on the training part, per column or image channel.
    uint8 inputs stay what they are, to be scaled to [0, 1]. classes: labels are 0..classes-1; None: found from the labels.
    samples, features, classes (default 10), outputs, noise and seed describe the teacher. Raises UserError.
    """
    if source == "digits":
        raw = builtin.digits()
    elif source == "teacher":
        targets = outputs if kind == "regress" else 10 if classes is None else classes
        raw = builtin.teacher(kind, dtype, seed, samples, features, targets, noise)
    else:
        raw = formats.read(_existing(source))
    where = f"data {str(source)!r}"

    # bytes stay bytes where all inputs are such
    scaling = Scaling(raw.full_scale, dtype)
    stay = all(x is None or getattr(x, "dtype", None) == np.uint8 for x in (raw.x, raw.x_test))
    x, shape = _inputs(raw.x, scaling, stay, f"{where}: x")
    y = _targets(raw.y, kind, dtype, len(x), f"{where}: y")
    if kind == "classify":
        classes = _count_classes(y, classes or raw.classes, f"{where}: y")
    else:
        classes = None
    if raw.x_test is None:
        train, test = _split(len(x), test_fraction, where)
        x, y, x_test, y_test = x[train], y[train], x[test], y[test]
    else:
        x_test, test_shape = _inputs(raw.x_test, scaling, stay, f"{where}: x_test")
        y_test = _targets(raw.y_test, kind, dtype, len(x_test), f"{where}: y_test")
        if (x.shape[1:], y.shape[1:], shape) != (x_test.shape[1:], y_test.shape[1:], test_shape):
            raise UserError(f"{where}: training and test samples must have the same shapes; found x "
                            f"{raw.x.shape[1:]} and y {raw.y.shape[1:]} against {raw.x_test.shape[1:]} "
                            f"and {raw.y_test.shape[1:]}")
        if kind == "classify":
            _refuse(y_test >= classes, f"{where}: y_test", f"class labels must be 0..{classes - 1} as in training")
    if standardize:
        columns = shape[0] if shape else x.shape[1]
        if stay:
            scaling = scaling.standardized(x, columns)
        else:
            _standardize(x, x_test, columns)
    return Dataset(str(source), x, y, x_test, y_test, shape, classes, scaling if stay else None)


def _existing(source):
    path = Path(os.path.expanduser(source))
    if os.path.exists(path):
        return path
    if path.suffix or path.name != str(source):
        raise UserError(f"data {quoted(str(source))}: no such file or folder")
    raise unknown("built-in data set (nor is there such a file)", source, BUILTIN, where="[task] data: ")


def _inputs(x, scaling, stay, what):
    """Rows (n, features), of bytes if these are to stay, and (channels, height, width) if they are images."""
    _check_numbers(x, what)
    shape = _image_shape(x.shape, what)
    if shape and x.ndim == 4 and shape != x.shape[1:]:
        x = np.moveaxis(x, 3, 1)
    if x.dtype == np.uint8:
        rows = np.ascontiguousarray(x).reshape(len(x), -1)
        return rows if stay else scaling(np, rows), shape
    rows = np.empty(x.shape, scaling.dtype)
    _cast(x, rows)
    rows = rows.reshape(len(x), -1)
    _refuse_nonfinite(rows, what, f"NaN or Inf in the data (as {rows.dtype})")
    return rows, shape


def _image_shape(found, what):
    """(channels, height, width) of the images in an array of that shape, which may hold channels last; None: no images."""
    if not 1 <= len(found) <= 4 or 0 in found:
        raise UserError(f"{what}: expected samples (n, features) or images (n, h, w), (n, h, w, c), (n, c, h, w), "
                        f"none of these sizes 0; found shape {found}")
    if len(found) < 3:
        return None
    if len(found) == 3:
        return (1, *found[1:])
    last = found[3] <= 4 < found[1]
    return (found[3], *found[1:3]) if last else found[1:]


def _targets(y, kind, dtype, n, what):
    """Class labels (n,) int64 or outputs (n, outputs)."""
    _check_targets(y, n, what)
    if kind == "regress":
        outputs = np.empty((n, y.size // n), dtype)
        _cast(y.reshape(outputs.shape), outputs)
        _refuse_nonfinite(outputs, what, f"NaN or Inf in the data (as {outputs.dtype})")
        return outputs
    if y.size != n:
        raise UserError(f"{what}: expected class labels ({n},), found shape {y.shape}")
    y = y.reshape(n)
    if y.dtype.kind == "f":
        _refuse_nonfinite(y, what, "NaN or Inf in the data")
        _refuse(y != np.floor(y), what, "class labels must be integers")
    _refuse(y < 0, what, "class labels must not be negative")
    _refuse(y >= 2**31, what, "class labels must be below 2**31")
    return y.astype(np.int64)


def _check_targets(y, n, what):
    _check_numbers(y, what)
    if y.ndim not in (1, 2) or y.size == 0 or len(y) != n:
        raise UserError(f"{what}: expected one target for each of the {n} samples, found shape {y.shape}")


def _count_classes(y, classes, what):
    """How many classes there are; labels must be 0..classes-1."""
    if classes is not None:
        _refuse(y >= classes, what, f"class labels must be 0..{classes - 1}")
        return classes
    largest, different = int(y.max()), np.unique(y).size
    if largest + 1 > 2 * different:  # most likely a wrong label, or labels that are codes
        _refuse(y == largest, what, f"class labels must be 0..C-1: only {different} different labels occur, but "
                                    f"the largest is {largest}; set classes = {largest + 1} if that is meant")
    return largest + 1


def _split(n, test_fraction, where):
    """Indices of the training and test part, ascending: a random choice, but the same for every run."""
    tests = round(n * test_fraction)
    if not 0 < tests < n:
        raise UserError(f"{where}: test_fraction = {test_fraction} of {n} samples leaves {n - tests} for training "
                        f"and {tests} for the test; each needs at least 1")
    order = stream(0, Purpose.SPLIT).permutation(n)
    return np.sort(order[tests:]), np.sort(order[:tests])


def _standardize(x, x_test, columns):
    """x <- (x - mean) / std in place, with the training part's mean and std; a constant is not scaled."""
    train, test = (rows.reshape(len(rows), columns, -1) for rows in (x, x_test))
    constant = train.min(axis=(0, 2)) == train.max(axis=(0, 2))
    mean = train.mean(axis=(0, 2), keepdims=True, dtype=np.float64).astype(x.dtype)
    train -= mean
    std = np.sqrt(np.einsum("ncp,ncp->c", train, train, dtype=np.float64) / (train.size // columns))
    std = np.where(constant, 1, std).astype(x.dtype)[:, None]
    train /= std
    test -= mean
    test /= std


def _cast(values, out):
    with np.errstate(over="ignore"):  # an overflow shows as Inf, which is refused with its place
        np.copyto(out, values, casting="unsafe")


def _check_numbers(values, what):
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "biuf":
        found = values.dtype if isinstance(values, (np.ndarray, np.generic)) else type(values).__name__
        raise UserError(f"{what}: expected an array of integers or floats, found {found}")


def _refuse_nonfinite(values, what, rule):
    """UserError for NaN or Inf; a mask as large as the data is made only then."""
    if not (np.isfinite(values.min()) and np.isfinite(values.max())):
        _refuse(~np.isfinite(values), what, rule)


def _refuse(bad, what, rule):
    """UserError if anything is bad: the rule, how many values break it, and the first row that does."""
    if bad.any():
        rows = bad.reshape(len(bad), -1).any(axis=1)
        raise UserError(f"{what}: {rule}; found in {bad.sum()} of {bad.size} values, first in row {rows.argmax()}")
