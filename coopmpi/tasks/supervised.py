"""Learning from labelled data: a data set, its partition over the workers, and a neural network."""

from functools import partial
from types import SimpleNamespace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from msgspec import Meta

from coopmpi.errors import UserError
from coopmpi.ranges import Column, Count, NonNegative, Seed, Whole, file_or
from coopmpi.registry import register
from coopmpi.streams import Purpose, stream
from coopmpi.tasks.data import node_copy
from coopmpi.tasks.data.batches import Batches
from coopmpi.tasks.data.formats.raw import reading_keys
from coopmpi.tasks.data.partition import KINDS as PARTITIONS
from coopmpi.tasks.data.partition import READ_WITH, partition
from coopmpi.tasks.data.sets import BUILTIN, load, outline
from coopmpi.tasks.nn.architectures import DEEP
from coopmpi.tasks.nn.architectures import KINDS as MODELS
from coopmpi.tasks.nn.models import build_model
from coopmpi.tasks.problem import Problem, require_countable
from coopmpi.tasks.task import Task


LARGE_BATCH = 65536  # samples: smaller ones may draw a sample several times


class Supervised(Task, frozen=True, kw_only=True):
    """Common keys of classify and regress. batch: samples per worker and step, 0 for the whole local shard."""

    name: ClassVar[str]
    read_with = READ_WITH | {"model": ("layers", None), "hidden": ("model", "mlp"), "depth": ("model", *DEEP)} | dict.fromkeys(
        ("samples", "features", "noise", "data_seed"), ("data", "teacher"))
    data: file_or(*BUILTIN) = "digits"
    label: Column | None = None  # of a CSV file: the column's name, or its number, from 1
    ignore: tuple[Column, ...] | None = None  # of a CSV file: columns that are not read
    size: tuple[Count, Count] | None = None  # of folders of images: (height, width) that they are scaled to
    model: Literal[*MODELS] = "mlp"
    hidden: tuple[Count, ...] = (128,)  # widths of an mlp
    depth: Count | None = None  # of a resnet (default 20) or vgg (11)
    layers: list[dict[str, Any]] | None = None  # any stack of layers, instead of `model`
    batch: Whole = 32
    partition: Literal[*PARTITIONS] = "iid"
    concentration: Annotated[float, Meta(ge=1e-6, le=1e6)] = 0.5  # dirichlet: smaller is less alike
    shards_per_worker: Count = 2  # shards
    test_fraction: Annotated[float, Meta(gt=0, lt=1)] = 0.2  # split off where the data has no test part
    standardize: bool = False
    samples: Count = 10000  # the teacher's, and so on
    features: Count = 32
    noise: NonNegative = 0.0
    data_seed: Seed = 0  # not the run's seed: runs that are compared share the data

    def prepare(self, place):
        return SupervisedProblem(self, place)

    def outline(self, place):
        data = outline(self.data, self.name, test_fraction=self.test_fraction, samples=self.samples,
                       features=self.features, **self.targets(), **reading_keys(self))
        layout = self.build(data.features, data.shape, data.outputs).layout
        return SimpleNamespace(dimension=layout.size, layout=layout, samples=data.samples, batch=self.batch or None)

    def load(self, place):
        return load(self.data, self.name, place.dtype, self.data_seed, test_fraction=self.test_fraction,
                    standardize=self.standardize, samples=self.samples, features=self.features, noise=self.noise,
                    **self.targets(), **reading_keys(self))

    def build(self, features, shape, outputs):
        """The Model on samples of so many features, images of that shape if any."""
        return build_model(self.model, features, shape, outputs, self.hidden, self.layers, self.loss, self.depth)


@register("task", "classify")
class Classify(Supervised, frozen=True, kw_only=True):
    """Classification: softmax cross-entropy over class labels."""

    loss: ClassVar[str] = "cross-entropy"
    classes: Annotated[int, Meta(ge=2)] | None = None  # default: found from the labels

    @property
    def lr(self):
        # the curvature grows with the number of features before the last layer, and has no bound for squared errors
        return 0.01 if self.model == "vgg" else None

    def targets(self):
        return {"classes": self.classes}


