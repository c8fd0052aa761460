"""Compressors: what they do to numbers, what they put on the wire, and error feedback."""

import math
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from coopmpi import registry
from coopmpi.array import Host
from coopmpi.errors import UserError
from coopmpi.parts.feedback import compress_with_feedback
from coopmpi.parts.packing import Integers, Numbers
from coopmpi.streams import Purpose, stream
from coopmpi.tasks.models import Layout
from tests.guarded import simulated

SEED, ROUND = 5, 7
SHAPES = [("weight", (40, 30)), ("bias", (30,)), ("conv", (6, 3, 3, 3)), ("one", (1,)), ("scalar", ())]
LAYOUT = Layout(SHAPES)
D = LAYOUT.size
TABLES = {
    "none": {}, "topk": {"fraction": 0.1}, "randk": {"fraction": 0.1}, "sign": {}, "sign-topk": {"fraction": 0.1},
    "qsgd": {"levels": 15}, "lowrank": {"rank": 2}, "fp16": {}, "bf16": {},
}
DETERMINISTIC = ["none", "topk", "sign", "sign-topk", "fp16", "bf16"]
KINDS = pytest.mark.parametrize("kind", TABLES)


def build(kind, **keys):
    return registry.build("compress", {"kind": kind} | TABLES[kind] | keys)


def bind(kind, shapes=SHAPES, dtype="float32", device=None, seed=SEED, **keys):
    return build(kind, **keys).bind(Layout(shapes), dtype, device or Host(), seed)


def through(codec, x, workers=None, round=ROUND):
    """C(x) by way of the wire."""
    workers = range(len(x)) if workers is None else workers
    packed = codec.encode(x, workers, round)
    assert packed.shape == (len(x), codec.nbytes) and packed.dtype == np.uint8
    return codec.decode(packed, workers, round, np.full_like(x, np.nan))


def compressed(kind, x, shape=None, **keys):
    """C(x) of one tensor x (n,)."""
    codec = bind(kind, [("x", shape or x.shape)], x.dtype, **keys)
    return through(codec, x.reshape(1, -1))[0]


def numbers(b=3, d=D, dtype="float32", seed=0):
    return np.random.default_rng(seed).standard_normal((b, d)).astype(dtype)


def squared(x):
    return np.sum(np.square(x, dtype="float64"))


def test_every_compressor_is_tested():
    assert set(TABLES) == set(registry.parts("compress"))


# on the wire

def index_bits(n):
    return math.ceil(math.log2(n))


