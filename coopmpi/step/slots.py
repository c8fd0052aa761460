"""State that is needed at the next step: declared, so that checkpoints, memory and documentation follow from it."""

from typing import NamedTuple


class Slot(NamedTuple):
    """One declared piece of state. Checkpoints, the memory estimate and the documentation come from here.

    kind: "worker" (b, d), "replica" (rows, d) equal on all ranks, "ticket" (a transfer under way, a tuple of them,
    or None), or "memory": a copy of a vector of every worker that any local worker receives from, the b local ones
    first.
    start: "model" (the common initial model), "zero", or "none" for tickets.
    """

    name: str
    kind: str
    start: str
    purpose: str
    rows: int = 1  # of a replica
    columns: int | None = None  # where d numbers are too many, of a slot that starts at zero


MODEL = Slot("x", "worker", "model", "the workers' models")


class State:
    """The slots of a run, as attributes: state.x, state.momentum, ..."""

    def __init__(self, slots, initial, driver):
        self.slots = slots
        for slot in slots:
            setattr(self, slot.name, self._start(slot, initial, driver))

    @staticmethod
    def _start(slot, initial, driver):
        if slot.kind == "ticket":
            return None
        device, b = driver.device, len(driver.hosted)
        rows = slot.rows if slot.kind == "replica" else b
        if slot.kind == "memory":
            rows += len(driver.wiring.audience.remote)
        array = device.empty((rows, slot.columns or initial.size), initial.dtype)
        array[:] = device.asarray(initial) if slot.start == "model" else 0
        return array
