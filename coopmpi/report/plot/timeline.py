"""Who computed and who waited when: what a result file says of its workers' time."""

import json
from functools import partial
from typing import NamedTuple

import numpy as np

from coopmpi.errors import UserError, quoted
from coopmpi.record import apart
from coopmpi.record.reader import blocks, complete_rows, open_run, read_alive, refuse_truncated, require_complete

BLOCKS = 120  # of a row: more steps are taken together
ROWS, STACKED = 64, 24  # more workers are taken together, also where a block is several steps
UNEVEN = 0.1  # waiting differs by that share of the run: it is said who waits least
TINY = 1e-30
PERIODS, FEWEST, MOST = 3, 12, 300  # that are shown where nobody says which; steps of them, at least and at most


class Timeline(NamedTuple):
    """Seconds of consecutive blocks of steps (blocks, rows), and of the whole run (workers,).

    A row is a worker, or the mean of `together` consecutive ones; only the mean of all was recorded if `summary`.
    """

    path: str
    mode: str
    first: int  # steps that are shown
    last: int
    done: int
    each: int  # steps of a block
    workers: int
    together: int
    summary: bool
    start: np.ndarray  # (rows,) when the first block begins
    compute: np.ndarray
    wait: np.ndarray
    other: np.ndarray
    sent: np.ndarray  # bytes
    computed: np.ndarray  # share of the time of the whole run, (workers,)
    waited: np.ndarray

    @property
    def begins(self) -> np.ndarray:
        """When each block begins, and the last one ends: (blocks + 1, rows)."""
        whole = self.compute + self.wait + self.other
        return self.start + np.concatenate([np.zeros((1, whole.shape[1])), np.cumsum(whole, axis=0)])

    @property
    def caption(self) -> str:
        """What the picture shows, in words."""
        return "; ".join(filter(None, (f"{self.path}, steps {self.first} to {self.last} of {self.done}", self.straggler)))

    def name(self, row: int) -> str:
        """Which workers a row stands for."""
        if self.summary:
            return "mean"
        first, last = row * self.together, min((row + 1) * self.together, self.workers) - 1
        return f"{first}" if first == last else f"{first} to {last}"


    @property
    def straggler(self) -> str:
        """Who waits least, so that others wait."""
        if self.summary or self.waited.max() - self.waited.min() < UNEVEN:
            return ""
        least, most = int(self.waited.argmin()), int(self.waited.argmax())
        return f"worker {least} waits least, {self.waited[least]:.0%} of the run, worker {most} most, {self.waited[most]:.0%}"


def timeline(path, steps: str | None = None, rows: int = ROWS) -> Timeline:
    """The Timeline of a result file in so many rows at most. steps: "100:140", "100:" or ":40"; None: some periods from the middle of
    the run. UserError."""
    wanted = _parsed(steps) if steps else None
    refuse_truncated(path)
    told = json.loads("".join(apart.texts(path, partial(_texts, str(path), wanted, rows))))
    return Timeline(**{name: np.array(value) if isinstance(value, list) else value for name, value in told.items()})


def _parsed(steps):
    first, colon, last = steps.partition(":")
    if not colon or not all(part.strip().isdigit() or not part.strip() for part in (first, last)):
        raise UserError(f"--steps takes FIRST:LAST, as in 100:140, given {quoted(steps)}")
    return int(first or 1), int(last) if last.strip() else None


# in the child process
def _texts(path, wanted, rows):
    with open_run(path) as file:
        require_complete(file)
        train = file["train"]
        done = complete_rows(list(train.values()))
        if not done:
            raise UserError(f"{path}: no step is in the file yet")
        first, last = _span(path, wanted, done, train)
        yield json.dumps({"path": path, "mode": str(file.attrs["mode"]), "first": first, "last": last, "done": done,
                          "workers": len(file["worker"]), "summary": train["compute_time"].ndim == 1}
                         | {name: value.tolist() if isinstance(value, np.ndarray) else value
                            for name, value in _numbers(train, done, first, last, rows).items()})