FORMULAS = {  # bits of a tensor of n numbers of f bits, k kept
    "none": lambda n, f, k, shape: f * n,
    "topk": lambda n, f, k, shape: k * (f + index_bits(n)),
    "randk": lambda n, f, k, shape: f * k,
    "sign": lambda n, f, k, shape: n + f,
    "sign-topk": lambda n, f, k, shape: k * (1 + index_bits(n)) + f,
    "qsgd": lambda n, f, k, shape: n * (1 + math.ceil(math.log2(15 + 1))) + f,
    "lowrank": lambda n, f, k, shape: f * (2 * (shape[0] + n // shape[0]) if len(shape) > 1 else n),
    "fp16": lambda n, f, k, shape: 16 * n,
    "bf16": lambda n, f, k, shape: 16 * n,
}


@KINDS
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sizes_are_those_of_the_formulas(kind, dtype):
    codec, f = bind(kind, dtype=dtype), 8 * np.dtype(dtype).itemsize
    sizes = [(math.prod(shape), shape) for _, shape in SHAPES]
    assert codec.bits == sum(FORMULAS[kind](n, f, max(1, round(0.1 * n)), shape) for n, shape in sizes)
    # each field ends on a byte: at most 7 bits more, and there are at most three in a tensor
    assert codec.bits <= 8 * codec.nbytes <= codec.bits + 3 * 7 * len(SHAPES)
    through(codec, numbers(dtype=dtype))


@pytest.mark.parametrize("kind, nbytes", [
    ("topk", 4 * 100 + 10 * 100 / 8), ("randk", 4 * 100), ("sign", 128 + 4), ("sign-topk", 125 + 13 + 4),
    ("qsgd", 128 + 4 * 128 + 4), ("lowrank", 4 * 2 * (32 + 32)), ("fp16", 2048), ("none", 4096),
])
def test_bytes_of_a_tensor_of_32_by_32(kind, nbytes):
    keys = {"fraction": 100 / 1024} if "fraction" in TABLES[kind] else {}
    assert bind(kind, [("w", (32, 32))], **keys).nbytes == nbytes


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(0, 21), st.integers(1, 40), st.integers(1, 4))
def test_integers_return_from_as_many_bits_as_they_need(data, width, count, b):
    values = data.draw(arrays("int64", (b, count), elements=st.integers(0, 2**width - 1)))
    field = Integers(count, width)
    packed = field.pack(Host(), values)
    assert packed.shape == (b, field.nbytes) and field.nbytes == math.ceil(count * width / 8)
    assert np.array_equal(field.unpack(Host(), packed), values)


def test_numbers_return_from_odd_addresses():
    values, packed = numbers(2, 3), np.zeros((2, 15), "uint8")
    field = Numbers(3, np.dtype("float32"))
    packed[:, 1:13] = field.pack(Host(), values)
    assert np.array_equal(field.unpack(Host(), packed[:, 1:13]), values)


# what they do: against definitions, one number at a time

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
@given(VECTORS, st.sampled_from([0.02, 0.3, 0.5, 1.0]))
def test_equals_its_definition(kind, x, fraction):
    k = max(1, round(fraction * len(x)))
    result = compressed(kind, x, **({"fraction": fraction} if "fraction" in TABLES[kind] else {}))
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


# the same bits wherever they are computed

@KINDS
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_workers_together_or_alone_give_the_same_bits(kind, dtype):
    shapes = [*SHAPES, ("long", (5003,)), ("wide", (7, 901))]
    x = numbers(5, Layout(shapes).size, dtype)
    workers, codec = [9, 2, 5, 11, 3], bind(kind, shapes, dtype)
    packed = codec.encode(x, workers, ROUND).copy()
    decoded = codec.decode(packed, workers, ROUND, np.empty_like(x))
    for i, worker in enumerate(workers):
        alone = bind(kind, shapes, dtype)
        assert np.array_equal(alone.encode(x[i:i + 1], [worker], ROUND)[0], packed[i])
        assert np.array_equal(alone.decode(packed[i:i + 1], [worker], ROUND, np.empty_like(x[:1]))[0], decoded[i])


@KINDS
@pytest.mark.parametrize("chunk", [1, 2400, 10**9])
def test_so_do_workers_in_blocks(kind, chunk):
    x, device = numbers(5), Host()
    device.chunk = chunk
    blocks, whole = bind(kind, device=device), bind(kind)
    assert np.array_equal(blocks.encode(x, range(5), ROUND), whole.encode(x, range(5), ROUND))
    assert np.array_equal(through(blocks, x), through(whole, x))


@KINDS
def test_a_packet_of_zeros_is_the_zero_vector(kind):
    codec = bind(kind)
    packed = np.zeros((2, codec.nbytes), "uint8")
    assert not codec.decode(packed, [0, 1], ROUND, np.ones((2, D), "float32")).any()


@KINDS
def test_steady_state_allocates_little(kind):
    x = numbers(64, 3000)
    codec, out = bind(kind, [("w", (100, 30))]), np.empty_like(x)
    for round in range(3):
        codec.decode(codec.encode(x, range(64), round), range(64), round, out)
    tracemalloc.start()
    codec.decode(codec.encode(x, range(64), 3), range(64), 3, out)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < x.nbytes


@KINDS
def test_arrays_need_not_be_contiguous_and_are_left_as_they_are(kind):
    wide, out = numbers(3, D + 9), np.zeros((3, D + 9), "float32")
    kept, codec = wide.copy(), bind(kind)
    packed = codec.encode(wide[:, 4:-5], range(3), ROUND)
    room = np.zeros((3, codec.nbytes + 3), "uint8")
    room[:, 1:-2] = packed
    assert codec.decode(room[:, 1:-2], range(3), ROUND, out[:, 4:-5]) is not None
    assert np.array_equal(out[:, 4:-5], through(codec, np.ascontiguousarray(wide[:, 4:-5])))
    assert np.array_equal(wide, kept) and not out[:, :4].any() and not out[:, -5:].any()
    assert np.array_equal(room[:, 1:-2], codec.encode(wide[:, 4:-5], range(3), ROUND))


@KINDS
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_on_a_gpu(kind, dtype):
    x, memory = numbers(dtype=dtype), numbers(dtype=dtype, seed=1)
    expected = compress_with_feedback(bind(kind, dtype=dtype), x, memory, [4, 0, 2], ROUND)
    with simulated():
        from coopmpi.gpu import Gpu

        codec = bind(kind, dtype=dtype, device=Gpu(0))
        for _ in range(2):
            device_x, device_memory = codec.device.asarray(x), codec.device.asarray(memory)
            sent = compress_with_feedback(codec, device_x, device_memory, [4, 0, 2], ROUND)
            assert all(np.array_equal(one.get(), other) for one, other in zip(sent, expected))


def test_the_example_of_the_documentation(tmp_path, monkeypatch):
    page = Path(__file__).parent.parent / "docs" / "compressors.md"
    (tmp_path / "my_module.py").write_text(page.read_text().split("```python\n")[1].split("```")[0])
    monkeypatch.syspath_prepend(tmp_path)
    x = numbers()
    own = registry.build("compress", {"kind": "my_module:EveryOther"})
    codec = own.bind([("x", (D,), 0)], "float32", Host(), SEED)
    assert codec.nbytes == 4 * ((D + 1) // 2)
    assert np.array_equal(through(codec, x), np.where(np.arange(D) % 2, 0, x))


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


# error feedback

@KINDS
def test_what_was_sent_and_what_is_kept_is_what_was_put_in(kind):
    codec, draw = bind(kind, dtype="float64"), np.random.default_rng(3)
    memory, put_in, sent_out = np.zeros((3, D)), 0, 0
    for round in range(30):
        value = draw.standard_normal((3, D))
        before = value.copy(), memory.copy()
        sent = compress_with_feedback(codec, value, memory, range(3), round)
        assert np.array_equal(value, before[0]) and np.array_equal(memory, before[1])
        # the receiver has the packet alone
        received = bind(kind, dtype="float64").decode(sent.packed, range(3), round, np.empty((3, D)))
        assert np.array_equal(received, sent.value)
        memory, put_in, sent_out = sent.memory, put_in + value, sent_out + received
    assert np.allclose(sent_out + memory, put_in, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["topk", "randk", "sign", "sign-topk", "qsgd", "lowrank"])
def test_memory_stays_bounded(kind):
    codec, memory, sizes = bind(kind, dtype="float64"), np.zeros((1, D)), []
    for round in range(600):
        memory = compress_with_feedback(codec, numbers(1, dtype="float64", seed=round), memory, [0], round).memory
        sizes.append(squared(memory))
    assert max(sizes[300:]) <= 1.2 * max(sizes[:300])
