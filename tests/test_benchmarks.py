"""The benchmarks run; what they measure in so short a time means nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CASES = {
    "exchange": ["--repeats", "1", "--rates"],
    "fuzz": ["--cases", "40"],
    "models": ["--rounds", "1"],
    "overhead": ["--steps", "64", "--repeats", "1"],
    "prices": ["--rounds", "1", "--task", "digits"],
    "pytorch": ["--repeats", "1", "--steps", "0"],
    "recording": ["--blocks", "1", "--ranks", "16"],
    "soak": ["--minutes", "0.05"],
}


@pytest.mark.mpi
@pytest.mark.parametrize("name", CASES)
def test_benchmarks_print_a_table(tmp_path, name):
    if name == "pytorch":
        pytest.importorskip("torch")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    done = subprocess.run([sys.executable, "-m", "benchmarks", name, *CASES[name]], cwd=tmp_path, env=environment, text=True,
                          capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert len(rows) >= 3, done.stdout
