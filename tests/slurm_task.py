"""A task for runs in tests that shall last: every gradient takes 4 ms, whatever the machine."""

import time

import numpy as np

from coopmpi.tasks.problem import Problem


class Slow(Problem):
    """f(x) = |x - 1|^2 / 2 in three dimensions."""

    def __init__(self, place):
        self.place, self.dimension = place, 3

    def initial(self):
        return np.zeros(3, self.place.dtype)

    def gradient(self, x, step):
        time.sleep(0.004)
        return ((x - 1) ** 2).sum(axis=1) / 2, x - 1

    def evaluate(self, mean):
        return {"loss": (float(self.gradient(mean, 0)[0].sum()), 1)}
