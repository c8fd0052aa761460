"""The training runs of benchmarks.slow_network: what each method is, how one is carried out on hosts, and its prediction."""

import json
import os
import subprocess
import sys
import tomllib
from math import inf
from pathlib import Path

import h5py
import numpy as np
import tomli_w

from benchmarks._torch_ranks import EVERY
from benchmarks.hosts import NET

RANKS, BATCH = 4, 32
LRS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)  # the grid of all methods
DIVERGED = "a smaller [optimizer] lr usually helps"  # says coopmpi of NaN and Inf
LIMIT = 900  # seconds after which a run counts as hanging
HERE = Path(__file__).parent
RING, SIGN = {"graph": "ring"}, {"kind": "sign"}
COOPMPI = {  # what each sets in the run description
    "sync-sgd": {},
    "sync-sgd-bf16": {"algorithm": {"kind": "sync-sgd"}, "compress": {"kind": "bf16"}},
    "local-sgd": {"period": {"tau": 16}},
    "overlap-local-sgd": {"period": {"tau": 16}},
    "diloco": {"period": {"tau": 16}},
    "adacomm": {"algorithm": {"kind": "local-sgd"}, "period": {"kind": "adacomm", "tau": 16, "interval_steps": 32}},
    "double-compressed": {"period": {"tau": 8}, "compress": SIGN},
    "powersgd": {},
    "dpa": {"period": {"tau": 16}, "mixing": RING},
    "d-psgd": {"mixing": RING},
    "choco-sgd": {"mixing": RING, "compress": SIGN},
    "overlap-choco-sgd": {"mixing": RING, "compress": SIGN},
    "squarm-sgd": {"period": {"tau": 4}, "mixing": RING, "compress": {"kind": "sign-topk", "fraction": 0.1}},
    "alone": {"algorithm": {"kind": "local-sgd"}, "period": {"tau": 1_000_000}},
}
TORCH = ("ddp", "ddp-fp16", "ddp-powersgd", "torch-local-sgd", "decent-dp", "torch-alone")
ALONE = ("alone", "torch-alone")  # nothing is sent and there is no target: how long a step takes at least
UNPREDICTED = ("adacomm",)  # what it sends depends on numbers


class Results:
    """What is finished: values under keys, a line of JSON each in a file."""

    def __init__(self, path):
        self._path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self._found = {tuple(key): value for key, value in map(json.loads, lines)}

    def get(self, *key):
        return self._found.get(key)

    def put(self, key, value):
        self._found[key] = value
        with self._path.open("a", encoding="utf-8") as file:
            print(json.dumps([key, value]), file=file, flush=True)


