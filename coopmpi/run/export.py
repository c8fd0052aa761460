"""A run's model as a file that other programs read."""

from pathlib import Path

import numpy as np

from coopmpi import config
from coopmpi.drafts import draft_of
from coopmpi.errors import CoopError, UserError
from coopmpi.record.models import Model
from coopmpi.tasks.torch import Torch, bridge

SUFFIXES = (".safetensors", ".pt", ".npz")


def require_suffix(path):
    """UserError for a file of a kind that is not written."""
    if Path(path).suffix not in SUFFIXES:
        raise UserError(f"output {str(path)!r} must end with {', '.join(SUFFIXES)}")


def export(model: Model, path) -> int:
    """Write a model; how many tensors there are.

    A PyTorch module's file is its whole state_dict: buffers and frozen parameters, too. UserError, CoopError.
    """
    require_suffix(path)
    arrays, path = model.tensors, Path(path)
    if model.task == Torch.name:
        described = config.resolve(model.tables)
        arrays = bridge("coopmpi export").export.state_dict(described.task, described.seed, described.dtype, model)
    try:
        with draft_of(path) as draft:
            if path.suffix == ".npz":
                np.savez(draft, **arrays)
            else:
                bridge(f"coopmpi export -o {path.name}").export.write(str(draft), arrays)
    except OSError as error:
        raise CoopError(f"writing {str(path)!r} failed: {error.strerror or error}") from error
    return len(arrays)
