"""PowerSGD against textbook code, synchronous SGD, and its own invariants."""

import numpy as np
import pytest

from coopmpi import config
from coopmpi.drivers.solo import Solo
from coopmpi.run.assemble import assemble
from coopmpi.run.cost import estimate
from coopmpi.streams import Purpose, stream
from coopmpi.tasks.problem import Problem
from tests.runs import lockstep, write_quadratic

M, SEED, LR = 5, 4, 0.1
SHAPES = [(12, 10), (10,), (6, 3, 5), (2, 2)]  # the last is not larger than its factors
ENDS = np.cumsum([np.prod(shape) for shape in SHAPES]).tolist()
LAYOUT = [(str(i), shape, end - int(np.prod(shape))) for i, (shape, end) in enumerate(zip(SHAPES, ENDS))]
MATRICES = [(slice(0, 120), 12, 10), (slice(130, 220), 6, 15)]


class Shaped(Problem):
    """Gradient x - b_i + noise, with tensors of several shapes; `low_rank`: no noise, and mean b_i of rank 2."""

    def __init__(self, place, spread=1.0, low_rank=False):
        self.dimension, self.layout, self.dtype = ENDS[-1], LAYOUT, place.dtype
        self.noise = 0.0 if low_rank else 0.1
        draw = np.random.default_rng(7)
        apart = spread * draw.normal(size=(M, self.dimension))
        mean = draw.normal(size=self.dimension)
        if low_rank:
            for span, n, c in MATRICES:
                mean[span] = (draw.normal(size=(n, 2)) @ draw.normal(size=(2, c))).ravel()
        self.b = mean + apart - apart.mean(axis=0)
        self.total = np.zeros(self.dimension)  # of the mean gradients so far

    def initial(self):
        return np.zeros(self.dimension, self.dtype)

    def gradient(self, x, step):
        noise = stream(1, Purpose.NOISE, step=step).standard_normal(self.dimension)  # the same for all workers
        g = (x - self.b + self.noise * noise).astype(x.dtype)
        self.total += g.mean(axis=0)
        return (g * g).sum(axis=1) / 2, g


def tables(options=None, rank=2, kind="powersgd", optimizer=None, steps=20, dtype="float64"):
    algorithm = {"kind": kind} | ({"rank": rank} if kind == "powersgd" else {})
    return {"workers": M, "steps": steps, "seed": SEED, "dtype": dtype, "device": "cpu", "algorithm": algorithm,
            "task": {"kind": "python", "function": "tests.test_powersgd:Shaped", "options": options or {}},
            "optimizer": {"lr": LR} | (optimizer or {})}


def orthonormal(p):
    """Gram-Schmidt, column by column."""
    columns = []
    for column in p.T:
        for q in columns:
            column = column - (q @ column) * q
        columns.append(column / np.linalg.norm(column))
    return np.stack(columns, axis=1)


def textbook(b, steps, rank, momentum=0.0, nesterov=False):
    """The paper's recursion, with its memory M_i - P Q^T."""
    x, v, e = np.zeros(b.shape[1]), 0, np.zeros_like(b)
    draw = stream(SEED, Purpose.COMPRESS)
    qs = [draw.standard_normal((c, rank)) for _, _, c in MATRICES]
    for k in range(steps):
        sent = x - b + 0.1 * stream(1, Purpose.NOISE, step=k).standard_normal(len(x)) + e
        average = sent.mean(axis=0)
        for i, (span, n, c) in enumerate(MATRICES):
            m = sent[:, span].reshape(M, n, c)
            p = orthonormal(np.mean([one @ qs[i] for one in m], axis=0))
            qs[i] = np.mean([one.T @ p for one in m], axis=0)
            average[span] = (p @ qs[i].T).ravel()
            e[:, span] = sent[:, span] - average[span]
        v = momentum * v + average
        x = x - LR * (average + momentum * v if nesterov else v)
    return x


