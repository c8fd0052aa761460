"""Figures of the mean model; every rank takes part."""

import numpy as np


def evaluate(driver, state, slots=()) -> dict[str, float]:
    """The task's figures of the mean of the models, and how far they are apart; simulations: the time, too.

    slots: of the state, (1, d) and equal on all ranks; their figures are called SLOT_FIGURE.
    """
    x, mean = state.x, driver.mean(state.x)
    # (1/m) sum_i ||x_i - mean||^2, and each figure as (sum, count)
    away = sum(driver.device.squared_distance(row, mean[0]) for row in x)
    shares = {"consensus": (away, len(driver.hosted))} | driver.task.evaluate(mean, driver)
    for slot in slots:
        shares |= {f"{slot}_{name}": share for name, share in driver.task.evaluate(getattr(state, slot), driver).items()}
    sums, counts = driver.world.sum(np.array(list(shares.values())).T)
    figures = dict(zip(shares, (sums / counts).tolist()))
    if driver.clocks:
        figures["virtual_time"] = driver.clocks.time
    return figures
