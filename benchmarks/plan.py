"""Is a plan right? Seconds per step and to a target, forecast from what `coopmpi probe` measures, against real runs on four hosts.

The hosts are network namespaces (root only) that share the cores of this machine. What is finished lies in --folder and is not
repeated. --digits: an .npz with 5,000 MNIST digits, as `python -m benchmarks slow-network` leaves it in its folder.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

import h5py
import numpy as np
import tomli_w

from benchmarks._trainings import Results
from benchmarks.hosts import hosts
from benchmarks.timing import table

RANKS, LIMIT = 4, 900  # seconds after which a run counts as hanging
WARM, STEPS = 16, 32  # steps: not counted, and counted
RING, ONE_PEER, EXPONENTIAL = ({"graph": graph} for graph in ("ring", "one-peer-exponential", "exponential"))
SIGN, TOPK = {"kind": "sign"}, {"kind": "topk", "fraction": 0.01}
STRATEGIES = {  # none with the keys of the runs by which the simulator was made
    "sync-sgd, bf16": {"algorithm": {"kind": "sync-sgd"}, "compress": {"kind": "bf16"}},
    "sync-sgd": {"algorithm": {"kind": "sync-sgd"}},
    "local-sgd, tau 2": {"algorithm": {"kind": "local-sgd"}, "period": {"tau": 2}},
    "local-sgd, tau 8": {"algorithm": {"kind": "local-sgd"}, "period": {"tau": 8}},
    "slowmo, tau 8": {"algorithm": {"kind": "slowmo"}, "period": {"tau": 8}},
    "bmuf, tau 4": {"algorithm": {"kind": "bmuf"}, "period": {"tau": 4}},
    "easgd, tau 4": {"algorithm": {"kind": "easgd"}, "period": {"tau": 4}},
    "cocod-sgd, tau 4": {"algorithm": {"kind": "cocod-sgd"}, "period": {"tau": 4}},
    "overlap-local-sgd, tau 8": {"algorithm": {"kind": "overlap-local-sgd"}, "period": {"tau": 8}},
    "diloco, tau 8": {"algorithm": {"kind": "diloco"}, "period": {"tau": 8}},
    "streaming-diloco, tau 16": {"algorithm": {"kind": "streaming-diloco"}, "period": {"tau": 16}},
    "d-psgd, one-peer": {"algorithm": {"kind": "d-psgd"}, "mixing": ONE_PEER},
    "d-psgd, exponential": {"algorithm": {"kind": "d-psgd"}, "mixing": EXPONENTIAL},
    "sgp, one-peer": {"algorithm": {"kind": "sgp"}, "mixing": ONE_PEER},
    "overlap-sgp, ring": {"algorithm": {"kind": "overlap-sgp"}, "mixing": RING},
    "gradient-tracking, ring": {"algorithm": {"kind": "gradient-tracking"}, "mixing": RING},
    "dpa, tau 4, ring": {"algorithm": {"kind": "dpa"}, "period": {"tau": 4}, "mixing": RING},
    "overlap-dpa, tau 4, one-peer": {"algorithm": {"kind": "overlap-dpa"}, "period": {"tau": 4}, "mixing": ONE_PEER},
    "choco-sgd, ring, topk": {"algorithm": {"kind": "choco-sgd"}, "mixing": RING, "compress": TOPK},
    "choco-sgd, exponential, sign": {"algorithm": {"kind": "choco-sgd"}, "mixing": EXPONENTIAL, "compress": SIGN},
    "overlap-choco-sgd, ring, topk": {"algorithm": {"kind": "overlap-choco-sgd"}, "mixing": RING, "compress": TOPK},
    "deepsqueeze, ring, sign": {"algorithm": {"kind": "deepsqueeze"}, "mixing": RING, "compress": SIGN},
    "double-compressed, tau 4, topk": {"algorithm": {"kind": "double-compressed"}, "period": {"tau": 4}, "compress": TOPK},
    "double-compressed, tau 16, sign": {"algorithm": {"kind": "double-compressed"}, "period": {"tau": 16}, "compress": SIGN},
    "squarm-sgd, tau 2, ring, sign": {"algorithm": {"kind": "squarm-sgd"}, "period": {"tau": 2}, "mixing": RING, "compress": SIGN},
    "powersgd": {"algorithm": {"kind": "powersgd"}},
}


def main(arguments):
    parser = argparse.ArgumentParser(prog="python -m benchmarks plan", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("probe", "steps"), help="probe: measure the hosts; steps: seconds per step")
    parser.add_argument("--digits", required=True, metavar="PATH")
    parser.add_argument("--rates", nargs="*", type=int, default=(100, 1000), metavar="MBIT", help="(default: 100 1000)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each, in turn (default: %(default)s)")
    parser.add_argument("--only", nargs="*", default=STRATEGIES, metavar="STRATEGY")
    parser.add_argument("--folder", default="plan-benchmark", help="(default: %(default)s)")
    options = parser.parse_args(arguments)
    bench = Bench(options)
    try:
        getattr(bench, options.part)()
    except PermissionError as error:
        parser.exit(2, f"no hosts: {error}\n")


class Bench:
    """The parts, each of which goes on where it was cut off."""

    def __init__(self, options):
        self.options, self.folder = options, Path(options.folder).absolute()
        self.folder.mkdir(exist_ok=True)
        self.results = Results(self.folder / "results.jsonl")
        self.common = {"workers": RANKS, "device": "cpu", "task": {"data": str(Path(options.digits).absolute()), "hidden": [1024, 512], "batch": 32},
                       "optimizer": {"lr": 0.05, "momentum": 0.9}, "checkpoint": {"every_minutes": 0}}

    def machine(self, rate):
        return self.folder / f"machine-{rate}.toml"

    def probe(self):
        for rate in self.options.rates:
            with hosts(RANKS, rate) as network:
                self._write(self.common)
                print(self._coopmpi(network.mpirun(), "probe", "run.toml", "-o", str(self.machine(rate)), "--overwrite"))
            print(self._coopmpi(([], {}), "probe", "--show", str(self.machine(rate))))

    def steps(self):
        """Measured and forecast seconds per step."""
        for rate in self.options.rates:
            with hosts(RANKS, rate) as network:
                for number in range(self.options.repeats):
                    for name in self.options.only:
                        if self.results.get("steps", rate, name, number) is None:
                            self.results.put(("steps", rate, name, number), self._seconds(network, STRATEGIES[name]))
            self._report_steps(rate)

    def _report_steps(self, rate):
        rows, errors, noise, pairs = [], [], [], []
        for name in self.options.only:
            runs = [self.results.get("steps", rate, name, number) for number in range(self.options.repeats)]
            measured, forecast = median(runs), self._forecast(STRATEGIES[name], rate)
            errors.append(abs(forecast / measured - 1))
            noise.append((max(runs) - min(runs)) / measured)
            pairs.append((measured, forecast))
            rows.append((name, f"{measured:.4f}", f"{min(runs):.4f} to {max(runs):.4f}", f"{forecast:.4f}", f"{forecast / measured - 1:+.0%}"))
        print(f"\n{rate} Mbit/s, {RANKS} hosts, load {os.getloadavg()[0]:.1f}")
        table(("", "s/step", "least to most", "forecast", "off by"), rows)
        order = [np.argsort(np.argsort(column)) for column in np.array(pairs).T]
        print(f"error: median {median(errors):.0%}, most {max(errors):.0%}; rank correlation {np.corrcoef(order)[0, 1]:.3f}; "
              f"repeats differ by {median(noise):.0%} (median)")

    def _seconds(self, network, strategy):
        self._write(self.common | strategy | {"steps": WARM + STEPS, "record": {"eval_every": 10**6, "final": "mean"}})
        self._coopmpi(network.mpirun(), "train", "run.toml", "-o", "run.h5", "--overwrite", "--quiet")
        with h5py.File(self.folder / "run.h5") as file:
            wall = file["train/wall_time"][:]
        return float(wall[-1] - wall[WARM - 1]) / STEPS

    def _forecast(self, strategy, rate):
        self._write(self.common | strategy | {"steps": WARM + STEPS})
        self._coopmpi(([], {}), "simulate", "run.toml", "--machine", str(self.machine(rate)), "--time-only", "-o", "sim.h5", "--overwrite",
                      "--quiet")
        with h5py.File(self.folder / "sim.h5") as file:
            virtual = file["train/virtual_time"][:]
        return float(virtual[-1] - virtual[WARM - 1]) / STEPS

    def _write(self, tables):
        (self.folder / "run.toml").write_text(tomli_w.dumps(tables), encoding="utf-8")

    def _coopmpi(self, launcher, *words):
        """What coopmpi prints."""
        command, environment = launcher
        done = subprocess.run([*command, sys.executable, "-m", "coopmpi", *words], env=os.environ | environment | {"OMP_NUM_THREADS": "1"},
                              cwd=self.folder, capture_output=True, text=True, timeout=LIMIT, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)}: {done.stderr}")
        return done.stdout
