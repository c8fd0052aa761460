"""Bytes that leave four hosts, as their network interfaces count them, against /train/bytes_sent. Needs root, ip and tc."""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py

from benchmarks.descriptions import settings
from benchmarks.hosts import hosts
from benchmarks.timing import table

HOSTS, RATE = 4, 1000  # Mbit/s
LENGTHS = 12, 36  # steps: the difference of two runs leaves out how they begin and end
HEADERS = 1.0 / 0.957  # of TCP, IP and Ethernet, in full packets
PACKED = ("topk", "sign", "qsgd", "lowrank")
DENSE = ("none", "fp16")


def main(arguments):
    parser = argparse.ArgumentParser(prog="python -m benchmarks wire", description=__doc__)
    parser.add_argument("--only", nargs="*", default=[], metavar="ALGORITHM")
    options = parser.parse_args(arguments)
    from coopmpi import registry

    rows = []
    with hosts(HOSTS, RATE) as network, tempfile.TemporaryDirectory() as folder:
        for name, algorithm in registry.parts("algorithm").items():
            if options.only and name not in options.only:
                continue
            for kind in PACKED if algorithm.uses_compress else DENSE if algorithm.takes_halves else ("none",):
                counted, wire = measured(network, folder, described(name, kind))
                ratio = wire / counted
                rows.append((name, kind, f"{counted:,.0f}", f"{wire:,.0f}", f"{ratio:.3f}", f"{ratio / HEADERS:.3f}"))
                print("|", *(f"{cell} |" for cell in rows[-1]), flush=True)
    table(("algorithm", "[compress]", "counted, bytes per worker and step", "on the interfaces", "ratio", "without headers"), rows)


def described(algorithm, kind):
    """A worker on each host; models of 407,000 numbers."""
    return {"workers": HOSTS, "device": "cpu", "record.eval_every": 10**6, "task.data": "teacher", "task.features": 784,
            "task.classes": 10, "task.samples": 1000, "task.hidden": [512], "task.batch": 8, "algorithm.kind": algorithm, "compress.kind": kind,
            "period.tau": 2, "mixing.lazy": True, "checkpoint.every_minutes": 0}


def measured(network, folder, keys):
    """(counted, on the interfaces): bytes per worker and step."""
    counted, wire = [], []
    for steps in LENGTHS:
        path = Path(folder, "run.h5")
        command, environment = network.mpirun()
        before = sum(network.sent())
        subprocess.run([*command, sys.executable, "-m", "coopmpi", "train", "--quiet", "--overwrite", "-o", str(path),
                        f"--set=steps={steps}", *settings(keys)], env=environment | {"OMP_NUM_THREADS": "1"}, check=True, cwd=folder,
                       stdout=subprocess.DEVNULL)
        wire.append(sum(network.sent()) - before)
        with h5py.File(path) as file:
            counted.append(file["train/bytes_sent"][:].sum())
        os.remove(path)
    steps = HOSTS * (LENGTHS[1] - LENGTHS[0])
    return tuple((after - before) / steps for before, after in (counted, wire))
