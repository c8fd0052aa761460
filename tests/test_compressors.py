"""What compressors do to numbers: against definitions, and how much they lose."""

import math
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from coopmpi import registry
from coopmpi.compression.selection import STRIDE, largest
from coopmpi.compression.wire import Integers
from coopmpi.device.host import Host
from coopmpi.errors import UserError
from coopmpi.streams import Purpose, stream
from tests.compression import (
    KINDS,
    LAYOUT,
    ROUND,
    SEED,
    TABLES,
    D,
    bind,
    build,
    cached,
    compressed,
    numbers,
    squared,
    through,
)

DETERMINISTIC = ["none", "topk", "sign", "sign-topk", "fp16", "bf16"]


def test_every_compressor_is_tested():
    assert set(TABLES) == set(registry.parts("compress"))


# against definitions, one number at a time

def first_largest(x, k):
    return sorted(range(len(x)), key=lambda i: (-abs(x[i]), i))[:k]


def topk(x, k):
    kept = np.zeros_like(x)
    for i in first_largest(x, k):
        kept[i] = x[i]
    return kept


def sign_topk(x, k):
    kept = np.zeros_like(x)
    indices = first_largest(x, k)
    scale = math.fsum(abs(x[i]) for i in indices) / k
    for i in indices:
        kept[i] = scale if x[i] >= 0 else -scale
    return kept


def half(value):
    if abs(value) >= 65504:
        return math.copysign(65504, value)
    return struct.unpack("e", struct.pack("e", value))[0]


def brain(value):
    fraction, exponent = math.frexp(value)
    exponent = max(exponent, -125)  # below are denormal numbers
    step = math.ldexp(1, exponent - 8)
    return max(-brain_max, min(brain_max, round(value / step) * step))  # round: ties to even


brain_max = (2 - 2**-7) * 2.0**127
DEFINITIONS = {
    "none": lambda x, k: x,
    "topk": topk,
    "sign": lambda x, k: np.where(x >= 0, 1, -1) * math.fsum(abs(x)) / len(x),
    "sign-topk": sign_topk,
    "fp16": lambda x, k: np.array([half(value) for value in x]),
    "bf16": lambda x, k: np.array([brain(value) for value in x]),
}
FLOATS = st.floats(-2.0**100, 2.0**100, width=32).filter(lambda x: x == 0 or abs(x) > 2.0**-100)
SCALED = st.one_of(FLOATS, st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, -2.0]))  # ties, too
VECTORS = arrays("float32", st.integers(1, 40), elements=SCALED)


@pytest.mark.parametrize("kind", DETERMINISTIC)
@settings(max_examples=60, deadline=None)
@given(VECTORS, st.sampled_from([0.02, 0.3, 0.5, 1.0]), st.sampled_from([1, 16, 10**6]))
def test_equals_its_definition(kind, x, fraction, chunk):
    k = max(1, round(fraction * len(x)))
    keys = {"fraction": fraction} if "fraction" in TABLES[kind] else {}
    result = compressed(kind, x, device=cached(chunk), **keys)
    expected = DEFINITIONS[kind](x.astype("float64"), k)
    if "sign" in kind:  # a mean of float32 is rounded
        assert np.allclose(result, expected, rtol=1e-5, atol=0)
        assert np.array_equal(np.sign(result), np.sign(expected))
    else:
        assert np.array_equal(result, expected)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", DETERMINISTIC)
def test_each_tensor_is_compressed_by_itself(kind, dtype):
    x = numbers(dtype=dtype) * np.geomspace(1, 1e3, D).astype(dtype)
    result = through(bind(kind, dtype=dtype), x)
    for entry in LAYOUT:
        span = slice(entry.offset, entry.offset + entry.size)
        for row, own in zip(result[:, span], x[:, span]):
            k = max(1, round(0.1 * entry.size))
            expected = DEFINITIONS[kind](own.astype("float32" if kind == "bf16" else dtype).astype("float64"), k)
            assert np.allclose(row, expected, rtol=1e-6 if "sign" in kind else 0, atol=0)


# the k largest

def bits_first(x, k):
    """Of one row the k largest, by the bits of magnitudes (NaN above all), of equal ones the first; ascending."""
    size = x.view(f"uint{8 * x.itemsize}") << 1
    return np.sort(np.lexsort((np.arange(len(x)), ~size))[:k])


