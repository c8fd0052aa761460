"""Bytes as inputs: images stay uint8, a quarter of the memory, and are scaled batch by batch."""

from typing import Any, NamedTuple

import numpy as np


class Scaling(NamedTuple):
    """x <- x / full_scale, then (x - mean) / std, where there are such.

    mean, std: (columns, 1) of the run's dtype, per feature or image channel, or None.
    """

    full_scale: int
    dtype: str
    mean: Any = None
    std: Any = None

    def on(self, device) -> "Scaling":
        """The same for arrays of a device."""
        if self.mean is None:
            return self
        return self._replace(mean=device.asarray(self.mean), std=device.asarray(self.std))

    def __call__(self, xp, rows):
        """Rows (..., features) of bytes, as fresh ones of the run's dtype."""
        scaled = xp.divide(rows, np.dtype(self.dtype).type(self.full_scale))
        if self.mean is not None:
            columns = scaled.reshape(-1, len(self.mean), scaled.shape[-1] // len(self.mean))
            columns -= self.mean
            columns /= self.std
        return scaled

    def standardized(self, rows: np.ndarray, columns: int) -> "Scaling":
        """This one, with mean 0 and variance 1 on rows (n, features) of bytes; a constant column is not scaled."""
        by_column = rows.reshape(len(rows), columns, -1)
        n = rows.size // columns
        # whole numbers are added up exactly
        mean = by_column.sum(axis=(0, 2), dtype=np.int64) / n
        squares = np.einsum("ncp,ncp->c", by_column, by_column, dtype=np.int64) / n
        constant = by_column.min(axis=(0, 2)) == by_column.max(axis=(0, 2))
        std = np.where(constant, self.full_scale, np.sqrt(np.maximum(squares - mean**2, 0)))
        return self._replace(**{name: (values / self.full_scale).astype(self.dtype)[:, None] for name, values in (("mean", mean), ("std", std))})
