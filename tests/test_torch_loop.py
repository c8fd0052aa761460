"""Training loops of one's own, wrapped: the bits of a run whose gradients coopmpi computes, on real ranks."""

import json
import re
import textwrap
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.runs import EVEN_VARIANTS, coopmpi, read
from tests.test_torch import task

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")
RANKS = 2
ROOT = str(Path(__file__).parents[1])
LOOP = ("-m", "tests.loop_of_ones_own")
WHOLE = ["sync-sgd", "adamw", *(name for name in EVEN_VARIANTS if name != "sync-sgd")]
PARTS = ["overlap-local-sgd", "choco-sgd", "diloco"]  # with transfers, copies of others and shared state between two steps


def tables(name):
    variant = "local-sgd" if name == "adamw" else name
    optimizer = {"kind": "sgd"} if variant == "sparq-sgd" else {"kind": "sgd", "momentum": 0.9}
    return read({"workers": RANKS, "steps": 30, "deterministic": True, "device": "cpu", "algorithm": EVEN_VARIANTS[variant],
            "task": task("simple" if name == "adamw" else "net"), "period": {"tau": 3}, "mixing": {"lazy": True}, "compress": {"kind": "topk", "fraction": 0.3},
            "optimizer": {"kind": "adamw", "lr": 0.01} if name == "adamw" else optimizer})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Results of wrapped loops on ranks, and of the same runs without."""
    folder = tmp_path_factory.mktemp("loops")
    runs = {name: tables(name) for name in WHOLE} | {f"parts-{name}": tables(name) for name in PARTS}
    (folder / "runs.json").write_text(json.dumps(runs), encoding="utf-8")
    status, out, err = coopmpi("runs.json", ranks=RANKS, cwd=folder, main=LOOP, limit=240, environment={"PYTHONPATH": ROOT})
    assert status == 0, out + err
    return folder


def reference(name, folder):
    from tests.interruptions import run

    run(tables(name), folder / f"{name}-reference.h5")
    return folder / f"{name}-reference.h5"


@pytest.mark.mpi
@pytest.mark.parametrize("name", WHOLE)
def test_a_wrapped_loop_comes_to_the_bits_of_a_run(folder, name):
    with h5py.File(folder / f"{name}.h5") as found, h5py.File(reference(name, folder)) as expected:
        assert found.attrs["status"] == b"finished"
        if name == "adamw":
            assert np.allclose(found["final/x"][:], expected["final/x"][:], rtol=0, atol=1e-6)
            return
        for what in ("final/x", "final/mean", "train/loss", "train/tau", "train/bytes_sent"):
            assert np.array_equal(found[what][:], expected[what][:]), what


@pytest.mark.mpi
@pytest.mark.parametrize("name", PARTS)
def test_a_loop_goes_on_from_its_state(folder, name):
    with h5py.File(folder / f"{name}.h5") as whole, h5py.File(folder / f"parts-{name}.h5") as parts:
        assert np.array_equal(parts["final/x"][:], whole["final/x"][:])
        assert np.array_equal(parts["train/loss"][:], whole["train/loss"][13:])


@pytest.mark.mpi
def test_the_module_holds_the_mean_model_at_the_end(folder):
    state = torch.load(folder / "sync-sgd.pt", weights_only=True)
    names = ("1.weight", "1.bias", "2.weight", "2.bias", "5.weight", "5.bias")
    with h5py.File(folder / "sync-sgd.h5") as file:
        assert np.array_equal(np.concatenate([state[name].ravel() for name in names]), file["final/mean"][:])
    assert state["2.num_batches_tracked"] == 30 and state["2.running_var"].min() < 1


# mistakes
BEGIN = """
import torch, coopmpi.torch
module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
def loss():
    return module(torch.ones(5, 4)).square().mean()
