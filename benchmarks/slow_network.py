"""Seconds to the same training loss on four hosts with slow links: coopmpi, PyTorch and decent-dp; predicted and measured steps.

The hosts are network namespaces (root only) that share the cores of this machine. All train the same mlp 784-1024-512-10 on 5,000 MNIST
digits, from the same initial model, over the same batches, with momentum 0.9. PyTorch lives in an environment of its own:

    python3 -m venv ENV; ENV/bin/pip install torch==2.13.0 mlxtend decent-dp

What is finished lies in --folder and is not repeated: a run that was cut off, or has more methods, seeds or rates, goes on from there.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np

from benchmarks._torch_training import EVERY
from benchmarks.hosts import NET, hosts
from benchmarks.timing import table

RANKS, BATCH = 4, 32
LRS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
LIMIT = 900  # seconds after which a run counts as hanging
PINGS = 30

RING, SIGN = {"graph": "ring"}, {"kind": "sign"}
COOPMPI = {  # what each sets in the run description
    "sync-sgd": {},
    "local-sgd": {"period": {"tau": 16}},
    "overlap-local-sgd": {"period": {"tau": 16}},
    "diloco": {"period": {"tau": 16}},
    "adacomm": {"algorithm": {"kind": "local-sgd"}, "period": {"kind": "adacomm", "tau": 16, "interval_steps": 32}},
    "double-compressed": {"period": {"tau": 8}, "compress": SIGN},
    "powersgd": {},
    "dpa": {"period": {"tau": 16}, "mixing": RING},
    "d-psgd": {"mixing": RING},
    "choco-sgd": {"mixing": RING, "compress": SIGN},
    "squarm-sgd": {"period": {"tau": 4}, "mixing": RING, "compress": {"kind": "sign-topk", "fraction": 0.1}},
    "alone": {"algorithm": {"kind": "local-sgd"}, "period": {"tau": 1_000_000}},
}
TORCH = ("ddp", "ddp-fp16", "ddp-powersgd", "torch-local-sgd", "decent-dp", "torch-alone")
WITHOUT_TARGET = ("alone", "torch-alone")  # nothing is sent: how long a step takes at least
UNPREDICTED = ("adacomm",)  # what it sends depends on numbers


def main(arguments):
    parser = argparse.ArgumentParser(prog="python -m benchmarks slow-network", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-python", metavar="PATH", default=os.environ.get("COOPMPI_TORCH_PYTHON"),
                        help="interpreter of that environment (default: COOPMPI_TORCH_PYTHON)")
    parser.add_argument("--methods", nargs="*", choices=(*COOPMPI, *TORCH), default=(*COOPMPI, *TORCH), metavar="METHOD",
                        help=f"some of: {', '.join((*COOPMPI, *TORCH))}")
    parser.add_argument("--rates", nargs="*", type=int, default=(100, 1000), metavar="MBIT", help="(default: 100 1000)")
    parser.add_argument("--seeds", nargs="*", type=int, default=(1, 2, 3), metavar="SEED", help="(default: 1 2 3)")
    parser.add_argument("--lr", type=float, help="of all, instead of the best of each with seed 0 among "
                                                 f"{', '.join(map(str, LRS))}")
    parser.add_argument("--steps", type=int, default=400, help="at most in a run (default: %(default)s)")
    parser.add_argument("--target", type=float, default=0.1, help="training loss of the mean model (default: %(default)s)")
    parser.add_argument("--folder", default="slow-network", help="(default: %(default)s)")
    parser.add_argument("--ping", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.ping:
        _ping()
        return
    if not options.torch_python:
        parser.exit(2, "the digits come from mlxtend: give --torch-python ENV/bin/python or set COOPMPI_TORCH_PYTHON, where ENV is "
                       "made by\n    python3 -m venv ENV; ENV/bin/pip install torch==2.13.0 mlxtend decent-dp\n")
    if os.geteuid():
        parser.exit(2, "hosts are network namespaces, which take root\n")
    bench = Bench(options)
    try:
        bench.train()
    finally:
        bench.report()


class Results:
    """What is finished, a line of JSON each in a file: a dict under a key."""

    def __init__(self, path):
        self._path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self._found = {tuple(key): value for key, value in map(json.loads, lines)}

    def get(self, *key):
        return self._found.get(key)

    def put(self, key, value):
        self._found[tuple(key)] = value
        with self._path.open("a", encoding="utf-8") as file:
            print(json.dumps([key, value]), file=file, flush=True)


class Bench:
    """All runs that the options ask for, and their tables."""

    def __init__(self, options):
        self.options, self.folder = options, Path(options.folder).absolute()
        self.folder.mkdir(exist_ok=True)
        self.results = Results(self.folder / f"results-{options.target:g}.jsonl")
        self.digits = self.folder / "digits.npz"
        if not self.digits.exists():
            subprocess.run([options.torch_python, Path(__file__).with_name("_torch_training.py"), "data", self.digits], check=True)

    # what is run
    def train(self):
        """Tune at the highest rate, since the rate changes no number; then every method once per seed, in turn."""
        options = self.options
        for rate in sorted(options.rates, reverse=True):
            with hosts(RANKS, rate) as network:
                if not options.lr and rate == max(options.rates):
                    self.runs(network, rate, [(method, 0, lr) for method in options.methods if method not in WITHOUT_TARGET
                                              for lr in LRS])
                self.measure(network, rate)
                for seed in options.seeds:
                    chosen = [(method, seed, self.lr(method)) for method in options.methods]
                    self.runs(network, rate, [run for run in chosen if run[2] is not None])

    def lr(self, method):
        """The learning rate that came to the target first; None: no one has."""
        if method in WITHOUT_TARGET:
            return 0.01
        if self.options.lr:
            return self.options.lr
        reached = [(found["steps"], found["loss"], lr) for lr in LRS
                   if (found := self.results.get(method, max(self.options.rates), 0, lr)) and found["reached"]]
        return min(reached)[2] if reached else None

    def runs(self, network, rate, wanted):
        """Those of (method, seed, lr) that are not finished yet."""
        todo = [run for run in wanted if self.results.get(run[0], rate, *run[1:]) is None]
        for number, (method, seed, lr) in enumerate(todo, start=1):
            train = self.coopmpi if method in COOPMPI else self.torch
            try:
                found = train(network, method, seed, lr) | {"load": os.getloadavg()[0]}
            except (subprocess.SubprocessError, OSError) as error:
                print(f"{method} at {rate} Mbit/s failed: {error}\n{getattr(error, 'stderr', None) or ''}", file=sys.stderr)
                continue
            self.results.put((method, rate, seed, lr), found)
            print(f"{number}/{len(todo)}: {method}, {rate} Mbit/s, seed {seed}, lr {lr}: {found['steps']} steps in "
                  f"{found['seconds']:.1f} s, loss {found['loss']:.3f}", file=sys.stderr, flush=True)

    def description(self, method, seed, lr, **more):
        """The run description of a method of coopmpi."""
        common = {"workers": RANKS, "steps": self.options.steps, "seed": seed, "device": "cpu",
                  "task": {"data": str(self.digits), "hidden": [1024, 512], "batch": BATCH},
                  "optimizer": {"lr": lr, "momentum": 0.9}, "algorithm": {"kind": method},
                  "record": {"eval_every": EVERY, "final": "mean"}, "checkpoint": {"every_minutes": 0}}
        return common | COOPMPI[method] | more

    def coopmpi(self, network, method, seed, lr):
        import h5py

        run = self.description(method, seed, lr)
        _coopmpi(self.folder, network.mpirun(), "train", run)
        with h5py.File(self.folder / "run.h5") as file:
            losses, steps, times = (file[f"eval/{name}"][:] for name in ("train_loss", "step", "wall_time"))
            sent, waited, seconds = (file[f"train/{name}"][:] for name in ("bytes_sent", "wait_time", "wall_time"))
        below = np.flatnonzero(losses <= self.options.target)
        end = below[0] if len(below) and method not in WITHOUT_TARGET else -1
        n = int(steps[end])
        return {"steps": n, "seconds": float(times[end]), "loss": float(losses[end]), "reached": bool(losses[end] <= self.options.target),
                "bytes": float(sent.mean()), "waiting": float(waited.mean(axis=1).sum() / seconds[-1])}

    def torch(self, network, method, seed, lr):
        start = self.folder / f"start-{seed}.npz"
        if not start.exists():
            self.save_start(seed, start)
        # one interpreter per host; the numbers of the run go to the first
        script, target = Path(__file__).with_name("_torch_training.py"), 0 if method in WITHOUT_TARGET else self.options.target
        words = ["timeout", LIMIT, self.options.torch_python, script, "run", method, self.folder, self.options.steps, target]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "eth0", "MASTER_ADDR": f"{NET}.1", "MASTER_PORT": "29500",
                                    "WORLD_SIZE": str(RANKS), "LOCAL_WORLD_SIZE": "1"}
        ranks = [subprocess.Popen(machine.command(*map(str, words)), env=environment | {"RANK": str(rank)}, text=True,
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
                 for rank, machine in enumerate(network.machines)]
        out, err = ranks[0].communicate(json.dumps({"seed": seed, "lr": lr}))
        for rank in ranks[1:]:
            rank.communicate()
        if not out:
            raise subprocess.CalledProcessError(ranks[0].returncode, words, stderr=err)
        return json.loads(out)

    def save_start(self, seed, path):
        """The initial model and the batches of a run of coopmpi, for others."""
        from coopmpi import config
        from coopmpi.drivers.solo import Solo
        from coopmpi.run.assemble import assemble

        task = assemble(config.resolve(self.description("sync-sgd", seed, 0.1)), Solo()).driver.task.problem
        np.savez(path, x=task.initial(), offsets=[entry.offset for entry in task.layout][1:],
                 batches=np.array([task.batches.indices(k) for k in range(self.options.steps)]))

    # what is measured of the machine, and predicted from it
    def measure(self, network, rate):
        """The tables that a simulation takes, from bare messages between two hosts."""
        if self.results.get("network", rate) is None:
            command, environment = network.mpirun()
            ping = [*command, sys.executable, "-m", "benchmarks", "slow-network", "--ping"]
            out = subprocess.run(ping, env=environment, capture_output=True, text=True, check=True, timeout=LIMIT).stdout
            self.results.put(("network", rate), json.loads(out))

    def machine(self, rate):
        """The [compute] and [network] tables for `coopmpi simulate`; None where something was not measured."""
        alone, line = self.median("alone", rate, "seconds", per_step=True), self.results.get("network", rate)
        if alone is None or line is None:
            return None
        return {"compute": {"kind": "constant", "seconds": alone},
                "network": {"kind": "links", "egress": line["bandwidth"], **line}}

    def predicted(self, method, rate):
        """Seconds of a step by a simulation without numbers."""
        import h5py

        machine = self.machine(rate)
        if method in UNPREDICTED or method in WITHOUT_TARGET or machine is None:
            return None
        _coopmpi(self.folder, ([], dict(os.environ)), "simulate", self.description(method, 1, 0.1, **machine), "--time-only")
        with h5py.File(self.folder / "run.h5") as file:
            return file["train/virtual_time"][-1] / len(file["train/step"])

    # what is printed
    def finished(self, method, rate):
        """The results of a method, one per seed."""
        lr = self.lr(method)
        return [found for seed in self.options.seeds if (found := self.results.get(method, rate, seed, lr))]

    def median(self, method, rate, figure, per_step=False):
        values = [found[figure] / (found["steps"] if per_step else 1) for found in self.finished(method, rate) if figure in found]
        return median(values) if values else None

    def report(self):
        for rate in self.options.rates:
            print(f"\n{rate} Mbit/s, {RANKS} hosts, training loss {self.options.target:g}")
            table(("", "lr", "s/step", "MB/step", "waiting", "steps", "s to the target", "of the seeds", "against DDP", "of the limit"),
                  [self.row(method, rate) for method in self.options.methods if self.finished(method, rate)])
            rows = [(method, self.median(method, rate, "seconds", per_step=True), self.predicted(method, rate))
                    for method in self.options.methods if method in COOPMPI and self.finished(method, rate)]
            rows = [(method, f"{seconds:.4f}", f"{guess:.4f}", f"{guess / seconds - 1:+.0%}") for method, seconds, guess in rows if guess]
            if rows:
                print(f"\n{json.dumps(self.machine(rate))}")
                table((f"{rate} Mbit/s", "s/step", "predicted", "off by"), rows)

    def row(self, method, rate):
        runs = self.finished(method, rate)
        reached = sorted(found["seconds"] for found in runs if found["reached"] and method not in WITHOUT_TARGET)
        all_reached = len(reached) == len(runs)
        waiting, lr = self.median(method, rate, "waiting"), self.lr(method)
        edge = " (edge)" if not self.options.lr and lr in (LRS[0], LRS[-1]) and method not in WITHOUT_TARGET else ""
        seconds, steps = (median(reached), self.median(method, rate, "steps")) if all_reached else (None, None)
        ddp = self.median("ddp", rate, "seconds")
        # no method comes to the target in less than the steps of the synchronous one without waiting for messages
        least, alone = self.median("sync-sgd", rate, "steps"), self.median("alone", rate, "seconds", per_step=True)
        return (method, f"{lr:g}{edge}", f"{self.median(method, rate, 'seconds', per_step=True):.4f}",
                f"{self.median(method, rate, 'bytes') / 1e6:.3f}", "" if waiting is None else f"{waiting:.0%}",
                *((f"{steps:.0f}", f"{seconds:.2f}", f"{reached[0]:.2f} to {reached[-1]:.2f}") if seconds else ("", "", "")),
                f"{ddp / seconds:.1f}x" if seconds and ddp else "",
                f"{least * alone / seconds:.0%}" if seconds and least and alone else "")


def _coopmpi(folder, launcher, verb, run, *options):
    """Carry out a run description; its result is run.h5 in the folder."""
    import tomli_w

    command, environment = launcher
    (folder / "run.toml").write_text(tomli_w.dumps(run), encoding="utf-8")
    words = [sys.executable, "-m", "coopmpi", verb, "run.toml", "-o", "run.h5", "--overwrite", "--quiet", *options]
    subprocess.run([*command, *words], env=environment | {"OMP_NUM_THREADS": "1"}, cwd=folder, check=True, capture_output=True,
                   text=True, timeout=LIMIT)


def _ping():
    """Print the latency and bandwidth of messages between two of the hosts."""
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    if comm.rank > 1:
        return
    seconds = {}
    for nbytes in (8, 5_335_080):
        data, times = np.zeros(nbytes, np.uint8), []
        for _ in range(PINGS):
            begin = perf_counter()
            for turn in range(2):
                comm.Send(data, 1 - comm.rank) if turn == comm.rank else comm.Recv(data, 1 - comm.rank)
            times.append((perf_counter() - begin) / 2)
        seconds[nbytes] = median(times)
    (_, latency), (nbytes, whole) = seconds.items()
    if comm.rank == 0:
        print(json.dumps({"latency": latency, "bandwidth": nbytes / (whole - latency)}))
