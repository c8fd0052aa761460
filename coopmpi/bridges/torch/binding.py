"""A PyTorch module whose numbers lie in rows of other arrays: parameters in a worker's model, buffers in a row of their own."""

from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from coopmpi.bridges.torch.device import OnHost
from coopmpi.errors import UserError
from coopmpi.step.requests import Array
from coopmpi.step.slots import Slot

MOST = 256  # rows whose views are remembered
LARGE = 2**16  # numbers of a parameter whose gradient goes into the row as soon as it is there
SAID = {"buffers": "floating-point buffers", "counters": "counters"}


class Member(NamedTuple):
    """A tensor of a module: `table[key]` is the module's own entry, `name` the full one."""

    table: dict
    key: str
    name: str
    tensor: torch.Tensor


class Flat:
    """Tensors that lie one after the other in a row of one type; `members` may name a tensor more than once.

    where: OnHost or OnGpu, see coopmpi.bridges.torch.device; rows are arrays of that device.
    """

    def __init__(self, members: list[Member], dtype: torch.dtype, where):
        self.members, self.dtype, self.where = members, dtype, where
        self.names, self.tensors = [], []
        for member in members:
            if not any(member.tensor is known for known in self.tensors):
                self.names.append(member.name)
                self.tensors.append(member.tensor)
        self.shapes = [tuple(tensor.shape) for tensor in self.tensors]
        sizes = [tensor.numel() for tensor in self.tensors]
        self.offsets = [0, *np.cumsum(sizes).tolist()]
        self.size = self.offsets.pop()
        self._views = {}

    def values(self) -> np.ndarray:
        """What the tensors hold, as one row on the host."""
        return np.concatenate([tensor.detach().reshape(-1).to(self.dtype).cpu().numpy() for tensor in self.tensors])

    @property
    def layout(self) -> tuple[tuple[str, tuple, int], ...]:
        """(name, shape, offset) of each tensor."""
        return tuple(zip(self.names, self.shapes, self.offsets))

    def fill(self, row: np.ndarray):
        """Let the tensors hold the numbers of a row (size,) of the host, where they are."""
        torch._foreach_copy_([tensor.data for tensor in self.tensors], self._cut(torch.from_numpy(row)))

    def at(self, row: Array) -> list[torch.Tensor]:
        """The tensors as views of a row (size,), which they do not keep alive."""
        address = self.where.address(row)
        views = self._views.get(address)
        if views is None:
            if len(self._views) == MOST:
                self._views.clear()
            views = self._views[address] = self._cut(self.where.tensor(row, self.dtype))
        return views

    def _cut(self, whole):
        return [whole[offset:offset + tensor.numel()].view(shape)
                for tensor, shape, offset in zip(self.tensors, self.shapes, self.offsets)]

    def move(self, views: list[torch.Tensor]):
        """Let the tensors be these views."""
        for tensor, view in zip(self.tensors, views):
            tensor.data = view


