"""PyTorch modules: the bits of plain PyTorch, whatever the placement, through every algorithm and restart."""

import h5py
import numpy as np
import pytest

from coopmpi import config, registry
from coopmpi.contract import problem
from coopmpi.drivers.solo import Solo
from coopmpi.errors import UserError
from coopmpi.planner.curves import forecast, full
from coopmpi.run.assemble import assemble
from coopmpi.tasks.nn.models import build_model
from tests.interruptions import content, interrupted, run
from tests.runs import EVEN_VARIANTS, coopmpi, lockstep, read, settings

torch = pytest.importorskip("torch")
modules = pytest.importorskip("tests.torch_modules")
drawn = pytest.importorskip("coopmpi.bridges.torch.problem").seed_of
HERE = "tests.torch_modules"
STEPS = 30


def task(module="net", **more):
    return {"kind": "torch", "module": f"{HERE}:{module}", "batch": 8} | more


def tables(module="net", variant="local-sgd", task_keys=None, **more):
    return read({"workers": 4, "steps": STEPS, "deterministic": True, "device": "cpu", "algorithm": EVEN_VARIANTS[variant],
                 "task": task(module, **(task_keys or {})), "period": {"tau": 3}, "mixing": {"lazy": True},
                 "optimizer": {} if variant == "sparq-sgd" else {"momentum": 0.9}, "compress": {"kind": "topk", "fraction": 0.3}} | more)


def assembled(given):
    return assemble(config.resolve(given), Solo())


# the contract
PROBLEMS = {"net": {}, "Tied": {}, "Adapted": {}, "Reader": {}, "simple": {"loss": f"{HERE}:squares", "augment": f"{HERE}:noisy"}}


@pytest.mark.parametrize("module", PROBLEMS)
@pytest.mark.parametrize("rule", problem.RULES, ids=lambda rule: rule.__name__)
def test_problems(rule, module):
    rule(problem.Trial(registry.build("task", task(module, **PROBLEMS[module])).prepare, module))


@pytest.mark.parametrize("variant", EVEN_VARIANTS)
def test_a_resumed_run_equals_one_that_was_never_stopped(tmp_path, variant):
    given = tables(variant=variant)
    run(given, tmp_path / "whole.h5")
    interrupted(given, tmp_path / "parts.h5", step=13)
    run(given, tmp_path / "parts.h5", resume=True)
    whole, parts = content(tmp_path / "whole.h5"), content(tmp_path / "parts.h5")
    for name, values in whole.items():
        assert np.array_equal(parts[name], values), name
    with h5py.File(tmp_path / "whole.h5") as one, h5py.File(tmp_path / "parts.h5") as other:
        assert one["eval/loss"][-1] == other["eval/loss"][-1]  # with the buffers of batch norm


# the built-in models beside PyTorch
class Block(torch.nn.Module):
    def __init__(self, before, after, stride):
        super().__init__()
        self.inside = torch.nn.Sequential(
            torch.nn.Conv2d(before, after, 3, stride, 1), torch.nn.GroupNorm(8, after), torch.nn.ReLU(),
            torch.nn.Conv2d(after, after, 3, 1, 1), torch.nn.GroupNorm(8, after))
        self.shortcut = torch.nn.Identity() if before == after else torch.nn.Conv2d(before, after, 1, stride)

    def forward(self, x):
        return torch.relu(self.inside(x) + self.shortcut(x))


def resnet(depth):
    blocks = [Block(before if not i else after, after, 2 if after > before and not i else 1)
              for before, after in ((16, 16), (16, 32), (32, 64)) for i in range(depth // 6)]
    return torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3, 1, 1), torch.nn.GroupNorm(8, 16), torch.nn.ReLU(), *blocks,
                               torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(64, 10))


def vgg(depth):
    layers, before = [], 3
    for after, count in zip((64, 128, 256, 512, 512), {11: (1, 1, 2, 2, 2), 16: (2, 2, 3, 3, 3)}[depth]):
        for _ in range(count):
            layers += [torch.nn.Conv2d(before, after, 3, 1, 1), torch.nn.GroupNorm(8, after), torch.nn.ReLU()]
            before = after
        layers.append(torch.nn.MaxPool2d(2))
    return torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(512, 10))


