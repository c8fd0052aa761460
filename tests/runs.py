"""Running coopmpi from tests: in this process (lock-step), and as users do, in subprocesses with a time limit."""

import os
import signal
import subprocess
import sys

import h5py
import numpy as np

from coopmpi import config, registry
from coopmpi.drivers.solo import Solo
from coopmpi.run.assemble import assemble
from coopmpi.run.loop import Trainer
from coopmpi.sinks import Sink

# every registered algorithm, and what is another one by its keys
VARIANTS = {name: {"kind": name} for name in registry.parts("algorithm")}
VARIANTS["easgd-overlap"] = {"kind": "easgd", "overlap": True}
VARIANTS["squarm-sgd-share"] = {"kind": "squarm-sgd", "share": 0.5}
VARIANTS["squarm-sgd-threshold"] = {"kind": "squarm-sgd", "threshold": 500.0}  # some are silent at some rounds
EVEN_VARIANTS = VARIANTS | {"cooperative-hierarchical": {"kind": "cooperative", "generator": "hierarchical"}}  # of workers


def write_quadratic(path, workers, dimension=7, noise=0.0, seed=1):
    """A quadratic task file with random curvatures and minima."""
    draw = np.random.default_rng(seed)
    with h5py.File(path, "w") as file:
        file["a"] = draw.uniform(0.3, 1.5, dimension)
        file["b"] = draw.normal(size=(workers, dimension))
        file["x0"] = draw.normal(size=dimension)
        file.attrs["noise"] = noise
    return str(path)


def read(tables):
    """The tables without the keys that play no part: those that tests of all algorithms have in common, some do not read."""
    return config.without(tables, config.unread(tables))


def lockstep(tables, device=None):
    """Train in this process; the Trainer, with its final state."""
    assembly = assemble(config.resolve(tables), Solo())
    trainer = Trainer(assembly, Sink())
    trainer.train()
    return trainer


def coopmpi(*arguments, ranks=None, cwd=None, limit=120, main=("-m", "coopmpi"), environment=None, options=()):
    """(exit status, stdout, stderr) of `coopmpi ARGUMENTS` in a subprocess, on that many MPI ranks with these options of mpirun.

    A run that exceeds the limit is ended with its whole process group and fails the test.
    """
    command = [sys.executable, *main, *map(str, arguments)]
    env = os.environ | {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"} | (environment or {})
    if ranks:
        from coopmpi.drivers.mpi.launch import find_mpirun

        version = subprocess.run([find_mpirun(), "--version"], capture_output=True, text=True, check=True).stdout
        crowded = ["--oversubscribe", "--bind-to", "none"] if "Open MPI" in version else []
        command = [find_mpirun(), "-n", str(ranks), *crowded, *options, *command]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd, env=env,
                               start_new_session=True)
    try:
        out, err = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        # mpirun may have a session of its own
        children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False).stdout.split()
        for group in (process.pid, *map(int, children)):
            try:
                os.killpg(group, signal.SIGKILL)
            except ProcessLookupError:
                continue
        out, err = process.communicate(timeout=20)
        raise AssertionError(f"hung for more than {limit} s: {command}\n{out}\n{err}") from None
    return process.returncode, out, err


def settings(tables):
    """`--set` arguments for nested tables."""
    found = []
    for key, value in tables.items():
        if isinstance(value, dict):
            found += [f"--set={key}.{inner}={_toml(item)}" for inner, item in value.items()]
        else:
            found.append(f"--set={key}={_toml(value)}")
    return found


def _toml(value):
    return {True: "true", False: "false"}.get(value) if isinstance(value, bool) else repr(value)
