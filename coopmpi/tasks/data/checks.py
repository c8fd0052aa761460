"""What arrays from users' files must be; a UserError says the rule, how many values break it, and where the first one is."""

import numpy as np

from coopmpi.errors import UserError

ROW = "row {}".format  # what a message calls a sample


def require_numbers(values, what):
    """UserError unless it is an array of real numbers."""
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "biuf":
        found = values.dtype if isinstance(values, (np.ndarray, np.generic)) else type(values).__name__
        raise UserError(f"{what}: expected an array of integers or floats, found {found}")


def require_targets(y, n, what, text=False):
    """UserError unless there is one row of numbers for each of n samples; text: names will do, too."""
    if not (text and isinstance(y, np.ndarray) and y.dtype.kind in "US"):
        require_numbers(y, what)
    if y.ndim not in (1, 2) or y.size == 0 or len(y) != n:
        raise UserError(f"{what}: expected one target for each of the {n} samples, found shape {y.shape}")


def require_finite(values, what, rule="NaN or Inf in the data", place=ROW):
    """UserError for NaN or Inf; a mask as large as the data is made only then."""
    if not (np.isfinite(values.min()) and np.isfinite(values.max())):
        refuse(~np.isfinite(values), what, rule, place)


def refuse(bad, what, rule, place=ROW):
    """UserError if anything is bad; place: what a message calls a sample."""
    if bad.any():
        rows = bad.reshape(len(bad), -1).any(axis=1)
        raise UserError(f"{what}: {rule}; found in {bad.sum()} of {bad.size} values, first in {place(int(rows.argmax()))}")
