"""How long a worker computes on a virtual clock: the choices of `[compute] kind` for `coopmpi simulate`."""

from collections.abc import Callable
from typing import Annotated, ClassVar, NamedTuple

import numpy as np
from msgspec import Meta

from coopmpi.errors import UserError, unknown
from coopmpi.ranges import File, Seconds, Whole
from coopmpi.registry import Part, register
from coopmpi.streams import Purpose, stream

LONGEST = 1e9  # seconds of a step in a trace
Factor = Annotated[float, Meta(gt=0, le=1e9)]
Read = Callable[[str, str], np.ndarray]  # (path, dataset) -> the numbers in a user's file
Times = Callable[[int], np.ndarray]  # k -> seconds (m,) float64


class Prices(NamedTuple):
    """Seconds per number of work that is neither gradient nor message."""

    compress: float = 0.0
    unpack: float = 0.0
    mix: float = 0.0
    optimizer: float = 0.0


FREE = Prices()


class Compute(Part, frozen=True, kw_only=True):
    """Base: the seconds that every worker's gradient takes, step by step, and the prices of other work.

    Seconds per number. compress: making a packet; unpack: decoding a packet and adding it up, both for every compressor
    or in a table by `[compress] kind`; mix: rows that are added up, copied or scaled; optimizer: one local step.
    beside: how many times as long a gradient takes while a transfer is under way.
    """

    name: ClassVar[str]
    compress: Seconds | dict[str, Seconds] = 0.0
    unpack: Seconds | dict[str, Seconds] = 0.0
    mix: Seconds = 0.0
    optimizer: Seconds = 0.0
    beside: Annotated[float, Meta(ge=1, le=1e9)] = 1.0

    def prices(self, compressor: str | None) -> Prices:
        """The prices of a run with that compressor, or without one; UserError if a table lacks it."""
        return Prices(_for(compressor, "compress", self.compress), _for(compressor, "unpack", self.unpack), self.mix,
                      self.optimizer)

    def bind(self, workers: int, seed: int, read: Read) -> Times:
        """The function k -> seconds (m,) float64 of the gradients of step k; UserError if there is none.

        read(path, dataset) gives the numbers in a user's file.
        """
        raise NotImplementedError


@register("compute", "constant")
class Constant(Compute, frozen=True, kw_only=True):
    """Every gradient takes the same time."""

    seconds: Seconds = 1.0

    def bind(self, workers: int, seed: int, read: Read) -> Times:
        return lambda k: np.full(workers, self.seconds)


@register("compute", "exponential")
class Exponential(Compute, frozen=True, kw_only=True):
    """Shifted exponential: seconds (shift + (1 - shift) Exp(1)), drawn anew for every worker and step.

    seconds: the mean; shift: the part of it that never varies. [Wang & Joshi 2019, arXiv 1810.08313, sec. 2]
    """

    seconds: Seconds = 1.0
    shift: Annotated[float, Meta(ge=0, le=1)] = 0.0

    def bind(self, workers: int, seed: int, read: Read) -> Times:
        def seconds(k):
            drawn = stream(seed, Purpose.COMPUTE, step=k).standard_exponential(workers)
            return self.seconds * (self.shift + (1 - self.shift) * drawn)

        return seconds


@register("compute", "pareto")
class Pareto(Compute, frozen=True, kw_only=True):
    """Heavy tails: P(time > t) = (least / t)^shape for t >= least = seconds (shape - 1) / shape.

    seconds: the mean; the variance is finite for shape > 2 only.
    """

    seconds: Seconds = 1.0
    shape: Annotated[float, Meta(gt=1)] = 2.5

    def bind(self, workers: int, seed: int, read: Read) -> Times:
        least = self.seconds * (self.shape - 1) / self.shape

        def seconds(k):
            # NumPy draws the excess over the least, in units of it
            return least * (1 + stream(seed, Purpose.COMPUTE, step=k).pareto(self.shape, workers))

        return seconds


@register("compute", "slow-worker")
class SlowWorker(Compute, frozen=True, kw_only=True):
    """One worker takes `factor` times as long as the others."""

    seconds: Seconds = 1.0
    worker: Whole = 0
    factor: Factor = 3.0

    def bind(self, workers: int, seed: int, read: Read) -> Times:
        if self.worker >= workers:
            raise UserError(f"[compute] worker = {self.worker} is not there: {workers} workers are counted from "
                            f"0, allowed is 0 to {workers - 1}")
        times = np.full(workers, self.seconds)
        times[self.worker] *= self.factor
        return lambda k: times


@register("compute", "trace")
class Trace(Compute, frozen=True, kw_only=True):
    """Measured times, repeated from their start when the run is longer.

    file: .npy, .h5, or text with seconds per step (T,), the same for all workers, or (T, m); times: the same here, a row for each
    step. dataset: the name in an HDF5 file; by default the compute times of a coopmpi result. factor: by which all, or each
    worker's, are multiplied.
    """

    file: File | None = None
    dataset: str = "train/compute_time"
    times: tuple[tuple[Seconds, ...], ...] | None = None
    factor: Factor | tuple[Factor, ...] = 1.0

    def __post_init__(self):
        if (self.file is None) == (self.times is None):
            raise UserError(f"[compute] a trace has a file or times, given {'neither' if self.file is None else 'both'}")

    def bind(self, workers: int, seed: int, read: Read) -> Times:
        if self.times is None:
            where, times = f"file = {self.file!r}", read(self.file, self.dataset)
        else:
            where, times = "times", _rows(self.times)
        if times.ndim == 1:
            times = times[:, None]
        if times.ndim != 2 or not len(times) or times.shape[1] not in (1, workers):
            raise UserError(f"[compute] {where} must hold seconds of shape (steps,) or (steps, "
                            f"workers) = (steps, {workers}), found {times.shape}")
        if not ((times >= 0) & (times <= LONGEST)).all():
            raise UserError(f"[compute] {where}: seconds must be numbers from 0 to {LONGEST:g}, the least "
                            f"there is {times.min()}, the largest {times.max()}")
        if np.ndim(self.factor) and len(self.factor) != workers:
            raise UserError(f"[compute] factor must be a number, or one for each of the {workers} workers, given {len(self.factor)}")
        times = times * np.array(self.factor)
        return lambda k: np.broadcast_to(times[k % len(times)], workers)


def _rows(times):
    """As an array; UserError where some rows are longer than others."""
    if len({np.size(row) for row in times}) > 1:
        raise UserError("[compute] times must have as many seconds in each row")
    return np.array(times, dtype=float)


def _for(compressor, key, given):
    if not isinstance(given, dict):
        return given
    if compressor is None:
        return 0.0
    if compressor not in given:
        raise unknown("compressor", compressor, given, where=f"[compute] {key} has no price for the compressor of this run: ")
    return given[compressor]
