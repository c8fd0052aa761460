"""Who owns which samples, and who takes which at which step."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coopmpi.errors import UserError
from coopmpi.tasks.data.batches import Batches
from coopmpi.tasks.data.partition import partition

LABELS = np.random.default_rng(0).integers(0, 10, 2000)


# partitions
@settings(max_examples=60, deadline=None)
@given(kind=st.sampled_from(["iid", "dirichlet", "shards"]), workers=st.integers(1, 40), extra=st.integers(0, 300),
       classes=st.integers(1, 12), concentration=st.floats(0.01, 100), seed=st.integers(0, 2**32))
def test_every_sample_has_exactly_one_owner(kind, workers, extra, classes, concentration, seed):
    n = 2 * workers + extra
    labels = np.random.default_rng(seed).integers(0, classes, n)
    owned = partition(labels, n, workers, kind, seed, concentration)
    assert len(owned) == workers and all(len(indices) and indices.dtype == np.int64 for indices in owned)
    np.testing.assert_array_equal(np.sort(np.concatenate(owned)), np.arange(n))
    again = partition(labels, n, workers, kind, seed, concentration)
    assert all(map(np.array_equal, owned, again))


@pytest.mark.parametrize("kind", ["iid", "dirichlet", "shards"])
def test_the_seed_matters(kind):
    first, other = (partition(LABELS, 2000, 8, kind, seed) for seed in (0, 1))
    assert not all(map(np.array_equal, first, other))


def test_iid_sizes_differ_by_at_most_one():
    sizes = [len(indices) for indices in partition(None, 2003, 7, "iid", 0)]
    assert max(sizes) - min(sizes) <= 1


def test_same_gives_everyone_everything():
    for indices in partition(None, 5, 9, "same", 0):
        np.testing.assert_array_equal(indices, np.arange(5))


def test_dirichlet_shares_have_the_variance_of_the_distribution():
    """Var p = (1/m)(1 - 1/m)/(m concentration + 1) for one share of Dir(concentration, ..., concentration)."""
    labels, workers = np.repeat(np.arange(400), 500), 4
    for concentration in (0.1, 1, 10):
        owned = partition(labels, len(labels), workers, "dirichlet", 0, concentration)
        shares = np.stack([np.bincount(labels[indices], minlength=400) for indices in owned]) / 500
        expected = (1 / workers) * (1 - 1 / workers) / (workers * concentration + 1)
        assert shares.var() == pytest.approx(expected, rel=0.15)


def test_dirichlet_leaves_nobody_without_a_sample():
    for classes in (1, 5):
        owned = partition(np.arange(50) % classes, 50, 50, "dirichlet", 0, 0.01)
        assert [len(indices) for indices in owned] == [1] * 50


@pytest.mark.parametrize("per_worker", [1, 2, 5])
def test_shards_hold_few_classes(per_worker):
    balanced = np.arange(2000) % 10  # 200 of each class: each of 20 shards lies within one class
    for indices in partition(balanced, 2000, 20 // per_worker, "shards", 3, shards_per_worker=per_worker):
        assert len(np.unique(balanced[indices])) <= per_worker and len(indices) == 100 * per_worker


def test_shards_sort_regression_by_its_first_output():
    outputs = np.random.default_rng(0).normal(size=(100, 2))
    for indices in partition(outputs, 100, 10, "shards", 0, shards_per_worker=1):
        values = np.sort(outputs[:, 0])
        start = np.searchsorted(values, outputs[indices, 0].min())
        np.testing.assert_array_equal(np.sort(outputs[indices, 0]), values[start : start + 10])


@pytest.mark.parametrize("arguments, message", [
    ((LABELS[:5], 5, 6, "iid", 0), "6 workers cannot share 5"),
    ((None, 20, 4, "dirichlet", 0), "needs class labels"),
    ((np.ones((20, 1)), 20, 4, "dirichlet", 0), "needs class labels"),
    ((None, 20, 4, "shards", 0), "needs labels"),
    ((LABELS, 2000, 4, "dirichlet", 0, 0.0), "concentration must be"),
    ((LABELS, 2000, 4, "dirichlet", 0, float("nan")), "concentration must be"),
    ((LABELS[:20], 20, 8, "shards", 0, 0.5, 3), "24 shards of 20.*allowed: 1 to 2"),
    ((LABELS[:20], 20, 8, "shards", 0, 0.5, 0), "allowed: 1 to 2"),
])
def test_impossible_partitions_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        partition(*arguments)


# mini-batches
def shards_of(sizes):
    ends = list(itertools.accumulate(sizes))
    return [np.arange(end - size, end) * 7 for size, end in zip(sizes, ends)]


sizes_and_batch = dict(sizes=st.lists(st.integers(1, 700), min_size=1, max_size=4), batch=st.integers(1, 600),
                       seed=st.integers(0, 2**40))


@settings(max_examples=50, deadline=None)
@given(**sizes_and_batch)
def test_every_pass_visits_each_sample_once(sizes, batch, seed):
    shards = shards_of(sizes)
    batches = Batches(shards, range(len(sizes)), batch, seed)
    steps = 3 * max(sizes) // batch + 1
    walk = np.concatenate([batches.indices(k) for k in range(steps)], axis=1)
    assert walk.shape == (len(sizes), steps * batch) and walk.dtype == np.int64
    for row, shard in zip(walk, shards):
        passes = row[: len(row) // len(shard) * len(shard)].reshape(-1, len(shard))
        np.testing.assert_array_equal(np.sort(passes, axis=1), np.tile(shard, (len(passes), 1)))


@settings(max_examples=50, deadline=None)
@given(**sizes_and_batch, steps=st.lists(st.integers(0, 5000), min_size=1, max_size=20))
def test_any_step_in_any_order_on_any_placement(sizes, batch, seed, steps):
    shards = shards_of(sizes)
    together = Batches(shards, list(range(len(sizes))), batch, seed)
    alone = [Batches([shard], [i], batch, seed) for i, shard in enumerate(shards)]
    for k in steps:
        restarted = Batches(shards, list(range(len(sizes))), batch, seed).indices(k)
        np.testing.assert_array_equal(together.indices(k), restarted)
        np.testing.assert_array_equal(np.concatenate([one.indices(k) for one in alone]), restarted)


def test_orders_differ_between_passes_workers_and_seeds():
    shard = np.arange(300)
    first, second = (Batches([shard, shard], [0, 1], 300, seed) for seed in (0, 1))
    orders = [first.indices(0)[0], first.indices(1)[0], first.indices(0)[1], second.indices(0)[0]]
    for a, b in itertools.combinations(orders, 2):
        assert np.mean(a == b) < 0.05


def test_every_position_of_a_pass_is_equally_likely():
    """Sample s at position p: a count of 1000 over 3000 passes of 3 samples, standard deviation 26."""
    walk = np.concatenate([Batches([np.arange(3)], [4], 9, 2).indices(k)[0] for k in range(1000)]).reshape(3000, 3)
    counts = np.stack([np.bincount(column, minlength=3) for column in walk.T])
    assert abs(counts - 1000).max() < 5 * 26


def test_what_was_handed_out_stays_as_it_was():
    batches = Batches([np.arange(50)], [0], 8, 0)
    taken = [batches.indices(k) for k in range(200)]
    fresh = Batches([np.arange(50)], [0], 8, 0)
    for k, indices in enumerate(taken):
        np.testing.assert_array_equal(indices, fresh.indices(k))
    with pytest.raises(ValueError, match="read-only"):
        taken[0][0, 0] = 1


def test_uniform_batches_have_no_weights():
    assert Batches([np.arange(50)], [0], 8, 0).weights(3) is None


@pytest.mark.parametrize("longest, width", [(None, 5), (9, 9)])
def test_batch_zero_is_the_whole_shard_with_weights(longest, width):
    shards = shards_of([3, 5, 1])
    batches = Batches(shards, [4, 5, 6], 0, 0, "float32", longest)
    values = np.random.default_rng(0).normal(size=100)
    for k in (0, 11):
        indices, weights = batches.indices(k), batches.weights(k)
        assert indices.shape == weights.shape == (3, width) and weights.dtype == np.float32
        for row, weight, shard in zip(indices, weights, shards):
            np.testing.assert_array_equal(row[: len(shard)], shard)
            assert (weight[len(shard) :] == 0).all() and set(row) == set(shard)
            assert values[row] @ weight == pytest.approx(values[shard].mean(), rel=1e-6)


def test_a_negative_batch_is_refused():
    with pytest.raises(UserError, match="given -1"):
        Batches([np.arange(5)], [0], -1, 0)
