"""The first command of a newcomer, as the README shows it."""

import h5py
import pytest

from tests.runs import coopmpi

pytestmark = pytest.mark.mpi


def test_digits_on_four_ranks_reach_96_percent_in_half_a_minute(tmp_path):
    status, out, err = coopmpi("train", "-n", 4, cwd=tmp_path, limit=30)
    assert status == 0, out + err
    with h5py.File(tmp_path / "run.h5") as file:
        assert file["eval/accuracy"][-1] >= 0.96
        assert file.attrs["ranks"] == 4 and file["final/x"].shape[0] == 4
    assert "accuracy" in out and "run.h5" in out


def test_a_second_run_does_not_touch_the_first(tmp_path):
    for _ in range(2):
        assert coopmpi("train", "--set", "steps=5", cwd=tmp_path)[0] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run-2.h5", "run.h5"]
