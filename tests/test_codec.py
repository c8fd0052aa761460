"""Compressed models on the wire: exact sizes, the same bits everywhere, and error feedback."""

import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from coopmpi import registry
from coopmpi.compression.feedback import compress_with_feedback
from coopmpi.compression.wire import Integers, Numbers
from coopmpi.device.host import Host
from coopmpi.tasks.nn.models import Layout
from tests.compression import KINDS, ROUND, SEED, SHAPES, TABLES, D, bind, cached, numbers, squared, through
from tests.guarded import simulated

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


@pytest.mark.parametrize("width", [*range(22), 31, 32, 33])
@settings(max_examples=10, deadline=None)
@given(st.data(), st.integers(1, 40), st.integers(1, 4))
def test_integers_return_from_as_many_bits_as_they_need(width, data, count, b):
    values = data.draw(arrays("int64", (b, count), elements=st.integers(0, 2**width - 1)))
    values[0, 0] = 2**width - 1
    field = Integers(count, width)
    packed = field.pack(Host(), values)
    assert packed.shape == (b, field.nbytes) and field.nbytes == math.ceil(count * width / 8)
    assert np.array_equal(field.unpack(Host(), packed), values)


def test_numbers_return_from_odd_addresses():
    values, packed = numbers(2, 3), np.zeros((2, 15), "uint8")
    field = Numbers(3, np.dtype("float32"))
    packed[:, 1:13] = field.pack(Host(), values)
    assert np.array_equal(field.unpack(Host(), packed[:, 1:13]), values)


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
@pytest.mark.parametrize("chunk", [1, 300, 2400, 10**9])
def test_so_do_workers_in_blocks(kind, chunk):
    shapes = [*SHAPES, ("long", (5003,))]
    x = numbers(5, Layout(shapes).size)
    blocks, whole = bind(kind, shapes, device=cached(chunk)), bind(kind, shapes)
    assert np.array_equal(blocks.encode(x, range(5), ROUND), whole.encode(x, range(5), ROUND))
    assert np.array_equal(through(blocks, x), through(whole, x))


@KINDS
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("chunk", [1, 2400, 10**9])
def test_what_is_added_is_what_is_restored(kind, dtype, chunk):
    codec, x, before = bind(kind, dtype=dtype, device=cached(chunk)), numbers(dtype=dtype), numbers(dtype=dtype, seed=1)
    x[1] = 0
    x[2, ::7] = np.nan
    packed = codec.encode(x, range(3), ROUND)
    packed[0] = 0  # of a silent worker
    wide = np.zeros((3, D + 9), dtype)
    wide[:, 4:-5] = before
    assert codec.add(packed, range(3), ROUND, wide[:, 4:-5]) is not None
    total = before + codec.decode(packed, range(3), ROUND, np.empty_like(x))
    assert np.array_equal(wide[:, 4:-5], total, equal_nan=True) and not wide[:, :4].any() and not wide[:, -5:].any()


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
        from coopmpi.device.gpu import Gpu

        codec = bind(kind, dtype=dtype, device=Gpu(0))
        for _ in range(2):
            device_x, device_memory = codec.device.asarray(x), codec.device.asarray(memory)
            sent = compress_with_feedback(codec, device_x, device_memory, [4, 0, 2], ROUND)
            assert all(np.array_equal(one.get(), other) for one, other in zip(sent, expected))
            added = codec.add(sent.packed, [4, 0, 2], ROUND, codec.device.asarray(x))
            assert np.array_equal(added.get(), x + expected.value)


def test_the_example_of_the_documentation(tmp_path, monkeypatch):
    page = Path(__file__).parent.parent / "docs" / "compressors.md"
    (tmp_path / "my_module.py").write_text(page.read_text().split("```python\n")[1].split("```")[0])
    monkeypatch.syspath_prepend(tmp_path)
    x = numbers()
    own = registry.build("compress", {"kind": "my_module:EveryOther"})
    codec = own.bind([("x", (D,), 0)], "float32", Host(), SEED)
    assert codec.nbytes == 4 * ((D + 1) // 2)
    assert np.array_equal(through(codec, x), np.where(np.arange(D) % 2, 0, x))


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
