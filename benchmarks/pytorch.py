"""PyTorch modules under coopmpi beside plain training loops; what a round of a language model costs."""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np

from benchmarks.timing import interleaved, table

MODULES = {"mlp": ("digits", 100, 0.08), "resnet8": ("images", 10, 0.03), "resnet20": ("images", 5, 0.03)}  # steps of a turn, aim
BATCH, TAU = 32, 16
PLAIN = "PyTorch alone, twice"


def main(arguments):
    parser = argparse.ArgumentParser(prog="python -m benchmarks pytorch", description=__doc__)
    parser.add_argument("--repeats", type=int, default=21, help="turns of each")
    parser.add_argument("--steps", type=int, default=4 * TAU, help="of the language model; 0: leave it out")
    parser.add_argument("--gpt", metavar="ALGORITHM", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.gpt:
        (_plain_gpt if options.gpt == PLAIN else _gpt)(options)
        return
    import torch

    torch.set_num_threads(1)
    rows = [_beside(name, *choice, options.repeats) for name, choice in MODULES.items()]
    table((f"one worker, batch {BATCH}, momentum, one thread", "plain, ms", "coopmpi, ms", "coopmpi / plain", "loop of one's own / plain", "aim"), rows)
    if options.steps:
        _rounds(options.steps)


def _beside(name, data, steps, aim, repeats):
    """A training loop of PyTorch alone, `coopmpi train`, and the same loop wrapped; with recording."""
    from coopmpi import config
    from coopmpi.drivers.solo import Solo
    from coopmpi.run.assemble import assemble
    from coopmpi.run.session import begin

    tables = {"workers": 1, "steps": 10**9, "deterministic": True, "device": "cpu", "algorithm": {"kind": "local-sgd"},
              "optimizer": {"lr": 0.01, "momentum": 0.9}, "checkpoint": {"every_minutes": 0}, "record": {"eval_every": 10**9},
              "task": {"kind": "torch", "module": f"benchmarks._modules:{name}", "dataset": f"benchmarks._modules:{data}", "batch": BATCH}}
    with tempfile.TemporaryDirectory() as folder:
        trainer = begin(assemble(config.resolve(tables), Solo()), Solo(), f"{folder}/run.h5")
        trainer.begin()
        wrapped, finish = _wrapped(name, data, f"{folder}/loop.h5")
        candidates = {"plain": _plain(name, data), "coopmpi": lambda: trainer.driver.compute(trainer.step()), "wrapped": wrapped}
        turns = {key: lambda one=one: [one() for _ in range(steps)] for key, one in candidates.items()}
        found = interleaved(turns, repeats)
        trainer.feed.close("interrupted")
        finish()
    ms = [f"{1e3 * found[key].seconds / steps:.3f}" for key in ("plain", "coopmpi")]
    return name, *ms, f"{found['coopmpi'].ratio:.3f}", f"{found['wrapped'].ratio:.3f}", f"{1 + aim:.2f}"


def _made(name, data):
    """(module, optimiser, gives batches, loss function)"""
    import torch

    from benchmarks import _modules

    x, y = getattr(_modules, data)()[0].tensors
    module = getattr(_modules, name)()
    module.train()
    draw = np.random.default_rng(0)

    def batch():
        chosen = torch.from_numpy(draw.integers(0, len(x), BATCH))
        return x[chosen], y[chosen]

    return module, torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9), batch, torch.nn.functional.cross_entropy


def _plain(name, data):
    module, optimizer, batch, criterion = _made(name, data)

    def step():
        inputs, targets = batch()
        optimizer.zero_grad()
        loss = criterion(module(inputs), targets)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def _wrapped(name, data, output):
    """(a step, what ends the run)"""
    import coopmpi.torch

    module, optimizer, batch, criterion = _made(name, data)
    loop = coopmpi.torch.wrap(module, optimizer, algorithm="local-sgd", record={"eval_every": 10**9}, output=output)

    def step():
        inputs, targets = batch()
        loop.zero_grad()
        loss = criterion(module(inputs), targets)
        loss.backward()
        loop.step(loss)

    return step, loop.finish