@register("task", "regress")
class Regress(Supervised, frozen=True, kw_only=True):
    """Regression: half the squared error."""

    loss: ClassVar[str] = "squared-error"
    read_with = Supervised.read_with | {"outputs": ("data", "teacher")}
    data: file_or(*BUILTIN) = "teacher"
    outputs: Count = 1  # the teacher's

    @property
    def lr(self):
        return 0.002 if self.model == "vgg" else 0.02

    def targets(self):
        return {"outputs": self.outputs}


class SupervisedProblem(Problem):
    """The local shards of this rank's workers, on its device."""

    def __init__(self, task, place):
        self.place, device = place, place.device
        data = place.world.on_node(partial(task.load, place), node_copy.publish, node_copy.attach)
        if task.batch > max(len(data.x_train), LARGE_BATCH):
            raise UserError(f"[task] batch = {task.batch} is more than the {len(data.x_train)} training samples; "
                            f"allowed: up to {max(len(data.x_train), LARGE_BATCH)}, or 0 for the whole shard")
        self.model = task.build(data.x_train.shape[1], data.shape, data.classes or data.y_train.shape[1])
        self.dimension, self.layout = self.model.layout.size, self.model.layout
        self.class_names, self.notes = data.names, data.notes
        require_countable(place.workers, self.dimension)

        shards = partition(data.y_train, len(data.x_train), place.workers, task.partition, place.seed,
                           task.concentration, task.shards_per_worker)
        hosted = place.hosted
        longest = max(map(len, shards))
        own = shards[hosted.start:hosted.stop]
        self.figures = {
            "loss": ("1", "loss of the mean model on held-out data"),
            "train_loss": ("1", "loss of the mean model on training data: as many samples as are held out")}
        if self.model.classifies:
            self.figures["accuracy"] = ("1", "share of correct predictions of the mean model on held-out data")
            self.chance = {"accuracy": np.bincount(data.y_test).max() / len(data.y_test)}
        self.batches = Batches(own, hosted, task.batch, place.seed, place.dtype, longest)
        self.samples, self.batch = len(data.x_train), task.batch or longest

        # this rank evaluates its share of the test set
        share = place.share(len(data.x_test))
        self.x_train, self.y_train = device.asarray(data.x_train), device.asarray(data.y_train)
        self.x_test, self.y_test = device.asarray(data.x_test[share]), device.asarray(data.y_test[share])
        self.scaling = data.scaling and data.scaling.on(device)
        # and its share of as many training samples, spread over all of them
        self.looked_at = device.asarray(place.spread(self.samples, len(data.x_test)))
        self.out = device.empty((len(hosted), self.dimension), place.dtype)

    def initial(self):
        return self.model.initial(stream(self.place.seed, Purpose.MODEL), self.place.dtype)

    def gradient(self, x, step):
        device = self.place.device
        chosen = device.asarray(self.batches.indices(step))
        weights = self.batches.weights(step)
        weights = None if weights is None else device.asarray(weights)
        inputs = self._inputs(device.xp.take(self.x_train, chosen, axis=0))
        targets = device.xp.take(self.y_train, chosen, axis=0)
        losses = self.model.loss_and_gradient(device.xp, x, inputs, targets, weights, self.out)
        return losses, self.out

    def _inputs(self, rows):
        """Rows of the data as numbers of the run's dtype."""
        return self.scaling(self.place.device.xp, rows) if self.scaling else rows

    def memory(self):
        n, b = self.batch, len(self.place.hosted)
        sample = self.x_train.shape[1] * self.out.dtype.itemsize + self.y_train[:1].nbytes
        workspace = self.model.workspace(self.place.device.xp, b, n, self.out.dtype)
        return {"gradients": self.out.nbytes, "mini-batches": b * n * sample, "activations": workspace,
                "data (one copy per node)": sum(a.nbytes for a in (self.x_train, self.y_train, self.x_test, self.y_test))}

    def evaluate(self, mean):
        xp = self.place.device.xp
        loss, correct = self.model.evaluate(xp, mean, self._inputs(self.x_test), self.y_test)
        seen, labels = (xp.take(data, self.looked_at, axis=0) for data in (self.x_train, self.y_train))
        train_loss, _ = self.model.evaluate(xp, mean, self._inputs(seen), labels)
        figures = {"loss": (float(loss), len(self.x_test)), "train_loss": (float(train_loss), len(self.looked_at))}
        if self.model.classifies:
            figures["accuracy"] = (float(correct), len(self.x_test))
        return figures
