"""Models that a result file holds, with the names of their tensors."""

import tomllib
from math import prod
from typing import NamedTuple

import numpy as np

from coopmpi.errors import UserError, quoted
from coopmpi.inputs import DAMAGE, told
from coopmpi.record.reader import open_run, status_of
from coopmpi.record.schema import OF_MEAN, OWN


class Model(NamedTuple):
    """A model at the end of a run: the tensors by name, and the rows of the task's own state that belong to it."""

    tables: dict  # of the run description
    task: str  # its kind
    tensors: dict[str, np.ndarray]
    own: dict[str, np.ndarray]


def final_model(path, worker: int | None = None) -> Model:
    """The mean model of a result file, or a worker's. UserError if there is none."""
    with open_run(path) as file:
        status = status_of(file)
        if status not in ("finished", "interrupted"):
            raise UserError(f"{path}: a run that is {status} has no model yet; allowed: finished, interrupted")
        if "final" not in file:
            raise UserError(f"{path}: a simulation of time alone has no models")
        try:
            return _model(file, worker)
        except (*DAMAGE, tomllib.TOMLDecodeError) as error:
            raise UserError(f"{path}: damaged: {told(error)}") from error


def _model(file, worker):
    tables, final = tomllib.loads(file["config"].asstr()[()]), file["final"]
    names = [name for name in final if name.startswith(OWN)]
    if worker is None:
        row, end = final["mean"][:], OF_MEAN
        own = {name: final[name][:] for name in names if name.endswith(end)}
    else:
        if "x" not in final:
            raise UserError(f'{file.filename}: holds the mean model alone; record.final = "all" keeps those of the workers')
        if not 0 <= worker < len(final["x"]):
            raise UserError(f"worker must be one of 0 to {len(final['x']) - 1}, given {worker}")
        row, end = final["x"][worker], ""
        own = {name: final[name][worker] for name in names if not name.endswith(OF_MEAN)}
    tensors = {"x": row}
    if "layout" in final:
        tensors = {entry["name"].decode(): _cut(row, entry) for entry in final["layout"][:]}
    return Model(tables, tables["task"]["kind"], tensors, {name.removeprefix(OWN).removesuffix(end): row for name, row in own.items()})


def _cut(row, entry):
    """The tensor in a row of parameters that an entry of the layout describes."""
    offset, size, shape = int(entry["offset"]), int(entry["size"]), tuple(entry["shape"][:entry["ndim"]].tolist())
    if min(shape, default=0) < 0 or size != prod(shape) or not 0 <= offset <= row.size - size:
        raise ValueError(f"/final/layout has a tensor of shape {quoted(shape)} at {offset} of {row.size} numbers")
    return row[offset:offset + size].reshape(shape)
