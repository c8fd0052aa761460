"""Recycled memory for large arrays."""

import sys
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

Array = Any  # numpy.ndarray or cupy.ndarray


class Pool:
    """Large arrays that are handed out again once nobody refers to them.

    Fresh memory costs a page fault per 4 KiB, often more than the arithmetic done in it. new(shape, dtype) makes an array.
    """

    def __init__(self, new: Callable[..., Array]) -> None:
        self._new = new
        self._arrays = defaultdict(list)
        probe = [object()]
        self._unused = next(sys.getrefcount(a) for a in probe)

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """An array with arbitrary content that nobody else refers to."""
        arrays = self._arrays[shape, np.dtype(dtype)]
        for array in arrays:
            if sys.getrefcount(array) == self._unused:
                return array
        array = self._new(shape, dtype)
        arrays.append(array)
        return array

    def nbytes_of(self, counts: Callable[[Array], bool]) -> int:
        """Bytes of the arrays made so far for which `counts(array)` holds."""
        return sum(a.nbytes for arrays in self._arrays.values() for a in arrays if counts(a))
