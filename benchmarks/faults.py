"""Accidents at random moments: ranks that are lost, whole jobs that are killed. Every run must come to the right bits."""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import h5py
import numpy as np

from benchmarks.descriptions import settings
from benchmarks.timing import table
from coopmpi.run.resume import standing

LIMIT = 90  # seconds after which a run counts as hanging
WORKERS, STEPS, PAUSE = 8, 300, 0.004
COMPARED = ("final/x", "train/step", "train/loss", "train/tau")


def main(arguments):
    parser = argparse.ArgumentParser(prog="python -m benchmarks faults", description=__doc__)
    parser.add_argument("--losses", type=int, default=100, help="runs under --survive with ranks that are killed")
    parser.add_argument("--kills", type=int, default=50, help="jobs that are killed as a whole and resumed")
    parser.add_argument("--large", type=int, default=10, help="of the former, with rows of 25 MB")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="a folder for what the runs leave that are not right")
    options = parser.parse_args(arguments)
    random.seed(options.seed)
    keep = options.keep and options.keep.resolve()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        rows = [_many("ranks lost, 4 to 8 ranks, 1 to 3 kills each", options.losses - options.large, _losses, keep),
                _many("the same with rows of 25 MB", options.large, lambda: _losses(numbers=6_250_000, steps=24), keep),
                _many("whole job killed, then resumed on other ranks", options.kills, _kill_and_resume, keep)]
        table(("accidents", "runs", "kills", "right to the last bit", "hung", "seconds of a run (median)"), rows)
        table(("a snapshot of", "seconds", "of that the step waits"), [_snapshot(megabytes) for megabytes in (25, 100)])


def _many(what, count, one, keep):
    results, seconds, kills = [], [], 0
    for _ in range(count):
        begin = time.monotonic()
        right, killed = one()
        results.append(right)
        seconds.append(time.monotonic() - begin)
        kills += killed
        if not right:
            print(f"{what}, run {len(results)}: {'hung' if right is None else 'wrong'}", file=sys.stderr, flush=True)
            if keep:
                shutil.copytree(".", keep / f"{what.split(',')[0]} {len(results)}")
    return (what, count, kills, results.count(True), results.count(None), f"{median(seconds or [0]):.1f}")


def _variants():
    """Every algorithm, with the keys that make it another."""
    from coopmpi import registry

    found = [{"algorithm.kind": name} for name in registry.parts("algorithm")]
    return [*found, {"algorithm.kind": "easgd", "algorithm.overlap": True}, {"algorithm.kind": "squarm-sgd", "algorithm.share": 0.5},
            {"period.kind": "adacomm", "period.interval_steps": 40}]


def _description(numbers=60, steps=STEPS, pause=PAUSE):
    chosen = random.choice(_variants())
    return settings({"deterministic": True, "workers": WORKERS, "steps": steps, "mixing.lazy": True, "device": "cpu",
                     "compress.kind": "sign", "task.kind": "python", "task.function": "benchmarks._mortal:task",
                     "task.options": f"{{pause = {pause}, numbers = {numbers}}}", "survive.every_seconds": 0.05,
                     "checkpoint.every_steps": steps // 12} | chosen)


def _coopmpi(*words):
    root = str(Path(__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    with open("log", "a", encoding="utf-8") as log:
        print("coopmpi", *words, file=log, flush=True)
        return subprocess.Popen([sys.executable, "-m", "coopmpi", *map(str, words)], env=environment, stdout=log, stderr=log)


def _ended(process):
    """Its exit status; None if it hangs."""
    try:
        return process.wait(LIMIT)
    except subprocess.TimeoutExpired:
        for pid in _ranks():
            _kill(pid)
        process.kill()
        return None


def _ranks():
    return [int(path.read_text(encoding="utf-8")) for path in Path().glob("pid-*")]


def _kill(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def _clean():
    Path("log").write_text("", encoding="utf-8")
    for path in [*Path().glob("pid-*"), *Path().glob("run.h5")]:
        path.unlink()
    shutil.rmtree("run.h5.state", ignore_errors=True)


def _whole(words):
    """The file of a run in which nothing happens."""
    assert _ended(_coopmpi("train", "--quiet", "--overwrite", "-o", "whole.h5", *words)) == 0


def _equal():
    """Is the run finished, its file closed, and right to the last bit?"""
    if standing("run.h5").status != "finished":
        return False
    with h5py.File("whole.h5") as expected, h5py.File("run.h5") as found:
        return all(np.array_equal(expected[name][:], found[name][:]) for name in COMPARED)


def _wait_for_ranks(ranks):
    end = time.monotonic() + LIMIT
    while len(list(Path().glob("pid-*"))) < ranks and time.monotonic() < end:
        time.sleep(0.01)


def _losses(**options):
    """(right, kills): a run of 4 to 8 ranks of which some are killed, rank 0 as likely as any other."""
    words, ranks = _description(**options), random.randint(4, 8)
    _whole(words)
    _clean()
    process = _coopmpi("train", "-n", ranks, "--survive", "--quiet", "--overwrite", "-o", "run.h5", *words)
    _wait_for_ranks(ranks)
    kills = 0
    for victim in random.sample(range(ranks), random.randint(1, 3)):
        time.sleep(random.choice([random.uniform(0, 1.0), 0.02, 0.002]))  # the short ones fall into the recovery before
        if process.poll() is None:
            kills += _kill(int(Path(f"pid-{victim}").read_text(encoding="utf-8")))
    status = _ended(process)
    return (None if status is None else status == 0 and _equal()), kills


def _kill_and_resume():
    """(right, kills): all processes of a job are killed at once, then it goes on."""
    words, ranks = _description(), random.randint(1, 4)
    _whole(words)
    _clean()
    process = _coopmpi("train", "-n", ranks, "--quiet", "--overwrite", "-o", "run.h5", *words)
    _wait_for_ranks(ranks)
    time.sleep(random.uniform(0, 2.0))
    process.kill()
    kills = sum(map(_kill, _ranks()))
    process.wait()
    status = _ended(_coopmpi("train", *(["-n", random.randint(1, 4)] if random.random() < 0.7 else []), "--quiet", "--continue",
                             "-o", "run.h5", *words))
    return (None if status is None else status == 0 and _equal()), kills


def _snapshot(megabytes):
    """Seconds of one snapshot on 4 ranks, a worker each, of that many MB."""
    numbers = megabytes * 250_000
    keys = ["workers=4", "steps=40", "algorithm.kind=local-sgd", "period.tau=8", "task.kind=python", "survive.every_seconds=0.001",
            "task.function=benchmarks._mortal:task", f"task.options={{numbers = {numbers}}}", "checkpoint.every_minutes=0"]
    measure = Path(__file__).with_name("_snapshot_cost.py")
    from coopmpi.drivers.mpi.launch import mpirun

    command, environment = mpirun(4, lambda text: None)
    environment |= {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, "--with-ft", "ulfm", "--mca", "pml", "ob1", sys.executable, str(measure), *keys],
                          env=environment, capture_output=True, text=True, timeout=300, check=True)
    seconds, period = map(float, done.stdout.split()[-2:])
    return f"{megabytes} MB per rank", f"{seconds:.3f}", f"all; 1 % of the time at one every {period:.0f} s"
