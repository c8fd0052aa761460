"""Any PyTorch module."""

from typing import Annotated, Any, Literal

from msgspec import Meta

from coopmpi.errors import missing
from coopmpi.ranges import Column, Count, File, Seed, file_or
from coopmpi.registry import register
from coopmpi.tasks.data.partition import KINDS as PARTITIONS
from coopmpi.tasks.data.partition import READ_WITH
from coopmpi.tasks.data.sets import BUILTIN
from coopmpi.tasks.task import Task


@register("task", "torch")
class Torch(Task, frozen=True, kw_only=True):
    """`module = "package.module:name"` gives an nn.Module when it is called with the table `options`."""

    read_with = READ_WITH | {"data": ("dataset", None), "standardize": ("dataset", None), "test_fraction": ("dataset", None),
                             "data_seed": ("data", "teacher")}

    module: str
    options: dict[str, Any] = {}
    loss: str = "cross-entropy"  # cross-entropy, mse, or package.module:function(outputs, targets)
    dataset: str | None = None  # package.module:function, gives (train, test) map-style data sets; instead of `data`
    data: file_or(*BUILTIN) = "digits"
    label: Column | None = None  # of a CSV file: the column's name, or its number, from 1
    ignore: tuple[Column, ...] | None = None  # of a CSV file: columns that are not read
    size: tuple[Count, Count] | None = None  # of folders of images: (height, width) that they are scaled to
    standardize: bool = False
    test_fraction: Annotated[float, Meta(gt=0, lt=1)] = 0.2  # split off where the data has no test part
    data_seed: Seed = 0
    batch: Count = 32
    partition: Literal[*PARTITIONS] = "iid"
    concentration: Annotated[float, Meta(ge=1e-6, le=1e6)] = 0.5  # dirichlet: smaller is less alike
    shards_per_worker: Count = 2  # shards
    augment: str | None = None  # package.module:function(inputs), in training
    metrics: dict[str, str] = {}  # further figures: {name: package.module:function(outputs, targets)}
    autocast: Literal["none", "bfloat16", "float16"] = "none"
    compile: bool = False
    start: File | None = None  # a warm start: .safetensors, a state_dict in .pt, or a run.h5

    def device(self, chosen):
        return bridge('[task] kind = "torch"').TorchHost() if chosen.name == "cpu" else chosen

    def prepare(self, place):
        return bridge('[task] kind = "torch"').TorchProblem(self, place)


def bridge(whose):
    """The package that imports PyTorch; UserError where that is not installed. whose: what needs it."""
    try:
        from coopmpi.bridges import torch
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "safetensors"):
            raise
        raise missing(whose, error.name, "torch") from error
    return torch
