"""Is a forecast right? Seconds per step, and to a target, from what `coopmpi probe` measures, against real runs on hosts.

The hosts are network namespaces (root only) that share the cores of this machine. What is finished lies in --folder and is not
repeated. --digits: an .npz with 5,000 MNIST digits, as `python -m benchmarks slow-network` leaves it in its folder.
"""

import argparse
import json
import os
from statistics import median

import h5py
import numpy as np
from msgspec.structs import replace

from benchmarks._planned import RANKS, TASKS, TIMED, Bench
from benchmarks.hosts import hosts
from benchmarks.timing import table
from coopmpi.planner.machine import Machine, load, text
from coopmpi.planner.plan import more_workers, slower_network, with_straggler

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
CHANGED = ("sync-sgd", "local-sgd, tau 8", "overlap-local-sgd, tau 8", "d-psgd, one-peer", "d-psgd, exponential", "dpa, tau 4, ring",
           "choco-sgd, exponential, sign", "double-compressed, tau 4, topk")  # run on changed machines
FAST, SLOW = 1000, 100  # Mbit/s of the machine that was measured, and of the slower network


def main(arguments):
    parser = argparse.ArgumentParser(prog="python -m benchmarks plan", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("probe", "steps", "changes", "pilots", "targets"), help="probe: measure the hosts; steps: seconds per step; "
                        "changes: the same on machines of which only another one was measured; pilots: of the first choices of plans; "
                        "targets: real seconds to a target against the interval")
    parser.add_argument("--digits", required=True, metavar="PATH")
    parser.add_argument("--tasks", nargs="*", choices=(*TASKS, *TIMED), metavar="TASK", help="of probe, of targets: " + ", ".join((*TASKS, *TIMED)))
    parser.add_argument("--rates", nargs="*", type=int, default=(SLOW, FAST), metavar="MBIT", help=f"(default: {SLOW} {FAST})")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each, in turn (default: %(default)s)")
    parser.add_argument("--only", nargs="*", default=STRATEGIES, metavar="STRATEGY", help="of steps")
    parser.add_argument("--folder", default="plan-benchmark", help="(default: %(default)s)")
    options = parser.parse_args(arguments)
    bench = OnHosts(options)
    try:
        getattr(bench, options.part)()
    except PermissionError as error:
        parser.exit(2, f"no hosts: {error}\n")


