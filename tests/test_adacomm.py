"""Periods that change: AdaComm's rules by hand, on a clock of the test's own and over MPI; post-local, listed."""

import json
import math
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coopmpi import config
from coopmpi.drivers.solo import Solo
from coopmpi.drivers.stopwatch import Stopwatch
from coopmpi.errors import NumericalFailure, UserError
from coopmpi.local.periods import AdaComm
from coopmpi.run.assemble import assemble
from coopmpi.run.cost import estimate
from coopmpi.run.loop import Trainer
from coopmpi.sinks import Sink
from coopmpi.tasks.problem import Problem
from tests.runs import coopmpi, lockstep, write_quadratic

ALGORITHMS = ("local-sgd", "dpa", "easgd")


# the rule
@pytest.mark.parametrize("tau_0, tau, ratio, lr_ratio, coupling, expected", [
    (16, 16, 0.25, 1, 0, 8),  # sqrt(1/4) 16
    (16, 16, 0.5, 1, 0, 12),  # 11.3
    (10, 7, 0.5, 1, 0, 4),  # 7.07 is 8, which is not smaller than 7: half of 7
    (16, 16, 1.0, 1, 0, 8),  # no progress
    (16, 3, 4.0, 1, 0, 2),  # a growing loss
    (16, 1, 1.0, 1, 0, 1),  # never below 1
    (16, 5, 0.0, 1, 0, 1),
    (16, 16, 0.25, 1, 3, 8),  # lr has not changed
    (16, 8, 0.25, 10, 0, 4),  # lr left out
    (16, 8, 0.25, 10, 1, 26),  # sqrt(10) 8 = 25.3: may grow
    (16, 8, 0.25, 10, 3, 253),  # sqrt(1000) 8
    (16, 8, 0.25, 10, 9, 300),  # `largest`
], ids=str)
def test_rule_by_hand(tau_0, tau, ratio, lr_ratio, coupling, expected):
    period = AdaComm(tau=tau_0, coupling=coupling, largest=300)
    assert period.next_tau(tau, 3.0 * ratio, 3.0, lr_ratio) == expected


@pytest.mark.parametrize("loss, first", [(1.0, 0.0), (0.0, 0.0), (-1.0, 2.0), (1.0, -2.0), (math.nan, 1.0),
                                         (math.inf, 1.0), (1.0, math.nan), (1.0, math.inf)])
def test_losses_without_a_ratio_change_nothing(loss, first):
    assert AdaComm().next_tau(5, loss, first, 1.0) == 5


# on a clock of the test's own: a step takes a second
class StepCounter(Stopwatch):
    seconds = 0.0


class Scripted(Problem):
    """Losses as given, those of each of the workers shifted by what cancels out in the mean."""

    dimension = 3

    def __init__(self, place, losses=()):
        self.dtype, self.losses = place.dtype, losses
        self.shift = np.array([(i - (place.workers - 1) / 2) / 1000 for i in place.hosted])

    def initial(self):
        return np.zeros(3, self.dtype)

    def gradient(self, x, step):
        return self.losses[step % len(self.losses)] * (1 + self.shift), np.zeros_like(x)


def job(losses, period, steps, **more):
    task = {"kind": "python", "function": "tests.test_adacomm:Scripted", "options": {"losses": list(losses)}}
    return {"workers": 4, "steps": steps, "dtype": "float64", "device": "cpu", "task": task,
            "period": period} | more


def taus(tables):
    """(tau in force at each step, the Trainer) of a lock-step run whose clock counts steps."""
    assembly = assemble(config.resolve(tables), Solo())
    trainer, found = Trainer(assembly, Sink()), []
    trainer.driver.stopwatch = StepCounter()
    for k in range(tables["steps"]):
        trainer.driver.stopwatch.seconds = k + 1.0
        found.append(trainer.context.tau)
        trainer.driver.step(trainer.algorithm, trainer.state, trainer.context, k)
    trainer.driver.drive(trainer.algorithm.finish(trainer.state, trainer.context))
    return found, trainer


def changes(found):
    """[[step, tau]] at which the period became another."""
    return [[k, tau] for k, tau in enumerate(found) if k == 0 or tau != found[k - 1]]


