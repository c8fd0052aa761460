"""Models of finished runs as files that PyTorch reads."""

import numpy as np
import torch
from safetensors.torch import save_file

from coopmpi.bridges.torch.binding import start_from
from coopmpi.bridges.torch.problem import built
from coopmpi.errors import UserError


def state_dict(task, seed: int, dtype: str, model) -> dict:
    """That of the run's module, {name: array}, with the numbers of a coopmpi.record.models.Model; UserError if it has others."""
    module = built(task, seed).to(getattr(torch, dtype))
    try:
        start_from(module, model)
    except RuntimeError as error:
        raise UserError(f"[task] module {task.module} is not that of the run any more: {error}") from error
    return {name: tensor.numpy() for name, tensor in module.state_dict().items()}


def tensors(arrays: dict) -> dict:
    """Arrays as tensors of their own memory, as torch.save takes them."""
    return {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}


def write(path: str, arrays: dict):
    """Arrays as a .safetensors file, or as a state_dict in a .pt file."""
    found = tensors(arrays)
    if path.endswith(".safetensors"):
        save_file(found, path)
    else:
        torch.save(found, path)
