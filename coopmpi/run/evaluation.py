"""Figures of the mean model; every rank takes part."""

import numpy as np


def evaluate(driver, x) -> dict[str, float]:
    """The task's figures of the mean of the models x (b, d), and how far they are apart; simulations: the time, too."""
    mean = driver.mean(x)
    # (1/m) sum_i ||x_i - mean||^2, and each figure as (sum, count)
    away = sum(driver.device.squared_distance(row, mean[0]) for row in x)
    shares = {"consensus": (away, len(driver.hosted))} | driver.task.evaluate(mean, driver)
    sums, counts = driver.world.sum(np.array(list(shares.values())).T)
    figures = dict(zip(shares, (sums / counts).tolist()))
    if driver.clocks:
        figures["virtual_time"] = driver.clocks.time
    return figures
