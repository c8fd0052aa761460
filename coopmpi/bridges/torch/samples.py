"""Where a module's batches come from: a user's data sets, or files that coopmpi reads itself."""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import TensorDataset, default_collate

from coopmpi.errors import UserError
from coopmpi.registry import load_object
from coopmpi.tasks.data import node_copy
from coopmpi.tasks.data.formats.raw import How, reading_keys
from coopmpi.tasks.data.sets import Dataset, load


class Arrays:
    """Rows of a data set's arrays, which may be mapped into memory; `shape` is that of an input."""

    def __init__(self, data: Dataset, x: np.ndarray, y: np.ndarray, shape: tuple, device: torch.device):
        self._data, self._x, self._y, self._shape, self._device = data, x, y, shape, device
        self.targets = y

    def __len__(self):
        return len(self._x)

    def batch(self, indices):
        """(inputs, targets) of these samples."""
        x, y = self._data.inputs(self._x[indices]), self._y[indices]
        return torch.from_numpy(x).view(len(x), *self._shape).to(self._device), torch.from_numpy(y).to(self._device)


class Samples:
    """A map-style data set of (input, target) pairs. Floating-point numbers become those of the run's dtype."""

    def __init__(self, dataset, dtype: torch.dtype, device: torch.device):
        self._dataset, self._dtype, self._device = dataset, dtype, device
        self._tensors = dataset.tensors if type(dataset) is TensorDataset else None
        targets = getattr(dataset, "targets", self._tensors[1] if self._tensors else None)
        self.targets = None if targets is None else np.asarray(targets)

    def __len__(self):
        return len(self._dataset)

    def batch(self, indices):
        """(inputs, targets) of these samples."""
        if self._tensors:
            chosen = torch.from_numpy(indices.copy())  # it is read-only
            pair = [tensor[chosen] for tensor in self._tensors]
        elif hasattr(self._dataset, "__getitems__"):
            pair = default_collate(self._dataset.__getitems__(indices.tolist()))
        else:
            pair = default_collate([self._dataset[i] for i in indices.tolist()])
        if len(pair) != 2:
            raise UserError(f"[task] dataset: a sample must be a pair (input, target), given {len(pair)} values")
        return tuple(self._of_the_run(part) for part in pair)

    def _of_the_run(self, part):
        if isinstance(part, torch.Tensor):
            return part.to(self._device, self._dtype if part.is_floating_point() else part.dtype)
        if isinstance(part, dict):
            return {key: self._of_the_run(value) for key, value in part.items()}
        return tuple(map(self._of_the_run, part)) if isinstance(part, (list, tuple)) else part


class Split(NamedTuple):
    """Training and held-out samples, with `len`, `batch(indices)` and `targets`, an array or None."""

    train: Arrays | Samples
    test: Arrays | Samples
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def samples(task, place, dtype: torch.dtype, device: torch.device) -> Split:
    """What the [task] table names, in batches on a device of PyTorch. UserError where that does not do."""
    if task.dataset is None:
        data = place.world.on_node(partial(_load, task, place), node_copy.publish, node_copy.attach)
        shape = data.shape or data.x_train.shape[1:]
        parts = [Arrays(data, *arrays, shape, device) for arrays in ((data.x_train, data.y_train), (data.x_test, data.y_test))]
        return Split(*parts, data.names, data.notes)
    How(**reading_keys(task)).require_only((), task.dataset)
    found = load_object(task.dataset, "[task] dataset")()
    if not (isinstance(found, (tuple, list)) and len(found) == 2 and all(hasattr(part, "__getitem__") for part in found)):
        raise UserError(f"[task] dataset {task.dataset} must return two map-style data sets, (train, test), given {found!r:.100}")
    for part, which in zip(found, ("training", "held-out")):
        if len(part) == 0:
            raise UserError(f"[task] dataset {task.dataset}: the {which} data set is empty")
    return Split(*(Samples(part, dtype, device) for part in found))


def _load(task, place):
    kind = "regress" if task.loss == "mse" else "classify"
    return load(task.data, kind, place.dtype, task.data_seed, test_fraction=task.test_fraction, standardize=task.standardize,
                **reading_keys(task))


def tensors_in(path: str) -> dict[str, torch.Tensor]:
    """{name: tensor} of a .safetensors file or of a state_dict in a .pt file. UserError."""
    if not Path(path).is_file():
        raise UserError(f"[task] start = {path!r}: there is no such file")
    try:
        if path.endswith(".safetensors"):
            from safetensors.torch import load_file

            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the readers raise what they like for a damaged file
        raise UserError(f"[task] start = {path!r} cannot be read: {error!s:.300}") from error
    if not isinstance(found, dict) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise UserError(f"[task] start = {path!r} must hold a state_dict, found {type(found).__name__}")
    return found