class Binding:
    """The trained parameters of a module, and `own`: its floating-point "buffers" and int64 "counters", where there are such.

    All else stays in the module: parameters that need no gradient, buffers of other types, as masks are, and those that a
    state_dict leaves out. A tensor that several modules share is one tensor.
    """

    def __init__(self, module: torch.nn.Module, dtype: torch.dtype, where=OnHost()):
        trained, buffers, counters = [], [], []
        for prefix, part in module.named_modules(remove_duplicate=True):
            path = f"{prefix}." if prefix else ""
            trained += [Member(part._parameters, key, path + key, tensor) for key, tensor in part._parameters.items()
                        if tensor is not None and tensor.requires_grad]
            for key, tensor in part._buffers.items():
                if tensor is not None and tensor.numel() and key not in part._non_persistent_buffers_set:
                    kept = {dtype: buffers, torch.int64: counters}.get(tensor.dtype, [])
                    kept.append(Member(part._buffers, key, path + key, tensor))
        self.parameters = Flat(trained, dtype, where)
        found = {"buffers": (buffers, dtype), "counters": (counters, torch.int64)}
        self.own = {name: Flat(members, kind, where) for name, (members, kind) in found.items() if members}
        self._bound, self._pointers = None, []  # views of rows, and where those of the parameters are
        self._into, self._taken = None, None  # views of the row that gradients go into; numbers of those that are there

    @property
    def slots(self) -> tuple[Slot, ...]:
        """State of a worker's own for the buffers: a row for each Flat of `own`."""
        return tuple(Slot(name, "worker", flat.values(), f"the module's {SAID[name]}", columns=flat.size,
                          dtype="int64" if flat.dtype is torch.int64 else None) for name, flat in self.own.items())

    def bind(self, *rows: Array):
        """Let the module be that of these rows: a model, then the buffers and the counters, where there are such."""
        self.require_in_place()
        views = [flat.at(row) for flat, row in zip(self.flats, rows)]
        if self._bound is None or any(new is not old for new, old in zip(views, self._bound)):
            for flat, found in zip(self.flats, views):
                flat.move(found)
            self._bound, self._pointers = views, [view.data_ptr() for view in views[0]]

    def bind_worker(self, row: Array, state, i: int):
        """The same for a model and the buffers of the i-th local worker, whose rows the slots' state holds."""
        self.bind(row, *(getattr(state, name)[i] for name in self.own))

    def release(self):
        """Let the module have its numbers in memory of its own again."""
        for flat, views in zip(self.flats, self._bound):
            flat.move([view.clone() for view in views])
        self._bound = None

    @property
    def bound(self) -> bool:
        """Do the tensors lie in rows?"""
        return self._bound is not None

    def backward(self, loss: torch.Tensor, row: Array):
        """loss.backward(), with the gradients into a row (d,): large ones at once, so that few lie in memory twice."""
        if self._taken is None:
            for number in self._large:
                self.parameters.tensors[number].register_post_accumulate_grad_hook(partial(self._take, number))
        self._into, self._taken = self.parameters.at(row), set()
        loss.backward()
        self.take_gradients(row, self._taken)

    def _take(self, number, tensor):
        self._into[number].copy_(_dense(tensor.grad))
        tensor.grad = None
        self._taken.add(number)

    @property
    def _large(self):
        return [number for number, tensor in enumerate(self.parameters.tensors) if tensor.numel() >= LARGE]

    @property
    def gradient_memory(self) -> int:
        """Bytes of the module's own gradients in `backward`."""
        sizes = [tensor.nbytes for tensor in self.parameters.tensors]
        large = [sizes[number] for number in self._large]
        return sum(sizes) - sum(large) + max(large, default=0)

    def take_gradients(self, row: Array, taken=()):
        """Those of the parameters into a row (d,), but the ones already taken; a parameter that took no part has zeros."""
        gradients, to = [], []
        for number, (tensor, view) in enumerate(zip(self.parameters.tensors, self.parameters.at(row))):
            if number in taken:
                continue
            if tensor.grad is None:
                view.zero_()
            else:
                gradients.append(_dense(tensor.grad))
                to.append(view)
            tensor.grad = None
        torch._foreach_copy_(to, gradients)

    def set_gradients(self, row: Array):
        """Let the parameters have these numbers (d,) as their gradients, without a copy."""
        for tensor, view in zip(self.parameters.tensors, self.parameters.at(row)):
            tensor.grad = view

    @property
    def flats(self) -> list[Flat]:
        return [self.parameters, *self.own.values()]

    def require_in_place(self):
        """UserError for a parameter that is not the one that was bound; buffers that were set anew are brought back."""
        if self._bound is None:
            return
        for member in self.parameters.members:
            if member.table.get(member.key) is not member.tensor:
                raise _replaced(member.name)
        for name, tensor, pointer in zip(self.parameters.names, self.parameters.tensors, self._pointers):
            if tensor.data_ptr() != pointer:
                raise _replaced(name)
        for flat in self.flats[1:]:
            for member in flat.members:
                found = member.table.get(member.key)
                if found is not member.tensor:
                    if found is None or found.shape != member.tensor.shape:
                        raise UserError(f"buffer {member.name!r} of the module was {tuple(member.tensor.shape)} and became "
                                        f"{None if found is None else tuple(found.shape)}: its shape must stay")
                    member.tensor.copy_(found.detach())
                    member.table[member.key] = member.tensor


def _dense(gradient):
    return gradient.to_dense() if gradient.is_sparse else gradient


def start_from(module: torch.nn.Module, model):
    """Let a module have the numbers of a run's model, a coopmpi.record.models.Model; RuntimeError if it has other tensors."""
    binding = Binding(module, next(module.parameters()).dtype)
    expected = {name: shape for name, shape, _ in binding.parameters.layout} | {name: (flat.size,) for name, flat in binding.own.items()}
    found = model.tensors | {name: row for name, row in model.own.items() if name in SAID}
    if expected != {name: array.shape for name, array in found.items()}:
        other = sorted(name for name in expected.keys() | found.keys()
                       if name not in expected or name not in found or expected[name] != found[name].shape)
        raise RuntimeError(f"{', '.join(other)} is of another shape, or in one of them alone")
    binding.parameters.fill(np.concatenate([array.ravel() for array in model.tensors.values()]))
    for name, flat in binding.own.items():
        flat.fill(model.own[name])


def _replaced(name):
    return UserError(f"parameter {name!r} of the module was replaced or moved, as load_state_dict(assign=True), .double(), .to() and "
                     "assignments do; its numbers are a part of coopmpi's model: change them in place, under torch.no_grad()")
