"""Models cut into a range for each worker: the pieces that compressors see, and means that travel as packets."""

from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coopmpi.device.host import Host
from coopmpi.errors import UserError
from coopmpi.streams import Purpose, stream
from coopmpi.tasks.nn.models import Layout
from tests.compression import KINDS, TABLES, bind, build, compressed, numbers
from tests.runs import lockstep, write_quadratic

SHAPE = st.lists(st.integers(1, 6), max_size=3).map(tuple)
ROUND = 3


def ranges_of(kind, shapes, workers, dtype="float64"):
    entries = Layout([(f"t{i}", shape) for i, shape in enumerate(shapes)])
    return build(kind).bind_ranges(list(entries), workers, dtype, Host(), 5)


def pieces(shapes, span):
    """(start, stop, shape, first number in the tensor) of what each tensor has between two numbers of the model."""
    offset = 0
    for shape in shapes:
        start, stop = max(offset, span.start), min(offset + prod(shape), span.stop)
        if start < stop:
            yield start, stop, shape, start - offset
        offset += prod(shape)


@given(st.lists(SHAPE, min_size=1, max_size=4), st.integers(1, 40), st.sampled_from(sorted(TABLES)))
@settings(deadline=None)
def test_ranges_cover_the_model_and_keep_matrix_rows_whole(shapes, workers, kind):
    ranges, d = ranges_of(kind, shapes, workers), sum(map(prod, shapes))
    assert len(ranges.spans) == len(ranges.places) == workers
    assert [span.start for span in ranges.spans] == [0] + [span.stop for span in ranges.spans][:-1] and ranges.spans[-1].stop == d
    assert ranges.nbytes == sum(place.stop - place.start for place in ranges.places)
    for j, span in enumerate(ranges.spans):
        if kind != "lowrank":
            assert (span.start, span.stop) == (d * j // workers, d * (j + 1) // workers)
            continue
        for start, stop, shape, first in pieces(shapes, span):
            if build(kind).factored(shape):
                row = prod(shape[1:])
                assert first % row == 0 and (stop - start) % row == 0
                assert d * j // workers - start < row


@given(st.lists(SHAPE, min_size=1, max_size=4), st.integers(1, 12),
       st.sampled_from([kind for kind in sorted(TABLES) if build(kind).random == "none"]))
@settings(deadline=None)
def test_every_piece_is_compressed_by_itself(shapes, workers, kind):
    ranges, d = ranges_of(kind, shapes, workers), sum(map(prod, shapes))
    x = np.random.default_rng(workers).standard_normal((2, d))
    out = ranges.decode(ranges.encode(x, (0, 1), ROUND), (0, 1), ROUND, np.full_like(x, np.nan))
    for span in ranges.spans:
        for start, stop, *_ in pieces(shapes, span):
            for row in range(2):
                assert np.array_equal(out[row, start:stop], compressed(kind, x[row, start:stop].copy()))


@KINDS
def test_own_ranges_are_those_of_the_model(kind):
    """What an owner packs is what a worker m + j packs of its range, whatever else the rows hold."""
    shapes, workers = [(12, 9), (30,), (5, 4, 3)], 4
    ranges, d = ranges_of(kind, shapes, workers), 198
    x = numbers(1, d, "float64")
    own = np.zeros((workers, ranges.width))
    for row, span in zip(own, ranges.spans):
        row[:span.stop - span.start] = x[0, span]
    packed = ranges.own.encode(own, range(workers), ROUND)
    out = ranges.own.decode(packed, range(workers), ROUND, np.full_like(own, np.nan))
    for j, (span, place) in enumerate(zip(ranges.spans, ranges.places)):
        alone = ranges.encode(x, (workers + j,), ROUND)[:, place]
        assert np.array_equal(packed[j, :place.stop - place.start], alone[0])
        n = span.stop - span.start
        assert np.array_equal(out[j, :n], ranges.decode(ranges.encode(x, (workers + j,), ROUND), (workers + j,), ROUND, x.copy())[0, span])
        assert not out[j, n:].any() and not packed[j, place.stop - place.start:].any()


@pytest.mark.parametrize("kind", ["randk", "qsgd"])
def test_every_range_draws_numbers_of_its_own(kind):
    ranges, d = ranges_of(kind, [(64,)], 2), 64
    x = np.tile(np.linspace(1, 2, d // 2), 2)[None]
    out = ranges.decode(ranges.encode(x, (0,), ROUND), (0,), ROUND, x.copy())[0]
    assert not np.array_equal(out[:32], out[32:])


M, STEPS, TAU, D, LR = 6, 24, 3, 45, 0.05


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_quadratic(tmp_path_factory.mktemp("ranges") / "q.h5", M, D, noise=0.1)


def top(p, fraction=0.3):
    """The numbers of largest magnitude in each of the M ranges of every row."""
    kept = np.zeros_like(p)
    for j in range(M):
        span = slice(D * j // M, D * (j + 1) // M)
        k = max(1, round(fraction * (span.stop - span.start)))
        for row, values in zip(kept, p):
            chosen = np.argsort(-abs(values[span]), kind="stable")[:k]
            row[span][chosen] = values[span][chosen]
    return kept


@pytest.mark.parametrize("momentum", ["kept", "reset", "block"])
def test_double_compression_equals_its_recursion_on_ranges(path, momentum):
    import h5py

    with h5py.File(path) as file:
        a, b, x0, noise = file["a"][:], file["b"][:], file["x0"][:], file.attrs["noise"]
    common, x, v, e, back, u = x0.copy(), np.tile(x0, (M, 1)), 0, np.zeros((M, D)), np.zeros(D), 0
    for k in range(STEPS):
        drawn = [stream(4, Purpose.NOISE, i, k).standard_normal(D) for i in range(M)]
        v = 0.9 * v + a * (x - b) + noise * np.array(drawn)
        x = x - LR * v
        if (k + 1) % TAU == 0:
            p = common - x + e
            q = top(p)
            e = p - q
            p = q.mean(axis=0) + back
            move = top(p[None])[0]
            back = p - move
            if momentum == "block":
                u = move = 0.3 * u + move
            v = 0 * v if momentum == "reset" else v
            common = common - move
            x = np.tile(common, (M, 1))
    state = lockstep({"workers": M, "steps": STEPS, "seed": 4, "dtype": "float64", "device": "cpu",
                      "task": {"kind": "quadratic", "path": path}, "optimizer": {"lr": LR, "momentum": 0.9},
                      "algorithm": {"kind": "double-compressed", "momentum": momentum}, "period": {"tau": TAU},
                      "compress": {"kind": "topk", "fraction": 0.3}}).state
    assert abs(state.x - x).max() < 1e-12
    assert abs(state.left_out).max() > 0 and abs(state.left_out_down).max() > 0


@KINDS
def test_both_ways_are_counted(path, kind):
    """2 (m - 1) packets of all ranges in all, whoever owns the longer ones."""
    tables = {"workers": M, "steps": TAU, "dtype": "float64", "device": "cpu", "task": {"kind": "quadratic", "path": path},
              "algorithm": {"kind": "double-compressed"}, "period": {"tau": TAU}, "compress": {"kind": kind} | TABLES[kind]}
    trainer = lockstep(tables)
    assert trainer.driver.sent.sum() == 2 * (M - 1) * ranges_of(kind, [(D,)], M).nbytes


def test_other_packets_are_refused():
    from coopmpi.contract.algorithm import Trial
    from coopmpi.step import Gather, Packed, Reduce

    job = Trial({"algorithm": {"kind": "double-compressed"}}).start()
    context, state = job.context, job.state
    for request, wanted in ((Reduce(context.pack(state.x, 0)), "context.ranges"), (Gather(state.x), "context.ranges.own"),
                            (Gather(Packed(context.ranges, None, 0)), "context.ranges.own")):
        def step():
            yield request

        with pytest.raises(UserError, match=wanted):
            job.driver.drive(step())


def test_a_codec_needs_its_table():
    job_without = lockstep({"workers": 2, "steps": 1, "device": "cpu", "task": {"hidden": [4]}})
    with pytest.raises(UserError, match="uses_compress"):
        job_without.context.ranges
    assert bind("sign").ranges(3).workers == 3
