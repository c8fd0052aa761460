"""Mean over groups of consecutive workers, wherever they live."""

import json
from pathlib import Path

import numpy as np
import pytest

from coopmpi.device.host import Host
from coopmpi.drivers.driver import Driver
from coopmpi.drivers.rank_layout import RankLayout
from coopmpi.drivers.solo import Solo
from coopmpi.errors import UserError
from coopmpi.step import Mean
from tests.runs import coopmpi

M = 12
CASES = {f"{group} {d} {deterministic}": (group, d, deterministic)
         for group in (1, 2, 3, 4, 6, 12) for d in (1, 2, 1000) for deterministic in (True, False)}


def numbers(d):
    return np.random.default_rng(d).standard_normal((M, d)).astype(np.float32)


def means(group, d):
    """Added in ascending order, in float32."""
    rows = []
    for start in range(0, M, group):
        total = numbers(d)[start].copy()
        for row in numbers(d)[start + 1:start + group]:
            total += row
        rows += [total * np.float32(1 / group)] * group
    return np.array(rows)


@pytest.mark.parametrize("group", [1, 2, 3, 4, 6, 12])
def test_in_one_process(group):
    def one():
        return (yield Mean(numbers(7), group))

    assert np.array_equal(Driver(M, None, None, Host(), Solo()).drive(one()), means(group, 7))


def test_groups_must_be_equal():
    with pytest.raises(UserError, match="12 workers make no equal groups"):
        Driver(M, None, None, Host(), Solo()).ask(Mean(numbers(7), 5))


@pytest.mark.parametrize("ranks", [1, 2, 3, 5, 8, 12])
def test_every_worker_is_in_one_group_and_members_agree(ranks):
    layout = RankLayout(M, ranks)
    for size in (1, 2, 3, 4, 6, 12):
        seen = {}
        for rank in range(ranks):
            for group in layout.groups(size, rank):
                own = [worker for worker in layout.hosted(rank)][group.rows]
                assert dict(group.members)[rank] == len(own) > 0
                assert sum(count for _, count in group.members) == size
                seen.setdefault(own[0] // size, []).append((tuple(group.members), own))
        assert len(seen) == M // size
        for parts in seen.values():
            assert len({members for members, _ in parts}) == 1
            assert sum(len(own) for _, own in parts) == size


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [2, 3, 4, 5])
def test_on_ranks(ranks):
    script = str(Path(__file__).with_name("group_means.py"))
    root = {"PYTHONPATH": str(Path(__file__).parents[1])}
    status, out, err = coopmpi(ranks=ranks, main=(script,), environment=root)
    assert status == 0, err
    for name, rows in json.loads(out).items():
        group, d, deterministic = CASES[name]
        if deterministic:
            assert np.array_equal(np.array(rows, np.float32), means(group, d)), name
        else:
            np.testing.assert_allclose(rows, means(group, d), rtol=0, atol=1e-6, err_msg=name)
