"""What follows from the description of a sweep: the runs, what tuning chooses, and what is refused. Nothing is run here."""

import copy
from pathlib import Path

import numpy as np
import pytest

from coopmpi import config
from coopmpi.errors import UserError
from coopmpi.sweep import score
from coopmpi.sweep.description import Keep, Method, Score, Setting, Sweep, flat, load, nested, parsed
from coopmpi.sweep.grid import Edge, beyond, edges, points
from coopmpi.sweep.plan import Plan, Result
from coopmpi.sweep.score import Curve

TABLES = {
    "mode": "simulate", "seeds": [1, 2],
    "base": {"workers": 2, "steps": 20, "device": "cpu", "period": {"tau": 4}},
    "tune": {"optimizer": {"lr": [0.1, 0.2, 0.4]}},
    "score": {"figure": "train_loss"},
    "methods": [{"name": "sync", "set": {"algorithm": {"kind": "sync-sgd"}}}, {"name": "local", "set": {"algorithm.kind": "local-sgd"}}],
}


def sweep(**changes):
    return parsed(copy.deepcopy(TABLES) | changes)


def scored(**changes):
    return sweep(score=TABLES["score"] | changes)


# the description
def test_later_tables_win_and_dotted_keys_are_nested():
    described = sweep(settings=[{"name": "slow", "set": {"network": {"kind": "delay", "seconds": 9}}}],
                      methods=[{"name": "m", "set": {"network.seconds": 2, "period.tau": 8}}])
    tables = described.description(described.settings[0], described.methods[0], {"period.tau": 16}, 5)
    assert tables["network"] == {"kind": "delay", "seconds": 2} and tables["period"] == {"tau": 16}
    assert tables["seed"] == 5 and tables["workers"] == 2


def test_results_of_runs_are_lean_unless_the_base_says_otherwise():
    for record, expected in (({}, {"per_worker": "summary", "final": "mean"}),
                             ({"final": "all", "eval_every": 3}, {"per_worker": "summary", "final": "all", "eval_every": 3})):
        described = sweep(base=TABLES["base"] | {"record": record})
        assert described.description(described.settings[0], described.methods[0], {}, 0)["record"] == expected


def test_common_keys_that_a_method_does_not_read_are_left_out_and_said_once():
    described = sweep(tune={"optimizer.lr": [0.1, 0.2], "period.tau": [2, 8]},
                      settings=[{"name": "a"}, {"name": "b", "set": {"mixing.graph": "star"}}])
    sync, local = described.methods
    a, b = described.settings
    assert described.description(b, sync, {}, 1).keys().isdisjoint({"period", "mixing"})
    assert described.grid(a, sync) == {"optimizer.lr": [0.1, 0.2]}
    assert described.description(a, local, {}, 1)["period"] == {"tau": 4} and "mixing" not in described.description(b, local, {}, 1)
    assert described.notes() == ["sync does not read period.tau, mixing.graph: left out there", "local does not read mixing.graph: left out there"]
    for setting in described.settings:
        for method in described.methods:
            for tuned in points(described.grid(setting, method)):
                config.resolve(described.description(setting, method, tuned, 1))


def test_keys_of_another_choice_in_the_base_are_left_out():
    described = sweep(base={"algorithm": {"kind": "easgd", "alpha": 0.1}, "task": {"kind": "quadratic", "path": "q.h5"}},
                      methods=[{"name": "easgd"}, {"name": "local", "set": {"algorithm.kind": "local-sgd"}}])
    easgd, local = (described.description(described.settings[0], method, {}, 1)["algorithm"] for method in described.methods)
    assert easgd == {"kind": "easgd", "alpha": 0.1} and local == {"kind": "local-sgd"}
    assert described.notes() == ["local does not read algorithm.alpha: left out there"]


def test_a_grid_is_the_methods_else_the_settings_else_the_common_one():
    described = sweep(settings=[{"name": "a"}, {"name": "b", "tune": {"optimizer.lr": [1.0]}}],
                      methods=[TABLES["methods"][0], TABLES["methods"][1] | {"tune": {"period": {"tau": [1, 2]}}}])
    grids = [described.grid(setting, method) for setting in described.settings for method in described.methods]
    assert grids == [{"optimizer.lr": [0.1, 0.2, 0.4]}, {"period.tau": [1, 2]}, {"optimizer.lr": [1.0]}, {"period.tau": [1, 2]}]