@pytest.mark.parametrize("kind, depth, side", [("resnet", 8, 12), ("resnet", 14, 9), ("vgg", 11, 32)])
def test_deep_models_have_the_losses_and_gradients_of_pytorch(kind, depth, side):
    own, beside = build_model(kind, 3 * side * side, (3, side, side), 10, depth=depth), {"resnet": resnet, "vgg": vgg}[kind](depth).double()
    rng = np.random.default_rng(0)
    x = own.initial(rng, np.float64) + 0.01 * rng.standard_normal(own.layout.size)
    tensors = list(beside.parameters())
    assert [tuple(tensor.shape) for tensor in tensors] == [entry.shape for entry in own.layout]
    for tensor, entry in zip(tensors, own.layout):
        tensor.data = torch.from_numpy(x[entry.offset:entry.offset + entry.size].reshape(entry.shape).copy())
    inputs, labels = rng.standard_normal((1, 3, 3 * side * side)), rng.integers(0, 10, (1, 3))
    gradient = np.empty((1, x.size))
    losses = own.loss_and_gradient(np, x[None], inputs, labels, None, gradient)
    loss = torch.nn.functional.cross_entropy(beside(torch.from_numpy(inputs[0]).reshape(3, 3, side, side)), torch.from_numpy(labels[0]))
    loss.backward()
    assert losses[0] == pytest.approx(loss.item(), rel=1e-9)
    for tensor, entry in zip(tensors, own.layout):
        found = gradient[0, entry.offset:entry.offset + entry.size].reshape(entry.shape)
        np.testing.assert_allclose(found, tensor.grad, rtol=1e-6, atol=1e-9, err_msg=entry.name)


# plain PyTorch
def plain(given, optimizer):
    """(parameters, buffers) after the same batches in a loop without coopmpi."""
    trained = assembled(given).driver.task.problem
    module = registry.load_object(given["task"]["module"], "")().to(getattr(torch, given.get("dtype", "float32")))
    torch.nn.utils.vector_to_parameters(torch.from_numpy(trained.initial()), module.parameters())
    optimizer = optimizer(module.parameters())
    for k in range(STEPS):
        torch.manual_seed(drawn(0, 0, k))
        inputs, targets = trained.data.train.batch(trained._batches.indices(k)[0])
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(module(inputs), targets).backward()
        optimizer.step()
    parameters = torch.nn.utils.parameters_to_vector(module.parameters()).detach().numpy()
    return parameters, [buffer.numpy() for buffer in module.buffers()]


def alone(given):
    """(model, buffers) of the one worker of a run."""
    trainer = lockstep(given | {"workers": 1})
    own = trainer.driver.task._own
    return trainer.state.x[0], [getattr(own[0], slot.name)[0] for slot in trainer.driver.task.slots]