class Trainings:
    """Runs of at most `steps` steps to a training loss `target`; files lie in the folder. torch_python: an interpreter.

    steps has to be a multiple of EVERY, the steps between two evaluations.
    """

    def __init__(self, folder: Path, torch_python: str, steps: int, target: float):
        self.folder, self.torch_python, self.steps, self.target = folder, torch_python, steps, target
        self.digits = folder / "digits.npz"
        if not self.digits.exists():
            _output([torch_python, HERE / "_torch_ranks.py", "data", self.digits])

    def train(self, network, method: str, seed: int, lr: float) -> dict:
        """One run: steps, seconds and loss at its end, whether that reached the target, bytes per step and worker; the training
        losses of all evaluations, and the accuracy on held-out data at the end."""
        train = self._coopmpi if method in COOPMPI else self._torch
        try:
            found = train(network, method, seed, lr)
        except subprocess.CalledProcessError as error:
            if DIVERGED not in error.stderr:
                raise
            found = {"steps": self.steps, "loss": inf, "reached": False}
        return found | {"load": os.getloadavg()[0]}

    def measure(self, network, name: str) -> dict:
        """The [compute] and [network] tables for a simulation: of work while all ranks are busy, and of bare messages."""
        command, environment = network.mpirun()
        found = json.loads(_output([*command, sys.executable, HERE / "_pingpong.py"], environment))
        averages = self.folder / f"averages-{name}.txt"
        np.savetxt(averages, found.pop("averages"))
        # compressors are measured with the keys that they have in the run
        self._write("squarm-sgd", 0, 0.05)
        work = tomllib.loads(self._run(network.mpirun(), "doctor", "--measure", "run.toml"))
        return work | {"network": {"kind": "links", "allreduce": str(averages), **found}}

    def predict(self, method: str, machine: dict, steps: int) -> float:
        """Seconds of a step by a simulation without numbers."""
        self._write(method, 0, 0.05, **machine, steps=steps, stop={})
        self._run(([], dict(os.environ)), "simulate", "run.toml", "--time-only", "-o", "run.h5", "--overwrite", "--quiet")
        with h5py.File(self.folder / "run.h5") as file:
            return file["train/virtual_time"][-1] / steps

    def _description(self, method, seed, lr, **more):
        common = {"workers": RANKS, "steps": self.steps, "seed": seed, "device": "cpu",
                  "task": {"data": str(self.digits), "hidden": [1024, 512], "batch": BATCH},
                  "optimizer": {"kind": "sgd", "lr": lr, "momentum": 0.9}, "algorithm": {"kind": method},
                  "record": {"eval_every": EVERY, "final": "mean"}, "checkpoint": {"every_minutes": 0},
                  "stop": {} if method in ALONE else {"train_loss": self.target}}
        return common | COOPMPI[method] | more

    def _write(self, *arguments, **more):
        (self.folder / "run.toml").write_text(tomli_w.dumps(self._description(*arguments, **more)), encoding="utf-8")

    def _run(self, launcher, *words):
        """What coopmpi prints."""
        command, environment = launcher
        return _output([*command, sys.executable, "-m", "coopmpi", *words], environment, self.folder)

    def _coopmpi(self, network, method, seed, lr):
        self._write(method, seed, lr)
        self._run(network.mpirun(), "train", "run.toml", "-o", "run.h5", "--overwrite", "--quiet")
        with h5py.File(self.folder / "run.h5") as file:
            steps, seconds, accuracy = (file[f"eval/{name}"][-1] for name in ("step", "wall_time", "accuracy"))
            losses = file["eval/train_loss"][:].tolist()
            sent, waited = file["train/bytes_sent"][:], file["train/wait_time"][:]
        return {"steps": int(steps), "seconds": float(seconds), "loss": losses[-1], "reached": losses[-1] <= self.target,
                "bytes": float(sent.mean()), "waiting": float(waited.mean(axis=1).sum() / seconds), "losses": losses,
                "accuracy": float(accuracy)}

    def _torch(self, network, method, seed, lr):
        start = self.folder / f"start-{seed}-{self.steps}.npz"
        if not start.exists():
            self._save_start(seed, start)
        # one interpreter per host; what the run is goes to the first
        words = ["timeout", LIMIT, self.torch_python, HERE / "_torch_ranks.py", "run", method, self.steps,
                 0 if method in ALONE else self.target, self.digits]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "eth0", "MASTER_ADDR": f"{NET}.1",
                                    "MASTER_PORT": "29500", "WORLD_SIZE": str(RANKS), "LOCAL_WORLD_SIZE": "1"}
        ranks = [subprocess.Popen(machine.command(*map(str, words), str(start), str(lr)), env=environment | {"RANK": str(rank)},
                                  text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
                 for rank, machine in enumerate(network.machines)]
        (out, err), *_ = [rank.communicate() for rank in ranks]
        if not out:
            raise subprocess.CalledProcessError(ranks[0].returncode, words, stderr=err)
        return json.loads(out)

    def _save_start(self, seed, path):
        """The initial model and the batches of a run of coopmpi, for others."""
        from coopmpi import config
        from coopmpi.drivers.solo import Solo
        from coopmpi.run.assemble import assemble

        task = assemble(config.resolve(self._description("sync-sgd", seed, 0.05)), Solo()).driver.task.problem
        np.savez(path, x=task.initial(), offsets=[entry.offset for entry in task.layout][1:],
                 batches=np.array([task.batches.indices(k) for k in range(self.steps)]))


def _output(command, environment=None, folder=None):
    environment = (environment or os.environ) | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, cwd=folder, check=True, capture_output=True, text=True, timeout=LIMIT).stdout
