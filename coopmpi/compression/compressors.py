"""What travels instead of a vector: compressors, each applied to every tensor of the model by itself.

x stands for the rows (b, n) of one tensor of b workers, in the dtype of the model.
"""

from collections.abc import Sequence
from math import prod, sqrt
from typing import Annotated, Any, ClassVar

import numpy as np
from msgspec import Meta
from numpy.typing import DTypeLike

from coopmpi.compression.codec import Codec
from coopmpi.compression.ranges import Ranges
from coopmpi.compression.selection import largest
from coopmpi.compression.wire import Field, Integers, Numbers, index_width
from coopmpi.device.host import Host
from coopmpi.device.pool import Array
from coopmpi.ranges import Count, Share
from coopmpi.registry import Part, register

LARGEST_HALF = 65504.0  # of float16
LARGEST_BRAIN = float(2 ** 128 - 2 ** 120)  # of bfloat16


class Compressor(Part, frozen=True, kw_only=True):
    """Base: C(x) of one tensor as arrays that fit the `fields` on the wire, and back.

    contractive: ||x - C(x)||^2 <= (1 - delta) ||x||^2 with delta > 0, in expectation where numbers are drawn.
    linear: C(x + y) = C(x) + C(y) for one worker and round. exact: C(x) = x. halves: every number is rounded to 16 bits, as
    all algorithms may send them.
    random: who draws numbers: "none"; "sender"; "both" sender and receiver, the same ones; "shared": the sender,
    the same ones for all workers.
    """

    name: ClassVar[str]
    source: ClassVar[str]  # paper
    contractive: ClassVar[bool] = True
    linear: ClassVar[bool] = False
    exact: ClassVar[bool] = False
    halves: ClassVar[bool] = False
    random: ClassVar[str] = "none"
    drawn_type: ClassVar[str] = "float32"

    def bind(self, entries: Sequence[tuple[str, tuple[int, ...], int]], dtype: DTypeLike, device: Host, seed: int) -> Codec:
        """The Codec of a model: entries (name, shape, offset) of its tensors in the flat vector."""
        return Codec(self, entries, dtype, device, seed)

    def bind_ranges(self, entries: Sequence[tuple[str, tuple[int, ...], int]], workers: int, dtype: DTypeLike, device: Host,
                    seed: int) -> Ranges:
        """The Ranges of a model, one for each worker."""
        return Ranges(self, entries, workers, dtype, device, seed)

    def fields(self, shape: tuple[int, ...], dtype: np.dtype) -> list[Field]:
        """What is sent of one tensor: a list of Numbers and Integers."""
        raise NotImplementedError

    def unit(self, shape: tuple[int, ...]) -> int:
        """How many numbers of a tensor stay together where a model is cut into ranges."""
        return 1

    def draws(self, shape: tuple[int, ...]) -> int:
        """How many random numbers one tensor needs."""
        return 0

    def draw(self, generator: np.random.Generator, shape: tuple[int, ...], out: np.ndarray) -> None:
        """Fill `out` (draws,), of type drawn_type, with the random numbers of one tensor."""

    def compress(self, device: Host, x: Array, shape: tuple[int, ...], drawn: Array | None) -> list[Array]:
        """An array (b, count) for each field; drawn (b, draws), or (1, draws) if shared, or None without draws."""
        raise NotImplementedError

    def restore(self, device: Host, values: Sequence[Array], shape: tuple[int, ...], drawn: Array | None,
                out: Array) -> None:
        """out (b, n) = C(x), from the arrays that `compress` gave."""
        raise NotImplementedError

    def add(self, device: Host, values: Sequence[Array], shape: tuple[int, ...], drawn: Array | None, out: Array) -> None:
        """out (b, n) += C(x). Compressors have their own where that takes less than `restore` and a sum."""
        restored = device.empty(out.shape, out.dtype)
        self.restore(device, values, shape, drawn, restored)
        device.xp.add(out, restored, out=out)


