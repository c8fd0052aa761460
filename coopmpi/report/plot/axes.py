"""What stands at the axes of a picture: names, units, scales."""

import numpy as np

FIRST = ("eval/loss", "eval/accuracy")  # what is drawn where nobody says what
WITHOUT_NUMBERS = "train/wait_time"  # ... of a simulation of time alone
NAMES = {"train/loss": "mini-batch loss", "eval/loss": "loss", "eval/train_loss": "training loss", "eval/accuracy": "accuracy",
         "eval/consensus": "consensus distance", "train/tau": "period tau", "train/compute_time": "computing per step",
         "train/wait_time": "waiting per step", "train/bytes_sent": "sent per step"}
UNITS = {"tau": "steps", "compute_time": "s", "wait_time": "s", "bytes_sent": "B", "wall_time": "s", "virtual_time": "s", "accuracy": "%"}
BYTES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))
LONG = 2 * 3600  # seconds from which hours are told
DEEPEST = 1e8  # what a logarithmic axis shows: most to least
DECADES = 1e3, 10.0, 8.0  # ratio of most to least from which an axis is logarithmic: of y, of the ends of lines in x, of a key


def of_x(x: str, run, most: float) -> tuple[float, str]:
    """(factor, label) of an axis that reaches as far as `most`."""
    if x == "bytes":
        size, unit = next(((size, unit) for size, unit in BYTES if most >= size), (1.0, "B"))
        return 1 / size, f"sent per worker ({unit})"
    if x == "time":
        if run.mode != "train":
            return 1.0, "virtual time (s)"
        return (1 / 3600, "time (h)") if most > LONG else (1.0, "time (s)")
    return 1.0, x


def of_y(name: str, run, window: int, when: str) -> tuple[float, str]:
    """(factor, label) of a series; window: steps over which it is smoothed."""
    title = NAMES.get(name, name.partition("/")[2])
    if name == "eval/loss" and "eval/train_loss" in run.names:
        title = "held-out loss"
    unit = UNITS.get(name.rpartition("/")[2], "")
    smoothed = f"mean of {window} steps" if window > 1 and name.startswith("train/") else ""
    said = ", ".join(filter(None, (unit, smoothed)))
    return 100.0 if unit == "%" else 1.0, " ".join(filter(None, (title, when, f"({said})" if said else "")))


def logarithmic(lines, points: bool) -> str:
    """The axes, as in "xy", along which numbers above 0 differ by orders of magnitude."""
    y, ends, key = DECADES
    values, x = np.concatenate([line.mean for line in lines]), np.concatenate([line.x for line in lines])
    furthest = [line.x[-1] for line in lines]
    log_x = (x.min() > 0 and x.max() >= key * x.min()) if points else min(furthest) > 0 and max(furthest) >= ends * min(furthest)
    # beside the largest numbers, those that are nothing but rounding do not count
    log_y = values.min() > 0 and values.max() >= y * values[values >= values.max() / DEEPEST].min()
    return "x" * bool(log_x) + "y" * bool(log_y)


def ticks(low: float, high: float, most: int, log: bool) -> tuple[list[float], list[str]]:
    """(positions, labels) of round numbers between two, about `most` of them; log: low and high are decimal logarithms."""
    step = 10 ** np.floor(np.log10((high - low) / most or 1.0))
    step *= next(size for size in (1, 2, 5, 10) if size * step * most >= high - low)
    at = np.arange(np.ceil(low / step), np.floor(high / step + 1e-9) + 1) * step + 0.0
    if log and step >= 1:
        return at.tolist(), [f"{10**place:.4g}" for place in at]
    if log:
        values = np.unique([float(f"{10**place:.1g}") for place in at])
        at = np.log10(values)
        return at.tolist(), [f"{value:.4g}" for value in values]
    return at.tolist(), [f"{place:.6g}" for place in at]
