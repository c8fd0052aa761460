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

    First the bits above the lowest width // 8 bytes: the highest one of all integers, then the next one, and so on;
    then the bytes, in the same order.
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
        xp, b, bits, octets = device.xp, values.shape[0], self.width % 8, self.width // 8
        packed = device.empty((b, self.nbytes), "uint8")
        if bits:
            # CuPy packs flat arrays only, so every row fills whole bytes
            top = device.empty(values.shape, "uint8")
            top[...] = xp.right_shift(values, 8 * octets) if octets else values
            planes = device.empty((b, 8 * self._bit_bytes), "uint8")
            planes[:, self.count * bits:] = 0
            for plane, bit in zip(self._planes(planes, bits), reversed(range(bits))):
                xp.bitwise_and(top, 1 << bit, out=plane)
            packed[:, :self._bit_bytes] = xp.packbits(planes.reshape(-1)).reshape(b, -1)
        for plane, octet in zip(self._planes(packed[:, self._bit_bytes:], octets), reversed(range(octets))):
            plane[...] = xp.right_shift(values, 8 * octet) if octet else values  # all but the lowest byte is cut off
        return packed

    def unpack(self, device: Host, packed: Array) -> Array:
        """(b, nbytes) uint8 -> (b, count), of type uint8 where that is wide enough, else int64."""
        xp, b, bits, octets = device.xp, packed.shape[0], self.width % 8, self.width // 8
        values = device.empty((b, self.count), "uint8" if self.width <= 8 else "int64")
        values[...] = 0
        if bits:
            planes = xp.unpackbits(packed[:, :self._bit_bytes].reshape(-1)).reshape(b, -1)
            top, *others = self._planes(planes, bits)
            for plane in others:
                # top <- 2 top + bit; on bytes, NumPy's sums are faster than its shifts
                xp.add(top, top, out=top)
                xp.add(top, plane, out=top)
            values[...] = top
        for plane in self._planes(packed[:, self._bit_bytes:], octets):
            # value <- 256 value + byte
            xp.left_shift(values, 8, out=values)
            xp.bitwise_or(values, plane, out=values)
        return values

    @property
    def _bit_bytes(self):
        """Bytes for the bits above the lowest whole bytes."""
        return (self.count * (self.width % 8) + 7) // 8

    def _planes(self, rows, number):
        """The first `number` parts (b, count) of rows (b, ...)."""
        return (rows[:, start:start + self.count] for start in range(0, number * self.count, self.count))


Field = Numbers | Integers


def index_width(n: int) -> int:
    """Bits that tell n values apart: ceil(log2 n)."""
    return (n - 1).bit_length()
