"""What a reader is asked for, and what it gives."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from coopmpi.errors import UserError, clean, shortened
from coopmpi.tasks.data.checks import ROW

# keys of [task] that only some formats read
READ_BY = {"label": "CSV and TSV files", "ignore": "CSV and TSV files", "size": "folders of images"}


class How(NamedTuple):
    """How a file is to be read: what the run needs of it, and keys of [task], None if not given."""

    kind: str = "classify"  # or "regress"
    dtype: str = "float64"  # of the run
    headers: bool = False  # shapes in place of the inputs
    label: str | int | None = None  # a column's name, or its number, from 1
    ignore: tuple[str | int, ...] | None = None  # columns that are not read
    size: tuple[int, int] | None = None  # (height, width) that images are scaled to

    def require_only(self, keys, source):
        """UserError if another key than these was given: it would play no part for that source."""
        for key, formats in READ_BY.items():
            if getattr(self, key) is not None and key not in keys:
                raise UserError(f"[task] {key} is for {formats}, and plays no part for data {source!r}; leave it out")


def reading_keys(task):
    """{key: value} of a [task] table for a How."""
    return {key: getattr(task, key) for key in READ_BY}


class Raw(NamedTuple):
    """Arrays as the file holds them, unchecked; without a test part x_test and y_test are None. Class labels may be text."""

    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray | None = None
    y_test: np.ndarray | None = None
    classes: int | None = None  # where the format fixes it
    full_scale: int = 255  # what uint8 inputs are divided by
    notes: tuple[str, ...] = ()  # what the user should know of how the file was understood
    targets: str = "y"  # what a message calls them
    places: tuple[Callable[[int], str], ...] = (ROW, ROW)  # what a message calls a sample, for training and held out


def listed(names):
    """Names found in a file or folder, for a message."""
    return clean(shortened(", ".join(names))) or "nothing"
