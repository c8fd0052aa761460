"""Invariants that hold exactly whatever the data, the compressor or the trigger; numbers as in the literature."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from coopmpi.streams import Purpose, stream
from tests.runs import coopmpi, lockstep, read

M, D, STEPS, SEED, LR = 8, 40, 24, 5, 0.1


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """A task of pure noise: no objective, gradients N(0, I)."""
    path = tmp_path_factory.mktemp("noise") / "noise.h5"
    with h5py.File(path, "w") as file:
        file["a"], file["b"], file["x0"] = np.zeros(D), np.zeros((M, D)), np.linspace(-1, 1, D)
        file.attrs["noise"] = 1.0
    return str(path)


def tables(path, algorithm, **more):
    return read({"workers": M, "steps": STEPS, "seed": SEED, "dtype": "float64", "device": "cpu",
                 "task": {"kind": "quadratic", "path": path}, "optimizer": {"lr": LR}, "algorithm": algorithm,
                 "period": {"tau": 4}, "mixing": {"graph": "ring", "lazy": True},
                 "compress": {"kind": "topk", "fraction": 0.1}} | more)


def drift():
    """What the mean model does under SGD with the mean gradient: x0 - lr sum_k mean_i g_ik."""
    steps = [[stream(SEED, Purpose.NOISE, i, k).standard_normal(D) for i in range(M)] for k in range(STEPS)]
    return -LR * np.mean(steps, axis=1).sum(axis=0)


PRESERVE_THE_MEAN = [
    {"kind": "sync-sgd"}, {"kind": "local-sgd"}, {"kind": "dpa"}, {"kind": "d-psgd"}, {"kind": "overlap-dpa"},
    {"kind": "cocod-sgd"}, {"kind": "gradient-tracking"}, {"kind": "d2"}, {"kind": "choco-sgd", "gamma": 0.3},
    {"kind": "overlap-choco-sgd", "gamma": 0.3},
    {"kind": "squarm-sgd", "threshold": 150.0}, {"kind": "sparq-sgd", "growth": 50.0, "growth_every": 4},
    {"kind": "deepsqueeze"},
]


@pytest.mark.parametrize("compress", [{"kind": "topk", "fraction": 0.1}, {"kind": "sign"}, {"kind": "qsgd"}])
@pytest.mark.parametrize("algorithm", PRESERVE_THE_MEAN, ids=lambda a: a["kind"])
def test_the_mean_moves_as_in_sgd_whatever_travels(noise, algorithm, compress):
    x = lockstep(tables(noise, algorithm, compress=compress)).state.x
    assert abs(x.mean(axis=0) - (np.linspace(-1, 1, D) + drift())).max() < 1e-12


@pytest.mark.parametrize("compress", [{"kind": "topk", "fraction": 0.1}, {"kind": "sign"}, {"kind": "lowrank"}])
def test_double_compression_loses_nothing(noise, compress):
    """xhat - mean e_i - E moves by the mean local displacement, exactly."""
    trainer = lockstep(tables(noise, {"kind": "double-compressed"}, compress=compress))
    state, spans = trainer.state, trainer.context.ranges.spans
    back = np.concatenate([row[:span.stop - span.start] for row, span in zip(state.left_out_down, spans)])
    virtual = state.common[0] - state.left_out.mean(axis=0) - back
    assert abs(virtual - (np.linspace(-1, 1, D) + drift())).max() < 1e-12
    assert abs(state.left_out).max() > 0 or compress["kind"] == "lowrank"  # one tensor of one dimension is sent whole


@pytest.mark.parametrize("alpha", [0.3, 0.6, 1.0])
def test_overlap_local_sgd_conserves_what_it_should(noise, alpha):
    """With beta = 0, (1 - alpha) mean x + alpha z feels only the gradients, and those by 1 - alpha."""
    state = lockstep(tables(noise, {"kind": "overlap-local-sgd", "alpha": alpha, "beta": 0.0})).state
    conserved = (1 - alpha) * state.x.mean(axis=0) + alpha * state.z[0]
    assert abs(conserved - (np.linspace(-1, 1, D) + (1 - alpha) * drift())).max() < 1e-12


@pytest.mark.parametrize("alpha, beta", [(0.6, 0.0), (0.6, 0.7), (0.3, 0.5)])
def test_overlap_local_sgd_drifts_at_its_effective_rate(tmp_path, alpha, beta):
    """A constant gradient moves the system by (1 - alpha) / (1 - alpha beta) of the local displacement."""
    with h5py.File(tmp_path / "slope.h5", "w") as file:
        # a tiny curvature around a far minimum: gradient 1 everywhere
        file["a"], file["b"], file["x0"] = np.full(2, 1e-9), np.full((M, 2), -1e9), np.zeros(2)
    algorithm = {"kind": "overlap-local-sgd", "alpha": alpha, "beta": beta}
    ends = [lockstep(tables(str(tmp_path / "slope.h5"), algorithm, steps=steps)).state.x.mean() for steps in (400, 800)]
    assert (ends[1] - ends[0]) / (-LR * 400) == pytest.approx((1 - alpha) / (1 - alpha * beta), rel=1e-6)


SAME = {
    "slowmo without momentum": ({"kind": "slowmo", "beta": 0.0}, {"kind": "local-sgd"}, {}),
    "bmuf without momentum": ({"kind": "bmuf", "beta": 0.0}, {"kind": "local-sgd"}, {}),
    "diloco with a plain outer step": ({"kind": "diloco", "outer_lr": 1.0, "beta": 0.0}, {"kind": "local-sgd"}, {}),
    "slowmo with alpha = 1": ({"kind": "slowmo", "beta": 0.4}, {"kind": "bmuf", "beta": 0.4}, {}),
    "local SGD with tau = 1": ({"kind": "local-sgd"}, {"kind": "sync-sgd"}, {"period": {"tau": 1}}),
    "overlapped and blocking EASGD": ({"kind": "easgd", "overlap": True}, {"kind": "easgd"}, {}),
    "CoCoD and DPA overlapped on J": ({"kind": "cocod-sgd"}, {"kind": "overlap-dpa"}, {"mixing": {"graph": "complete"}}),
    "SQuARM without compression": ({"kind": "squarm-sgd", "gamma": 1.0}, {"kind": "dpa"}, {"compress": {"kind": "none"}}),
    "CHOCO and SQuARM at every step": ({"kind": "choco-sgd"}, {"kind": "squarm-sgd"}, {"period": {"tau": 1}}),
    "double compression of nothing": ({"kind": "double-compressed"}, {"kind": "local-sgd"}, {"compress": {"kind": "none"}}),
}


@pytest.mark.parametrize("case", SAME)
def test_special_cases_coincide(noise, case):
    one, other, more = SAME[case]
    x, y = (lockstep(tables(noise, algorithm, **more)).state.x for algorithm in (one, other))
    assert abs(x - y).max() < 1e-12


def test_only_d_psgd_is_biased_on_heterogeneous_data(tmp_path):
    """algorithms.md 7.12 as a statement: gradient tracking and D2 find the minimiser, D-PSGD stays away from it."""
    draw = np.random.default_rng(0)
    a = draw.uniform(0.5, 1.5, 5)
    with h5py.File(tmp_path / "q.h5", "w") as file:
        file["a"], file["b"], file["x0"] = a, draw.normal(size=(M, 5)), np.zeros(5)
        best = file["b"][:].mean(axis=0)
    errors = {}
    for kind in ("d-psgd", "gradient-tracking", "d2"):
        x = lockstep(tables(str(tmp_path / "q.h5"), {"kind": kind}, steps=2000)).state.x
        errors[kind] = abs(x - best).max()
    assert errors["d-psgd"] > 0.05
    assert errors["gradient-tracking"] < 1e-10 and errors["d2"] < 1e-10


@pytest.mark.mpi
def test_remembered_copies_equal_their_originals_bit_for_bit(noise, tmp_path):
    """After 100 rounds with triggers, over three ranks; some workers were silent, some were not."""
    chosen = tables(noise, {"kind": "squarm-sgd", "threshold": 150.0}, steps=100, period={"tau": 1}, dtype="float32")
    (tmp_path / "tables.json").write_text(json.dumps(chosen))
    script = str(Path(__file__).with_name("copies.py"))
    status, out, err = coopmpi(tmp_path / "tables.json", ranks=3, main=(script,))
    assert status == 0, err
    found = [json.loads(line) for line in out.splitlines()]
    held = {}
    for digests, sent in found:
        assert 5 < sent < 95  # packets per link in 100 rounds
        for owner, digest in digests.items():
            held.setdefault(owner, []).append(digest)
    assert len(held) == M and sum(len(copies) > 1 for copies in held.values()) >= 6
    assert all(len(set(copies)) == 1 for copies in held.values())
