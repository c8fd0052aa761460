"""Models on their way to the result file, and state on its way to checkpoints and back; every rank takes part."""

import threading

import numpy as np

from coopmpi.errors import CoopError, UserError
from coopmpi.record import checkpoint


def save_models(driver, x, feed, every_worker: bool):
    """The mean of the models x (b, d) of all workers, and if so wanted each of them; likewise state of the task's own."""
    mean = driver.device.to_host(driver.mean(x))[0]
    if every_worker:
        rows = driver.world.collect(driver.device.to_host(x), driver.rank_layout)
        for worker, row in enumerate(rows):
            feed.final(worker, row)
    feed.final_mean(mean)
    task = driver.task
    for slot, values, mean in zip(task.slots, task.own(), task.means(driver)):
        if every_worker:
            for worker, row in enumerate(driver.world.collect(driver.device.to_host(values), driver.rank_layout)):
                feed.final_own(slot.name, worker, row)
        feed.final_own(slot.name, None, driver.device.to_host(mean)[0])


class Saver:
    """Takes checkpoints of the states on this rank: a copy on the host, which a thread writes while the run goes on.

    written: the newest step of which this rank's file is on the disk, -1 for none.
    """

    def __init__(self, driver, states, result, run: str, keep: int):
        self.driver, self.states, self.run, self.keep = driver, states, run, keep
        self.folder = checkpoint.folder_of(result)
        self.written = self.committed = -1
        self.error = None  # an OSError, of the last attempt
        self._copies, self._thread, self._wall_times = {}, None, {}

    def take(self, step: int, wall_time: float):
        """Copy the state as it is after so many steps, and write it in the background; nothing may be under way."""
        self.wait()
        self._wall_times[step] = wall_time
        rows = [(slot.name, number, row) for slot, values in slots_of(self.states)
                for number, row in self._numbered(slot, self._copied(slot, values))]
        self._thread = threading.Thread(target=self._write, args=(step, rows), name="coopmpi-saver")
        self._thread.start()

    def wait(self):
        """Return when nothing is being written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def commit(self, step: int):
        """On rank 0, when the files of all ranks are on the disk: make a checkpoint of them, and remove old ones."""
        try:
            checkpoint.commit(checkpoint.step_folder(self.folder, step), self.driver.world.size, self.run, step,
                              self._wall_times[step])
        except OSError as error:
            self.error = error
            return
        self.committed = step
        self._wall_times = {later: seconds for later, seconds in self._wall_times.items() if later > step}
        checkpoint.prune(self.folder, self.keep)

    def save_now(self, step: int, wall_time: float):
        """A checkpoint that is complete when this returns; CoopError on all ranks if any cannot write."""
        world = self.driver.world
        self.take(step, wall_time)
        self.wait()
        world.agree(self.failure())
        if world.rank == 0:
            self.commit(step)
        world.agree(self.failure())

    def failure(self) -> CoopError | None:
        """What went wrong in the last attempt."""
        if self.error is not None:
            return CoopError(f"no checkpoint could be written in {self.folder}: {self.error}")

    def _copied(self, slot, values):
        """The slot's rows that this rank saves, copied into memory that is kept for it."""
        rows = values if slot.kind == "host" else self.driver.device.to_host(values)
        rows = rows[:len(self.driver.hosted)] if slot.kind in ("worker", "memory") else rows
        if slot.name not in self._copies:
            self._copies[slot.name] = np.empty_like(rows)
        np.copyto(self._copies[slot.name], rows)
        return self._copies[slot.name]

    def _numbered(self, slot, rows):
        """(number, row): worker rows by worker; what all ranks share is rank 0's to save."""
        if slot.kind in ("worker", "memory"):
            return zip(self.driver.hosted, rows)
        return enumerate(rows) if self.driver.world.rank == 0 else ()

    def _write(self, step, rows):
        try:
            checkpoint.write_rows(checkpoint.step_folder(self.folder, step), self.driver.world.rank, rows)
        except OSError as error:
            self.error = error
        else:
            self.written, self.error = step, None


def slots_of(states):
    """[(slot, its array)] of all that is saved."""
    return [(slot, getattr(state, slot.name)) for state in states for slot in state.slots if slot.kind != "ticket"]


def restore_newest(driver, states, result, run: str) -> checkpoint.Checkpoint:
    """Fill the states from the newest checkpoint that all ranks can read; UserError on all ranks if there is none."""
    world, bound = driver.world, np.inf
    while True:
        found = [c for c in checkpoint.checkpoints(result, run) if c.step < bound]
        step = -world.vote([-found[0].step if found else 1])()[0]  # the newest that is there for everybody
        if step < 0:
            raise UserError(f"{result}: no checkpoint can be read by all ranks; each needs to see {checkpoint.folder_of(result)}")
        chosen, sound = next((c for c in found if c.step == step), None), False
        if chosen is not None:
            try:
                restore(driver, states, chosen)
                sound = True
            except checkpoint.Damaged:
                sound = False
        if not world.vote([not sound])()[0]:
            return chosen
        bound = step


def restore(driver, states, source):
    """Fill all slots; source.row(slot name, number) gives their rows, (columns,)."""
    for slot, values in slots_of(states):
        numbers = range(len(values))
        if slot.kind in ("worker", "memory"):
            numbers = [*driver.hosted, *(driver.wiring.audience.remote if slot.kind == "memory" else ())]
        rows = np.array([source.row(slot.name, number) for number in numbers]).reshape(values.shape)
        values[...] = rows if slot.kind == "host" else driver.device.asarray(rows)
