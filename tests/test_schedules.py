"""Learning-rate schedules and periods."""

import math

import numpy as np
import pytest

from coopmpi import registry
from coopmpi.errors import UserError
from coopmpi.local.periods import Every
from coopmpi.step import State


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