@register("compress", "none")
class Uncompressed(Compressor, frozen=True, kw_only=True):
    """x as it is."""

    source = "-"
    linear = True
    exact = True

    def fields(self, shape: tuple[int, ...], dtype: np.dtype) -> list[Field]:
        return [Numbers(prod(shape), dtype)]

    def compress(self, device: Host, x: Array, shape: tuple[int, ...], drawn: Array | None) -> list[Array]:
        return [x]

    def restore(self, device: Host, values: Sequence[Array], shape: tuple[int, ...], drawn: Array | None,
                out: Array) -> None:
        out[...] = values[0]


@register("compress", "fp16")
class Half(Compressor, frozen=True, kw_only=True):
    """Nearest float16, ties to even; beyond +-65504 that number. Contractive above 6e-8 in magnitude."""

    source = "IEEE 754-2008, binary16"
    halves = True

    def fields(self, shape: tuple[int, ...], dtype: np.dtype) -> list[Field]:
        return [Numbers(prod(shape), np.dtype("float16"))]

    def compress(self, device: Host, x: Array, shape: tuple[int, ...], drawn: Array | None) -> list[Array]:
        half = device.empty(x.shape, "float16")
        device.to_half(device.xp.clip(x, -LARGEST_HALF, LARGEST_HALF, out=device.empty(x.shape, x.dtype)), half)
        return [half]

    def restore(self, device: Host, values: Sequence[Array], shape: tuple[int, ...], drawn: Array | None,
                out: Array) -> None:
        device.from_half(values[0], out)


@register("compress", "bf16")
class Brain(Compressor, frozen=True, kw_only=True):
    """Nearest bfloat16, ties to even: the upper half of a float32; beyond its range the largest number.

    float64 is rounded to float32 first.
    """

    source = "Kalamkar et al., A study of bfloat16 for deep learning training, 2019"
    halves = True

    def fields(self, shape: tuple[int, ...], dtype: np.dtype) -> list[Field]:
        return [Numbers(prod(shape), np.dtype("uint16"))]

    def compress(self, device: Host, x: Array, shape: tuple[int, ...], drawn: Array | None) -> list[Array]:
        xp = device.xp
        single = device.empty(x.shape, "float32")
        single[...] = xp.clip(x, -LARGEST_BRAIN, LARGEST_BRAIN, out=device.empty(x.shape, x.dtype))
        xp.copyto(single, xp.nan, where=xp.isnan(single))  # of all NaN the one that rounding leaves a NaN

        # (bits + 0x7fff + lowest bit that stays) >> 16
        bits = single.view("uint32")
        rounding = xp.right_shift(bits, 16, out=device.empty(x.shape, "uint32"))
        xp.bitwise_and(rounding, 1, out=rounding)
        xp.add(rounding, 0x7FFF, out=rounding)
        xp.add(bits, rounding, out=bits)
        xp.right_shift(bits, 16, out=bits)
        brain = device.empty(x.shape, "uint16")
        brain[...] = bits
        return [brain]

    def restore(self, device: Host, values: Sequence[Array], shape: tuple[int, ...], drawn: Array | None,
                out: Array) -> None:
        bits = device.empty(out.shape, "uint32")
        bits[...] = values[0]
        device.xp.left_shift(bits, 16, out=bits)
        out[...] = bits.view("float32")


class Sparse(Compressor, frozen=True, kw_only=True):
    """Base: k = max(1, round(fraction n)) numbers of a tensor are kept."""

    fraction: Share = 0.01

    def kept(self, shape: tuple[int, ...]) -> int:
        """k."""
        return max(1, round(self.fraction * prod(shape)))

    def numbers(self, device: Host, values: Sequence[Array], drawn: Array | None, dtype: np.dtype) -> tuple[Array, Array]:
        """The numbers (b, k) and their indices (b, k), from the arrays that `compress` gave."""
        raise NotImplementedError

    def restore(self, device: Host, values: Sequence[Array], shape: tuple[int, ...], drawn: Array | None,
                out: Array) -> None:
        out[...] = 0
        device.scatter(*self.numbers(device, values, drawn, out.dtype), out)

    def add(self, device: Host, values: Sequence[Array], shape: tuple[int, ...], drawn: Array | None, out: Array) -> None:
        device.scatter_add(*self.numbers(device, values, drawn, out.dtype), out)