ANY = {width: st.one_of(st.floats(width=width), st.sampled_from([0.0, -0.0, 1.0, -1.0, np.nan, np.inf])) for width in (32, 64)}
ROWS = st.sampled_from([32, 64]).flatmap(lambda width: arrays(
    f"float{width}", st.tuples(st.integers(1, 3), st.integers(1, 200)), elements=ANY[width], fill=st.sampled_from([0.0, 2.0])))


@settings(max_examples=300, deadline=None)
@given(ROWS, st.floats(0, 1), st.sampled_from([1, 64, 10**6]))
def test_the_largest_are_found_whatever_the_numbers(x, share, chunk):
    k = max(1, round(share * x.shape[1]))
    found = largest(cached(chunk), x, k)
    assert found.dtype == "int64" and np.array_equal(found, [bits_first(row, k) for row in x])


MANY = 20_011
PATTERNS = {
    "random": lambda draw: draw.standard_normal(MANY),
    "few are not zero": lambda draw: np.where(draw.random(MANY) < 0.004, draw.standard_normal(MANY), 0),
    "all the same": lambda draw: np.full(MANY, -3.0),
    "three magnitudes": lambda draw: draw.choice([1.0, 2.0, -2.0, 3.0], MANY, p=[0.6, 0.2, 0.15, 0.05]),
    "large where the sample looks": lambda draw: np.where(np.arange(MANY) % STRIDE, 0.01, 1) * draw.standard_normal(MANY),
    "large where it does not": lambda draw: np.where(np.arange(MANY) % STRIDE, 1, 0.01) * draw.standard_normal(MANY),
    "ascending": lambda draw: np.arange(MANY) - 5.0,
    "not a number": lambda draw: np.where(draw.random(MANY) < 0.3, np.nan, draw.standard_normal(MANY)),
}


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("k", [1, 200, 4001, MANY - 1, MANY])
def test_the_largest_of_a_long_row(pattern, dtype, k):
    x = PATTERNS[pattern](np.random.default_rng(4)).astype(dtype)
    for chunk in (4096, 10**9):
        assert np.array_equal(largest(cached(chunk), x[None], k)[0], bits_first(x, k))


