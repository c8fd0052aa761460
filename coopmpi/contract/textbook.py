"""A small problem on which the rules for algorithms are tried: quadratics with a minimum of its own for every worker."""

from itertools import accumulate
from math import prod

import numpy as np

from coopmpi.streams import Purpose, stream
from coopmpi.tasks.problem import Problem


class Textbook(Problem):
    """F_i(x) = 1/2 sum_c a_c (x_c - b_ic)^2 with gradients a (x - b_i) + noise N(0, I); three tensors and a scalar."""

    figures = {"loss": ("1", "the objective at the mean model")}

    def __init__(self, place, numbers=60, noise=0.0):
        rows = numbers // 3
        shapes = [("matrix", (rows, 2)), ("vector", (numbers - 2 * rows - 3,)), ("small", (2,)), ("scalar", ())]
        starts = accumulate((prod(shape) for _, shape in shapes), initial=0)
        self.layout = tuple((name, shape, start) for (name, shape), start in zip(shapes, starts))
        self.place, self.dimension, self.noise = place, numbers, noise
        drawn = stream(place.seed, Purpose.DATA)
        a, self.x0 = drawn.uniform(0.3, 1.5, numbers), drawn.standard_normal(numbers).astype(place.dtype)
        b = np.array([stream(place.seed, Purpose.DATA, i + 1).standard_normal(numbers) for i in place.hosted])
        self.a, self.b = (place.device.asarray(values.astype(place.dtype)) for values in (a, b))
        self.out = place.device.empty(self.b.shape, place.dtype)

    def initial(self):
        return self.x0

    def gradient(self, x, step):
        xp = self.place.device.xp
        away = x - self.b
        xp.multiply(away, self.a, out=self.out)
        losses = 0.5 * (away * self.out).sum(axis=1)
        if self.noise:
            drawn = [stream(self.place.seed, Purpose.NOISE, i, step).standard_normal(self.dimension) for i in self.place.hosted]
            xp.add(self.out, self.place.device.asarray((self.noise * np.array(drawn)).astype(x.dtype)), out=self.out)
        return losses, self.out

    def evaluate(self, mean):
        away = mean - self.b
        return {"loss": (0.5 * float((away * away * self.a).sum()), len(self.place.hosted))}
