"""What a run came to: its figure at the end, and what it took to reach a target."""

from typing import NamedTuple

import numpy as np

from coopmpi.report.runs import RISING, Run
from coopmpi.sweep.description import Score

AXES = {"seconds": "time", "steps": "steps", "bytes": "bytes"}  # of a Run


class Curve(NamedTuple):
    """The figure of a run's evaluations after the first step, (n,); place: their seconds, steps or bytes."""

    place: np.ndarray
    figure: np.ndarray


def curve(run: Run, score: Score, minutes: float | None) -> Curve:
    """minutes: after which the run had to stop; what comes later does not count."""
    counts = run.series["eval/step"] > 0
    if minutes is not None:
        counts &= run.along("time", "eval") <= 60 * minutes
    return Curve(run.along(AXES[score.by], "eval")[counts], run.series[f"eval/{score.figure}"][counts])


def final(found: Curve, score: Score) -> float:
    """The figure at the end: the mean over the tail of the evaluations; NaN without any."""
    n = len(found.figure)
    return float(found.figure[n - max(1, round(score.tail * n)):].mean()) if n else np.nan


def took(found: Curve, score: Score, target: float) -> float:
    """Where the moving average of the figure first meets the target; inf if it never does."""
    met = np.flatnonzero(loss(smoothed(found.figure, score.smooth), score) <= loss(target, score))
    return float(found.place[met[0]]) if met.size else np.inf


def smoothed(values: np.ndarray, n: int) -> np.ndarray:
    """The mean of each value and up to n - 1 before it."""
    return np.array([values[max(0, i - n + 1):i + 1].mean() for i in range(len(values))])


def eased(figure: float, score: Score, tolerance: float) -> float:
    """A target that is easier by a share than what a method reaches."""
    return figure * (1 - tolerance if score.figure in RISING else 1 + tolerance)


def loss(figure, score: Score):
    """The figure, or its negative where larger is better: to be made small."""
    return -figure if score.figure in RISING else figure
