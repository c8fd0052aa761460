"""Arrays without numbers: shape and type only. A driver that is given such arrays does no arithmetic.

NumPy's functions take such arrays (through its protocols for foreign arrays) and return others; what would need a
number, such as float(x), is refused.
"""

from math import prod

import numpy as np

from coopmpi.device.host import Host
from coopmpi.device.pool import Pool
from coopmpi.errors import UserError

REDUCTIONS = (np.sum, np.mean, np.max, np.min, np.prod, np.any, np.all)


class NeedsNumbers(UserError):
    """Something asked for the numbers of an array that has none."""

    def __init__(self, what):
        super().__init__(f"{what} needs the numbers of an array, but a run without arithmetic has only shapes: what is "
                         "asked for may not depend on numbers here")


class HollowArray:
    """The shape and type of an array; base: whose memory a view would share."""

    __slots__ = ("shape", "dtype", "base")
    __hash__ = None

    def __init__(self, shape, dtype, base=None):
        self.shape, self.dtype, self.base = tuple(shape), np.dtype(dtype), base

    ndim = property(lambda self: len(self.shape))
    size = property(lambda self: prod(self.shape))
    itemsize = property(lambda self: self.dtype.itemsize)
    nbytes = property(lambda self: self.size * self.dtype.itemsize)
    T = property(lambda self: self._view(self.shape[::-1]))

    def _view(self, shape, dtype=None):
        return HollowArray(shape, dtype or self.dtype, self if self.base is None else self.base)

    def __len__(self):
        return self.shape[0]

    def __iter__(self):
        return (self._view(self.shape[1:]) for _ in range(self.shape[0]))

    def __getitem__(self, key):
        return self._view(np.broadcast_to(np.empty((), "b"), self.shape)[key].shape)

    def __setitem__(self, key, value):
        pass

    def reshape(self, *shape):
        shape = shape[0] if len(shape) == 1 and isinstance(shape[0], tuple) else shape
        return self._view(np.broadcast_to(np.empty((), "b"), self.shape).reshape(shape).shape
                          if -1 not in shape else _filled(shape, self.size))

    def ravel(self):
        return self.reshape(self.size)

    def view(self, dtype):
        *rest, last = self.shape
        return self._view((*rest, last * self.itemsize // np.dtype(dtype).itemsize), dtype)

    def astype(self, dtype):
        return HollowArray(self.shape, dtype)

    def copy(self):
        return HollowArray(self.shape, self.dtype)

    def swapaxes(self, one, other):
        axes = list(self.shape)
        axes[one], axes[other] = axes[other], axes[one]
        return self._view(axes)

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **options):
        if out is not None:
            return out[0]
        if method != "__call__":
            raise NeedsNumbers(f"numpy.{ufunc.__name__}.{method}")
        kinds = [x.dtype if hasattr(x, "dtype") else type(x) for x in inputs]
        shapes = [getattr(x, "shape", ()) for x in inputs]
        shape = _product_shape(*shapes) if ufunc is np.matmul else np.broadcast_shapes(*shapes)
        return HollowArray(shape, ufunc.resolve_dtypes((*kinds, None))[-1])

    def __array_function__(self, function, types, arguments, options):
        if options.get("out") is not None:
            return options["out"]
        if function is np.linalg.qr:
            x, = arguments
            *rest, n, c = x.shape
            return HollowArray((*rest, n, min(n, c)), x.dtype), HollowArray((*rest, min(n, c), c), x.dtype)
        if function is np.stack:
            arrays, = arguments
            return HollowArray((len(arrays), *arrays[0].shape), arrays[0].dtype)
        if function is np.swapaxes:
            return arguments[0].swapaxes(*arguments[1:])
        if function is np.vdot:
            return HollowArray((), arguments[0].dtype)
        if function in REDUCTIONS and not options.get("keepdims"):
            x, axis = arguments[0], options.get("axis", arguments[1] if len(arguments) > 1 else None)
            return HollowArray(() if axis is None else np.delete(x.shape, axis), x.dtype)
        if function in (np.zeros_like, np.ones_like, np.empty_like):
            return arguments[0].copy()
        raise NeedsNumbers(f"numpy.{function.__name__}")

    def _refuse(self, *arguments, **options):
        raise NeedsNumbers("a comparison, or a number of Python's,")

    __array__ = __float__ = __int__ = __bool__ = __index__ = item = tolist = _refuse


def _operator(function, reflected=False):
    return lambda self, other: function(other, self) if reflected else function(self, other)


def _reduction(function):
    return lambda self, axis=None: function(self, axis=axis)


for _function in REDUCTIONS:
    setattr(HollowArray, _function.__name__, _reduction(_function))
for _name, _function in (("add", np.add), ("sub", np.subtract), ("mul", np.multiply), ("truediv", np.divide),
                         ("matmul", np.matmul), ("pow", np.power)):
    setattr(HollowArray, f"__{_name}__", _operator(_function))
    setattr(HollowArray, f"__r{_name}__", _operator(_function, reflected=True))
    setattr(HollowArray, f"__i{_name}__", lambda self, other: self)
for _name, _function in (("lt", np.less), ("le", np.less_equal), ("gt", np.greater), ("ge", np.greater_equal),
                         ("eq", np.equal), ("ne", np.not_equal)):
    setattr(HollowArray, f"__{_name}__", _operator(_function))


def _filled(shape, size):
    """The shape with its -1 worked out."""
    rest = -prod(shape)
    return tuple(size // rest if n == -1 else n for n in shape)


def _product_shape(left, right):
    return (*np.broadcast_shapes(left[:-2], right[:-2]), left[-2], right[-1])


class Hollow(Host):
    """The device of a run without arithmetic: it hands out shapes, and its operations do nothing."""

    name = "no numbers"

    def __init__(self):
        super().__init__()
        self.pool = Pool(HollowArray)

    def asarray(self, host_array):
        return HollowArray(host_array.shape, host_array.dtype)

    def to_host(self, array):
        raise NeedsNumbers("a copy on the host")

    def add_scaled(self, x, factor, y):
        pass

    def weighted_sum(self, rows, weights, out):
        pass

    def combine(self, weights, arrays, out):
        return out

    def scale(self, weights, x, out):
        return out

    def mix(self, local, others, weights, out):
        return out

    def sum(self, rows, out):
        return out

    def squared_distance(self, row, other):
        raise NeedsNumbers("a distance")


class HollowCodec:
    """Packets of the right size without content, in place of a coopmpi.compression.codec.Codec."""

    def __init__(self, codec, device: Hollow):
        self.codec, self.device = codec, device
        self.nbytes, self.dtype, self.dimension = codec.nbytes, codec.dtype, codec.dimension

    def ranges(self, workers):
        return HollowRanges(self.codec.ranges(workers), self.device)

    def encode(self, x, workers, round):
        return self.device.empty((len(x), self.nbytes), np.uint8)

    def decode(self, packed, workers, round, out):
        return out

    def add(self, packed, workers, round, out):
        return out


class HollowRanges(HollowCodec):
    """In place of coopmpi.compression.ranges.Ranges."""

    def __init__(self, ranges, device: Hollow):
        super().__init__(ranges, device)
        self.spans, self.places, self.width = ranges.spans, ranges.places, ranges.width
        self.codecs = [HollowCodec(codec, device) for codec in ranges.codecs]
        self.own = HollowOwnRanges(self)


class HollowOwnRanges(HollowCodec):
    """In place of coopmpi.compression.ranges.OwnRanges."""

    def __init__(self, ranges: HollowRanges):
        super().__init__(ranges.codec.own, ranges.device)
        self.ranges = ranges

    def decode_range(self, packed, worker, round, out):
        pass


class HollowProblem:
    """Losses and gradients without numbers, in place of a problem; outline: that problem without its data."""

    def __init__(self, outline, dtype: str):
        self.dimension, self._dtype = outline.dimension, dtype
        self.layout = getattr(outline, "layout", ())
        self.samples, self.batch = getattr(outline, "samples", None), getattr(outline, "batch", None)

    def initial(self):
        return HollowArray((self.dimension,), self._dtype)

    def gradient(self, x, step):
        return HollowArray(x.shape[:1], self._dtype), HollowArray(x.shape, self._dtype)