@pytest.mark.parametrize("optimizer", [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}], ids=str)
@pytest.mark.parametrize("rank", [1, 2, 4])
def test_equals_the_textbook(rank, optimizer):
    trainer = lockstep(tables(rank=rank, optimizer=optimizer))
    x = textbook(trainer.driver.task.problem.b, 20, rank, **optimizer)
    assert abs(trainer.state.x - x).max() < 1e-10


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("float64", 1e-10)])
def test_mean_gradients_of_its_rank_are_reproduced(dtype, tolerance):
    """The workers' own gradients have full rank."""
    trainer = lockstep(tables({"low_rank": True}, dtype=dtype))
    exact = lockstep(tables({"low_rank": True}, kind="sync-sgd", dtype=dtype))
    assert abs(trainer.state.x - exact.state.x).max() < tolerance
    assert abs(lockstep(tables({"low_rank": True}, rank=1, dtype=dtype)).state.x - exact.state.x).max() > 0.1


def test_full_rank_is_synchronous_sgd():
    optimizer = {"momentum": 0.9, "weight_decay": 0.1}
    trainer = lockstep(tables(rank=10, optimizer=optimizer))
    assert np.array_equal(trainer.state.x, lockstep(tables(kind="sync-sgd", optimizer=optimizer)).state.x)


def test_linear_only_the_mean_gradient_counts():
    alike, apart = lockstep(tables({"spread": 0.0})), lockstep(tables({"spread": 5.0}))
    assert abs(alike.state.left_out - apart.state.left_out).max() > 1
    assert abs(alike.state.x - apart.state.x).max() < 1e-10


def test_what_was_applied_and_what_is_left_out_add_up():
    """x - lr mean e has moved by -lr times the sum of all mean gradients."""
    trainer = lockstep(tables())
    virtual = trainer.state.x - LR * trainer.state.left_out.mean(axis=0)
    assert abs(virtual + LR * trainer.driver.task.problem.total).max() < 1e-12
    assert abs(trainer.state.left_out).max() > 0.1


def test_memory_stays_bounded_where_gradients_differ():
    sizes = [np.linalg.norm(lockstep(tables({"spread": 5.0}, steps=steps)).state.left_out) for steps in (50, 400)]
    assert sizes[1] < 1.5 * sizes[0]


def test_tensors_without_matrices_need_one_average(tmp_path):
    given = tables() | {"task": {"kind": "quadratic", "path": write_quadratic(tmp_path / "q.h5", M)}}
    plain = given | {"algorithm": {"kind": "sync-sgd"}}
    a, b = lockstep(given), lockstep(plain)
    assert np.array_equal(a.state.x, b.state.x) and a.log.sent == b.log.sent


# real data
def digits(kind, **keys):
    return {"workers": 4, "steps": 300, "device": "cpu", "algorithm": {"kind": kind} | keys,
            "optimizer": {"lr": 0.05, "momentum": 0.9}}


def numbers(rank):
    """Numbers on the wire for the mlp 64-128-10."""
    return sum(rank * (n + c) for n, c in ((64, 128), (128, 10))) + 128 + 10


def test_trains_digits_as_synchronous_sgd_does_with_fewer_bytes():
    powersgd, exact = lockstep(digits("powersgd")), lockstep(digits("sync-sgd"))
    assert powersgd.figures["accuracy"] > exact.figures["accuracy"] - 0.01 > 0.95
    # what a ring all-reduce sends, of 4 workers
    assert powersgd.log.sent == pytest.approx(4 * 300 * 2 * 3 / 4 * 4 * numbers(2))
    assert powersgd.log.sent < exact.log.sent / 10


@pytest.mark.parametrize("rank", [1, 4])
def test_dry_run_foretells_bytes_and_memory(rank):
    assembly = assemble(config.resolve(digits("powersgd", rank=rank)), Solo())
    cost = estimate(assembly)
    assert cost.bytes_sent == pytest.approx(2 * 3 / 4 * 4 * numbers(rank)) and cost.messages == "2 all-reduce"
    trainer = lockstep(digits("powersgd", rank=rank) | {"steps": 5})
    held = trainer.context.device.pool.nbytes_of(lambda array: array.ndim == 2)
    held -= 4 * assembly.driver.task.dimension * 4  # the task's gradients
    assert cost.memory["slots"] + cost.memory["exchange"] == held