"""
WRAP = "loop = coopmpi.torch.wrap(module, optimizer)\n"
STEP = "loop.zero_grad(); found = loss(); found.backward(); loop.step(found)\n"
MISTAKES = {
    "coopmpi.torch.wrap(module, optimizer, algorithm='lokal-sgd')": "unknown algorithm 'lokal-sgd'",
    "coopmpi.torch.wrap(module, optimizer, periods={'tau': 3})": "did you mean 'period'",
    "coopmpi.torch.wrap(module, optimizer, algorithm='sparq-sgd')": "sparq-sgd takes plain SGD steps",
    "coopmpi.torch.wrap(module.requires_grad_(False), optimizer)": "there is nothing to train",
    "coopmpi.torch.wrap(module[0], optimizer)": "steps 2 tensors that are no parameters of the module",
    "coopmpi.torch.wrap(module, torch.optim.SGD(module[0].parameters(), lr=0.1))": "does not step 1.weight, 1.bias",
    "module[1].double(); coopmpi.torch.wrap(module, optimizer)": "given float32, float64",
    WRAP + "loop.step(loss())": "needs a zero_grad()",
    WRAP + "loop.zero_grad(); loop.finish()": "finish() comes between two steps",
    WRAP + STEP + "loop.finish(); loop.zero_grad()": "the run is finished",
    WRAP + STEP + "loop.load_state_dict({})": "comes before the first step",
    WRAP + "loop.load_state_dict({})": "'x' must be of shape (1, 23), given None",
    WRAP + STEP + "module.double(); " + STEP: "was replaced or moved",
    "loop = coopmpi.torch.wrap(module, optimizer, steps=1)\n" + STEP + STEP: "steps = 1 were announced",
}


def script(tmp_path, text, *words, **options):
    (tmp_path / "script.py").write_text(textwrap.dedent(text), encoding="utf-8")
    return coopmpi("run", *words, "script.py", cwd=tmp_path, **options)


@pytest.mark.parametrize("text", MISTAKES)
def test_mistakes_are_told_in_a_sentence(tmp_path, text):
    status, _, err = script(tmp_path, BEGIN + text)
    assert status == 2 and MISTAKES[text] in err and "Traceback" not in err, err


def test_a_loss_that_is_not_finite_ends_the_loop(tmp_path):
    status, _, err = script(tmp_path, BEGIN + "loop = coopmpi.torch.wrap(module, optimizer, output='run.h5')\nwhile True:\n"
                            "    loop.zero_grad(); found = loss() * float('nan'); found.backward(); loop.step(found)\n")
    assert status == 4 and "the loss of worker 0 became nan at step 1" in err
    with h5py.File(tmp_path / "run.h5") as file:
        assert file.attrs["status"] == b"failed"


ALONE = "import os\nif os.environ.get('OMPI_COMM_WORLD_RANK', os.environ.get('PMI_RANK')) == '1':\n    "
LONELY = {"in a step": WRAP + STEP + ALONE + "raise RuntimeError('of my own')\nwhile True: " + STEP,
          "before the first": ALONE + "module.named_parameters = lambda: [][0]  # of my own\n" + WRAP}


@pytest.mark.parametrize("main", [("-m", "coopmpi"), ()], ids=["coopmpi run", "python"])
@pytest.mark.parametrize("when", LONELY)
@pytest.mark.mpi
def test_an_error_of_one_rank_ends_all(tmp_path, main, when):
    text = BEGIN + LONELY[when]
    (tmp_path / "script.py").write_text(text, encoding="utf-8")
    status, _, err = coopmpi(*(["run"] if main else []), "script.py", ranks=RANKS, cwd=tmp_path, main=main, limit=60)
    assert status != 0 and "rank 1" in err and "of my own" in err


def test_a_loop_without_finish_is_told(tmp_path):
    status, _, err = script(tmp_path, BEGIN + WRAP + STEP)
    assert status == 0 and "without finish()" in err


@pytest.mark.mpi
def test_a_script_is_started_on_ranks(tmp_path):
    text = BEGIN + WRAP + STEP + "loop.finish(); import sys\nif loop.worker == 0: print(loop.workers, sys.argv[1:])"
    (tmp_path / "script.py").write_text(text, encoding="utf-8")
    status, out, err = coopmpi("run", "-n", RANKS, "script.py", "--epochs", 3, cwd=tmp_path)
    assert (status, out.strip()) == (0, "2 ['--epochs', '3']"), err
    status, _, err = coopmpi("run", "-n", RANKS, "missing.py", cwd=tmp_path)
    assert status == 2 and "script 'missing.py' does not exist" in err


def test_a_module_may_be_trained_on(tmp_path):
    """After finish() nothing of the module belongs to coopmpi."""
    status, _, err = script(tmp_path, BEGIN + WRAP + STEP + "loop.finish(); del loop\n"
                            "before = module[0].weight.clone(); optimizer.zero_grad(); loss().backward(); optimizer.step()\n"
                            "assert not torch.equal(before, module[0].weight)")
    assert status == 0, err


# what users are shown
MODULES = {"Residual": [], "Transformer": ["optimizer.kind=adamw"], "adapted": ["task.dataset=pytorch_modules:digits", "optimizer.lr=0.3"]}


@pytest.mark.parametrize("module", MODULES)
def test_modules_of_the_examples_learn(tmp_path, module):
    keys = ["workers=2", "steps=600", "task.kind=torch", f"task.module=pytorch_modules:{module}", *MODULES[module]]
    status, _, err = coopmpi("train", "--quiet", "-o", tmp_path / "run.h5", *(f"--set={key}" for key in keys),
                             cwd=Path(ROOT, "examples"), environment={"PYTHONDONTWRITEBYTECODE": "1"})
    assert status == 0, err
    with h5py.File(tmp_path / "run.h5") as file:
        assert file["eval/accuracy"][-1] > 0.8 and file["eval/loss"][-1] < file["eval/loss"][0] / 2


@pytest.mark.mpi
def test_the_loop_of_the_examples_learns(tmp_path):
    status, out, err = coopmpi("run", "-n", RANKS, Path(ROOT, "examples", "pytorch_loop.py"), cwd=tmp_path,
                               environment={"PYTHONDONTWRITEBYTECODE": "1"})
    assert status == 0, err
    assert float(re.findall(r": ([\d.]+)%", out)[-1]) > 80, out
    assert set(torch.load(tmp_path / "model.pt", weights_only=True)) > {"stem.weight", "block.1.running_mean"}
    status, out, err = coopmpi("inspect", "loop.h5", cwd=tmp_path)
    assert status == 0 and "torch.optim.SGD" in out and "finished" in out, err
