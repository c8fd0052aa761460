"""CuPy without a GPU: `guarded` stands in for the module cupy, and refuses what CuPy refuses.

Device arrays live in host memory, but the host sees them only through explicit copies. Kernels run at once;
asynchronous copies and events complete late, when the host has polled or waits: who reads, sends or recycles
a buffer too early gets NaN or an error.
"""

import sys
from collections import deque
from contextlib import contextmanager
from time import perf_counter
from types import ModuleType, SimpleNamespace
from unittest import mock

import numpy as np

import coopmpi.device
from coopmpi.device.pool import Pool

POLLS = 3  # of an event before it is done
DEVICES = 2

# what CuPy 13 and 14 have
FUNCTIONS = """
abs absolute add all any arange argmax argmin argpartition argsort array_equal bincount bitwise_and bitwise_or
broadcast_to ceil clip concatenate copyto cos count_nonzero cumsum diag divide dot einsum empty_like equal exp
expand_dims expm1 eye flatnonzero floor fmin full full_like greater greater_equal isfinite isinf isnan
left_shift less less_equal linspace log log1p log2 logical_and logical_not logical_or matmul max maximum mean
min minimum moveaxis multiply negative nonzero not_equal ones ones_like outer packbits partition power prod
ravel repeat reshape right_shift rint searchsorted sign signbit sin sort split sqrt square squeeze stack
subtract sum swapaxes take take_along_axis tanh tensordot tile transpose tril triu unique unpackbits var vdot
where zeros zeros_like
""".split()
METHODS = """
all any argmax argmin argpartition argsort astype clip copy cumsum diagonal dot fill flatten max mean min
nonzero partition prod ravel repeat reshape round sort squeeze std sum swapaxes take trace transpose var view
""".split()
IN_PLACE = {"copyto", "fill", "partition", "sort"}
LACKING = {"extobj", "initial", "like", "mode", "signature", "subok", "where"}  # options that only NumPy has
OPERATORS = """
add sub mul truediv floordiv mod pow matmul radd rsub rmul rtruediv rfloordiv rmod rpow rmatmul
iadd isub imul itruediv lt le eq ne gt ge neg pos abs and or xor invert
""".split()


class Race(Exception):
    """Something was used before it was ready."""


class CUDARuntimeError(RuntimeError):
    """What CUDA's own functions raise."""


class Stream:
    """What was asked of it is numbered; `late` holds what the host has not waited for."""

    def __init__(self, non_blocking=False):
        self.issued = self.finished = 0
        self.seen = 0  # of the current stream: what it waits for
        self.late = deque()

    def issue(self, action=None):
        self.issued += 1
        if action is not None:
            self.late.append((self.issued, action))

    def run(self, mark):
        while self.late and self.late[0][0] <= mark:
            self.late.popleft()[1]()
        self.finished = max(self.finished, mark)

    def wait_event(self, event):
        self.seen = max(self.seen, event.mark)
        self.issue(lambda: event.stream.run(event.mark))

    def synchronize(self):
        guarded.synchronisations += self.finished < self.issued
        self.run(self.issued)


class Event:
    def __init__(self, block=False, disable_timing=False, interprocess=False):
        self.timed = not disable_timing

    def record(self, stream=None):
        self.stream, self.polls, self.time = stream or CURRENT, 0, perf_counter()
        self.stream.issue()
        self.mark = self.stream.issued

    @property
    def done(self):
        self.polls += 1
        if self.polls > POLLS:
            self.stream.run(self.mark)
        return self.stream.finished >= self.mark

    def synchronize(self):
        guarded.synchronisations += self.stream.finished < self.mark
        self.stream.run(self.mark)


def get_elapsed_time(start, end):
    for event in (start, end):
        if not event.timed or event.stream.finished < event.mark:
            raise Race("cudaErrorNotReady: the event is not done, or was made without timing")
    return 1000 * (end.time - start.time)