@pytest.mark.parametrize("keys", [{}, {"momentum": 0.9}, {"momentum": 0.9, "weight_decay": 0.01},
                                  {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_one_worker_comes_to_the_bits_of_plain_pytorch(keys, dtype):
    given = tables(optimizer={"lr": 0.1} | keys, dtype=dtype) | {"workers": 1}
    expected, buffers = plain(given, lambda parameters: torch.optim.SGD(parameters, lr=0.1, **keys))
    model, (floats, counters) = alone(given)
    assert np.array_equal(model, expected)
    assert np.array_equal(floats, np.concatenate(buffers[:2])) and counters == STEPS == buffers[2]


def test_adamw_is_that_of_pytorch():
    given = tables("simple", optimizer={"kind": "adamw", "lr": 0.01}) | {"workers": 1}
    expected, _ = plain(given, lambda parameters: torch.optim.AdamW(parameters, lr=0.01))
    assert abs(alone(given)[0] - expected).max() < 1e-6


# what is a part of the model
def test_tied_tensors_are_one_and_frozen_ones_stay():
    made = assembled(tables("Tied"))
    names = [name for name, *_ in made.driver.task.layout]
    assert names == ["idle", "first.weight", "first.bias", "second.bias", "last.weight", "last.bias"]
    trainer = lockstep(tables("Tied"))
    trained, x0 = trainer.driver.task.problem, made.driver.task.initial()
    assert np.array_equal(trainer.state.x[:, :3], np.ones((4, 3)))  # takes no part
    assert not np.array_equal(trainer.state.x[0], x0)
    assert trained.module.second.weight is trained.module.first.weight and (trained.module.frozen == 0.5).all()


def test_adapters_alone_are_sent():
    trainer = lockstep(tables("Adapted", algorithm={"kind": "d-psgd"}))
    assert trainer.driver.task.dimension == 64 * 2 + 2 * 10
    assert trainer.log.sent == 4 * STEPS * 2 * 4 * (64 * 2 + 2 * 10)  # workers, steps, neighbours, bytes


def test_names_of_a_module_spare_tensors_from_decay():
    made = assembled(tables(optimizer={"weight_decay": 0.1, "no_decay": ["*.bias", "2.*"]}))
    starts = {name: offset for name, _, offset in made.context.tensors}
    assert made.context.groups == [(slice(0, starts["1.bias"]), 0.1), (slice(starts["1.bias"], starts["5.weight"]), 0.0),
                                   (slice(starts["5.weight"], starts["5.bias"]), 0.1), (slice(starts["5.bias"], None), 0.0)]


# what happens to the module
@pytest.mark.parametrize("how", ["assign", "double", "data"])
def test_a_parameter_that_is_replaced_is_named(how):
    with pytest.raises(UserError, match=r"parameter 'layer\.(weight|bias)' of the module was replaced or moved"):
        lockstep(tables("Restless", task_keys={"options": {"how": how}}))


def test_a_buffer_that_changes_its_shape_is_named():
    with pytest.raises(UserError, match=r"buffer 'mean' of the module was \(10,\) and became \(11,\): its shape must stay"):
        lockstep(tables("Restless", task_keys={"options": {"how": "shape"}}))


def test_buffers_may_be_set_anew():
    """Each worker has its own."""
    trainer = lockstep(tables("Restless", task_keys={"options": {"how": "buffer"}}))
    found = trainer.driver.task._own[0].buffers
    assert found.shape == (4, 10) and (found != 0).all() and len(np.unique(found[:, 0])) == 4


# data, figures, starts
@pytest.mark.parametrize("which", ["pairs", "tensors"])
def test_data_sets_of_ones_own(which):
    trainer = lockstep(tables("simple", task_keys={"dataset": f"{HERE}:{which}", "partition": "dirichlet"}))
    assert trainer.driver.task.samples == 60 and trainer.figures["loss"] > 0
    one, other = (lockstep(tables("simple", task_keys={"dataset": f"{HERE}:{name}"})).state.x for name in ("pairs", "tensors"))
    assert np.array_equal(one, other)


def test_figures_of_ones_own():
    keys = {"metrics": {"top3": f"{HERE}:top3", "surprise": f"{HERE}:surprise"}}
    trainer = lockstep(tables("simple", task_keys=keys))
    figures = trainer.figures
    assert figures["accuracy"] < figures["top3"] <= 1 and figures["surprise"] > 1
    assert trainer.driver.task.rising == ("accuracy", "top3")
    with pytest.raises(UserError, match="'loss' is a figure of every such task"):
        assembled(tables("simple", task_keys={"metrics": {"loss": f"{HERE}:top3"}}))


@pytest.mark.parametrize("form", ["safetensors", "pt"])
def test_a_warm_start(tmp_path, form):
    module, path = modules.simple(), str(tmp_path / f"start.{form}")
    if form == "pt":
        torch.save(module.state_dict(), path)
    else:
        from safetensors.torch import save_file

        save_file(module.state_dict(), path)
    found = assembled(tables("simple", task_keys={"start": path})).driver.task.initial()
    assert np.array_equal(found, torch.nn.utils.parameters_to_vector(module.parameters()).detach().numpy())
    with pytest.raises(UserError, match=r"(?s)start = .* does not fit the module: .*Missing key"):
        assembled(tables("net", task_keys={"start": path}))
    (tmp_path / f"start.{form}").write_bytes(b"not a model")
    with pytest.raises(UserError, match=r"start = .* cannot be read"):
        assembled(tables("simple", task_keys={"start": path}))


def test_every_rank_and_seed_has_its_module():
    one, again, other = (assembled(tables(seed=seed)).driver.task.initial() for seed in (1, 1, 2))
    assert np.array_equal(one, again) and not np.array_equal(one, other)


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_half_precision_in_the_passes(name):
    exact, rounded = (lockstep(tables("simple", task_keys={"autocast": kind})).figures for kind in ("none", name))
    assert 0 < abs(exact["loss"] - rounded["loss"]) < 0.05


def test_the_scale_of_the_loss_falls_where_float16_overflows_and_grows_where_it_does_not(monkeypatch):
    monkeypatch.setattr("coopmpi.bridges.torch.problem.GROWS_AFTER", 3)
    own = assembled(tables("simple", task_keys={"autocast": "float16", "loss": f"{HERE}:steep"}))
    (state, own_state), problem = own.start(), own.driver.task.problem
    scales, moved = [], []
    for k in range(30):
        _, gradient = problem.gradient(state.x, k, own_state)
        scales.append(float(own_state.loss_scale[0, 0]))
        moved.append(bool(gradient[0].any()))
        assert np.isfinite(gradient).all()
    # halved wherever it does not fit, and doubled after three steps in a row
    expected, scale, fine = [], 2.0**16, 0
    for fits in moved:
        scale, fine = (scale, fine + 1) if fits else (scale / 2, 0)
        scale, fine = (2 * scale, 0) if fine == 3 else (scale, fine)
        expected.append(scale)
    first = moved.index(True)
    assert scales == expected and first > 0 and any(later > earlier for earlier, later in zip(scales, scales[1:]))
    # the gradient has no scale in it
    plain = assembled(tables("simple", task_keys={"loss": f"{HERE}:steep"}))
    (state, _), k = plain.start(), first
    expected = plain.driver.task.problem.gradient(state.x, k)[1][0]
    (_, again), problem = own.start(), own.driver.task.problem
    again.loss_scale[:, 0] = scales[first]
    assert np.allclose(problem.gradient(state.x, k, again)[1][0], expected, rtol=0, atol=0.01 * abs(expected).max())


@pytest.mark.parametrize("keys, says", [
    ({"module": f"{HERE}:nett"}, "did you mean 'net'"), ({"module": f"{HERE}:pairs"}, "must return a torch.nn.Module"),
    ({"options": {"depth": 3}}, r"cannot be called with the options \['depth'\]"), ({"loss": "cross-entropi"}, "did you mean 'cross-entropy'"),
    ({"dataset": f"{HERE}:net"}, r"must return two map-style data sets, \(train, test\)"), ({"dataset": f"{HERE}:no_data"}, "data set is empty"),
    ({"loader_workers": 2}, "unknown key"), ({"start": "nowhere.pt"}, "no such file"), ({"batch": 10**6}, "more than the 1438 training samples"),
    ({"dataset": f"{HERE}:pairs", "partition": "dirichlet", "batch": 61}, "more than the 60 training samples"),
], ids=str)
def test_mistakes_are_explained(keys, says):
    with pytest.raises(UserError, match=says):
        assembled({"workers": 4, "device": "cpu", "task": task() | keys})


def test_a_loss_is_one_number():
    with pytest.raises(UserError, match=r"loss .* must return a tensor of one number, the mean over the batch; given one of shape \(256, 10\)"):
        lockstep(tables("simple", task_keys={"loss": f"{HERE}:no_mean"}))


@pytest.mark.mpi
def test_from_the_command_line(tmp_path):
    (tmp_path / "mine.py").write_text("from torch import nn\n\ndef net(width):\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), "
                                      "nn.Linear(width, 10))\n")
    given = {"workers": 2, "steps": 100, "device": "cpu", "task": {"kind": "torch", "module": "mine:net", "options.width": 20}}
    status, out, err = coopmpi("train", "-n", 2, "--quiet", "-o", "run.h5", *settings(given), cwd=tmp_path)
    assert status == 0, out + err
    status, out, err = coopmpi("inspect", "run.h5", cwd=tmp_path)
    assert "torch, module = mine:net" in out and "accuracy" in out
    status, out, err = coopmpi("train", "--dry-run", *settings(given), cwd=tmp_path)
    assert status == 0 and "runs code of the module mine" in out, out + err


def test_time_alone_is_that_of_a_simulation_with_numbers():
    run = {"workers": 4, "task": task("net"), "algorithm": {"kind": "overlap-local-sgd"}, "period": {"tau": 3},
           "compute": {"kind": "exponential", "seconds": 0.01}}
    assert np.array_equal(forecast(run, STEPS).seconds, full(run, STEPS).seconds)
