"""Whole vectors as 16-bit numbers on their way, for algorithms that do not compress by themselves."""

from collections.abc import Callable
from functools import cache
from typing import Any

from numpy.typing import DTypeLike

from coopmpi.device.host import Host


class Halves:
    """Codecs of a [compress] kind that rounds every number by itself, for vectors of any length.

    codec(n): packs n numbers; ranges(n): the same, cut into a range for each worker. in_place_of: makes another codec of one.
    """

    def __init__(self, compressor: Any, workers: int, dtype: DTypeLike, device: Host,
                 in_place_of: Callable[[Any], Any] = lambda codec: codec) -> None:
        self.codec = cache(lambda n: in_place_of(compressor.bind([("", (n,), 0)], dtype, device, 0)))
        self.ranges = cache(lambda n: self.codec(n).ranges(workers))
