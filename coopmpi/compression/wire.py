"""Fields of fixed size on the wire: numbers, and integers in as few bits as they need."""

from typing import NamedTuple

import numpy as np

from coopmpi.device.host import Host
from coopmpi.device.pool import Array


class Numbers(NamedTuple):
    """`count` numbers of one type, as they lie in memory."""

    count: int
    dtype: np.dtype

    @property
    def bits(self) -> int:
        return 8 * self.nbytes

    @property
    def nbytes(self) -> int:
        return self.count * np.dtype(self.dtype).itemsize

    def pack(self, device: Host, values: Array) -> Array:
        """(b, count) of type dtype -> (b, nbytes) uint8, a view."""
        return values.view("uint8")

    def unpack(self, device: Host, packed: Array) -> Array:
        """(b, nbytes) uint8 at any address -> (b, count) of type dtype."""
        aligned = device.empty(packed.shape, "uint8")
        aligned[...] = packed
        return aligned.view(self.dtype)


class Integers(NamedTuple):
    """`count` integers from 0 to 2^width - 1 in `width` bits each, filled up to whole bytes.

    First the highest bit of all of them, then the next one, and so on.
    """

    count: int
    width: int

    @property
    def bits(self) -> int:
        return self.count * self.width

    @property
    def nbytes(self) -> int:
        return (self.bits + 7) // 8

    def pack(self, device: Host, values: Array) -> Array:
        """(b, count) integers or truth values -> (b, nbytes) uint8."""
        xp, b = device.xp, values.shape[0]
        if not self.width:
            return device.empty((b, 0), "uint8")
        # CuPy packs flat arrays only, so every row fills whole bytes
        planes = device.empty((b, 8 * self.nbytes), "bool")
        planes[:, self.bits:] = False
        for plane, bit in zip(self._planes(planes), reversed(range(self.width))):
            plane[...] = xp.bitwise_and(values, 1 << bit) if self.width > 1 else values
        return xp.packbits(planes.reshape(-1)).reshape(b, self.nbytes)

    def unpack(self, device: Host, packed: Array) -> Array:
        """(b, nbytes) uint8 -> (b, count), of type uint8 where that is wide enough, else int64."""
        xp, b = device.xp, packed.shape[0]
        values = device.empty((b, self.count), "uint8" if self.width <= 8 else "int64")
        values[...] = 0
        if self.width:
            planes = xp.unpackbits(packed.reshape(-1)).reshape(b, 8 * self.nbytes)
            for plane in self._planes(planes):
                # value <- 2 value + bit
                xp.left_shift(values, 1, out=values)
                xp.bitwise_or(values, plane, out=values)
        return values

    def _planes(self, bits):
        """The bits of equal weight, (b, count) each, the highest ones first."""
        return (bits[:, start:start + self.count] for start in range(0, self.bits, self.count))


Field = Numbers | Integers


def index_width(n: int) -> int:
    """Bits that tell n values apart: ceil(log2 n)."""
    return (n - 1).bit_length()
