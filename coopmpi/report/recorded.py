"""What a result file tells of a run as a whole: the numbers behind `inspect`, the closing screen and its advice."""

import tomllib
from dataclasses import dataclass
from typing import Any

import numpy as np

from coopmpi.record.reader import Event, blocks, complete_rows, events_of, means, read_alive, status_of

PIECES = 240  # points of a curve


@dataclass(frozen=True)
class Recorded:
    """A run up to its last complete row. Times are in seconds; those of the workers are virtual in a simulation.

    computed, waited, sent: totals (m,) of the workers, or (1,) where a file holds means over the workers alone.
    """

    path: str
    status: str
    mode: str
    tables: dict[str, Any]  # of the run description
    ranks: int
    node_ranks: int  # on the node of rank 0, ...
    node_cores: int  # ... which may use so many cores
    mpi: str
    device: str
    workers: int
    steps: int  # that are done
    wall_time: float
    virtual_time: float | None  # of a simulation
    computed: np.ndarray
    waited: np.ndarray
    sent: np.ndarray  # bytes
    in_turns: float  # of computing, if all workers wait for the slowest of each period
    evaluating: float  # that wall_time leaves out, as the next
    recording: float
    losses: np.ndarray  # of mini-batches, means over the workers and over `piece` steps
    piece: int
    evaluations: dict[str, np.ndarray]  # step, and the figures that are there
    chance: dict[str, float]  # figures of a model that has learnt nothing
    events: list[Event]

    @property
    def simulated(self) -> bool:
        return self.virtual_time is not None

    @property
    def seconds(self) -> float:
        """How long it took: virtual seconds in a simulation."""
        return self.wall_time if self.virtual_time is None else self.virtual_time

    @property
    def total(self) -> int | None:
        """Steps that the run is to have; None: nobody knows."""
        return self.tables.get("steps")

    @property
    def figures(self) -> dict[str, float]:
        """Those of the last evaluation."""
        return {name: float(values[-1]) for name, values in self.evaluations.items() if name not in ("step", "wall_time") and len(values)}

    def share(self, seconds) -> Any:
        """Of the run's time."""
        return seconds / self.seconds if self.seconds else 0 * seconds


def recorded(path, file) -> Recorded:
    """What an open and complete result file holds; in a child process of coopmpi.record.apart it stays alive."""
    train, attributes = file["train"], file.attrs
    tables = tomllib.loads(file["config"].asstr()[()])
    done = complete_rows(list(train.values()))
    evaluations, chance = _evaluations(file.get("eval"))
    losses, piece = _curve(train["loss"], done) if "loss" in train else (np.zeros(0), 1)
    pauses = means(train["pause_time"], done)
    # what an evaluation takes lies before the step that follows
    after = np.isin(np.arange(done), evaluations["step"]) if "step" in evaluations else np.zeros(done, bool)
    return Recorded(
        str(path), status_of(file), str(attributes["mode"]), tables,
        *(int(attributes[name]) for name in ("ranks", "node_ranks", "node_cores")), str(attributes["mpi"]), str(attributes["device"]),
        tables["workers"], done, _latest(train["wall_time"], done) or 0.0,
        _latest(train["virtual_time"], done) or 0.0 if "virtual_time" in train else None,
        *(total(train[name], done) for name in ("compute_time", "wait_time", "bytes_sent")),
        _in_turns(train["compute_time"], done, int(_latest(train["tau"], done) or 1)),
        float(pauses[after].sum()), float(pauses[~after].sum()), losses, piece, evaluations, chance, events_of(file))


def _latest(data, rows):
    return float(read_alive(data, rows - 1)) if rows else None


def total(data, rows):
    """Sum over the steps for each worker, float64; one number where only the mean over the workers was recorded."""
    sums = (read_alive(data, span).sum(axis=0, dtype=float) for span in blocks(data, rows))
    return np.atleast_1d(sum(sums, np.zeros(data.shape[1:])))


def _in_turns(data, rows, tau):
    """Sum over all periods of tau steps of the longest time of a worker in each."""
    total, begun = 0.0, np.zeros(data.shape[1:] or 1)
    for span in blocks(data, rows):
        values = read_alive(data, span).reshape(span.stop - span.start, -1)
        # where periods begin; the first of them may have begun in the block before
        starts = np.union1d([0], np.arange(-span.start % tau, len(values), tau))
        periods = np.add.reduceat(values, starts, axis=0, dtype=float)
        if span.start % tau:
            periods[0] += begun
        else:
            total += begun.max()
        total += periods[:-1].max(axis=1, initial=0).sum()
        begun = periods[-1]
    return float(total + begun.max())


def _curve(data, rows):
    """(means over the workers and over some steps, how many steps)."""
    losses, piece = means(data, rows), max(1, -(-rows // PIECES))
    starts = np.arange(0, rows, piece)
    return (np.add.reduceat(losses, starts) / np.diff([*starts, rows]) if rows else losses), piece


def _evaluations(group):
    """({step and name of a figure: its values}, {name of a figure: what chance gives})."""
    if group is None:
        return {}, {}
    rows = complete_rows(list(group.values()))
    values = {name: read_alive(group[name], slice(rows)) for name in group}
    kept = {name: column for name, column in values.items() if name in ("step", "wall_time") or not np.isnan(column).all()}
    return kept, {name: float(group[name].attrs["chance"]) for name in kept if "chance" in group[name].attrs}