def test_sequence_by_hand():
    # rounds end after steps 3, 7, 11 with mean losses 16, 4, ...; a decision is taken when a round's mean has
    # arrived, one round later, and followed from the round after that
    losses = [16] * 4 + [4] * 4 + [1] * 40
    found, _ = taus(job(losses, {"kind": "adacomm", "tau": 4, "interval": 4.0}, 24))
    # t = 8: F_0 = 16, the loss of the first step; no progress yet: half of 4, from step 12 on. t = 12, where 2 comes into force: F = 4,
    # sqrt(1/4) 4 = 2 is not smaller: half of 2, from step 14 on
    assert changes(found) == [[0, 4], [12, 2], [14, 1]]


def test_nothing_changes_before_the_interval_is_over():
    found, _ = taus(job([1.0], {"kind": "adacomm", "tau": 4, "interval": 17.0}, 60))
    # t = 20 is the first round end after 17: 2 from step 24 on; t = 38 that after 20 + 17: 1 from step 40 on
    assert changes(found) == [[0, 4], [24, 2], [40, 1]]


def follow(losses, tau_0, interval, fallback, steps):
    """The periods of the rounds, once more, from a table of rounds."""
    first, deadline, tau, rounds, end, found = losses[0], interval, tau_0, [], 0, []
    decision = tau_0
    while end < steps:
        found += [tau] * tau
        rounds.append(np.mean([losses[k % len(losses)] for k in range(end, end + tau)]))
        end += tau
        if len(rounds) > 1:
            tau, known = decision, rounds[-2]
            if end >= deadline:
                deadline = end + interval
                asked = math.ceil(math.sqrt(known / first) * tau_0)
                decision = asked if asked < tau else math.ceil(fallback * tau)
    return found[:steps]


positive = st.floats(0.01, 100.0)


@settings(max_examples=40, deadline=None)
@given(st.lists(positive, min_size=1, max_size=60), st.integers(1, 20), st.floats(1.0, 30.0), st.floats(0.1, 0.9))
def test_follows_the_rounds_and_never_grows(losses, tau, interval, fallback):
    period = {"kind": "adacomm", "tau": tau, "interval": interval, "fallback": fallback}
    found, _ = taus(job(losses, period, 80))
    assert found == follow(losses, tau, interval, fallback, 80)
    assert all(after <= before for before, after in zip(found, found[1:]))


def test_coupled_to_the_learning_rate_it_grows_when_lr_drops():
    schedule = {"kind": "step", "milestones": [40.0], "factor_each": 0.1}
    period = {"kind": "adacomm", "tau": 8, "interval": 8.0}
    apart, _ = taus(job([1.0], period, 100, schedule=schedule))
    coupled, _ = taus(job([1.0], period | {"coupling": 1.0}, 100, schedule=schedule))
    assert apart[:41] == coupled[:41] and apart[-1] == 1
    assert coupled[-1] == math.ceil(math.sqrt(10) * 8)


def test_simulation_reads_the_virtual_clock():
    tables = job([5, 4, 3, 2.5, 2, 1.5, 1, 0.5, 0.2], {"kind": "adacomm", "tau": 9, "interval": 20.0}, 120)
    found, _ = taus(tables)
    virtual = tables | {"compute": {"kind": "constant", "seconds": 1.0},
                        "network": {"kind": "delay", "seconds": 0.0}}
    trainer = Trainer(assemble(config.resolve(virtual), Solo(), mode="simulate"), Sink())
    seen, add = [], trainer.log.add
    trainer.log.add = lambda loss, time, tau, lr: (seen.append(tau), add(loss, time, tau, lr))
    trainer.train()
    assert seen == found and found[-1] < found[0]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_quadratic(tmp_path_factory.mktemp("adacomm") / "q.h5", 4, noise=0.1)


def quadratic(path, algorithm, period, **more):
    return {"workers": 4, "steps": 200, "dtype": "float64", "device": "cpu",
            "task": {"kind": "quadratic", "path": path}, "algorithm": {"kind": algorithm}, "period": period,
            "optimizer": {"lr": 0.05, "momentum": 0.5}} | more


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_models_are_those_of_the_same_periods_listed(path, algorithm):
    found, trainer = taus(quadratic(path, algorithm, {"kind": "adacomm", "tau": 16, "interval": 40.0}))
    assert len(changes(found)) > 2
    listed = lockstep(quadratic(path, algorithm, {"kind": "list", "taus": changes(found)}))
    assert np.array_equal(trainer.state.x, listed.state.x)


def test_divergence_is_a_numerical_failure(path):
    with pytest.raises(NumericalFailure, match="smaller"), np.errstate(all="ignore"):
        lockstep(quadratic(path, "local-sgd", {"kind": "adacomm", "tau": 4, "interval": 1e-9},
                           optimizer={"lr": 100.0}, steps=2000))