@register("compress", "topk")
class TopK(Sparse, frozen=True, kw_only=True):
    """The k numbers of largest magnitude, of equal ones the first: delta = k/n."""

    source = "Stich, Cordonnier, Jaggi, Sparsified SGD with memory, NeurIPS 2018"

    def fields(self, shape: tuple[int, ...], dtype: np.dtype) -> list[Field]:
        k = self.kept(shape)
        return [Integers(k, index_width(prod(shape))), Numbers(k, dtype)]

    def compress(self, device: Host, x: Array, shape: tuple[int, ...], drawn: Array | None) -> list[Array]:
        indices = largest(device, x, self.kept(shape))
        return [indices, device.gather(x, indices)]

    def numbers(self, device: Host, values: Sequence[Array], drawn: Array | None, dtype: np.dtype) -> tuple[Array, Array]:
        indices, numbers = values
        return numbers, indices


@register("compress", "randk")
class RandK(Sparse, frozen=True, kw_only=True):
    """k random numbers, not scaled up: delta = k/n in expectation. Which ones, the receiver draws as well."""

    source = "Stich, Cordonnier, Jaggi, Sparsified SGD with memory, NeurIPS 2018"
    linear = True
    random = "both"
    drawn_type = "int64"

    def fields(self, shape: tuple[int, ...], dtype: np.dtype) -> list[Field]:
        return [Numbers(self.kept(shape), dtype)]

    def draws(self, shape: tuple[int, ...]) -> int:
        return self.kept(shape)

    def draw(self, generator: np.random.Generator, shape: tuple[int, ...], out: np.ndarray) -> None:
        out[:] = generator.choice(prod(shape), out.size, replace=False, shuffle=False)

    def compress(self, device: Host, x: Array, shape: tuple[int, ...], drawn: Array | None) -> list[Array]:
        return [device.gather(x, drawn)]

    def numbers(self, device: Host, values: Sequence[Array], drawn: Array | None, dtype: np.dtype) -> tuple[Array, Array]:
        return values[0], drawn


@register("compress", "sign")
class Sign(Compressor, frozen=True, kw_only=True):
    """C(x) = sign(x) ||x||_1 / n with sign(0) = +1: delta = ||x||_1^2 / (n ||x||_2^2)."""

    source = "Karimireddy et al., Error feedback fixes SignSGD, ICML 2019"

    def fields(self, shape: tuple[int, ...], dtype: np.dtype) -> list[Field]:
        return [Integers(prod(shape), 1), Numbers(1, dtype)]

    def compress(self, device: Host, x: Array, shape: tuple[int, ...], drawn: Array | None) -> list[Array]:
        positive = device.xp.greater_equal(x, 0, out=device.empty(x.shape, "bool"))
        return [positive, mean_magnitude(device, x)]

    def restore(self, device: Host, values: Sequence[Array], shape: tuple[int, ...], drawn: Array | None,
                out: Array) -> None:
        positive, scale = values
        for span in device.spans(out.shape[1]):
            signed(device.xp, positive[:, span], scale, out[:, span])

    def add(self, device: Host, values: Sequence[Array], shape: tuple[int, ...], drawn: Array | None, out: Array) -> None:
        positive, scale = values
        for span in device.spans(out.shape[1]):
            part = out[:, span]
            step = signed(device.xp, positive[:, span], scale, device.empty(part.shape, part.dtype))
            device.xp.add(part, step, out=part)


