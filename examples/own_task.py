"""A problem of one's own: a linear model fitted to data with wild outliers, by the Huber loss.

    coopmpi train -n 4 --set task.kind=python --set task.function=own_task:RobustRegression
    coopmpi train -n 4 ... --set task.options.features=50
"""

import numpy as np

from coopmpi.streams import Purpose, stream
from coopmpi.tasks.problem import Problem


class RobustRegression(Problem):
    """Every worker has samples (x, y) of its own, y = x . truth + Cauchy noise."""

    def __init__(self, place, features=20, samples=200):
        self.place, self.dimension = place, features
        self.truth = stream(place.seed, Purpose.DATA).standard_normal(features)
        inputs = np.empty((len(place.hosted), samples, features), place.dtype)
        targets = np.empty((len(place.hosted), samples), place.dtype)
        for i, worker in enumerate(place.hosted):
            draw = stream(place.seed, Purpose.DATA, worker + 1)
            inputs[i] = draw.standard_normal((samples, features))
            targets[i] = inputs[i] @ self.truth + draw.standard_cauchy(samples)
        self.inputs, self.targets = place.device.asarray(inputs), place.device.asarray(targets)

    def initial(self):
        return np.zeros(self.dimension, self.place.dtype)

    def gradient(self, x, step):
        xp = self.place.device.xp  # numpy, or cupy on a GPU
        residual = xp.matmul(self.inputs, x[:, :, None])[:, :, 0] - self.targets
        # r^2 / 2 where |r| <= 1, else |r| - 1/2
        slope = xp.clip(residual, -1, 1)
        losses = (slope * (residual - slope / 2)).mean(axis=1)
        gradients = xp.matmul(slope[:, None], self.inputs)[:, 0] / residual.shape[1]
        return losses, gradients

    def evaluate(self, mean):
        losses, _ = self.gradient(mean, step=0)
        return {"loss": (float(losses.sum()), len(losses))}
