"""The search of a plan against brute force, its cache, its interval, and what it says when nothing reaches the target."""

from math import exp, inf, log

import numpy as np
import pytest
from pytest import approx

from coopmpi.vocabulary import Family
from coopmpi.errors import UserError
from coopmpi.planner import machine
from coopmpi.planner.candidates import candidates, named
from coopmpi.planner.curves import Curve, Target, curve, forecast
from coopmpi.planner.plan import CONFIRMED, MODEL_ERROR, SEEDS, interval, plan, ranking, slower_network
from coopmpi.planner.search import FAILED, Search
from coopmpi.report.plan import shown
from tests.test_machine import NETWORK

M = 4
TABLES = {"steps": 120, "task": {"data": "digits", "hidden": [12]}, "optimizer": {"lr": 0.2}, "record": {"eval_every": 4},
          "plan": {"algorithms": ["sync-sgd", "local-sgd", "d-psgd"], "periods": [4], "graphs": ["ring"], "adaptive": False}}
TARGET = Target("train_loss", 0.5)


def made(latency=0.1, seconds=1.0):
    network = NETWORK | {"workers": M, "hops": [1, 2], "latency": [latency] * 2, "bandwidth": [1e6] * 2, "allreduce": [[0, latency], [1e6, 1.0 + latency]],
                         "all_to_all": [[0, latency], [1e6, 1.0 + latency]]}
    return machine.Machine(about=machine.About(name="desk", ranks=M, noise=0.0), network=network,
                           compute={"kind": "trace", "times": [[seconds] * M, [2 * seconds] + [seconds] * (M - 1)]})


def silent(text):
    pass


@pytest.fixture(scope="module")
def found():
    return plan(TABLES, made(), TARGET, 5, {}, silent)


def test_nothing_that_brute_force_finds_is_faster(found):
    """Every candidate trained to its end, on a grid of learning rates."""
    common = {key: value for key, value in TABLES.items() if key != "plan"} | made().tables() | {"stop": {"train_loss": TARGET.value}}
    fits, _ = candidates(TABLES | {"workers": M}, Family(**TABLES["plan"]))
    grid = [0.2 * 2**k for k in range(-2, 5)]
    runs = [curve(common | one.tables | {"optimizer": {"lr": lr}}, TARGET) for one in fits for lr in grid]
    assert min(one.seconds[-1] for one in found.curves.values()) <= min(one.seconds[-1] for one in runs if one.reached)
    # the plan is about several seeds
    assert 0 < found.trained < (1 + SEEDS) * M * sum(one.steps[-1] for one in runs)


def test_the_first_choices_rest_on_several_seeds(found):
    assert all(one.seeds == 1 + SEEDS for one in found.choices[:CONFIRMED])
    assert found.choices == sorted(found.choices, key=lambda one: one.seconds)


def test_rates_between_those_of_the_climb_are_tried_on_all_seeds_and_a_run_that_fails_there_counts_as_a_long_one():
    with Search(TABLES | {"workers": M}, made().tables(), TARGET, {}, inf, silent) as search:
        one = candidates(TABLES | {"workers": M}, Family(**TABLES["plan"]))[0][0]
        search.forecast(one)
        first = search.attempt(one, 0.8, 0)
        assert first.curve.reached
        search.confirm([one.label], 2)
        assert sorted({each.lr for each in search.tried}) == approx([0.8 / 2**0.5, 0.8, 0.8 * 2**0.5])
        best = search.best()[0]
        assert len(search.again(best)) == 2
        assert ranking(search, 0.0)[0].seconds == approx(np.exp(np.mean(np.log([each.seconds[-1] for each in (best.curve, *search.again(best))]))))
        search.tried = [best, best._replace(seed=1, curve=Curve([0], [9.0], [0.0], "diverged"))]
        assert ranking(search, 0.0)[0].seconds == approx(best.curve.seconds[-1] * FAILED**0.5)


def test_the_seconds_are_those_of_a_full_simulation_and_of_time_alone(found):
    choice = found.choices[0]
    tables = choice.tables | made().tables()
    whole = curve(tables | {"stop": {"train_loss": TARGET.value}}, TARGET)
    assert whole.reached and found.curves[choice.label] == whole
    assert forecast(tables, whole.steps[-1]).seconds[-1] == approx(whole.seconds[-1], rel=1e-12)


def test_another_machine_takes_the_same_curves(found):
    known = dict(found.known)
    slow = made(latency=5.0)
    again = plan(TABLES, slow, TARGET, 5, known, silent)
    assert again.trained < found.trained / 2
    for choice in again.choices:
        tables = choice.tables | slow.tables() | {"stop": {"train_loss": TARGET.value}}
        assert again.curves[choice.label].seconds[-1] == approx(curve(tables, TARGET).seconds[-1], rel=1e-12)
    # where messages are dear, the strategy with the fewest is the best
    assert again.choices[0].label.startswith("local-sgd")


