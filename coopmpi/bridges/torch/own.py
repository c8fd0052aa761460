"""A module and an optimiser of PyTorch that stay in the hands of their owner: who computes the gradients is not coopmpi."""

from collections.abc import Callable

import numpy as np
import torch

from coopmpi.bridges.torch.binding import Binding
from coopmpi.bridges.torch.device import TorchHost, beside
from coopmpi.errors import UserError
from coopmpi.tasks.problem import Problem

AT_ONCE = 1 << 20  # numbers of rank 0's model that are sent together


class OwnTask:
    """Stands in place of a [task] table. UserError if the module has nothing that can be trained here."""

    name = "loop"

    def __init__(self, module: torch.nn.Module):
        trained = [(name, tensor) for name, tensor in module.named_parameters() if tensor.requires_grad]
        if not trained:
            raise UserError("wrap: none of the module's parameters needs a gradient, so there is nothing to train")
        kinds = {str(tensor.dtype).removeprefix("torch.") for _, tensor in trained}
        if len(kinds) > 1 or not kinds <= {"float32", "float64"}:
            raise UserError(f"wrap: all trained parameters must be float32, or all float64; given {', '.join(sorted(kinds))}")
        places = {tensor.device for _, tensor in trained}
        if len(places) > 1 or not {place.type for place in places} <= {"cpu", "cuda"}:
            raise UserError("wrap: all trained parameters must be on the CPU, or on one GPU of CUDA; given "
                            f"{', '.join(sorted(map(str, places)))}")
        self.dtype, self._name = kinds.pop(), type(module).__qualname__
        self._device = self._device_of(places.pop())
        self.binding = Binding(module, getattr(torch, self.dtype), beside(self._device))

    @staticmethod
    def _device_of(place):
        if place.type == "cpu":
            return TorchHost()
        try:
            from coopmpi.device.gpu import Gpu
        except ImportError as error:
            raise UserError(f"wrap: the module is on {place}, where coopmpi computes with CuPy, which cannot be imported ({error}): pip "
                            "install 'cupy-cuda12x[ctk]' (or cuda13x)") from error
        return Gpu(place.index)

    def device(self, chosen):
        return self._device

    def prepare(self, place):
        return OwnProblem(self.binding, place)

    def table(self):
        return {"kind": self.name, "module": self._name}


class OwnProblem(Problem):
    """One worker's objective, whose gradients its owner computes. All ranks begin with the numbers of rank 0's module."""

    def __init__(self, binding, place):
        self.binding, parameters = binding, binding.parameters
        for flat in binding.flats:
            flat.fill(_of_first(flat.values(), place.world))
        self.dimension = parameters.size
        self.layout = parameters.layout
        self.slots = binding.slots
        self.figures, self._row = {}, place.device.empty((1, self.dimension), place.dtype)
        self._losses = place.device.empty((1,), place.dtype)
        self._loss = parameters.where.tensor(self._losses, parameters.dtype)

    def taken(self, loss):
        """Losses (1,) and gradients (1, d): what backward() has left in the module."""
        self.binding.take_gradients(self._row[0])
        self._loss.copy_(torch.as_tensor(loss, dtype=self._loss.dtype).detach().reshape(1))
        return self._losses, self._row

    def initial(self):
        return self.binding.parameters.values()


class OwnOptimizer:
    """A torch.optim optimiser in place of an [optimizer] table; it steps where an algorithm takes its local step.

    bind: lets the module be that of a row (d,).
    """

    slots = ()

    def __init__(self, optimizer: torch.optim.Optimizer, binding: Binding, bind: Callable):
        self.optimizer, self._binding, self._bind = optimizer, binding, bind
        self.name = f"torch.optim.{type(optimizer).__name__}"

    @property
    def lr(self) -> float:
        """That of the first group of parameters, which a scheduler may have changed."""
        return float(self.optimizer.param_groups[0]["lr"])

    @property
    def linear(self) -> bool:
        return type(self.optimizer) is torch.optim.SGD

    @property
    def remembers(self) -> str:
        if self.linear and not any(group["momentum"] for group in self.optimizer.param_groups):
            return ""
        return "state of PyTorch's own"

    def groups(self, tensors):
        """Weight decay is the optimiser's own matter."""
        return []

    def descend(self, state, x, gradient, context):
        """One step of the optimiser for the module at x (1, d), with that gradient (1, d)."""
        self._bind(x[0])
        self._binding.set_gradients(gradient[0])
        self.optimizer.step()
        self.optimizer.zero_grad()

    def forget(self, state):
        """All of the optimiser's state starts anew."""
        self.optimizer.state.clear()

    def table(self):
        return {"kind": self.name, "lr": self.lr}


def require_same_parameters(module, optimizer):
    """UserError unless the optimiser steps all trained parameters of the module, and no others."""
    known = {id(tensor) for group in optimizer.param_groups for tensor in group["params"] if tensor.requires_grad}
    names = {id(tensor): name for name, tensor in module.named_parameters() if tensor.requires_grad}
    left = [name for number, name in names.items() if number not in known]
    if left:
        raise UserError(f"wrap: the optimizer does not step {', '.join(left[:5])}; give it all parameters that need a gradient, or "
                        "say requires_grad_(False) for those")
    if known - names.keys():
        raise UserError(f"wrap: the optimizer steps {len(known - names.keys())} tensors that are no parameters of the module")


def _of_first(row, world):
    """Rank 0's numbers, on all ranks."""
    for first in range(0, len(row), AT_ONCE):
        part = row[first:first + AT_ONCE]
        part[:] = world.sum(part if world.rank == 0 else np.zeros(len(part)))
    return row