class Device:
    def __init__(self, index):
        self.index = index

    def use(self):
        guarded.device = self.index


class GuardedArray:
    """A device array. `base` is the owner of the memory, as in CuPy: a view keeps it alive."""

    __array_ufunc__ = None  # NumPy's functions and operators refuse it
    __hash__ = None

    def __init__(self, values, owner=None):
        self._values, self.base = values, owner
        # a view shares the note of its owner: when was the memory last written?
        self._memory = SimpleNamespace(written=0) if owner is None else owner._memory
        if owner is None:
            self._touch()

    def _touch(self):
        CURRENT.issue()
        self._memory.written = CURRENT.issued

    def __array_function__(self, function, types, arguments, options):
        raise TypeError(f"numpy.{function.__name__} was called with a device array")

    def __array__(self, dtype=None, copy=None):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    @property
    def __cuda_array_interface__(self):
        if CURRENT.finished < self._memory.written:
            raise Race("a device pointer was handed out before the computation was done")
        about = self._values.__array_interface__
        return {name: about[name] for name in ("shape", "typestr", "data", "strides")} | {"version": 3}

    def get(self, stream=None, order="C", out=None, blocking=True):
        out = np.empty(self.shape, self.dtype) if out is None else out
        if (out.shape, out.dtype) != (self.shape, self.dtype):
            raise ValueError("shape or type mismatch")
        stream = stream or CURRENT
        written, memory, values = self._memory.written, self._memory, self._values
        if stream is not CURRENT and stream.seen < written:
            raise Race("the stream of the copy does not wait for the computation")

        def copy():
            if memory.written != written:
                raise Race("an array was overwritten while it was copied")
            out[...] = values

        _poison(out)
        stream.issue(copy)
        if blocking:
            stream.synchronize()
        return out

    def set(self, host, stream=None):
        if not isinstance(host, np.ndarray) or (host.shape, host.dtype) != (self.shape, self.dtype):
            raise TypeError("only a numpy.ndarray of the same shape and type can be set")
        if not self._values.flags.c_contiguous:
            raise RuntimeError("Cannot set to non-contiguous array")
        self._values[...] = host
        self._touch()
        memory = _pinned.get(host.ctypes.data)
        if memory is not None:
            before = bytes(memory)

            def check():
                if memory != before:
                    raise Race("a pinned buffer was overwritten before it was read")

            CURRENT.issue(check)

    def _synchronised(self):
        CURRENT.synchronize()
        return self._values

    def __float__(self):
        return float(self._synchronised())

    def __int__(self):
        return int(self._synchronised())

    def __bool__(self):
        return bool(self._synchronised())

    def item(self):
        return self._synchronised().item()

    def tolist(self):
        return self._synchronised().tolist()

    def __len__(self):
        return len(self._values)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __getitem__(self, key):
        key = key if isinstance(key, tuple) else (key,)
        whole = () if any(k is Ellipsis for k in key) else (...,)  # even one number is a view
        return _call(np.ndarray.__getitem__, (self, (*key, *whole)))

    def __setitem__(self, key, value):
        self._values[_unwrap(key)] = _unwrap(value)
        self._touch()


