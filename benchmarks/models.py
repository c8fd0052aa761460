"""Local steps (forward, backward, x -= lr gradient) against PyTorch and against their bare matrix products."""

import argparse
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.timing import interleaved, table
from coopmpi.device.host import Host
from coopmpi.tasks.nn.models import build_model

LR = 0.01


class Torch:
    """A process of an interpreter that has PyTorch; makes steps on command."""

    def __init__(self, python):
        script = Path(__file__).with_name("_torch_steps.py")
        one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen([python, script], env=one_thread, text=True,
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.version = self._process.stdout.readline().strip()

    def steps(self, kind, batch, models, steps):
        """Each of `models` models makes `steps` steps; kind: "cnn", or the sizes of an mlp."""
        name = kind if isinstance(kind, str) else ",".join(map(str, kind))
        print(name, batch, models, steps, file=self._process.stdin, flush=True)
        if not self._process.stdout.readline():
            raise RuntimeError("the PyTorch process has ended")

    def close(self):
        self._process.stdin.close()
        self._process.wait()


def stepper(kind, batch, workers):
    """A function that makes one local step of all workers."""
    if kind == "cnn":
        features, classes = 3 * 32 * 32, 10
        model = build_model(kind, features, (3, 32, 32), classes)
    else:
        features, *hidden, classes = kind
        model = build_model("mlp", features, None, classes, hidden)
    rng = np.random.default_rng(0)
    x = np.repeat(model.initial(rng, np.float32)[None], workers, axis=0)
    inputs = rng.standard_normal((workers, batch, features), np.float32)
    labels = rng.integers(0, classes, (workers, batch))
    gradient, device = np.empty_like(x), Host()

    def step():
        model.loss_and_gradient(np, x, inputs, labels, None, gradient)
        device.add_scaled(x, -LR, gradient)

    return step


def products(sizes, batch):
    """A function that does the matrix products of one step and nothing else."""
    rng = np.random.default_rng(0)

    def random(*shape):
        return rng.standard_normal(shape, np.float32)

    calls = []
    for number, (fan_in, fan_out) in enumerate(zip(sizes, sizes[1:])):
        x, weight, dy = random(batch, fan_in), random(fan_in, fan_out), random(batch, fan_out)
        calls.append((x, weight, np.empty_like(dy)))
        calls.append((x.T, dy, np.empty_like(weight)))
        if number:  # nobody needs the gradient of the inputs
            calls.append((dy, weight.T, np.empty_like(x)))

    def run():
        for a, b, out in calls:
            np.matmul(a, b, out=out)

    return run


def repeat(run, times):
    def block():
        for _ in range(times):
            run()
    return block


def one_step(torch, rounds):
    """Rows for mlp 784-256-256-10, batch 32."""
    sizes, batch, steps = (784, 256, 256, 10), 32, 40
    candidates = {"step": repeat(stepper(sizes, batch, 1), steps),
                  "products": repeat(products(sizes, batch), steps)}
    if torch:
        candidates["torch"] = lambda: torch.steps(sizes, batch, 1, steps)
    times = interleaved(candidates, rounds)
    what = "one step of mlp 784-256-256-10, batch 32"
    micro = {name: f"{time.seconds / steps * 1e6:.0f} us" for name, time in times.items()}
    rate = f"{times['products'].ratio:.0%} of their rate"
    yield what, "bare matrix products", micro["step"], micro["products"], rate
    if torch:
        faster = f"{times['torch'].ratio:.2f}x faster"
        yield what, f"PyTorch {torch.version}", micro["step"], micro["torch"], faster


def convolutions(torch, rounds):
    """Row for the built-in cnn on 3 x 32 x 32, batch 32."""
    steps = 5
    candidates = {"step": repeat(stepper("cnn", 32, 1), steps)}
    if torch:
        candidates["torch"] = lambda: torch.steps("cnn", 32, 1, steps)
    times = interleaved(candidates, rounds)
    ms = {name: f"{time.seconds / steps * 1e3:.1f} ms" for name, time in times.items()}
    what = "one step of cnn, 3 x 32 x 32, batch 32"
    if torch:
        yield what, f"PyTorch {torch.version}", ms["step"], ms["torch"], f"{times['torch'].ratio:.2f}x faster"
    else:
        yield what, "", ms["step"], "", ""


def many_workers(torch, rounds):
    """Row for 1,024 workers, mlp 64-128-10, batch 32."""
    sizes, batch, workers = (64, 128, 10), 32, 1024
    candidates = {"step": stepper(sizes, batch, workers)}
    if torch:
        candidates["torch"] = lambda: torch.steps(sizes, batch, workers, 1)
    times = interleaved(candidates, rounds)
    what = "1,024 workers, mlp 64-128-10, batch 32"
    rates = {name: f"{workers / time.seconds:,.0f} worker-steps/s" for name, time in times.items()}
    if torch:
        yield (what, f"loop over 1,024 models in PyTorch {torch.version}", rates["step"], rates["torch"],
               f"{times['torch'].ratio:.1f}x faster")
    else:
        yield what, "", rates["step"], "", ""


def main(arguments):
    parser = argparse.ArgumentParser(prog="python -m benchmarks models", description=__doc__)
    parser.add_argument("--torch-python", metavar="PATH", default=os.environ.get("COOPMPI_TORCH_PYTHON"),
                        help="interpreter with PyTorch (default: COOPMPI_TORCH_PYTHON, else this one if it can)")
    parser.add_argument("--rounds", type=int, default=21, help="interleaved rounds (default: %(default)s)")
    options = parser.parse_args(arguments)
    python = options.torch_python or (sys.executable if importlib.util.find_spec("torch") else None)
    torch = Torch(python) if python else None
    with threadpool_limits(1):
        table(("one thread, float32", "against", "coopmpi", "the other", "result"),
              [*one_step(torch, options.rounds), *convolutions(torch, options.rounds), *many_workers(torch, options.rounds)])
    if torch:
        torch.close()
    else:
        print("PyTorch left out: give --torch-python or set COOPMPI_TORCH_PYTHON")