@register("compress", "sign-topk")
class SignTopK(Sparse, frozen=True, kw_only=True):
    """The signs of the k numbers of largest magnitude, times their mean magnitude."""

    source = "Basu et al., Qsparse-local-SGD, NeurIPS 2019"

    def fields(self, shape: tuple[int, ...], dtype: np.dtype) -> list[Field]:
        k = self.kept(shape)
        return [Integers(k, index_width(prod(shape))), Integers(k, 1), Numbers(1, dtype)]

    def compress(self, device: Host, x: Array, shape: tuple[int, ...], drawn: Array | None) -> list[Array]:
        indices = largest(device, x, self.kept(shape))
        numbers = device.gather(x, indices)
        return [indices, numbers >= 0, mean_magnitude(device, numbers)]

    def numbers(self, device: Host, values: Sequence[Array], drawn: Array | None, dtype: np.dtype) -> tuple[Array, Array]:
        indices, positive, scale = values
        return signed(device.xp, positive, scale, device.empty(positive.shape, dtype)), indices


@register("compress", "qsgd")
class QSGD(Compressor, frozen=True, kw_only=True):
    """Magnitudes rounded at random to s = `levels` steps of the norm, scaled down so that it contracts.

    C(x) = ||x||_2 / (s (1 + w)) sign(x) floor(s |x| / ||x||_2 + u), u uniform in [0, 1),
    w = min(n / s^2, sqrt(n) / s): delta = 1 / (1 + w) in expectation.
    """

    source = "Alistarh et al., QSGD, NeurIPS 2017; scaled as in Koloskova, Stich, Jaggi, ICML 2019"
    random = "sender"

    levels: Annotated[int, Meta(ge=1, le=32767)] = 15

    def fields(self, shape: tuple[int, ...], dtype: np.dtype) -> list[Field]:
        n = prod(shape)
        return [Integers(n, 1), Integers(n, index_width(self.levels + 1)), Numbers(1, dtype)]

    def draws(self, shape: tuple[int, ...]) -> int:
        return prod(shape)

    def draw(self, generator: np.random.Generator, shape: tuple[int, ...], out: np.ndarray) -> None:
        generator.random(out=out, dtype=out.dtype)

    def compress(self, device: Host, x: Array, shape: tuple[int, ...], drawn: Array | None) -> list[Array]:
        xp, s, n = device.xp, self.levels, x.shape[1]
        positive = xp.greater_equal(x, 0, out=device.empty(x.shape, "bool"))

        # |x| / max |x|, so that squares neither overflow nor vanish
        size = xp.abs(x, out=device.empty(x.shape, x.dtype))
        top = xp.max(size, axis=1, keepdims=True)
        xp.divide(size, xp.where(top > 0, top, 1), out=size)
        square = xp.multiply(size, size, out=device.empty(x.shape, x.dtype))
        norm = xp.sqrt(xp.sum(square, axis=1, keepdims=True))

        # floor(s |x| / ||x|| + u)
        xp.multiply(size, s / xp.where(norm > 0, norm, 1), out=size)
        xp.add(size, drawn, out=size)
        xp.floor(size, out=size)
        xp.fmin(size, s, out=size)  # where s + u was rounded up, and in place of NaN
        level = device.empty(x.shape, "uint16" if s > 255 else "uint8")
        level[...] = size
        return [positive, level, norm * top / (s * (1 + min(n / s**2, sqrt(n) / s)))]

    def restore(self, device: Host, values: Sequence[Array], shape: tuple[int, ...], drawn: Array | None,
                out: Array) -> None:
        positive, level, step = values
        for span in device.spans(out.shape[1]):
            part = signed(device.xp, positive[:, span], step, out[:, span])
            device.xp.multiply(part, level[:, span], out=part)