def _unwrap(thing):
    """The values of device arrays in an argument; refuses those of the host."""
    if isinstance(thing, GuardedArray):
        return thing._values
    if isinstance(thing, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    if isinstance(thing, (list, tuple)):
        return type(thing)(map(_unwrap, thing))
    return thing


def _call(function, arguments, options={}):
    given = [a for a in (*arguments, *options.values()) if isinstance(a, GuardedArray)]
    result = function(*map(_unwrap, arguments), **{name: _unwrap(value) for name, value in options.items()})
    return _wrap(result, given)


def _wrap(result, given):
    if isinstance(result, (list, tuple)):
        return type(result)(_wrap(one, given) for one in result)
    if isinstance(result, np.generic):
        result = np.asarray(result)
    if not isinstance(result, np.ndarray):
        return result
    for array in given:
        if array._values is result:  # in place, or out = array
            array._touch()
            return array
        if np.may_share_memory(result, array._values):
            return GuardedArray(result, array if array.base is None else array.base)
    return GuardedArray(result)


def _guard(name, function):
    def guarded_function(*arguments, **options):
        lacking = LACKING & set(options) - ({"where"} if name == "copyto" else set())
        if lacking:
            raise TypeError(f"Wrong arguments {lacking}")
        result = _call(function, arguments, options)
        if name in IN_PLACE and result is None:
            arguments[0]._touch()
        return result

    return guarded_function


for _name in METHODS:
    setattr(GuardedArray, _name, _guard(_name, getattr(np.ndarray, _name)))
for _name in (f"__{operator}__" for operator in OPERATORS):
    setattr(GuardedArray, _name, _guard(_name, getattr(np.ndarray, _name)))
for _name in ("dtype", "flags", "itemsize", "nbytes", "ndim", "shape", "size", "strides"):
    setattr(GuardedArray, _name, property(lambda self, name=_name: getattr(self._values, name)))
GuardedArray.T = property(lambda self: self.transpose())


def _poison(array):
    if array.dtype.kind == "f":
        array[...] = np.nan
    return array


def _empty(shape, dtype=float):
    return _poison(GuardedArray(np.empty(shape, dtype)))


def _asarray(thing, dtype=None):
    return thing if isinstance(thing, GuardedArray) else GuardedArray(np.array(thing, dtype))


_pinned = {}  # address -> memory


def _empty_pinned(shape, dtype=float):
    memory = bytearray(int(np.prod(shape)) * np.dtype(dtype).itemsize)
    array = np.ndarray(shape, dtype, memory)
    _pinned[array.ctypes.data] = memory
    return array


CURRENT = Stream()
guarded = ModuleType("cupy")
guarded.synchronisations = 0  # how often the host had to wait for the device
guarded.device = None  # index of the one in use
guarded.ndarray, guarded.empty, guarded.asarray = GuardedArray, _empty, _asarray
guarded.array = lambda thing, dtype=None: _asarray(thing, dtype).copy()
guarded.asnumpy = GuardedArray.get
guarded.cuda = SimpleNamespace(
    Device=Device, Event=Event, Stream=Stream, get_current_stream=lambda: CURRENT,
    get_elapsed_time=get_elapsed_time,
    runtime=SimpleNamespace(getDeviceCount=lambda: DEVICES, CUDARuntimeError=CUDARuntimeError))
for _name in FUNCTIONS:
    setattr(guarded, _name, _guard(_name, getattr(np, _name)))
guarded.linalg = SimpleNamespace(qr=_guard("qr", lambda a: tuple(np.linalg.qr(a))))
for _name in "bool_ float16 float32 float64 int32 int64 uint8 uint16 uint32 newaxis inf nan pi".split():
    setattr(guarded, _name, getattr(np, _name))


@contextmanager
def simulated():
    """Inside, coopmpi finds CuPy and GPUs: these. What its pools hand out holds NaN."""
    recycled = Pool.empty
    cupyx = SimpleNamespace(empty_pinned=_empty_pinned)
    real = {name: sys.modules.pop(name, None) for name in ("cupy", "cupyx", "coopmpi.device.gpu")}
    vars(coopmpi.device).pop("gpu", None)
    try:
        sys.modules.update(cupy=guarded, cupyx=cupyx)
        with mock.patch.object(Pool, "empty", lambda *arguments: _poison(recycled(*arguments))):
            yield
    finally:
        for name, module in real.items():
            sys.modules.pop(name, None)
            if module:
                sys.modules[name] = module
        vars(coopmpi.device).pop("gpu", None)
        if real["coopmpi.device.gpu"]:
            coopmpi.device.gpu = real["coopmpi.device.gpu"]
