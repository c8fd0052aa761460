"""What the CPU and the simulated GPU do with arrays: against NumPy at once, and whatever the size of the cache."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.compression import cached, numbers
from tests.guarded import guarded, simulated

WEIGHTS = st.lists(st.sampled_from([1.0, -1.0, 1, 0.3, -0.3, 1 / 3, 0.0]), min_size=1, max_size=5)


@settings(max_examples=200, deadline=None)
@given(WEIGHTS, st.sampled_from(["float32", "float64"]), st.sampled_from([1, 7, 10**6]), st.integers(1, 40))
def test_a_weighted_sum_rounds_after_every_product_and_sum(weights, dtype, chunk, n):
    rows, out = list(numbers(len(weights), n, dtype)), np.full(n, np.nan, dtype)
    cached(chunk).weighted_sum(rows, weights, out)
    expected = rows[0] * weights[0]
    for row, weight in zip(rows[1:], weights[1:]):
        expected = expected + row * weight
    if len(set(weights)) == 1:  # one product for all
        expected = sum(rows[1:], rows[0]) * weights[0]
    assert out.dtype == dtype and np.array_equal(out, expected)
    exact = sum(row.astype("float64") * weight for row, weight in zip(rows, weights))
    assert np.allclose(out, exact, rtol=0, atol=1e-5)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 6), st.integers(1, 50), st.integers(1, 70))
def test_pieces_are_views_that_cover_everything_once(b, n, chunk):
    x, y = np.zeros((b, n + 3))[:, 2:-1], np.zeros((b, n))
    for part, other in cached(chunk).pieces(x, y):
        assert part.shape == other.shape and part.size <= chunk
        part += 1
        other += 1
    assert (x == 1).all() and (y == 1).all()


INDICES = np.array([[3, 0, 17], [5, 6, 7]])


@pytest.mark.parametrize("chunk", [1, 10**6])  # row by row, and all at once
def test_numbers_are_gathered_and_scattered(chunk):
    x, device = numbers(2, 20), cached(chunk)
    picked = device.gather(x, INDICES)
    assert np.array_equal(picked, [[row[i] for i in some] for row, some in zip(x, INDICES)])

    out, total = np.zeros((2, 25), "float32")[:, 3:-2], x.copy()
    device.scatter(picked, INDICES, out)
    device.scatter_add(picked, INDICES, total)
    assert np.count_nonzero(out) == 6 and np.array_equal(device.gather(out, INDICES), picked)
    assert np.array_equal(total, x + out)

    with simulated():
        from coopmpi.device.gpu import Gpu

        gpu, where = Gpu(0), guarded.asarray(INDICES)
        on_gpu, added = guarded.zeros((2, 20), "float32"), guarded.asarray(x)
        gpu.scatter(gpu.gather(guarded.asarray(x), where), where, on_gpu)
        gpu.scatter_add(gpu.gather(guarded.asarray(x), where), where, added)
        assert np.array_equal(on_gpu.get(), out) and np.array_equal(added.get(), total)


@pytest.mark.parametrize("chunk", [1, 7, 10**6])
def test_a_scaled_array_is_rounded_before_it_is_added(chunk):
    x, direction = numbers(3, 50), numbers(3, 50, seed=1)
    expected = x - direction * np.float32(0.1)
    cached(chunk).add_scaled(x, -0.1, direction)
    assert np.array_equal(x, expected)


def test_half_precision_is_that_of_numpy():
    """All float16, their neighbours in float32, what lies half-way between two of them, and random bits."""
    halves = np.arange(1 << 16, dtype="uint16").view("float16").astype("float32")
    finite = np.sort(halves[np.isfinite(halves)])
    between = ((finite[1:].astype("float64") + finite[:-1]) / 2).astype("float32")
    near = [np.nextafter(values, np.float32(way)) for values in (finite, between) for way in (-1e9, 1e9)]
    drawn = np.random.default_rng(0).integers(0, 1 << 32, 10**6, dtype="uint32").view("float32")
    x = np.concatenate([finite, between, *near, drawn, [np.float32(np.nan)]])
    x = np.clip(x, -65504, 65504)[:len(x) // 3 * 3].reshape(3, -1)
    half, back = np.empty(x.shape, "float16"), np.empty(x.shape, "float32")
    device = cached(1000)
    device.to_half(x, half)
    assert np.array_equal(half, x.astype("float16"), equal_nan=True)
    assert np.array_equal(np.signbit(half)[~np.isnan(x)], np.signbit(x)[~np.isnan(x)])
    device.from_half(half, back)
    assert np.array_equal(back, half.astype("float32"), equal_nan=True)
