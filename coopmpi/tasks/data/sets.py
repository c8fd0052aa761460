"""What a data set is, and how one is made from a built-in name or a path: read, check, convert, split."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from coopmpi.errors import UserError, quoted, shortened, unknown
from coopmpi.streams import Purpose, stream
from coopmpi.tasks.data import builtin
from coopmpi.tasks.data.checks import require_finite, require_numbers, require_targets
from coopmpi.tasks.data.formats.raw import How
from coopmpi.tasks.data.formats.read import read
from coopmpi.tasks.data.labels import find_coding, read_labels
from coopmpi.tasks.data.scaling import Scaling

BUILTIN = ("digits", "teacher")
LARGE = 20  # numbers larger than this make training slow, or let it diverge


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
    names: tuple[str, ...] = ()  # of the classes, where they have other ones than 0, 1, ...
    notes: tuple[str, ...] = ()  # what the user should know of how the data were understood

    def inputs(self, rows):
        """Rows of x_train or x_test as numbers of the run's dtype."""
        return self.scaling(np, rows) if self.scaling else rows


class Outline(NamedTuple):
    """What a model and a run need to know of a data set before it is read."""

    features: int
    shape: tuple | None  # (channels, height, width) of images
    outputs: int  # classes, or outputs of a regression
    samples: int  # for training