@pytest.mark.parametrize("changes, says", [
    ({"methods": []}, "one or more \\[\\[methods\\]\\]"), ({"methods": [{"set": {}}]}, "needs a name"), ({"methods": 3}, "array of tables"),
    ({"methods": [{"name": "a", "sett": {}}]}, "unknown key 'sett'; did you mean 'set'"),
    ({"methods": [{"name": "a"}, {"name": "a"}]}, "two are called 'a'"), ({"settings": [{"name": "s"}, {"name": "s"}]}, "two are called 's'"),
    ({"methods": [{"name": "a", "settings": ["slwo"]}], "settings": [{"name": "slow"}]}, "unknown setting 'slwo'; did you mean 'slow'"),
    ({"score": {"target": "snyc"}}, "unknown method 'snyc'; did you mean 'sync'"), ({"score": {"figur": "loss"}}, "did you mean 'figure'"),
    ({"score": {"by": "hours"}}, r"\[score\] by"), ({"seeds": []}, "one or more different"), ({"seeds": [1, 1]}, "one or more different"),
    ({"ranks": 2}, "one process for each run"), ({"mode": "time-only"}, "mode"), ({"tune": {"optimizer.lr": 0.1}}, "array of the values to try"),
    ({"tune": {"optimizer.lr": []}}, "array of the values to try"), ({"bse": {}}, "did you mean 'base'"), ({"score": 3}, "must be a table")])
def test_mistakes_are_told(changes, says):
    with pytest.raises(UserError, match=says):
        parsed(copy.deepcopy(TABLES) | changes)


def test_a_key_that_is_a_value_and_a_table_is_refused():
    with pytest.raises(UserError, match="'compress' is a value in one table of the sweep, and a table in another"):
        nested({"compute.compress": 1e-9, "compute.compress.sign": 1e-9})
    assert nested(flat({"a": {"b": {"c": 1}}, "d": [{"e": 2}]})) == {"a": {"b": {"c": 1}}, "d": [{"e": 2}]}


def test_a_file_and_overrides(tmp_path):
    (tmp_path / "s.toml").write_text('mode = "simulate"\nbase.steps = 10\n[[methods]]\nname = "m"\n')
    described, text = load(tmp_path / "s.toml", ["base.steps=3", "seeds=[7]"])
    assert described.base == {"steps": 3, "folder": str(tmp_path)} and described.seeds == (7,)
    assert load(tmp_path / "s.toml")[1] != text and str(tmp_path) not in text


def test_the_same_sweep_in_another_folder_has_the_same_runs():
    here, there = (Plan(sweep(base=TABLES["base"] | {"folder": folder})) for folder in ("/here", "/there"))
    assert [job.name for job in here.jobs] == [job.name for job in there.jobs] and here.jobs[0].tables["folder"] == "/here"


# what is read off a curve
def curve(*losses):
    return Curve(np.arange(1.0, len(losses) + 1), np.array(losses, float))


def test_the_end_is_the_last_evaluation_or_the_mean_of_a_tail():
    assert score.final(curve(9, 9, 3, 1), Score()) == 1 and score.final(curve(9, 9, 3, 1), Score(tail=0.5)) == 2
    assert np.isnan(score.final(curve(), Score()))


def test_a_target_is_met_where_the_moving_average_first_is():
    losses = curve(4, 1, 3, 2, 1, 1)
    assert [score.took(losses, Score(smooth=n), 1.5) for n in (1, 2, 6)] == [2, 5, np.inf]  # means of two: 4 2.5 2 2.5 1.5 1
    assert score.took(losses, Score(), np.nan) == np.inf


def test_accuracy_rises():
    rising = Score(figure="accuracy", tolerance=0.02)
    assert score.took(curve(0.1, 0.6, 0.9), rising, 0.6) == 2 and score.eased(0.5, rising, 0.02) == pytest.approx(0.49)
    assert score.eased(0.5, Score(), 0.02) == pytest.approx(0.51)


