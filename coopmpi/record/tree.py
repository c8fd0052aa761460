"""What a result file holds as an xarray DataTree, of which the series are read when they are used."""

import numpy as np
import xarray
from xarray.backends import BackendArray
from xarray.core import indexing

from coopmpi.record.reader import blocks, complete_rows, read_sound, status_of
from coopmpi.record.schema import TIMES

OF_A_ROUND = ("tau", "wait_time", "bytes_sent")  # what is told of the steps of a round, with _min and _max in a summary
ATTRIBUTES = ("mode", "ranks", "mpi", "device", "coopmpi", "classes")  # the last one only where classes have names


def tree(file) -> xarray.DataTree:
    """The nodes steps, evaluations, rounds, and where there are such transfers, with the rows that an open file holds now."""
    steps = _dataset(file, "train")
    attributes = {"status": status_of(file)} | {name: file.attrs[name] for name in ATTRIBUTES if name in file.attrs}
    nodes = {"/": xarray.Dataset(attrs=attributes), "steps": steps}
    if "eval" in file:
        nodes["evaluations"] = _timed(_dataset(file, "eval").sel(step=slice(0, steps.sizes["step"])), steps)
    nodes["rounds"] = _rounds(steps, file["train/bytes_sent"])
    if "rounds" in file and (transfers := _dataset(file, "rounds")).sizes["step"]:
        nodes["transfers"] = transfers
    return xarray.DataTree.from_dict(nodes)


def _dataset(file, name) -> xarray.Dataset:
    """The complete rows of a group of series."""
    group = file[name]
    rows = complete_rows(list(group.values()))
    coordinates = {short: ("step", read_sound(group[short], slice(rows)), _told_of(group[short]))
                   for short in ("step", *TIMES) if short in group}
    if any(data.ndim == 2 for data in group.values()):
        coordinates["worker"] = ("worker", file["worker"][:], _told_of(file["worker"]))
    return xarray.Dataset({short: (("step", "worker")[:data.ndim], indexing.LazilyIndexedArray(_Rows(data, rows)), _told_of(data))
                           for short, data in group.items() if short not in coordinates}, coordinates)


def _told_of(data) -> dict:
    """Unit and description of a series."""
    return {name: data.attrs[name] for name in ("units", "description")}


class _Rows(BackendArray):
    """The first rows of a data set."""

    def __init__(self, data, rows):
        self.data, self.shape, self.dtype = data, (rows, *data.shape[1:]), data.dtype

    def __deepcopy__(self, memo):
        return self  # nobody changes it

    def __getitem__(self, key):
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self._read)

    def _read(self, key):
        first, *rest = key
        if isinstance(first, slice):
            first = slice(*first.indices(self.shape[0]))  # the data set itself may be longer
        return read_sound(self.data, (first, *rest))


def _rounds(steps, sent) -> xarray.Dataset:
    """What is told of the steps in which some worker sent something; sent: the data set of bytes_sent."""
    spans = blocks(sent, steps.sizes["step"])
    took = [span.start + np.flatnonzero(read_sound(sent, span).reshape(span.stop - span.start, -1).any(axis=1)) for span in spans]
    names = [name for name in steps.data_vars if name.removesuffix("_min").removesuffix("_max") in OF_A_ROUND]
    return steps[names].isel(step=np.concatenate([np.zeros(0, int), *took]))


def _timed(evaluations, steps) -> xarray.Dataset:
    """Evaluations with the virtual time at each of them, of a simulation."""
    if "virtual_time" not in steps.coords:
        return evaluations
    times = np.concatenate([[0.0], steps.virtual_time.values])  # by steps done
    return evaluations.assign_coords(virtual_time=("step", times[evaluations.step.values], steps.virtual_time.attrs))
