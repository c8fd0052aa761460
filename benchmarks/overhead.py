"""What the framework adds to a step: requests, accounts, and the record of every step in HDF5."""

import argparse
import tempfile
from pathlib import Path

from benchmarks.timing import interleaved, table
from coopmpi import config
from coopmpi.drivers.solo import Solo
from coopmpi.run import session
from coopmpi.run.assemble import assemble

SLOW_STEP = 5e-3  # seconds: recording is compared to a step of that length


def main(arguments):
    parser = argparse.ArgumentParser(prog="python -m benchmarks overhead", description=__doc__)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args(arguments)
    tables = {"workers": 1, "steps": options.steps, "device": "cpu", "record": {"eval_every": options.steps},
              "task": {"hidden": [16], "batch": 8}, "period": {"tau": 8}}
    assembly = assemble(config.resolve(tables), Solo())
    problem, device = assembly.driver.task, assembly.context.device
    initial = device.asarray(problem.initial()[None])

    def bare():
        x = initial.copy()
        for k in range(options.steps):
            _, gradient = problem.gradient(x, k)
            device.add_scaled(x, -0.1, gradient)

    def unrecorded():
        run, driver, algorithm = assembly.context, assembly.driver, assembly.config.algorithm
        state, _ = assembly.start()
        for k in range(options.steps):
            driver.step(algorithm, state, run, k)

    with tempfile.TemporaryDirectory() as folder:

        def recorded():
            session.train(assembly, Solo(), Path(folder, "run.h5"), overwrite=True)

        timings = interleaved({"bare gradient and descent": bare, "local SGD, tau = 8": unrecorded,
                               "the same, recorded in HDF5": recorded}, options.repeats)
    per_step = {name: timing.seconds / options.steps for name, timing in timings.items()}
    first, middle, last = per_step.values()
    table(("", "microseconds per step (median)"), [(name, f"{s * 1e6:.1f}") for name, s in per_step.items()])
    table(("overhead of", "microseconds", "bound"),
          [("requests and driver", f"{(middle - first) * 1e6:.1f}", "60"),
           ("recording", f"{(last - middle) * 1e6:.1f}", f"{0.02 * SLOW_STEP * 1e6:.0f} (2 % of {SLOW_STEP * 1e3:.0f} ms)")])