@register("compress", "lowrank")
class LowRank(Compressor, frozen=True, kw_only=True):
    """One power iteration from a Gaussian Q: P = orth(M Q), C(M) = P P^T M; sent are P and P^T M.

    M is the tensor as (n, c) matrix of its first dimension and all others. Q is drawn anew each round, the same
    for all workers. Tensors smaller than their factors are sent as they are, which those of one dimension are.
    """

    source = "Vogels, Karimireddy, Jaggi, PowerSGD, NeurIPS 2019, algorithm 1"
    random = "shared"

    rank: Count = 2

    def factored(self, shape: tuple[int, ...]) -> tuple[int, int] | None:
        """(n, c) of a tensor that two factors are smaller than, or None."""
        n, c = (shape[0], prod(shape[1:])) if shape else (1, 1)
        return (n, c) if self.rank * (n + c) < n * c else None

    def unit(self, shape: tuple[int, ...]) -> int:
        return prod(shape[1:]) if self.factored(shape) else 1

    def fields(self, shape: tuple[int, ...], dtype: np.dtype) -> list[Field]:
        if not self.factored(shape):
            return [Numbers(prod(shape), dtype)]
        return [Numbers(self.rank * size, dtype) for size in self.factored(shape)]

    def draws(self, shape: tuple[int, ...]) -> int:
        return self.rank * self.factored(shape)[1] if self.factored(shape) else 0

    def draw(self, generator: np.random.Generator, shape: tuple[int, ...], out: np.ndarray) -> None:
        generator.standard_normal(out=out, dtype=out.dtype)

    def compress(self, device: Host, x: Array, shape: tuple[int, ...], drawn: Array | None) -> list[Array]:
        if not self.factored(shape):
            return [x]
        (n, c), xp, b = self.factored(shape), device.xp, x.shape[0]
        matrix = x.reshape(b, n, c)
        start = drawn.astype(x.dtype).reshape(1, c, self.rank)
        left, _ = xp.linalg.qr(xp.matmul(matrix, start))
        right = xp.matmul(xp.swapaxes(left, 1, 2), matrix)
        return [left.reshape(b, -1), right.reshape(b, -1)]

    def restore(self, device: Host, values: Sequence[Array], shape: tuple[int, ...], drawn: Array | None,
                out: Array) -> None:
        if not self.factored(shape):
            out[...] = values[0]
            return
        (n, c), xp, k = self.factored(shape), device.xp, out.shape[0]
        left, right = values[0].reshape(k, n, self.rank), values[1].reshape(k, self.rank, c)
        # sum_r left_r right_r^T, in this order on every machine
        total, term = device.empty((k, n, c), out.dtype), device.empty((k, n, c), out.dtype)
        xp.multiply(left[:, :, :1], right[:, :1], out=total)
        for r in range(1, self.rank):
            xp.multiply(left[:, :, r, None], right[:, r, None], out=term)
            xp.add(total, term, out=total)
        out[...] = total.reshape(k, n * c)


def mean_magnitude(device: Host, x: Array) -> Array:
    """||x||_1 / n of each row, (b, 1)."""
    mean = device.empty((len(x), 1), x.dtype)
    mean[...] = _sum_of_magnitudes(device, x) / np.float64(x.shape[1])
    return mean


def _sum_of_magnitudes(device, x):
    n = x.shape[1]
    if n > max(device.chunk, 128):
        # halves, as NumPy's own sums are made: the same bits for every size of the cache
        half = n // 16 * 8
        return _sum_of_magnitudes(device, x[:, :half]) + _sum_of_magnitudes(device, x[:, half:])
    return device.xp.sum(device.xp.abs(x, out=device.empty(x.shape, x.dtype)), axis=1, keepdims=True)


def signed(xp: Any, positive: Array, scale: Array, out: Array) -> Array:
    """out (b, n) = +scale where the bit is set, -scale elsewhere; positive (b, n) bits, scale (b, 1), xp: numpy or cupy."""
    out[...] = positive
    xp.multiply(out, 2 * scale, out=out)
    return xp.subtract(out, scale, out=out)