# grids
def test_numbers_at_the_edge_of_what_was_tried_are_named():
    tried = points({"lr": [0.1, 0.2, 0.4], "tau": [8], "kind": ["a", "b"], "on": [False, True]})
    assert edges(tried, {"lr": 0.4, "tau": 8, "kind": "a", "on": True}) == [Edge("lr", 0.4, "largest")]
    assert edges(tried, {"lr": 0.1, "tau": 8, "kind": "b", "on": False}) == [Edge("lr", 0.1, "smallest")]
    assert edges(tried, {"lr": 0.2, "tau": 8, "kind": "a", "on": True}) == []


@pytest.mark.parametrize("values, side, further", [
    ([0.1, 0.2, 0.4], "largest", 0.8), ([0.4, 0.1], "smallest", 0.025), ([4, 10, 24], "largest", 58), ([1, 4], "smallest", 0),
    ([0.0, 0.3], "largest", 0.6), ([0.0, 0.5], "smallest", -0.5)])
def test_what_lies_beyond_an_edge(values, side, further):
    assert beyond(values, Edge("key", None, side)) == pytest.approx(further)


# the plan
def finish(plan, losses):
    """Do all jobs; losses(job): its curve, or why it failed. How many runs that were."""
    count = 0
    while not plan.complete:
        job = next(plan.open())
        found = losses(job)
        plan.add(job.name, Result(None, found) if isinstance(found, str) else Result(curve(*found)))
        count += 1
    return count


def chosen(plan):
    return {method: tuned for (_, method), tuned in plan.chosen.items()}


def by_lr(best):
    """The end is the better, the nearer the learning rate is to the best."""
    return lambda job: [9, 1 + abs(job.tables["optimizer"]["lr"] - best)]


def test_a_method_is_tuned_with_one_seed_and_repeated_with_others():
    plan = Plan(scored())
    assert [(job.role, job.seed) for job in plan.jobs] == [("tuning", 0)] * 6 and plan.total == 10
    assert finish(plan, by_lr(0.2)) == 10 == plan.total
    assert chosen(plan) == {"sync": {"optimizer.lr": 0.2}, "local": {"optimizer.lr": 0.2}}
    finals = [job for job in plan.jobs if job.role == "final"]
    assert [(job.method, job.seed, job.tables["optimizer"]["lr"]) for job in finals] == [(m, s, 0.2) for m in ("sync", "local") for s in (1, 2)]
    assert np.isnan(plan.target(finals[0])) and plan.took(finals[0]) == np.inf and plan.final(finals[0]) == 1


def test_without_a_grid_there_is_nothing_to_tune():
    plan = Plan(sweep(tune={}))
    assert [job.role for job in plan.jobs] == ["final"] * 4 and plan.settled
    assert finish(plan, lambda job: [1]) == 4


def test_runs_that_failed_are_never_chosen_however_soon_they_were():
    plan = Plan(scored(target=1.5))
    finish(plan, lambda job: "diverged" if job.tables["optimizer"]["lr"] == 0.4 else [9, job.tables["optimizer"]["lr"]])
    assert chosen(plan)["local"] == {"optimizer.lr": 0.1}
    everything = Plan(scored(target="sync"))
    assert finish(everything, lambda job: "crashed") == 10  # the target's runs are the final ones
    assert chosen(everything)["sync"] == {"optimizer.lr": 0.1} and np.isnan(everything.target(everything.jobs[-1]))


def test_soon_at_the_target_comes_before_low_at_the_end():
    # 0.4 is there first, 0.1 ends lowest
    curves = {0.1: [9, 4, 2, 0.5], 0.2: [9, 2, 2, 2], 0.4: [2, 1, 1, 1]}
    plan = Plan(scored(target=1.0))
    finish(plan, lambda job: curves[job.tables["optimizer"]["lr"]])
    assert chosen(plan)["sync"] == {"optimizer.lr": 0.4}
    plan = Plan(scored())
    finish(plan, lambda job: curves[job.tables["optimizer"]["lr"]])
    assert chosen(plan)["sync"] == {"optimizer.lr": 0.1}


