"""The benchmarks run; what they measure in so short a time means nothing."""

from pathlib import Path

import pytest

from tests.runs import coopmpi

ROOT = Path(__file__).parents[1]
CASES = {
    "exchange": ["--repeats", "1", "--rates"],
    "fuzz": ["--cases", "40"],
    "models": ["--rounds", "1"],
    "overhead": ["--steps", "64", "--repeats", "1"],
    "prices": ["--rounds", "1", "--task", "digits"],
    "pytorch": ["--repeats", "1", "--steps", "0"],
    "recording": ["--blocks", "1", "--ranks", "16", "--step", "1"],
}


@pytest.mark.mpi
@pytest.mark.parametrize("name", CASES)
def test_benchmarks_print_a_table(tmp_path, name):
    if name == "pytorch":
        pytest.importorskip("torch")
    status, out, err = coopmpi(name, *CASES[name], main=("-m", "benchmarks"), cwd=tmp_path, environment={"PYTHONPATH": str(ROOT)})
    assert status == 0, err
    assert len([line for line in out.splitlines() if line.startswith("|")]) >= 3, out
