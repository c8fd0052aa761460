"""A PyTorch module as a problem: every worker's model is bound to the module in turn."""

import inspect
import os
from contextlib import nullcontext

import torch
from torch.nn import functional

from coopmpi.bridges.torch.binding import Binding, start_from
from coopmpi.bridges.torch.device import beside
from coopmpi.bridges.torch.samples import samples, tensors_in
from coopmpi.errors import UserError, unknown
from coopmpi.record.models import final_model
from coopmpi.registry import load_object
from coopmpi.step.slots import Slot
from coopmpi.streams import Purpose, stream
from coopmpi.tasks.data.batches import Batches
from coopmpi.tasks.data.partition import partition
from coopmpi.tasks.problem import Problem, require_countable

LOSSES = {"cross-entropy": functional.cross_entropy, "mse": functional.mse_loss}
CHUNK = 256  # samples of an evaluation that go through the module together
# float16 ends at 65504: the loss is scaled so that gradients neither vanish nor overflow, as PyTorch's GradScaler does it
GROWS_AFTER = 2000  # steps without an overflow
LOSS_SCALE = Slot("loss_scale", "worker", (2.0**16, 0.0), "scale of the loss under float16, and steps without an overflow", columns=2)


class TorchProblem(Problem):
    """The objectives of this rank's workers, on its device.

    task: a coopmpi.tasks.torch.Torch. Dropout and augmentation draw from (seed, worker, step), buffers are rows of the
    problem's own slots.
    """

    def __init__(self, task, place):
        self.task, self.place, dtype = task, place, getattr(torch, place.dtype)
        torch.set_num_threads(max(1, min(torch.get_num_threads(), len(os.sched_getaffinity(0)) // place.world.local_size)))
        self._criterion = _named(task.loss, "loss", LOSSES)
        self._augment = task.augment and load_object(task.augment, "[task] augment")
        self._metrics = {name: load_object(path, f"[task] metrics.{name}") for name, path in task.metrics.items()}
        self.where = beside(place.device)
        self.module = self._made()
        self.binding = Binding(self.module, dtype, self.where)
        parameters = self.binding.parameters
        if not parameters.size:
            raise UserError(f"[task] module {task.module}: none of its parameters needs a gradient, so there is nothing to train")
        self.dimension = parameters.size
        self.layout = parameters.layout
        require_countable(place.workers, self.dimension)
        self.slots = self.binding.slots
        self._call = torch.compile(self.module) if task.compile else self.module
        self._autocast = nullcontext()
        if task.autocast != "none":
            self._autocast = torch.autocast(self.where.device.type, dtype=getattr(torch, task.autocast))
        self._scales = task.autocast == "float16"
        self.slots += (LOSS_SCALE,) * self._scales

        self.data = samples(task, place, dtype, self.where.device)
        self.class_names, self.notes = self.data.class_names, self.data.notes
        hosted, self.samples, self.batch = place.hosted, len(self.data.train), task.batch
        if task.batch > self.samples:
            raise UserError(f"[task] batch = {task.batch} is more than the {self.samples} training samples")
        shards = partition(self.data.train.targets, self.samples, place.workers, task.partition, place.seed, task.concentration,
                           task.shards_per_worker)
        self._batches = Batches(shards[hosted.start:hosted.stop], hosted, task.batch, place.seed)
        # what this rank evaluates
        held_out = len(self.data.test)
        self._held_out, self._looked_at = place.spread(held_out, held_out), place.spread(self.samples, held_out)
        self._out = place.device.empty((len(hosted), self.dimension), place.dtype)
        self._losses = place.device.empty((len(hosted),), place.dtype)
        self._each_loss = list(self.where.tensor(self._losses, dtype))  # one by one
        self.figures, self.rising = self._figures()

    def _figures(self):
        found = {"loss": ("1", "loss of the mean model on held-out data"),
                 "train_loss": ("1", "loss of the mean model on training data: as many samples as are held out")}
        if self.task.loss == "cross-entropy":
            found["accuracy"] = ("1", "share of correct predictions of the mean model on held-out data")
        for name in self._metrics:
            if name in found:
                raise UserError(f"[task] metrics: {name!r} is a figure of every such task; take another name")
            found[name] = ("1", f"{self.task.metrics[name]} of the mean model on held-out data")
        falling = {name for name, function in self._metrics.items() if not getattr(function, "rising", True)}
        return found, ("accuracy", *(name for name in self._metrics if name not in falling))

    def _made(self):
        module = built(self.task, self.place.seed).to(getattr(torch, self.place.dtype))
        if self.task.start:
            _start(module, self.task.start)
        return module.to(self.where.device)

    def initial(self):
        # the module has these numbers until it is bound to a worker's; they are seldom asked for later
        module = Binding(self._made(), self.binding.parameters.dtype, self.where) if self.binding.bound else self.binding
        return module.parameters.values()

    def gradient(self, x, step, state=None):
        if not self.module.training:
            self.module.train()
        for i, worker in enumerate(self.place.hosted):
            self.where.seed(seed_of(self.place.seed, worker, step))
            self.binding.bind_worker(x[i], state, i)
            inputs, targets = self.data.train.batch(self._batches.indices(step)[i])
            if self._augment:
                inputs = self._augment(inputs)
            loss = self._outcome(inputs, targets)[1]
            if self._scales:
                self._scaled_backward(loss, self._out[i], state.loss_scale[i])
            else:
                self.binding.backward(loss, self._out[i])
            self._each_loss[i].copy_(loss.detach())
        return self._losses, self._out

    def _scaled_backward(self, loss, row, scale):
        """The gradient of loss times scale, over scale; zero, and half the scale for the next step, if that is too large for float16."""
        scale, steps = self.where.tensor(scale, self.binding.parameters.dtype)
        self.binding.backward(loss * scale, row)
        gradient = self.where.tensor(row, self.binding.parameters.dtype).div_(scale)
        fine = torch.isfinite(gradient).all()
        gradient.masked_fill_(~fine, 0.0)
        steps.copy_(torch.where(fine, steps + 1, 0))
        grown = steps >= GROWS_AFTER
        scale.mul_(torch.where(fine, torch.where(grown, 2.0, 1.0), 0.5))
        steps.masked_fill_(grown, 0.0)

    def _outcome(self, inputs, targets):
        """(outputs, loss) of a batch."""
        with self._autocast:
            outputs = self._call(*inputs) if isinstance(inputs, tuple) else self._call(inputs)
            loss = self._criterion(outputs, targets)
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
            raise UserError(f"[task] loss {self.task.loss} must return a tensor of one number, the mean over the batch; "
                            f"given {f'one of shape {tuple(loss.shape)}' if isinstance(loss, torch.Tensor) else repr(loss)}")
        return outputs, loss

    @torch.no_grad()
    def evaluate(self, mean, state=None):
        self.module.eval()
        self.binding.bind_worker(mean[0], state, 0)
        found = self._sums(self.data.test, self._held_out, self.figures.keys() - {"train_loss"})
        return found | {"train_loss": self._sums(self.data.train, self._looked_at, {"loss"})["loss"]}

    def _sums(self, part, indices, wanted):
        """{figure: (sum over these samples, their number)}."""
        sums = dict.fromkeys(wanted, 0.0)
        for first in range(0, len(indices), CHUNK):
            chosen = indices[first:first + CHUNK]
            inputs, targets = part.batch(chosen)
            outputs, loss = self._outcome(inputs, targets)
            found = {"loss": loss}
            if "accuracy" in wanted:
                found["accuracy"] = (outputs.argmax(1) == targets).double().mean()
            found |= {name: function(outputs, targets) for name, function in self._metrics.items() if name in wanted}
            for name, value in found.items():
                sums[name] += float(value) * len(chosen)
        return {name: (value, len(indices)) for name, value in sums.items()}

    def memory(self):
        return {"gradients": self._out.nbytes, "the module's gradients": self.binding.gradient_memory,
                "parameters that are not trained": sum(p.nbytes for p in self.module.parameters() if not p.requires_grad)}


def _named(name, key, known):
    if name in known:
        return known[name]
    if ":" not in name:
        raise unknown(key, name, (*known, "package.module:function"), where="[task] ")
    return load_object(name, f"[task] {key}")


def seed_of(seed, worker, step):
    """The seed of PyTorch's random numbers in a worker's step."""
    return int(stream(seed, Purpose.MODULE, worker, step).integers(2**63))


def built(task, seed):
    """The module, from the same random numbers on every rank."""
    function = load_object(task.module, "[task] module")
    if not callable(function):
        raise UserError(f"[task] module {task.module} must be a function or a class, found {function!r:.100}")
    try:
        inspect.signature(function).bind(**task.options)
    except TypeError as error:
        raise UserError(f"[task] module {task.module} cannot be called with the options {sorted(task.options)}: {error}") from error
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(stream(seed, Purpose.MODEL).integers(2**63)))
        module = function(**task.options)
    if not isinstance(module, torch.nn.Module):
        raise UserError(f"[task] module {task.module} must return a torch.nn.Module, given {module!r:.100}")
    return module


def _start(module, path):
    try:
        if path.endswith(".h5"):
            start_from(module, final_model(path))
        else:
            module.load_state_dict(tensors_in(path))
    except RuntimeError as error:
        raise UserError(f"[task] start = {path!r} does not fit the module: {error!s:.600}") from error