def outline(source, kind, *, test_fraction=0.2, samples=10000, features=32, classes=None, outputs=1, **keys):
    """The Outline of `load` with the same arguments; of a file only the header is read, and the
    labels where nothing else tells how many classes there are. Raises UserError."""
    how = How(kind, headers=True, **keys)
    if source == "teacher":
        how.require_only((), source)
        targets = outputs if kind == "regress" else classes or 10
        return Outline(features, None, targets, samples - round(samples * test_fraction))
    raw, where = _raw(source, how), f"data {str(source)!r}"
    shape, n = _image_shape(raw.x.shape, f"{where}: x"), len(raw.x)
    if kind == "regress":
        require_targets(raw.y, n, f"{where}: y")
        targets = raw.y.size // n
    else:
        targets = classes or raw.classes or _coded(raw, n, None, where)[1].classes
    return Outline(raw.x.size // n, shape, targets, n - (round(n * test_fraction) if raw.x_test is None else 0))


def load(source, kind, dtype, seed, *, test_fraction=0.2, standardize=False,
         samples=10000, features=32, classes=None, outputs=1, noise=0.0, **keys):
    """The Dataset behind `source`: "digits", "teacher", or a path (see coopmpi.tasks.data.formats).

    kind: "classify" or "regress". test_fraction: what is split off where the source has no test part, the same
    for every seed. standardize: mean 0 and variance 1 on the training part, per column or image channel.
    uint8 inputs stay what they are, to be scaled to [0, 1]. classes: how many there are; None: found from the labels.
    samples, features, classes (default 10), outputs, noise and seed describe the teacher. keys: those of a How that say
    how a file is read. Raises UserError.
    """
    how = How(kind, dtype, **keys)
    if source == "teacher":
        how.require_only((), source)
        targets = outputs if kind == "regress" else 10 if classes is None else classes
        raw = builtin.teacher(kind, dtype, seed, samples, features, targets, noise)
    else:
        raw = _raw(source, how)
    where = f"data {str(source)!r}"

    # bytes stay bytes where all inputs are such
    scaling = Scaling(raw.full_scale, dtype)
    stay = all(x is None or getattr(x, "dtype", None) == np.uint8 for x in (raw.x, raw.x_test))
    x, shape = _inputs(raw.x, scaling, stay, f"{where}: x")
    coding, notes = None, raw.notes
    if kind == "classify":
        y, coding, notes = _coded(raw, len(x), classes, where)
    else:
        y = _outputs(raw.y, dtype, len(x), f"{where}: y")
    if raw.x_test is None:
        train, test = _split(len(x), test_fraction, where)
        x, y, x_test, y_test = x[train], y[train], x[test], y[test]
    else:
        x_test, y_test = _held_out(raw, x, y, shape, coding, scaling, stay, where)
    if not standardize:
        notes += _large(x, "features", "standardize = true, which brings all to one scale, usually helps")
    elif stay:
        scaling = scaling.standardized(x, shape[0] if shape else x.shape[1])
    else:
        _standardize(x, x_test, shape[0] if shape else x.shape[1])
    if kind == "regress":
        notes += _large(y, "targets", "larger units of them, or a smaller lr, usually help")
    classes, names = (coding.classes, coding.names) if coding else (None, ())
    return Dataset(str(source), x, y, x_test, y_test, shape, classes, scaling if stay else None, names, notes)


def _held_out(raw, x, y, shape, coding, scaling, stay, where):
    """(inputs, targets) of the test part of a source; x, y, shape: those of training."""
    what, place = f"{where}: y_test", raw.places[-1]
    x_test, test_shape = _inputs(raw.x_test, scaling, stay, f"{where}: x_test")
    if coding:
        labels, _ = read_labels(raw.y_test, len(x_test), what, place, keep_text=coding.of_text)
        y_test = coding.codes(labels, what, place)
    else:
        y_test = _outputs(raw.y_test, scaling.dtype, len(x_test), what)
    if (x.shape[1:], y.shape[1:], shape) != (x_test.shape[1:], y_test.shape[1:], test_shape):
        raise UserError(f"{where}: training and test samples must have the same shapes; found x {raw.x.shape[1:]} and y "
                        f"{raw.y.shape[1:]} against {raw.x_test.shape[1:]} and {raw.y_test.shape[1:]}")
    return x_test, y_test


def _raw(source, how):
    if source != "digits":
        return read(_existing(source), how)
    how.require_only((), source)
    return builtin.digits()


def _coded(raw, n, classes, where):
    """(class numbers (n,), their Coding, notes) of the training labels; classes: how many there are to be."""
    what, place = f"{where}: {raw.targets}", raw.places[0]
    labels, one_hot = read_labels(raw.y, n, what, place)
    coding = find_coding(labels, classes or raw.classes or one_hot, what, place)
    notes = raw.notes
    if one_hot:
        notes += (f"the one-hot rows of y are {one_hot} classes",)
    elif coding.names and labels.dtype.kind == "i":
        notes += (f"the labels {shortened(', '.join(coding.names))} are the classes 0 to {coding.classes - 1}",)
    return coding.codes(labels, what, place), coding, notes


def _existing(source):
    path = Path(os.path.expanduser(source))
    if os.path.exists(path):
        return path
    if path.suffix or path.name != str(source):
        raise UserError(f"data {quoted(str(source))}: no such file or folder")
    raise unknown("built-in data set (nor is there such a file)", source, BUILTIN, where="[task] data: ")


def _inputs(x, scaling, stay, what):
    """Rows (n, features), of bytes if these are to stay, and (channels, height, width) if they are images."""
    require_numbers(x, what)
    shape = _image_shape(x.shape, what)
    if shape and x.ndim == 4 and shape != x.shape[1:]:
        x = np.moveaxis(x, 3, 1)
    if x.dtype == np.uint8:
        rows = np.ascontiguousarray(x).reshape(len(x), -1)
        return rows if stay else scaling(np, rows), shape
    rows = np.empty(x.shape, scaling.dtype)
    _cast(x, rows)
    rows = rows.reshape(len(x), -1)
    require_finite(rows, what, f"NaN or Inf in the data (as {rows.dtype})")
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


def _outputs(y, dtype, n, what):
    """Targets of a regression, (n, outputs)."""
    require_targets(y, n, what)
    outputs = np.empty((n, y.size // n), dtype)
    _cast(y.reshape(outputs.shape), outputs)
    require_finite(outputs, what, f"NaN or Inf in the data (as {outputs.dtype})")
    return outputs


def _split(n, test_fraction, where):
    """Indices of the training and test part, ascending: a random choice, but the same for every run."""
    tests = round(n * test_fraction)
    if not 0 < tests < n:
        raise UserError(f"{where}: test_fraction = {test_fraction} of {n} samples leaves {n - tests} for training "
                        f"and {tests} for the test; each needs at least 1")
    order = stream(0, Purpose.SPLIT).permutation(n)
    return np.sort(order[tests:]), np.sort(order[:tests])


def _large(values, what, advice):
    """A note on numbers that are too large to learn well with usual learning rates, if they are."""
    largest = 0 if values.dtype == np.uint8 else max(values.max(), -values.min())
    return (f"{what} reach {largest:.4g}: {advice}",) if largest > LARGE else ()


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
