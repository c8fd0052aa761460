"""One copy of a data set per node: one process publishes it as files, all others map them into their memory."""

import json
from pathlib import Path

import numpy as np

from coopmpi.errors import CoopError
from coopmpi.tasks.data.scaling import Scaling
from coopmpi.tasks.data.sets import Dataset

ARRAYS = ("x_train", "y_train", "x_test", "y_test")


def publish(dataset, folder):
    """Write the data set into an existing folder, best one in memory such as /dev/shm."""
    try:
        for name in ARRAYS:
            np.save(Path(folder, f"{name}.npy"), getattr(dataset, name), allow_pickle=False)
        about = {"name": dataset.name, "shape": dataset.shape, "classes": dataset.classes, "scaling": None,
                 "names": dataset.names, "notes": dataset.notes}
        if scaling := dataset.scaling:
            moments = None if scaling.mean is None else [[float(value) for value in values.ravel()] for values in scaling[2:]]
            about["scaling"] = [scaling.full_scale, scaling.dtype, moments]
        Path(folder, "dataset.json").write_text(json.dumps(about))
    except OSError as error:
        raise CoopError(f"cannot write the node's copy of the data into {folder}: {error}") from error


def attach(folder):
    """The published Dataset, its arrays mapped read-only; the files may be unlinked afterwards."""
    about = json.loads(Path(folder, "dataset.json").read_text())
    shape = tuple(about["shape"]) if about["shape"] else None
    arrays = {name: np.asarray(np.load(Path(folder, f"{name}.npy"), mmap_mode="r")) for name in ARRAYS}
    scaling = None
    if about["scaling"]:
        full_scale, dtype, moments = about["scaling"]
        scaling = Scaling(full_scale, dtype, *(np.array(values, dtype)[:, None] for values in moments or ()))
    return Dataset(about["name"], **arrays, shape=shape, classes=about["classes"], scaling=scaling, names=tuple(about["names"]),
                   notes=tuple(about["notes"]))
