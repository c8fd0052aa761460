"""What the benchmarks of plans share: tasks, the files of their machines, and the plans that are made for them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import tomli_w

from benchmarks._trainings import Results

RANKS, LIMIT = 4, 3600  # seconds after which a run counts as hanging
LONGEST, EVERY = 600, 8  # steps of a run to a target, and of an evaluation
TASKS = {  # keys of [task], and the target: loss of the mean model on training data
    "digits": ({"data": "digits", "hidden": [256, 128]}, 0.01),
    "cnn": ({"data": "digits", "model": "cnn"}, 0.02),
    "mnist": ({"hidden": [256, 128]}, 0.05),
    "torch": ({"kind": "torch", "module": "benchmarks._modules:mlp"}, 0.05),
}
TIMED = {  # of these, seconds per step alone are measured
    "wide": {"hidden": [1024, 512]},
    "patient": {"kind": "torch", "module": "benchmarks._modules:mlp", "loss": "benchmarks._modules:patient_loss"},
}


class Bench:
    """Run descriptions, machine files and plans in a folder. What is finished lies there and is not repeated."""

    def __init__(self, options):
        self.options, self.folder = options, Path(options.folder).absolute()
        self.folder.mkdir(exist_ok=True)
        self.results = Results(self.folder / "results.jsonl")
        self.digits = str(Path(options.digits).absolute())

    def common(self, task):
        """The run description of a task."""
        keys = TIMED[task] if task in TIMED else TASKS[task][0]
        data = {} if "data" in keys else {"data": self.digits}
        return {"workers": RANKS, "device": "cpu", "task": {"batch": 32} | data | keys, "optimizer": {"kind": "sgd", "lr": 0.05, "momentum": 0.9},
                "checkpoint": {"every_minutes": 0}}

    def machine(self, rate, task):
        return self.folder / f"machine-{task}-{rate}.toml"

    def plan(self, task, rate):
        """The answer of a plan with seed 0, as JSON has it."""
        path = self.folder / f"plan-{task}-{rate}.json"
        if not path.exists():
            path.write_text(self.planned(([], {}), task, self.machine(rate, task), f"plan-{task}-{rate}.h5"), encoding="utf-8")
        return json.loads(path.read_text(encoding="utf-8"))

    def planned(self, launcher, task, machine, output, *words):
        """What a plan prints as JSON; the curves that are in `output` are used again."""
        self.write(self.common(task) | {"steps": LONGEST, "record": {"eval_every": EVERY}})
        return self.coopmpi(launcher, "plan", "run.toml", "--machine", str(machine), "--train-loss", str(TASKS[task][1]), "--minutes", "30", "--json",
                            "-o", str(output), *words)

    def write(self, tables):
        (self.folder / "run.toml").write_text(tomli_w.dumps(tables), encoding="utf-8")

    def here(self, *words):
        """What coopmpi prints, in one process."""
        return self.coopmpi(([], {}), *words)

    def coopmpi(self, launcher, *words, **variables):
        """What coopmpi prints, started by (command, environment), with further variables."""
        command, environment = launcher
        variables |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
        done = subprocess.run([*command, sys.executable, "-m", "coopmpi", *words], env=os.environ | environment | variables,
                              cwd=self.folder, capture_output=True, text=True, timeout=LIMIT, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)}: {done.stderr}")
        return done.stdout
