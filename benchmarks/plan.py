"""Is a plan right? Seconds per step and to a target, forecast from what `coopmpi probe` measures, against real runs on four hosts.

The hosts are network namespaces (root only) that share the cores of this machine. What is finished lies in --folder and is not
repeated. --digits: an .npz with 5,000 MNIST digits, as `python -m benchmarks slow-network` leaves it in its folder.
"""

import argparse
import json
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

RANKS, LIMIT = 4, 3600  # seconds after which a run counts as hanging
LONGEST, EVERY = 600, 8  # steps of a run to a target, and of an evaluation
REAL = 5  # choices of a plan that are run
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

TASKS = {  # keys of [task], and the target: loss of the mean model on training data
    "mnist": ({"hidden": [1024, 512]}, 0.1),
    "digits": ({"data": "digits", "hidden": [64]}, 0.1),
    "cnn": ({"data": "digits", "model": "cnn"}, 0.2),
    "torch": ({"kind": "torch", "module": "benchmarks._modules:mlp", "dataset": "benchmarks._modules:digits"}, 0.1),
}
LRS = tuple(0.01 * 2**k for k in range(8))  # of brute force: 0.01 to 1.28


def main(arguments):
    parser = argparse.ArgumentParser(prog="python -m benchmarks plan", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("probe", "steps", "targets", "regret"), help="probe: measure the hosts; steps: seconds per step; "
                        "targets: real seconds to a target against the interval; regret: the choice of a plan against all others, on other seeds")
    parser.add_argument("--digits", required=True, metavar="PATH")
    parser.add_argument("--tasks", nargs="*", default=TASKS, choices=TASKS, metavar="TASK", help=", ".join(TASKS))
    parser.add_argument("--rates", nargs="*", type=int, default=(100, 1000), metavar="MBIT", help="(default: 100 1000)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each, in turn (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="*", default=(11, 12), metavar="SEED", help="of regret (default: 11 12)")
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
        self.digits = str(Path(options.digits).absolute())

    def common(self, task="mnist"):
        """The run description of a task."""
        keys = TASKS[task][0]
        data = {} if "data" in keys or "dataset" in keys else {"data": self.digits}
        return {"workers": RANKS, "device": "cpu", "task": {"batch": 32} | data | keys, "optimizer": {"kind": "sgd", "lr": 0.05, "momentum": 0.9},
                "checkpoint": {"every_minutes": 0}}

    def machine(self, rate, task="mnist"):
        return self.folder / f"machine-{task}-{rate}.toml"

    def probe(self):
        for rate in self.options.rates:
            with hosts(RANKS, rate) as network:
                for task in self.options.tasks:
                    self._write(self.common(task))
                    self._coopmpi(network.mpirun(), "probe", "run.toml", "-o", str(self.machine(rate, task)), "--overwrite")
                    print(f"\n{rate} Mbit/s, {task}\n{self._here('probe', '--show', str(self.machine(rate, task)))}", flush=True)

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
        self._write(self.common() | strategy | {"steps": WARM + STEPS, "record": {"eval_every": 10**6, "final": "mean"}})
        self._coopmpi(network.mpirun(), "train", "run.toml", "-o", "run.h5", "--overwrite", "--quiet")
        with h5py.File(self.folder / "run.h5") as file:
            wall = file["train/wall_time"][:]
        return float(wall[-1] - wall[WARM - 1]) / STEPS

    def _forecast(self, strategy, rate):
        self._write(self.common() | strategy | {"steps": WARM + STEPS})
        self._here("simulate", "run.toml", "--machine", str(self.machine(rate)), "--time-only", "-o", "sim.h5", "--overwrite",
                      "--quiet")
        with h5py.File(self.folder / "sim.h5") as file:
            virtual = file["train/virtual_time"][:]
        return float(virtual[-1] - virtual[WARM - 1]) / STEPS

    # to a target
    def plan(self, task, rate):
        """The answer of a plan with seed 0, as JSON has it."""
        path = self.folder / f"plan-{task}-{rate}.json"
        if not path.exists():
            self._write(self.common(task) | {"steps": LONGEST, "record": {"eval_every": EVERY}})
            path.write_text(self._here("plan", "run.toml", "--machine", str(self.machine(rate, task)), "--train-loss", str(TASKS[task][1]), "--json",
                                       "--minutes", "30", "-o", f"plan-{task}.h5"), encoding="utf-8")
        return json.loads(path.read_text(encoding="utf-8"))

    def targets(self):
        """Real runs of the best choices, of each algorithm one, with a seed that the plan has not seen."""
        rows, inside = [], 0
        for rate in self.options.rates:
            with hosts(RANKS, rate) as network:
                for task in self.options.tasks:
                    chosen = list({one["tables"]["algorithm"]["kind"]: one for one in reversed(self.plan(task, rate)["choices"])}.values())[::-1]
                    for one in chosen[:REAL]:
                        key = ("target", rate, task, one["label"])
                        if self.results.get(*key) is None:
                            self.results.put(key, self._to_target(network, one["tables"] | {"seed": 21}, TASKS[task][1]))
                        seconds = self.results.get(*key)
                        within = seconds is not None and one["low"] <= seconds <= one["high"]
                        inside += within
                        rows.append((rate, task, one["label"], f"{one['seconds']:.2f}", f"{one['low']:.2f} to {one['high']:.2f}",
                                     f"{seconds:.2f}" if seconds else "not reached", "" if within else "outside"))
        table(("Mbit/s", "task", "choice", "s to the target, planned", "80 % of runs", "measured", ""), rows)
        print(f"{inside} of {len(rows)} within the interval")

    def _to_target(self, network, tables, target):
        self._write(tables | {"stop": {"train_loss": target}})
        self._coopmpi(network.mpirun(), "train", "run.toml", "-o", "run.h5", "--overwrite", "--quiet")
        with h5py.File(self.folder / "run.h5") as file:
            return float(file["eval/wall_time"][-1]) if file["eval/train_loss"][-1] <= target else 0.0

    def regret(self):
        """What the choice of a plan takes on other seeds, over what the fastest of all candidates takes there."""
        rows = []
        for task in self.options.tasks:
            for rate in self.options.rates:
                found = self.plan(task, rate)
                for seed in self.options.seeds:
                    key = ("regret", rate, task, seed)
                    if self.results.get(*key) is None:
                        self.results.put(key, self._brute_force(task, rate, found["choices"][0]["tables"], seed))
                    chosen, best, label, steps = self.results.get(*key)
                    rows.append((task, rate, seed, found["choices"][0]["label"], f"{chosen:.3g}", label, f"{best:.3g}", f"{chosen / best:.2f}",
                                 f"{found['worker_steps'] / steps:.0%}"))
        table(("task", "Mbit/s", "seed", "choice of the plan", "s", "fastest on this seed", "s", "ratio", "worker-steps of the plan / of brute force"),
              rows)

    def _brute_force(self, task, rate, chosen, seed):
        """(seconds of the choice, least of all candidates, whose, worker-steps), on the virtual clocks of the machine."""
        from concurrent.futures import ProcessPoolExecutor
        from multiprocessing import get_context

        from coopmpi.vocabulary import Family
        from coopmpi.planner.candidates import candidates
        from coopmpi.planner.curves import Target
        from coopmpi.planner.machine import load

        machine, target = load(self.machine(rate, task)).tables(), Target("train_loss", TASKS[task][1])
        common = self.common(task) | {"steps": LONGEST, "seed": seed, "record": {"eval_every": EVERY, "final": "mean"},
                                      "stop": {"train_loss": target.value}} | machine
        fits, _ = candidates(common, Family(periods=(1, 2, 4, 8, 16, 32, 64)))
        context = get_context("spawn")
        best = context.Value("d", np.inf)
        with ProcessPoolExecutor(mp_context=context, initializer=_begin, initargs=(best,)) as pool:
            mine = pool.submit(_run, chosen | {"seed": seed, "stop": {"train_loss": target.value}} | machine, target, False).result()
            best.value = mine.seconds[-1] if mine.reached else np.inf
            runs = [(one.label, pool.submit(_run, common | one.tables | {"optimizer": {"kind": "sgd", "lr": lr, "momentum": 0.9}}, target, True))
                    for one in fits for lr in LRS]
            found = [(label, run.result()) for label, run in runs]
        label, least = min(((label, run.seconds[-1]) for label, run in found if run.reached), key=lambda pair: pair[1], default=("itself", mine.seconds[-1]))
        return mine.seconds[-1] if mine.reached else np.inf, min(least, mine.seconds[-1]), label, RANKS * sum(run.steps[-1] for _, run in found)

    def _here(self, *words):
        return self._coopmpi(([], {}), *words)

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


_best = None  # in a process of brute force


def _begin(best):
    global _best
    _best = best


def _run(tables, target, capped):
    from coopmpi.planner.curves import curve

    found = curve(tables, target, _best if capped else None)
    if capped and found.reached:
        with _best.get_lock():
            _best.value = min(_best.value, found.seconds[-1])
    return found
