"""Copies of the state in the memory of ranks: what a run goes on from when ranks are lost."""

import json
from time import perf_counter

import numpy as np

from coopmpi.errors import CoopError
from coopmpi.run.saving import slots_of

MOST = 0.01  # share of the time that snapshots may take; the interval between them follows


class Snapshot:
    """The state after `step` steps, as far as this rank has it.

    workers: {worker: bytes of the worker's rows of all slots}, of the own workers and those of the ranks that this one is a
    buddy of; shared: {slot: rows} that all ranks have alike.
    """

    def __init__(self, step: int, wall_time: float, shared: dict, workers: dict):
        self.step, self.wall_time, self.shared, self.workers = step, wall_time, shared, workers


class Snapshots:
    """Takes snapshots on all ranks at the same step, each rank's with a copy at `buddies` other ranks.

    The newest complete one is kept, and the one before until all ranks have confirmed it.
    """

    def __init__(self, every_seconds: float, buddies: int):
        self.every_seconds, self.buddies = every_seconds, buddies
        self.kept: list[Snapshot] = []  # newest last
        self.taken_at, self.cost = perf_counter(), 0.0

    @property
    def due(self) -> bool:
        """Has the interval passed? It is long enough for the cost of the last one to be under MOST of it."""
        return perf_counter() - self.taken_at > max(self.every_seconds, self.cost / MOST)

    def take(self, driver, states, step: int, wall_time: float):
        """A snapshot of the states after `step` steps; nothing may be under way. An exception where a rank is lost."""
        begin = perf_counter()
        world, workers, shared = driver.world, {}, {}
        slots = [(slot, values if slot.kind == "host" else driver.device.to_host(values)) for slot, values in slots_of(states)]
        for place, worker in enumerate(driver.hosted):
            workers[worker] = _packed([values[place] for slot, values in slots if slot.kind in ("worker", "memory")])
        for slot, values in slots:
            if slot.kind in ("replica", "host"):
                shared[slot.name] = np.array(values)
        own = dict(workers)
        for distance in range(1, min(self.buddies, world.size - 1) + 1):
            self._exchange(driver, own, workers, distance)
        self.kept = [*self.kept[-1:], Snapshot(step, wall_time, shared, workers)]
        world.confirm()
        self.kept = self.kept[-1:]
        self.taken_at, self.cost = perf_counter(), perf_counter() - begin

    def _exchange(self, driver, own, workers, distance):
        """Own rows to the rank so many further on, and those of the rank so many before into `workers`."""
        world = driver.world
        to, source = (world.rank + distance) % world.size, (world.rank - distance) % world.size
        size = next(iter(own.values())).size
        arriving = {worker: np.empty(size, np.uint8) for worker in driver.rank_layout.hosted(source)}
        world.swap([(to, rows) for rows in own.values()], [(source, rows) for rows in arriving.values()])
        workers |= arriving

    def newest(self, world, workers: int) -> int:
        """The newest step of which the survivors together have all workers; -1 for none. All call it."""
        mine = [[step, list(self._rows_of(step))] for step in {s.step for s in self.kept}]
        held = [dict(json.loads(text)) for text in world.texts(json.dumps(mine))]
        for step in sorted(set.intersection(*map(set, held)), reverse=True):
            if len({worker for of_rank in held for worker in of_rank[step]}) == workers:
                # later ones will never be complete, and the run comes to their steps once more
                self.kept = [s for s in self.kept if s.step <= step]
                return step
        self.kept = []
        return -1

    def _rows_of(self, step: int) -> dict:
        """{worker: bytes} of that step; there may be two snapshots of it, before and after a loss, when the next loss comes."""
        return {worker: rows for s in self.kept if s.step == step for worker, rows in s.workers.items()}

    def collect(self, driver, step: int) -> "Snapshot":
        """The Snapshot of that step with all rows that this rank needs now, wherever they are; all call it."""
        world, mine = driver.world, self._rows_of(step)
        held = [json.loads(text) for text in world.texts(json.dumps(list(mine)))]
        needed = [json.loads(text) for text in world.texts(json.dumps(_needed(driver)))]
        # every row comes from the first rank that has it
        owner = {worker: rank for rank in reversed(range(world.size)) for worker in held[rank]}
        size = next(iter(mine.values())).size
        sends = [(rank, mine[worker]) for rank in range(world.size) for worker in needed[rank]
                 if owner[worker] == world.rank and rank != world.rank]
        rows = {worker: mine[worker] if owner[worker] == world.rank else np.empty(size, np.uint8)
                for worker in needed[world.rank]}
        world.swap(sends, [(owner[worker], rows[worker]) for worker in needed[world.rank] if owner[worker] != world.rank])
        newest = next(s for s in reversed(self.kept) if s.step == step)
        return Snapshot(step, newest.wall_time, newest.shared, rows)


class Rows:
    """A Snapshot as a source for coopmpi.run.saving.restore."""

    def __init__(self, snapshot: Snapshot, states):
        self.snapshot, self._places = snapshot, {}
        place = 0
        for slot, values in slots_of(states):
            if slot.kind in ("worker", "memory"):
                nbytes = values.shape[1] * values.dtype.itemsize
                self._places[slot.name] = slice(place, place + nbytes), values.dtype
                place += nbytes

    def row(self, slot: str, number: int) -> np.ndarray:
        if slot in self.snapshot.shared:
            return self.snapshot.shared[slot][number]
        if number not in self.snapshot.workers:
            raise CoopError(f"worker {number} is in no snapshot")
        span, dtype = self._places[slot]
        return self.snapshot.workers[number][span].view(dtype)


def _packed(rows):
    return np.concatenate([np.ascontiguousarray(row).view(np.uint8).ravel() for row in rows])


def _needed(driver):
    """The workers whose rows this rank keeps: its own, and those whose copies it remembers."""
    mixing = driver.wiring.mixing
    return [*driver.hosted, *(driver.wiring.audience.remote if mixing is not None else ())]
