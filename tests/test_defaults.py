"""No default diverges: everything that is registered learns something with the keys that it has by itself."""

import numpy as np
import pytest

from coopmpi import config, registry
from coopmpi.drivers.solo import Solo
from coopmpi.run.assemble import assemble
from coopmpi.run.loop import Trainer
from coopmpi.sinks import Sink
from coopmpi.tasks.data import builtin
from coopmpi.tasks.nn.architectures import KINDS as MODELS

KINDS = ("classify", "regress")  # of tasks that need nothing but their defaults
# what takes long is tried with less
SMALLER = {"cnn": {"batch": 8}, "resnet": {"depth": 8, "batch": 8}}
STEPS = {"cnn": 30, "resnet": 10}


class Figures(Sink):
    """Those of the first and the last evaluation."""

    def evaluation(self, step, wall_time, figures):
        self.first, self.last = getattr(self, "first", figures), figures


def learns(steps=60, workers=4, share=0.9, **tables):
    """Does the loss on training data become clearly smaller, less than this share of the first one?"""
    figures = Figures()
    given = {"workers": workers, "steps": steps, "device": "cpu", "record": {"eval_every": steps}} | tables
    Trainer(assemble(config.resolve(given), Solo()), figures).train()
    assert figures.last["train_loss"] < share * figures.first["train_loss"], (figures.first, figures.last)


@pytest.mark.parametrize("task", KINDS)
@pytest.mark.parametrize("kind", registry.parts("algorithm"))
def test_algorithms(kind, task):
    lazy = {"mixing": {"lazy": True}} if kind == "d2" else {}  # which it asks for on a ring of 4
    learns(algorithm={"kind": kind}, task={"kind": task}, **lazy)


@pytest.mark.parametrize("task", KINDS)
@pytest.mark.parametrize("kind", registry.parts("optimizer"))
def test_optimizers(kind, task):
    learns(optimizer={"kind": kind}, task={"kind": task}, steps=120)


@pytest.mark.parametrize("task", KINDS)
@pytest.mark.parametrize("table, kind", [(table, kind) for table in ("period", "schedule") for kind in registry.parts(table)])
def test_periods_and_schedules(table, kind, task):
    learns(task={"kind": task}, **{table: {"kind": kind}})


@pytest.mark.parametrize("task", KINDS)
@pytest.mark.parametrize("model", [model for model in MODELS if model != "vgg"])
def test_models(model, task):
    learns(task={"kind": task, "data": "digits", "model": model} | SMALLER.get(model, {}), steps=STEPS.get(model, 60), workers=1)


@pytest.mark.parametrize("task", KINDS)
def test_vgg(task, tmp_path):
    """Digits enlarged to 32 x 32. Its loss jumps in the first steps and comes back slowly: it is not to run away."""
    raw = builtin.digits()
    x, y = np.kron(np.reshape(raw.x, (-1, 1, 8, 8))[:60], np.ones((4, 4))) / 16, raw.y[:60]
    np.savez(tmp_path / "images.npz", x_train=x[:50], y_train=y[:50], x_test=x[50:], y_test=y[50:])
    learns(task={"kind": task, "data": str(tmp_path / "images.npz"), "model": "vgg", "batch": 4}, steps=8, workers=1, share=4)


def test_a_learning_rate_of_ones_own_counts(tmp_path):
    plain = config.resolve({"task": {"kind": "regress"}})
    assert plain.optimizer.lr < config.resolve({}).optimizer.lr
    assert config.resolve({"task": {"kind": "regress"}, "optimizer": {"lr": 0.5}}).optimizer.lr == 0.5
    assert config.resolve({"task": {"kind": "regress"}, "optimizer": {"momentum": 0.5}}).optimizer.lr == plain.optimizer.lr
    adam = {"optimizer": {"kind": "adam"}}
    assert config.resolve({"task": {"kind": "regress"}} | adam).optimizer == config.resolve(adam).optimizer