def test_what_if_is_what_that_machine_would_give(found):
    line = next(one for one in found.what_if if "network" in one.change)
    label = line.label
    choice = next(choice for choice in found.choices if choice.label == label)
    tables = choice.tables | slower_network(made(), 10) | {"stop": {"train_loss": TARGET.value}}
    assert line.seconds == approx(curve(tables, TARGET).seconds[-1], rel=1e-12)


def test_a_target_that_is_out_of_reach_is_told_with_what_came_closest():
    out = plan(TABLES | {"steps": 12}, made(), Target("train_loss", 1e-6), 5, {}, silent)
    assert not out.choices and len(out.missed) >= 3
    text = shown(out)
    assert "No candidate reaches train_loss <= 1e-06" in text and "came closest" in text
    assert list(out.missed.values()) == sorted(out.missed.values(), key=lambda pair: pair[0])


def test_a_curve_is_stopped_when_others_were_there():
    class Cap:
        value = 10.0

    tables = {key: value for key, value in TABLES.items() if key != "plan"} | {"algorithm": {"kind": "local-sgd"}} | made().tables()
    stopped = curve(tables | {"stop": {"train_loss": 1e-9}}, Target("train_loss", 1e-9), Cap)
    assert stopped.end == "late" and stopped.seconds[-2] <= 10.0 < stopped.seconds[-1]


def test_triggers_and_adaptive_periods_are_simulated_in_full():
    family = Family(algorithms=("local-sgd", "squarm-sgd"), periods=(4,), graphs=("ring",), compressors=("sign",))
    fits, refused = candidates(TABLES | {"workers": M}, family)
    assert {one.label for one in fits} == {"local-sgd, tau 4", "local-sgd, adacomm, tau 4, interval_steps 8", "squarm-sgd, tau 4, ring, sign"}
    assert not refused
    adaptive = {"plan": {"algorithms": ["local-sgd"], "periods": [4]}}
    out = plan(TABLES | adaptive, made(), TARGET, 5, {}, silent)
    assert any("adacomm" in label for label in [*out.curves, *out.missed])


@pytest.mark.parametrize("family, message", [
    ({"algorithms": ["local-sdg"]}, r"\[plan\] algorithms: unknown algorithm 'local-sdg'; did you mean 'local-sgd'"),
    ({"periods": [0]}, r"\[plan\] periods"),
    ({"period": [4]}, r"\[plan\] unknown key 'period'; did you mean 'periods'"),
    ({"algorithms": ["d2"], "graphs": ["ring"]}, "no candidate fits this run; the first was refused because: d2 needs"),
])
def test_a_plan_table_that_cannot_be(family, message):
    with pytest.raises(UserError, match=message):
        plan(TABLES | {"plan": family}, made(), TARGET, 5, {}, silent)


def test_a_time_that_is_over_is_said():
    out = plan(TABLES, made(), TARGET, 0.0, {}, silent)
    assert not out.choices and len(out.left_out) == 4 and "4 were not tried" in shown(out)


def test_the_interval_holds_what_it_says():
    """Of runs whose steps and seconds per step vary as assumed, four of five lie within."""
    draw = np.random.default_rng(0)
    deviation, noise, inside = 0.3, 0.1, 0
    for _ in range(4000):
        pairs = draw.normal(0, deviation, (5, 2))
        pooled = np.sqrt(((pairs[:, 0] - pairs[:, 1]) ** 2).mean() / 2), 5
        factor = interval(pooled, 2, noise)
        real = draw.normal(0, deviation) + draw.normal(0, noise) + draw.normal(0, MODEL_ERROR)
        inside += abs(real - pairs[0].mean()) <= log(factor)
    assert 0.76 < inside / 4000 < 0.86
    assert interval((0.0, 10**6), 1, 0.0) == approx(exp(1.2816 * MODEL_ERROR), rel=1e-3)


def test_labels_tell_what_a_candidate_sets():
    one = named({"algorithm": {"kind": "squarm-sgd", "threshold": 2.0}, "period": {"tau": 4}, "mixing": {"graph": "ring"}})
    assert one.label == "squarm-sgd, threshold 2, tau 4, ring"
    assert one.with_tau(8).tau == 8 and one.algorithm == "squarm-sgd"


def test_a_curve_tells_the_figure_of_a_step():
    one = Curve([0, 4], [1.0, 0.5], [0.0, 2.0], "target")
    assert one.at(3) == 1.0 and one.at(4) == 0.5