class OnHosts(Bench):
    """The parts, each of which goes on where it was cut off."""

    def probe(self):
        for rate in self.options.rates:
            with hosts(RANKS, rate) as network:
                for task in self.options.tasks or (*TASKS, *TIMED):
                    self.write(self.common(task))
                    self.coopmpi(network.mpirun(), "probe", "run.toml", "-o", str(self.machine(rate, task)), "--overwrite")
                    print(f"\n{rate} Mbit/s, {task}\n{self.here('probe', '--show', str(self.machine(rate, task)))}", flush=True)

    # seconds per step
    def steps(self):
        """Measured and forecast, of all strategies."""
        for rate in self.options.rates:
            with hosts(RANKS, rate) as network:
                self._measure(network, ("steps", rate), "wide", self.options.only)
            self._report(f"{rate} Mbit/s", ("steps", rate), "wide", self.options.only, self.machine(rate, "wide"))

    def changes(self):
        """Measured, and forecast from the probe of another machine: FAST links between RANKS equal workers."""
        measured = load(self.machine(FAST, "patient"))
        last = f"node{RANKS}"
        for change, rate, ranks, variables, tables in (
                ("as it was measured", FAST, RANKS, {}, measured.tables()),
                ("a network ten times slower", SLOW, RANKS, {}, slower_network(measured, 10)),
                ("one worker three times slower", FAST, RANKS, {"STRAGGLER": last}, with_straggler(measured, 3)),
                ("twice the workers", FAST, 2 * RANKS, {}, more_workers(measured, 2))):
            path = self.folder / f"machine-{change.replace(' ', '-')}.toml"
            changed = Machine(about=replace(measured.about, ranks=ranks), compute=tables["compute"], network=tables["network"])
            path.write_text(text(changed), encoding="utf-8")
            with hosts(ranks, rate) as network:
                self._measure(network, ("changes", change), "patient", CHANGED, ranks, variables)
            self._report(change, ("changes", change), "patient", CHANGED, path, ranks)

    def _measure(self, network, key, task, strategies, ranks=RANKS, variables=None):
        for number in range(self.options.repeats):
            for name in strategies:
                if self.results.get(*key, name, number) is None:
                    self.write(self.common(task) | STRATEGIES[name] | {"workers": ranks, "steps": WARM + STEPS,
                                                                       "record": {"eval_every": 10**6, "final": "mean"}})
                    self.coopmpi(network.mpirun(), "train", "run.toml", "-o", "run.h5", "--overwrite", "--quiet", **(variables or {}))
                    self.results.put((*key, name, number), self._per_step("run.h5", "wall_time"))

    def _report(self, title, key, task, strategies, machine, ranks=RANKS):
        rows, errors, noise, pairs = [], [], [], []
        for name in strategies:
            runs = [self.results.get(*key, name, number) for number in range(self.options.repeats)]
            measured, forecast = median(runs), self._forecast(task, STRATEGIES[name], machine, ranks)
            errors.append(forecast / measured - 1)
            noise.append((max(runs) - min(runs)) / measured)
            pairs.append((measured, forecast))
            rows.append((name, f"{measured:.4f}", f"{min(runs):.4f} to {max(runs):.4f}", f"{forecast:.4f}", f"{forecast / measured - 1:+.0%}"))
        print(f"\n{title}, {ranks} hosts, load {os.getloadavg()[0]:.1f}")
        table(("", "s/step", "least to most", "forecast", "off by"), rows)
        order = [np.argsort(np.argsort(column)) for column in np.array(pairs).T]
        print(f"rank correlation {np.corrcoef(order)[0, 1]:.3f}; repeats differ by {median(noise):.0%} (median)")
        self._sum_up(errors)

    def _sum_up(self, errors):
        sizes = np.abs(errors)
        print(f"error: median {np.median(sizes):.0%}, root mean square {np.sqrt((sizes**2).mean()):.1%}, most {sizes.max():.0%}", flush=True)

    def _forecast(self, task, strategy, machine, ranks):
        self.write(self.common(task) | strategy | {"workers": ranks, "steps": WARM + STEPS})
        self.here("simulate", "run.toml", "--machine", str(machine), "--time-only", "-o", "sim.h5", "--overwrite", "--quiet")
        return self._per_step("sim.h5", "virtual_time")

    def _per_step(self, name, clock):
        with h5py.File(self.folder / name) as file:
            seconds = file["train"][clock][:]
        return float(seconds[-1] - seconds[WARM - 1]) / STEPS

    def pilots(self):
        """Forecast, and measured in pilots, of the first choices of plans."""
        rows, errors = [], []
        for rate in self.options.rates:
            with hosts(RANKS, rate) as network:
                for task in self.options.tasks or TASKS:
                    if self.results.get("pilots", rate, task) is None:
                        self.plan(task, rate)
                        found = json.loads(self.planned(network.mpirun(), task, self.machine(rate, task), f"plan-{task}-{rate}.h5", "--pilot", str(REAL)))
                        self.results.put(("pilots", rate, task), [[one["label"], one["per_step"], one["piloted"]] for one in found["choices"] if one["piloted"]])
                    for label, forecast, measured in self.results.get("pilots", rate, task):
                        errors.append(forecast / measured - 1)
                        rows.append((rate, task, label, f"{1e3 * measured:.3g}", f"{1e3 * forecast:.3g}", f"{errors[-1]:+.0%}"))
        table(("Mbit/s", "task", "choice", "ms/step in the pilot", "forecast", "off by"), rows)
        self._sum_up(errors)

    # to a target
    def targets(self):
        """Real runs of the best choices, of each algorithm one, with a seed that the plan has not seen."""
        rows, inside = [], 0
        for rate in self.options.rates:
            with hosts(RANKS, rate) as network:
                for task in self.options.tasks or TASKS:
                    chosen = list({one["tables"]["algorithm"]["kind"]: one for one in reversed(self.plan(task, rate)["choices"])}.values())[::-1]
                    for one in chosen[:REAL]:
                        key = ("target", rate, task, one["label"])
                        if self.results.get(*key) is None:
                            self.results.put(key, self._to_target(network, one["tables"] | {"seed": 21}, TASKS[task][1]))
                        seconds = self.results.get(*key)
                        within = one["low"] <= seconds <= one["high"]
                        inside += within
                        rows.append((rate, task, one["label"], f"{one['seconds']:.2f}", f"{one['low']:.2f} to {one['high']:.2f}",
                                     f"{seconds:.2f}" if seconds else "not reached", "" if within else "outside"))
        table(("Mbit/s", "task", "choice", "s to the target, planned", "80 % of runs", "measured", ""), rows)
        print(f"{inside} of {len(rows)} within the interval")

    def _to_target(self, network, tables, target):
        """Seconds, without those of evaluations; 0 where the target was not reached."""
        self.write(tables | {"stop": {"train_loss": target}})
        self.coopmpi(network.mpirun(), "train", "run.toml", "-o", "run.h5", "--overwrite", "--quiet")
        with h5py.File(self.folder / "run.h5") as file:
            return float(file["eval/wall_time"][-1]) if file["eval/train_loss"][-1] <= target else 0.0