@pytest.mark.parametrize("n, k", [(7, 3), (1000, 10), (100_000, 1000)])
def test_of_equal_magnitudes_the_first_are_kept(n, k):
    x = np.where(np.arange(n) % 2, -1, 1).astype("float32")
    x[n // 2] = 3
    expected = {n // 2, *range(k - 1)}
    for kind in ("topk", "sign-topk"):
        assert set(np.flatnonzero(compressed(kind, x, fraction=k / n))) == expected


def test_ties_of_one_worker_do_not_disturb_another():
    x = numbers(4, 50)
    x[1], x[3] = 1, 0
    codec = bind("topk", [("x", (50,))])
    assert np.array_equal(through(codec, x), [topk(row, 5) for row in x])
    # of a vector of zeros, the first ones travel
    packed = codec.encode(x, range(4), 0)
    assert np.array_equal(Integers(5, 6).unpack(Host(), packed[3:, :4])[0], range(5))


@pytest.mark.parametrize("fraction, n, k", [(0.01, 10, 1), (0.5, 7, 4), (1.0, 9, 9), (0.1, 1, 1), (0.25, 10, 2)])
def test_number_of_kept_entries(fraction, n, k):
    for kind in ("topk", "randk", "sign-topk"):
        assert np.count_nonzero(compressed(kind, numbers(1, n)[0], fraction=fraction)) == k


def test_randk_keeps_numbers_as_they_are_and_the_receiver_knows_which():
    codec, x = bind("randk"), numbers() + 10
    result = through(codec, x)
    assert np.array_equal(result[result != 0], x[result != 0])
    kept = sum(max(1, round(0.1 * entry.size)) for entry in LAYOUT)
    assert (np.count_nonzero(result, axis=1) == kept).all()
    # others at another worker, round and seed
    again = [through(codec, x, workers=[3, 4, 5]), through(codec, x, round=8), through(bind("randk", seed=6), x)]
    assert all((other != result).any(axis=1).all() for other in again)
    assert ((result != 0)[0] != (result != 0)[1]).any()


@pytest.mark.parametrize("levels", [1, 2, 15, 16, 300])
def test_qsgd_equals_its_definition(levels):
    n, x = 1001, numbers(1, 1001, "float64")[0]
    noise = stream(SEED, Purpose.COMPRESS, 0, ROUND).random(n, "float32")
    norm = np.linalg.norm(x)
    steps = np.floor(levels * abs(x) / norm + noise)
    scale = norm / levels / (1 + min(n / levels**2, math.sqrt(n) / levels))
    assert np.allclose(compressed("qsgd", x, levels=levels), scale * np.sign(x) * steps, rtol=1e-12, atol=0)


def test_qsgd_has_no_level_above_the_last():
    x, almost_one = CASES["one-hot"][None], np.full((1, 60), np.nextafter(np.float32(1), np.float32(0)))
    for levels in (1, 15, 255, 32767):  # s + u is rounded up to s + 1
        _, level, _ = build("qsgd", levels=levels).compress(Host(), x, (60,), almost_one)
        assert level.max() == levels


@pytest.mark.parametrize("shape", [(30, 20), (20, 5, 3, 2)])
def test_lowrank_projects_on_few_directions(shape):
    x = numbers(1, math.prod(shape), "float64")[0]
    matrix, result = x.reshape(shape[0], -1), compressed("lowrank", x, shape).reshape(shape[0], -1)
    start = stream(SEED, Purpose.COMPRESS, 0, ROUND).standard_normal((matrix.shape[1], 2), "float32")
    basis, _ = np.linalg.qr(matrix @ start.astype("float64"))
    assert np.allclose(result, basis @ basis.T @ matrix, rtol=0, atol=1e-12)
    assert np.linalg.matrix_rank(result) == 2


@pytest.mark.parametrize("rank, given_rank", [(1, 1), (3, 3), (3, 1), (2, 0)])
def test_lowrank_is_exact_for_matrices_of_that_rank(rank, given_rank):
    draw = np.random.default_rng(2)
    matrix = draw.standard_normal((30, given_rank)) @ draw.standard_normal((given_rank, 25))
    result = compressed("lowrank", matrix.ravel(), matrix.shape, rank=rank)
    assert np.allclose(result, matrix.ravel(), rtol=0, atol=1e-12)


def test_lowrank_sends_small_tensors_as_they_are():
    x = numbers(2, 4 * 4 + 50)
    codec = bind("lowrank", [("square", (4, 4)), ("vector", (50,))])  # 2 (4 + 4) = 4 * 4
    assert codec.nbytes == 4 * 66 and np.array_equal(through(codec, x), x)


@pytest.mark.parametrize("kind, largest", [("fp16", 65504), ("bf16", brain_max)])
def test_short_floats_saturate_and_keep_nan(kind, largest):
    top = float(np.finfo("float32").max)
    x = np.array([top, -top, np.inf, -np.inf, np.nan, 1], "float32")
    payloads = np.array([0x7FFFFFFF, 0xFFFFFFFF, 0x7FC00000], "uint32").view("float32")  # all of them NaN
    result = compressed(kind, np.concatenate([x, payloads]))
    assert np.array_equal(result[:6], [largest, -largest, largest, -largest, np.nan, 1], equal_nan=True)
    assert np.isnan(result[6:]).all()


@pytest.mark.parametrize("kind, digits", [("fp16", 11), ("bf16", 8)])
def test_short_floats_round_ties_to_even(kind, digits):
    between = 1 + (np.arange(1, 200, 2) % 2**digits) / 2**digits  # halfway between two neighbours
    x = np.concatenate([between, -between, np.nextafter(between, 2), np.nextafter(between, 1)]).astype("float32")
    assert np.array_equal(compressed(kind, x), DEFINITIONS[kind](x.astype("float64"), 0))


def test_topk_of_what_topk_kept_is_the_same():
    codec, x = bind("topk"), numbers()
    once = through(codec, x)
    assert np.array_equal(through(codec, once), once)


# contraction: ||x - C(x)||^2 <= (1 - delta) ||x||^2

CASES = {
    "random": numbers(1, 60)[0],
    "constant": np.full(60, -0.3, "float32"),
    "one-hot": np.eye(60, dtype="float32")[17],
    "zero": np.zeros(60, "float32"),
    "steep": np.geomspace(1, 1e-6, 60).astype("float32"),
}


def delta(kind, x, k):
    n, norm1, norm2 = len(x), np.sum(abs(x), dtype="float64"), squared(x) ** 0.5
    if kind == "sign":
        return norm1**2 / (n * norm2**2) if norm2 else 0
    if kind == "sign-topk":  # ||x - C(x)||^2 = ||x||^2 - ||kept||_1^2 / k
        return np.sort(abs(x))[-k:].sum(dtype="float64") ** 2 / (k * norm2**2) if norm2 else 0
    if kind == "qsgd":
        return 1 / (1 + min(n / 15**2, math.sqrt(n) / 15))
    return {"none": 1, "topk": k / n, "randk": k / n, "lowrank": 0}[kind]


@pytest.mark.parametrize("kind", ["none", "topk", "sign", "sign-topk", "lowrank"])
@pytest.mark.parametrize("case", CASES)
def test_contracts(kind, case):
    x = CASES[case]
    error = squared(x - compressed(kind, x, shape=(10, 6), **({"rank": 1} if kind == "lowrank" else {})))
    assert error <= (1 - delta(kind, x, 6) + 1e-6) * squared(x)


@pytest.mark.parametrize("kind", ["topk", "sign", "sign-topk"])
@settings(max_examples=60, deadline=None)
@given(VECTORS)
def test_contracts_whatever_the_numbers(kind, x):
    error = squared(x - compressed(kind, x).astype("float64"))
    assert error <= (1 - delta(kind, x, max(1, round(0.1 * len(x)))) + 1e-5) * squared(x)


@pytest.mark.parametrize("kind", ["randk", "qsgd"])
@pytest.mark.parametrize("case", CASES)
def test_contracts_in_expectation(kind, case):
    x, samples = CASES[case], 4000
    codec = bind(kind, [("x", (60,))])
    results = through(codec, np.tile(x, (samples, 1)))  # workers draw independently
    errors = np.sum(np.square(x - results, dtype="float64"), axis=1)
    mean, deviation = errors.mean(), errors.std() / math.sqrt(samples)
    bound = (1 - delta(kind, x, 6)) * squared(x)
    assert mean <= bound * (1 + 1e-6) + 4 * deviation
    if kind == "randk":
        assert mean >= bound * (1 - 1e-6) - 4 * deviation
    else:  # the rounding has no bias: mean C(x) = x / (1 + w)
        bias = results.mean(axis=0, dtype="float64") - delta(kind, x, 6) * x
        step = np.abs(results[results != 0]).min(initial=1)  # one hit more or less, where hits are rare
        deviations = results.std(axis=0, dtype="float64") / math.sqrt(samples) + step / samples
        assert (abs(bias) <= 5 * deviations + 1e-6 * abs(x)).all()


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.parametrize("kind", [kind for kind in TABLES if kind != "fp16"])  # which has a range of its own
def test_scale_does_not_matter(kind, scale):
    x = numbers(1, 600) * np.float32(scale)
    codec = bind(kind, [("x", (30, 20))])
    assert squared(through(codec, x) / scale - x / scale) <= squared(x / scale)
    assert np.isfinite(through(codec, x)).all() and through(codec, x).any()


# flags

@KINDS
def test_flags(kind):
    part, codec = build(kind), bind(kind)
    assert part.contractive
    x, y = np.round(8 * numbers(2)), np.round(8 * numbers(2, seed=1))
    assert part.exact == np.array_equal(through(codec, numbers(2)), numbers(2))
    # in whole numbers sums are exact
    linear = np.array_equal(through(codec, x + y), through(codec, x) + through(codec, y))
    if kind not in ("fp16", "bf16"):  # which do not round small whole numbers
        assert part.linear == linear


# bad numbers

@KINDS
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_pass(kind, bad):
    x = numbers(2)
    x[0, 100] = bad
    x[1] = bad
    codec = bind(kind)
    with np.errstate(all="ignore"):
        result = through(codec, x)
    if kind in ("none", "topk", "sign", "sign-topk", "qsgd", "lowrank"):
        assert not np.isfinite(result[0]).all()
    if kind == "topk":
        assert np.array_equal(result[0, 100], bad, equal_nan=True)


@pytest.mark.parametrize("table, message", [
    ({"kind": "topp"}, "did you mean 'topk'"),
    ({"kind": "topk", "fracton": 0.1}, "did you mean 'fraction'"),
    ({"kind": "topk", "fraction": 0.0}, "> 0.0"),
    ({"kind": "sign-topk", "fraction": 1.5}, "<= 1.0"),
    ({"kind": "randk", "fraction": "all"}, "float"),
    ({"kind": "qsgd", "levels": 0}, ">= 1"),
    ({"kind": "qsgd", "levels": 40_000}, "<= 32767"),
    ({"kind": "lowrank", "rank": 0}, ">= 1"),
    ({"kind": "sign", "fraction": 0.1}, "fraction"),
], ids=str)
def test_bad_tables_are_refused(table, message):
    with pytest.raises(UserError, match=message):
        registry.build("compress", table)
