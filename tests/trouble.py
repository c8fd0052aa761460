"""A user's problem F_i(x) = |x|^2 / 2 that misbehaves as its options say; tests copy it to where they run."""

import os
import time

import numpy as np

from coopmpi.errors import UserError
from coopmpi.tasks.problem import Problem


class Trouble(Problem):
    dimension = 3

    def __init__(self, place, pause, raises, nan_loss, nan_gradient):
        self.place, self.pause, self.raises = place, pause, raises
        self.nan_loss, self.nan_gradient = nan_loss, nan_gradient
        self.rank = place.world.rank
        open(f"pid-{self.rank}", "w").write(str(os.getpid()))

    def initial(self):
        return np.ones(3, self.place.dtype)

    def gradient(self, x, step):
        time.sleep(self.pause[self.rank])
        if [self.rank, step] == self.raises:
            raise RuntimeError("the coffee is cold")
        loss, gradient = (x * x).sum(axis=1) / 2, x.copy()
        for row, worker in enumerate(self.place.hosted):
            if [worker, step] == self.nan_loss:
                loss[row], gradient[row] = np.nan, np.nan
            if [worker, step] == self.nan_gradient:
                gradient[row] = np.inf
        return loss, gradient


def trouble(place, pause=(0, 0), raises=None, nan_loss=None, nan_gradient=None):
    return Trouble(place, pause, raises, nan_loss, nan_gradient)


def slow_start(place):
    open("pid-0", "w").write(str(os.getpid()))
    time.sleep(60)


def only_on_rank_1(place):
    if place.world.rank == 1:
        raise UserError("this node has no coffee")
    return Trouble(place, (0, 0), None, None, None)
