"""The textbook problem on which the theory is exact: noisy quadratics with common curvature."""

from types import SimpleNamespace

import numpy as np

from coopmpi import inputs
from coopmpi.errors import UserError
from coopmpi.ranges import File
from coopmpi.registry import register
from coopmpi.streams import Purpose, stream
from coopmpi.tasks.problem import Problem
from coopmpi.tasks.task import Task


@register("task", "quadratic")
class Quadratic(Task, frozen=True, kw_only=True):
    """F_i(x) = 1/2 sum_c a_c (x_c - b_ic)^2, with gradients a (x - b_i) + noise N(0, I).

    `path`: an HDF5 file with a (d,), b (m, d), x0 (d,) and the attribute noise.
    """

    path: File

    def prepare(self, place):
        return QuadraticProblem(self.path, place)

    def outline(self, place):
        with inputs.open_hdf5(self.path) as file:
            _, _, x0 = _datasets(file, place.workers)
            return SimpleNamespace(dimension=x0.size)


def _datasets(file, workers):
    """a, b and x0 of an open file, not yet read; UserError unless their shapes fit together."""
    a, b, x0 = (inputs.dataset(file, name) for name in ("a", "b", "x0"))
    if a.ndim != 1 or not a.size or x0.shape != a.shape or b.shape != (workers, a.size):
        raise UserError(f"{file.filename}: a quadratic has a (d,), b (m, d) and x0 (d,) with d >= 1 and m = {workers} "
                        f"workers, given a {a.shape}, b {b.shape}, x0 {x0.shape}")
    return a, b, x0


class QuadraticProblem(Problem):
    figures = {"loss": ("1", "the objective at the mean model")}

    def __init__(self, path, place):
        with inputs.open_hdf5(path) as file:
            a, b, x0 = _datasets(file, place.workers)
            self.noise = inputs.attribute(file, "noise", 0.0)
            read = {"a": a[:], "b": b[place.hosted.start:place.hosted.stop], "x0": x0[:]}
        with np.errstate(over="ignore"):
            read = {name: values.astype(place.dtype) for name, values in read.items()}
        for name, values in read.items():
            if not np.isfinite(values).all():
                raise UserError(f"{path}: dataset {name!r} holds NaN or Inf as {place.dtype}; all values must be finite")

        self.place, self.dimension = place, read["x0"].size
        device, dtype = place.device, place.dtype
        self.x0 = read["x0"]
        self.a, self.b = (device.asarray(read[name]) for name in "ab")
        self.out = device.empty(self.b.shape, dtype)

    def initial(self):
        return self.x0

    def gradient(self, x, step):
        # loss and gradient: 1/2 a (x - b)^2 and a (x - b) + noise
        away = x - self.b
        gradient = self.place.device.xp.multiply(away, self.a, out=self.out)
        loss = 0.5 * (away * gradient).sum(axis=1)
        if self.noise:
            gradient += self.place.device.asarray(self._noise(step))
        return loss, gradient

    def _noise(self, step):
        draws = [stream(self.place.seed, Purpose.NOISE, worker, step).standard_normal(self.dimension)
                 for worker in self.place.hosted]
        return (self.noise * np.array(draws)).astype(self.place.dtype)

    def memory(self):
        return {"data": self.b.nbytes + self.a.nbytes + self.x0.nbytes, "gradients": 3 * self.out.nbytes}

    def evaluate(self, mean):
        away = mean - self.b
        return {"loss": (0.5 * float((away * away * self.a).sum()), len(self.place.hosted))}