def _rounds(steps):
    from coopmpi.drivers.mpi.launch import mpirun

    command, environment = mpirun(2, lambda text: None)
    rows = []
    for algorithm in (PLAIN, "local-sgd", "diloco", "overlap-local-sgd"):
        again = [sys.executable, "-m", "benchmarks", "pytorch", "--steps", str(steps), "--gpt", algorithm]
        out = subprocess.run([*command, *again], env=environment | {"OMP_NUM_THREADS": "1"}, check=True, capture_output=True, text=True).stdout
        rows.append((algorithm, *out.strip().split(",")))
    table((f"GPT, adamw, tau = {TAU}, 2 ranks", "parameters", "gradient, ms", "optimiser and else, ms", "a round, ms",
           "rounds / gradients (aim 5 %)", "resident memory, models (aim 8)"), rows)


def _gpt(options):
    """On each rank: seconds of steps with and without a round."""
    from coopmpi import config
    from coopmpi.drivers.mpi.world import connect
    from coopmpi.run.assemble import assemble
    from coopmpi.run.session import begin

    world = connect()
    tables = {"workers": 2, "steps": options.steps, "device": "cpu", "algorithm": {"kind": options.gpt}, "period": {"tau": TAU},
              "optimizer": {"kind": "adamw", "lr": 3e-4}, "checkpoint": {"every_minutes": 0}, "record": {"eval_every": 10**9},
              "task": {"kind": "torch", "module": "benchmarks._modules:GPT", "dataset": "benchmarks._modules:words", "batch": 8,
                       "loss": "benchmarks._modules:token_loss"}}
    import torch  # noqa: F401  its libraries are no models

    before = _resident()
    with tempfile.TemporaryDirectory() as folder:
        trainer = begin(assemble(config.resolve(tables), world), world, Path(folder, "run.h5"))
        trainer.train()
        trainer.feed.settle()
        models = (_peak() - before) / (4 * trainer.driver.task.dimension)
        if world.rank == 0:
            import h5py

            with h5py.File(Path(folder, "run.h5")) as file:
                wall, computing = np.diff(file["train/wall_time"][:]), file["train/compute_time"][1:].mean(1)
            trainer.feed.close("finished")
            rest = wall - computing
            due = np.arange(2, len(wall) + 2) % TAU == 0
            gradient, without, round_ = median(computing), median(rest[~due]), median(rest[due]) - median(rest[~due])
            print(f"{trainer.driver.task.dimension:,}".replace(",", " "), f"{1e3 * gradient:.0f}", f"{1e3 * without:.1f}", f"{1e3 * round_:.1f}",
                  f"{100 * round_ / TAU / gradient:.1f} %", f"{models:.1f}", sep=",")


def _plain_gpt(options):
    """On each rank by itself: the same model and optimiser, nothing communicated."""
    import torch
    from mpi4py import MPI

    from benchmarks import _modules

    torch.set_num_threads(1)
    before, times = _resident(), []
    module = _modules.GPT()
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-4)
    x, y = _modules.words()[0].tensors
    for _ in range(options.steps):
        chosen = torch.randint(len(x), (8,))
        optimizer.zero_grad()
        begin = perf_counter()
        _modules.token_loss(module(x[chosen]), y[chosen]).backward()
        computed = perf_counter()
        optimizer.step()
        times.append((computed - begin, perf_counter() - computed))
    if MPI.COMM_WORLD.rank == 0:
        size = sum(tensor.numel() for tensor in module.parameters())
        gradient, rest = (1e3 * median(column) for column in zip(*times))
        print(f"{size:,}".replace(",", " "), f"{gradient:.0f}", f"{rest:.1f}", "", "", f"{(_peak() - before) / (4 * size):.1f}", sep=",")


def _resident():
    return _status("VmRSS")


def _peak():
    return _status("VmHWM")


def _status(key):
    line = next(line for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024