def test_a_method_sets_the_target_by_its_lowest_end_with_each_seed():
    ends = {("sync", 0): 0.5, ("sync", 1): 0.6, ("sync", 2): 0.8}
    plan = Plan(scored(target="sync", tolerance=0.5))

    def losses(job):
        lr = job.tables["optimizer"]["lr"]
        if job.method == "sync":  # 0.1 ends lowest, 0.4 is below 1.5 times that first
            return [9, 9, ends["sync", job.seed]] if lr == 0.1 else [9, 0.7, 0.7] if lr == 0.4 else [9, 9, 9]
        return [9, 0.7, 0.65] if lr == 0.2 else [9, 9, 0.6]

    finish(plan, losses)
    assert chosen(plan) == {"sync": {"optimizer.lr": 0.4}, "local": {"optimizer.lr": 0.2}}
    for job in plan.jobs:
        assert plan.target(job) == pytest.approx(1.5 * ends["sync", job.seed])
    roles = [(job.method, job.role, job.tables["optimizer"]["lr"]) for job in plan.jobs if job.role != "tuning"]
    assert set(roles) == {("sync", "final", 0.4), ("sync", "target", 0.1), ("local", "final", 0.2)}
    assert {plan.took(job) for job in plan.jobs if job.role == "final"} == {2}


def test_equal_runs_are_done_once():
    # the tuning's seed is one of the others, the method that sets the target is its own best
    plan = Plan(sweep(seeds=[0, 1], score={"target": "sync"}))
    assert finish(plan, by_lr(0.2)) == 6 + 2
    assert len({job.name for job in plan.jobs}) == 8 and len(plan.jobs) == 6 + 4 + 2


def test_what_makes_another_run_has_another_name():
    names = {Plan(sweep(**changes)).jobs[0].name for changes in (
        {}, {"mode": "train"}, {"mode": "train", "ranks": 2}, {"base": {"workers": 3}}, {"tuning_seed": 5})}
    assert len(names) == 5
    assert Plan(sweep(seeds=[8], keep={"rows": 3})).jobs[0].name == Plan(sweep()).jobs[0].name


def test_a_grid_grows_until_its_best_is_inside():
    plan = Plan(sweep(widen=4))
    finish(plan, by_lr(1.5))
    assert chosen(plan)["sync"] == {"optimizer.lr": 1.6}  # 0.1 0.2 0.4, and 0.8 1.6 3.2
    assert sum(job.role == "tuning" for job in plan.jobs) == 2 * 6 and plan.total == 2 * 6 + 4
    limited = Plan(sweep(widen=1))
    finish(limited, by_lr(1.5))
    assert chosen(limited)["sync"] == {"optimizer.lr": 0.8}


def test_a_grid_grows_in_each_key_and_not_beyond_what_is_allowed():
    easgd = {"name": "easgd", "set": {"algorithm.kind": "easgd"}, "tune": {"algorithm.alpha": [0.25, 0.5], "optimizer.lr": [0.1, 0.2]}}
    plan = Plan(sweep(methods=[easgd], widen=9))
    finish(plan, lambda job: [1 - job.tables["algorithm"]["alpha"] + abs(job.tables["optimizer"]["lr"] - 0.05)])
    assert chosen(plan)["easgd"] == {"algorithm.alpha": 1.0, "optimizer.lr": 0.05}  # alpha is a share
    tuning = [job.tuned for job in plan.jobs if job.role == "tuning"]
    assert len(tuning) == len({tuple(tuned.values()) for tuned in tuning}) == 3 * 4
    assert min(tuned["optimizer.lr"] for tuned in tuning) == 0.025


def test_a_grid_whose_runs_all_failed_does_not_grow():
    plan = Plan(sweep(widen=4))
    assert finish(plan, lambda job: "diverged") == plan.total == 6 + 4


def test_every_key_is_documented():
    page = (Path(__file__).parents[1] / "docs" / "sweep.md").read_text()
    for cls in (Sweep, Setting, Method, Score, Keep):
        for key in cls.__struct_fields__:
            assert f"`{key}`" in page or f"`[{key}]`" in page or f"`[[{key}]]`" in page or key == "settings", (cls.__name__, key)
