"""Class labels as files have them - whole numbers, one-hot rows, names - and as models take them: 0, 1, ..."""

from typing import NamedTuple

import numpy as np

from coopmpi.errors import UserError, clean, shortened
from coopmpi.tasks.data.checks import ROW, refuse, require_finite, require_targets

LONGEST_NAME = 100  # characters
LARGEST = 2**31


class Coding(NamedTuple):
    """Which class a label stands for."""

    classes: int  # how many there are
    values: np.ndarray | None = None  # ascending: the label of each class, where that is not its number

    @property
    def of_text(self):
        """Are the labels text?"""
        return self.values is not None and self.values.dtype.kind == "U"

    @property
    def names(self):
        """The labels of the classes as text; empty where these are their numbers."""
        return () if self.values is None else tuple(clean(str(value)) for value in self.values)

    def codes(self, labels, what, place=ROW):
        """Class numbers (n,) int64 of labels (n,); UserError for a label that no class has."""
        rule = f"0..{self.classes - 1}" if self.values is None else shortened(", ".join(self.names))
        if (labels.dtype.kind == "U") != self.of_text:
            found, strange = labels, np.ones(len(labels), bool)
        elif self.values is None:
            found, strange = labels, (labels < 0) | (labels >= self.classes)
        else:
            found = np.searchsorted(self.values, labels).clip(max=len(self.values) - 1)
            strange = self.values[found] != labels
        refuse(strange, what, f"class labels must be {rule} as in training", place)
        return found


def read_labels(y, n, what, place=ROW, keep_text=False):
    """(class labels (n,) as int64 or text, how many classes one-hot rows have: None for other labels).

    Text becomes numbers where all labels are such, unless it is to be kept.
    """
    require_targets(y, n, what, text=True)
    is_text = y.dtype.kind in "US"
    if not is_text and y.ndim == 2 and 2 <= y.shape[1] <= n // 2 and _is_one_hot(y):
        return y.argmax(axis=1), y.shape[1]
    if y.size != n:
        raise UserError(f"{what}: expected one-hot rows or class labels ({n},), found shape {y.shape}")
    y = y.reshape(n)
    if is_text:
        y = _checked_text(y, what, place)
        numbers = None if keep_text else _numbers_in(y)
        if numbers is None:
            return y, None
        y = numbers
    if y.dtype.kind == "f":
        require_finite(y, what, place=place)
        refuse(y != np.floor(y), what, 'class labels must be integers or text (kind = "regress" learns other numbers)', place)
    refuse((y >= LARGEST) | (y < -LARGEST), what, "class labels must be below 2**31", place)
    return y.astype(np.int64), None


def _checked_text(y, what, place):
    """The labels as text; UserError for one that cannot be."""
    if y.dtype.kind == "S":
        try:
            y = np.char.decode(y, "utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{what}: class labels that are bytes must be UTF-8: {error}") from error
    refuse((y == "") | (y == "nan"), what, "class labels must not be missing", place)
    refuse(np.char.str_len(y) > LONGEST_NAME, what, f"class labels may have {LONGEST_NAME} characters", place)
    return y


def _numbers_in(y):
    """The numbers that texts stand for; None if one of them is something else."""
    texts, inverse = np.unique(y, return_inverse=True)
    try:
        return texts.astype(float)[inverse]
    except ValueError:
        return None


def _is_one_hot(y):
    return bool(np.all((y == 0) | (y == 1)) and np.all(y.sum(axis=1) == 1))


def find_coding(labels, classes, what, place=ROW):
    """The Coding of labels (n,) that are int64 or text; classes: how many there are to be, None if the labels tell. UserError.

    Whole numbers from 0 on are what they are. Others, and names, are counted in ascending order.
    """
    is_text = labels.dtype.kind == "U"
    # counted from 0 on already
    if not is_text and labels.min() >= 0 and (labels.min() == 0 or labels.max() < (classes or 0)):
        return Coding(_count(labels, classes, what, place))
    values = np.unique(labels)
    if not is_text and values.tolist() != [-1, 1]:
        refuse(labels < 0, what, "class labels must not be negative, other than -1 and 1 for two classes", place)
    if 2 * len(values) > len(labels):
        raise UserError(f"{what}: expected a class for several samples each, found {len(values)} different labels of {len(labels)} "
                        'samples; kind = "regress" learns numbers')
    if len(values) > (classes or len(values)):
        raise UserError(f"{what}: expected {classes} classes, found {len(values)} different labels")
    return Coding(_several(classes or len(values), what), values)


def _count(labels, classes, what, place):
    """How many classes there are; labels must be 0..classes-1."""
    if classes is not None:
        refuse(labels >= classes, what, f"class labels must be 0..{classes - 1}", place)
        return classes
    largest, different = int(labels.max()), np.unique(labels).size
    if largest + 1 > 2 * different:  # most likely a wrong label, or labels that are codes
        refuse(labels == largest, what, f"class labels must be 0..C-1: only {different} different labels occur, but "
                                        f"the largest is {largest}; set classes = {largest + 1} if that is meant", place)
    return _several(largest + 1, what)


def _several(classes, what):
    if classes < 2:
        raise UserError(f"{what}: expected at least 2 classes, but all labels are alike")
    return classes
