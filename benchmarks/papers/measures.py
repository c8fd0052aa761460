"""What is read off the curves of one method: numbers per seed, and cells of a table."""

import numpy as np

from benchmarks.papers.theory import consensus_per_noise
from coopmpi.sweep.score import smoothed

HEADINGS = {
    "final": "final loss", "accuracy": "accuracy", "consensus": "consensus distance", "tau": "last tau",
    "time": "time to target", "speedup": "speed-up", "limit": "of the limit", "steps": "steps to target",
    "step_time": "time per step", "megabytes": "MB to target", "saving": "saving", "sent": "MB sent",
    "overhead": "communication / computation", "centre": "final loss at the centre",
    "noise": "gradient variance it takes", "excess": "loss above the reference",
    "drift": "still falling by",
}


COLUMNS = ("step", "virtual_time", "waiting", "megabytes", "tau", "train_loss", "loss", "accuracy", "consensus", "centre")


class Curves:
    """The runs of one method in one setting: columns {name of COLUMNS: (seeds, evaluations)}, NaN after their end; failed (seeds,).

    budget: seconds; what comes later does not count. target: the loss to reach with each seed, (seeds,), None without one;
    reference: the Curves to compare with, None for itself. tables: the description of the first run, for measures that need
    theory. limit: the largest possible speed-up.
    """

    def __init__(self, columns, failed, score, budget=np.inf, target=None, reference=None, tables=None, limit=None):
        self.columns, self.failed, self.score, self.budget, self.target = columns, failed, score, budget, target
        self.reference, self.tables, self.limit = reference or self, tables, limit

    def column(self, name):
        """(seeds, evaluations), evaluations after the budget left out."""
        return np.where(self.columns["virtual_time"] <= self.budget, self.columns[name], np.nan)

    def smoothed(self):
        """The moving average of the loss over the evaluations up to each."""
        return np.stack([smoothed(row, self.score.smooth) for row in self.column(self.score.figure)])

    def last(self, name):
        """(seeds,): the mean over the tail of each run; NaN if it diverged."""
        return np.array([row.mean() for row in self._tails(name)])

    def end(self, name):
        return np.array([row[-1] if row.size else np.nan for row in self._ended(name)])

    def _tails(self, name):
        for row in self._ended(name):
            yield row[-max(1, round(self.score.tail * row.size)):] if row.size else np.array([np.nan])

    def _ended(self, name):
        for value, failed, loss in zip(self.column(name), self.failed, self.column(self.score.figure)):
            yield np.array([np.nan]) if failed else value[~np.isnan(loss)]

    def to_target(self, name):
        """(seeds,): the value of a column where the smoothed score first meets the target, inf if it never does."""
        found = []
        for values, loss, target in zip(self.column(name), self.smoothed(), self.target):
            met = np.flatnonzero(loss <= target)
            found.append(values[met[0]] if met.size else np.inf)
        return np.array(found)

    def measure(self, name):
        """(seeds,) of one measure of HEADINGS."""
        reference = self.reference
        match name:
            case "final":
                return self.last(self.score.figure)
            case "excess":
                return self.measure("final") - reference.measure("final")
            case "drift":  # from the first half of the tail to the second
                return np.array([row[:(row.size + 1) // 2].mean() - row[row.size // 2:].mean()
                                 for row in self._tails(self.score.figure)])
            case "accuracy" | "consensus" | "centre":
                return self.last(name)
            case "tau":
                return self.end("tau")
            case "time":
                return self.to_target("virtual_time")
            case "steps":
                return self.to_target("step")
            case "megabytes":
                return self.to_target("megabytes")
            case "speedup":
                return reference.to_target("virtual_time") / self.to_target("virtual_time")
            case "limit":
                return self.measure("speedup") / self.limit
            case "saving":
                return reference.to_target("megabytes") / self.to_target("megabytes")
            case "sent":
                return self.end("megabytes")
            case "step_time":
                return self.end("virtual_time") / self.end("step")
            case "overhead":
                waiting = self.end("waiting")
                return waiting / (1 - waiting)
            case "noise":
                return self.last("consensus") / consensus_per_noise(self.tables)
        raise ValueError(f"no measure {name!r}; known: {', '.join(HEADINGS)}")

    def mean(self, name):
        """Over the seeds; of a ratio the ratio of the means."""
        match name:
            case "speedup":
                return self.reference.mean("time") / self.mean("time")
            case "limit":
                return self.mean("speedup") / self.limit
            case "saving":
                return self.reference.mean("megabytes") / self.mean("megabytes")
        return self.measure(name).mean()

    def cell(self, name):
        """Mean and standard deviation over the seeds, as text."""
        values = self.measure(name)
        diverges = name in ("final", "accuracy", "consensus", "centre")
        if np.isnan(values).all():
            return "diverged" if diverges else "-"
        missed = ~np.isfinite(values) | (values == 0 if name in ("speedup", "limit", "saving") else False)
        if missed.any():
            return f"{'diverged' if diverges else 'never'} in {missed.sum()} of {values.size}"
        mean, deviation = self.mean(name), values.std(ddof=1) if values.size > 1 else 0.0
        if name in ("accuracy", "limit", "overhead"):
            return f"{mean:.1%}"
        if name in ("speedup", "saving"):
            return f"{_number(mean, 3)}x ± {_number(deviation, 2)}" if deviation else f"{_number(mean, 3)}x"
        if name in ("tau", "sent", "step_time"):
            return _number(mean, 3)
        return f"{_number(mean, 4)} ± {_number(deviation, 2)}"


def _number(value, digits):
    text = f"{value:.{digits}g}"
    return f"{value:,.0f}" if "e+" in text else text
