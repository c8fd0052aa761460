"""State that is needed at the next step: declared, so that checkpoints, memory and documentation follow from it."""

import sys
from typing import Any, NamedTuple

import numpy as np

from coopmpi.errors import located
from coopmpi.step.requests import is_request


class Slot(NamedTuple):
    """One declared piece of state. Checkpoints, the memory estimate and the documentation come from here.

    kind: "worker" (b, d), "replica" (rows, d) equal on all ranks, "ticket" (a transfer under way, a tuple of them, or
    None), "memory": a copy of a vector of every worker that any local worker receives from, the b local ones first; or
    "host" (rows, columns): float64 that is equal on all ranks and stays on the host.
    start: "model" (the common initial model), "zero", "none" for tickets, or an array (columns,) that every row
    starts from.
    """

    name: str
    kind: str
    start: Any
    purpose: str
    rows: int = 1  # of a replica, or on the host
    columns: int | None = None  # in a row, where d are too many; of a slot that does not start as the model
    dtype: str | None = None  # where the type is not that of the model


MODEL = Slot("x", "worker", "model", "the workers' models")


class State:
    """The slots of a run, as attributes: state.x, state.momentum, ... Nothing else can be kept in it."""

    def __init__(self, slots: tuple[Slot, ...], initial: np.ndarray, driver):
        values = {slot.name: _start(slot, initial, driver) for slot in slots}
        expected = {name: value if value is None else (value.shape, value.dtype) for name, value in values.items()}
        vars(self).update(values, slots=tuple(slots), _expected=expected)

    def __setattr__(self, name, value):
        if name not in self._expected:
            raise located(sys._getframe(1), f"state.{name} is no declared slot; what the next step needs is declared, as in "
                          f'slots = (Slot("{name}", "worker", "zero", "what it is for"),)')
        expected = self._expected[name]
        if expected is not None and (getattr(value, "shape", None), getattr(value, "dtype", None)) != expected:
            raise located(sys._getframe(1), f"state.{name} was set to {_described(value)}, but its slot holds an array of "
                          f"shape {expected[0]} and type {expected[1]}{_advice(value, expected)}")
        vars(self)[name] = value


def _described(value):
    if hasattr(value, "shape"):
        return f"an array of shape {value.shape} and type {value.dtype}"
    return f"{value!r:.60}"


def _advice(value, expected):
    shape, dtype = expected
    if is_request(value):
        return f": a request has an answer where it is yielded, as in state.x = yield {type(value).__name__}(...)"
    if getattr(value, "shape", None) == (1, *shape[1:]):
        return ": give every worker its row, as in context.replicate(value, like=state.x)"
    return ""


def _start(slot, initial, driver):
    if slot.kind == "ticket":
        return None
    columns, dtype = slot.columns or initial.size, slot.dtype or initial.dtype
    if slot.kind == "host":
        return np.zeros((slot.rows, columns))
    rows = slot.rows if slot.kind == "replica" else len(driver.hosted)
    if slot.kind == "memory":
        rows += len(driver.wiring.audience.remote)
    array = driver.device.empty((rows, columns), np.dtype(dtype))
    if not isinstance(slot.start, str):
        array[:] = driver.device.asarray(np.asarray(slot.start, dtype))
    else:
        array[:] = driver.device.asarray(initial) if slot.start == "model" else 0
    return array