def _span(path, wanted, done, train):
    if wanted is None:
        tau = max(1, int(read_alive(train["tau"], done // 2)))
        length = min(max(PERIODS * tau, FEWEST), MOST, done)
        # behind a round, where all are together
        first = max(1, min(done // 2 // tau * tau + 1, done - length + 1))
        return first, first + length - 1
    first, last = wanted
    last = done if last is None else last
    if not 1 <= first <= last <= done:
        raise UserError(f"--steps {first}:{last}: {path} has the steps 1:{done}")
    return first, last


def _numbers(train, done, first, last, rows):
    each = -(-(last - first + 1) // BLOCKS)
    workers = (*train["compute_time"].shape, 1)[1]
    together = -(-workers // (rows if each == 1 else min(rows, STACKED)))
    columns = {name: _column(train[name], done, first, last, each, together) for name in ("compute_time", "wait_time", "bytes_sent")}
    (compute, own, computed), (wait, before, waited), (sent, _, _) = columns.values()
    ends = np.array([*range(first - 1, last, each), last])
    clock = train["virtual_time" if "virtual_time" in train else "wall_time"]
    marks = np.concatenate([[0.0], read_alive(clock, slice(done))])
    if clock.name.endswith("virtual_time"):
        start, other = _on_own_clocks(marks[ends], own + before, compute + wait, together)
    else:
        start = np.full(compute.shape[1], marks[first - 1])
        wait, other = _on_the_clock_of_rank_0(marks[ends], compute, wait, sent, each)
    computed = np.minimum(1, computed / max(marks[-1], TINY))
    return {"each": each, "together": together, "start": start, "compute": compute, "wait": wait, "other": other, "sent": sent,
            "computed": computed, "waited": np.minimum(1 - computed, waited / max(marks[-1], TINY))}


def _column(data, done, first, last, each, together):
    """Sums of a series: of blocks of steps (blocks, rows), of the steps before them and of all steps (workers,)."""
    before, total, pieces = 0.0, 0.0, []
    for span in blocks(data, done):
        values = read_alive(data, span).astype(float)
        values = values.reshape(len(values), -1)
        begin, end = max(0, first - 1 - span.start), max(0, last - span.start)
        before, total = before + values[:begin].sum(axis=0), total + values.sum(axis=0)
        pieces.append(_together(values[begin:end], together))
    return np.add.reduceat(np.concatenate(pieces), np.arange(0, last - first + 1, each), axis=0), before, total


def _together(values, together):
    """Means of so many consecutive columns (n, m)."""
    starts = np.arange(0, values.shape[1], together)
    return np.add.reduceat(values, starts, axis=1) / np.diff([*starts, values.shape[1]])


def _on_own_clocks(marks, own, busy, together):
    """(start, other): in a simulation each worker has a clock, of which the latest is recorded; what is neither is alike for all."""
    start = _together(own[None], together)[0] + marks[0] - own.max()
    other = max(0.0, marks[-1] - (start + busy.sum(axis=0)).max()) / len(busy)
    return start, np.full(busy.shape, other)


def _on_the_clock_of_rank_0(marks, compute, wait, sent, each):
    """(wait, other) that bring all workers to rank 0's clock at each round; in between, what is neither is spread evenly.

    Others also wait while rank 0 evaluates and writes, which its clock leaves out: such waiting is left out, too.
    """
    rounds = np.flatnonzero(sent.any(axis=1)[:-1]) + 1 if each == 1 else np.arange(1, len(compute))
    starts = np.array([0, *rounds])
    lengths = np.diff([*starts, len(compute)])
    spans = np.diff(marks[[*starts, len(compute)]])[:, None]
    computing, waiting = (np.add.reduceat(values, starts, axis=0) for values in (compute, wait))
    kept = np.clip((spans - computing) / np.maximum(waiting, TINY), 0, 1)
    other = np.maximum(0, spans - computing - kept * waiting) / lengths[:, None]
    return wait * np.repeat(kept, lengths, axis=0), np.repeat(other, lengths, axis=0)