def test_wall_clock_decisions_are_refused_where_a_run_must_repeat(path):
    given = quadratic(path, "local-sgd", {"kind": "adacomm"}, deterministic=True)
    with pytest.raises(UserError, match="deterministic = true needs interval_steps"):
        lockstep(given)
    assemble(config.resolve(given), Solo(), mode="simulate")  # virtual clocks repeat
    lockstep(given | {"period": {"kind": "adacomm", "interval_steps": 50}})
    with pytest.raises(UserError, match="give one of them"):
        config.resolve({"period": {"kind": "adacomm", "interval": 3.0, "interval_steps": 3}})


def test_dry_run_costs_what_the_first_period_costs(path):
    costs = [estimate(assemble(config.resolve(quadratic(path, "dpa", period)), Solo()))
             for period in ({"kind": "adacomm", "tau": 6}, {"tau": 6})]
    # adacomm's own slot: two losses of each worker, float64
    for what in ("slots", "a checkpoint being written"):
        costs[0].memory[what] -= 4 * 2 * 8
    assert costs[0] == costs[1]


# over MPI
@pytest.mark.mpi
@pytest.mark.parametrize("period", [{"interval": 1e-4}, {"interval_steps": 30, "deterministic": True}], ids=str)
@pytest.mark.parametrize("ranks", [2, 4])
def test_all_ranks_follow_the_recorded_periods(path, tmp_path, ranks, period):
    exact = "deterministic" in period
    period = {"kind": "adacomm", "tau": 16} | {key: value for key, value in period.items() if key != "deterministic"}
    runs = {algorithm: quadratic(path, algorithm, period, deterministic=exact) for algorithm in ALGORITHMS}
    (tmp_path / "runs.json").write_text(json.dumps(runs))
    script = str(Path(__file__).with_name("train_many.py"))
    status, out, err = coopmpi(tmp_path / "runs.json", tmp_path, ranks=ranks, main=(script,), limit=60)
    assert status == 0, out + err
    for algorithm in ALGORITHMS:
        with h5py.File(tmp_path / f"{algorithm}.h5") as file:
            found, x = file["train/tau"][:].tolist(), file["final/x"][:]
        assert found[0] == 16 and found[-1] < 16
        listed = lockstep(quadratic(path, algorithm, {"kind": "list", "taus": changes(found)}))
        if exact:
            assert np.array_equal(x, listed.state.x)
            assert found == taus(runs[algorithm])[0]
        else:  # MPI adds in an order of its own
            np.testing.assert_allclose(x, listed.state.x, rtol=0, atol=1e-13)
        if algorithm == "local-sgd" and found[-1] == 1:
            assert np.ptp(x, axis=0).max() == 0  # the last step was a round


# periods known beforehand
def rounds(period, steps=20):
    """The steps after which a round follows."""
    found, _ = taus(job([1.0], period, steps))
    ends, k = [], found[0] - 1
    while k < steps:
        ends.append(k)
        k += found[k + 1] if k + 1 < steps else steps
    return ends


def test_post_local_is_synchronous_until_the_switch():
    assert rounds({"kind": "post-local", "switch": 5, "tau": 4}) == [0, 1, 2, 3, 4, 8, 12, 16]


def test_listed_periods_change_at_the_first_round_after_their_step():
    assert rounds({"kind": "list", "taus": [[0, 4], [6, 2], [13, 5]]}) == [3, 7, 9, 11, 13, 18]


@pytest.mark.parametrize("taus", [[], [[1, 4]], [[0, 4], [0, 2]], [[0, 4], [9, 2], [5, 1]], [[0, 0]]], ids=str)
def test_listed_periods_must_ascend_from_the_start(taus):
    with pytest.raises(UserError, match="taus"):
        config.resolve({"period": {"kind": "list", "taus": taus}})


def test_the_loss_before_training_is_the_measure():
    """Within the first period the loss falls from 16 to 1: F_0 is 16, not the mean over the period."""
    found, _ = taus(job([16] + [1] * 60, {"kind": "adacomm", "tau": 8, "interval": 8.0}, 40))
    # t = 16: the mean of the first round, 23 / 8, has arrived: ceil(sqrt(23 / 8 / 16) 8) = 4, from step 24 on
    assert changes(found)[:2] == [[0, 8], [24, 4]]
