"""Learning-rate schedules and periods."""

import math

import h5py
import numpy as np
import pytest

from coopmpi import config, registry
from coopmpi.drivers.solo import Solo
from coopmpi.errors import UserError
from coopmpi.local.periods import Every
from coopmpi.run.assemble import assemble
from coopmpi.step import State
from tests.runs import lockstep, write_quadratic


def factors(table, steps=100):
    schedule = registry.build("schedule", table)
    return [schedule.factor(k, steps) for k in range(steps)]


def test_constant_after_a_linear_warmup():
    found = factors({"kind": "constant", "warmup": 4})
    assert found[:6] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_step_decays_at_fractions_and_at_steps():
    by_fraction = factors({"kind": "step", "milestones": [0.5, 0.75], "factor_each": 0.1})
    by_step = factors({"kind": "step", "milestones": [50, 75], "factor_each": 0.1})
    assert by_fraction == by_step
    assert by_fraction[49] == 1 and math.isclose(by_fraction[50], 0.1) and math.isclose(by_fraction[99], 0.01)


def test_cosine_goes_from_one_to_the_floor():
    found = factors({"kind": "cosine", "floor": 0.2})
    assert found[0] == 1
    assert math.isclose(found[50], 0.6)  # half way between 1 and the floor
    assert found == sorted(found, reverse=True) and found[-1] < 0.201


def test_cosine_starts_after_the_warmup():
    found = factors({"kind": "cosine", "warmup": 10})
    assert found[9] == 1 and found[10] == 1 and found[11] < 1


def test_a_warmup_in_epochs():
    tables = {"workers": 4, "epochs": 6, "task": {"batch": 25}, "schedule": {"kind": "cosine", "warmup_epochs": 1.5}}
    assembly = assemble(config.resolve(tables), Solo())
    steps, samples = assembly.config.steps, assembly.driver.task.problem.samples
    assert steps == round(6 * samples / 100) and assembly.config.schedule.warmup == round(1.5 * samples / 100)
    assert "warmup_epochs" not in config.dump(assembly.config)
    with pytest.raises(UserError, match="give warmup or warmup_epochs, not both; given 3 and 2"):
        factors({"kind": "step", "warmup": 3, "warmup_epochs": 2.0})


@pytest.mark.parametrize("milestones", [[0.75, 0.5], [-1, 3]])
def test_milestones_must_ascend(milestones):
    with pytest.raises(UserError, match="milestones"):
        factors({"kind": "step", "milestones": milestones})


def test_rounds_come_every_tau_steps_and_are_counted_from_zero():
    period = Every(tau=3)
    state = State(period.slots, np.zeros(1), None)
    rounds, due = period.rounds(state), []
    for k in range(10):
        if rounds.due(k):
            due.append((k, rounds.index))
        assert list(rounds.after_step(k, None, state, None)) == []  # asks for nothing
    assert due == [(2, 0), (5, 1), (8, 2)]


def test_a_factor_beyond_all_numbers_is_refused():
    with pytest.raises(UserError, match="factor_each"):
        registry.build("schedule", {"kind": "step", "milestones": [1, 2, 3, 4], "factor_each": 1e99})


def test_adacomm_keeps_its_period_where_the_learning_rate_has_come_to_nothing():
    period = registry.build("period", {"kind": "adacomm", "coupling": 3.0})
    assert period.next_tau(8, 0.5, 1.0, np.float64(np.inf)) == 8 and period.next_tau(8, 0.0, 1.0, np.inf) == 8


@pytest.mark.parametrize("alpha", [1.0, 0.5])
@pytest.mark.parametrize("schedule", [{"kind": "step", "milestones": [3, 4], "factor_each": 1e-300},
                                      {"kind": "step", "milestones": [3], "factor_each": 1e-40}])
def test_slowmo_goes_on_where_the_learning_rate_has_come_to_nothing(tmp_path, schedule, alpha):
    """The last round with a learning rate of 0 moves z by alpha towards the mean of what the workers have reached."""
    path = write_quadratic(tmp_path / "q.h5", 2)
    tables = {"workers": 2, "steps": 6, "task": {"kind": "quadratic", "path": path}, "dtype": "float64", "period": {"tau": 6},
              "schedule": schedule, "optimizer": {"lr": 0.3}}
    z = lockstep(tables | {"algorithm": {"kind": "slowmo", "alpha": alpha}}).state.z
    mean = lockstep(tables | {"algorithm": {"kind": "local-sgd"}}).state.x[:1]
    with h5py.File(path) as file:
        start = file["x0"][:]
    np.testing.assert_allclose(z, (1 - alpha) * start + alpha * mean, rtol=1e-12)
    assert not np.allclose(mean, start)
