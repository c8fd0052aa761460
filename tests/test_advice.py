"""The advice of the closing screen, and what is said of a run that has not learnt: on made-up numbers and on real runs."""

import dataclasses
import os

import h5py
import numpy as np
import pytest

from coopmpi import config, registry
from coopmpi.drivers.solo import Solo
from coopmpi.record.reader import open_run
from coopmpi.report import advice as advising
from coopmpi.report.advice import advice
from coopmpi.report.learning import not_learnt
from coopmpi.report.recorded import Recorded, recorded
from coopmpi.run.assemble import assemble
from coopmpi.run.session import train
from tests.runs import coopmpi, read
from tests.test_failures import folder, train as arguments  # noqa: F401 (folder is a fixture)

M, STEPS = 4, 800


def made_up(computed=1.0, waited=0.0, **more):
    """A run of 10 s; computed, waited: seconds of the workers."""
    each = np.broadcast_to(computed, M).astype(float)
    tables = {"workers": M, "steps": STEPS, "algorithm": {"kind": "local-sgd"}, "period": {"kind": "every", "tau": 8}}
    curve, rising = np.linspace(2, 1, 21), np.linspace(0.1, 0.9, 21)
    given = {"path": "run.h5", "status": "finished", "mode": "train", "tables": tables, "ranks": M, "node_ranks": M, "node_cores": M,
             "mpi": "an MPI", "device": "cpu", "workers": M, "steps": STEPS, "wall_time": 10.0, "virtual_time": None, "computed": each,
             "waited": np.broadcast_to(waited, M).astype(float), "sent": np.ones(M), "in_turns": each.max(),
             "evaluating": 0.0, "recording": 0.0, "losses": np.linspace(2, 1, 100), "piece": 8, "chance": {"accuracy": 0.1}, "events": [],
             "evaluations": {"step": np.arange(0, STEPS + 1, 40), "train_loss": curve, "accuracy": rising}}
    return Recorded(**given | more)


def of(kind, **period):
    return {"workers": M, "algorithm": {"kind": kind}} | ({"period": {"kind": "every"} | period} if period else {})


# made-up numbers
def test_averages_that_would_fit_behind_the_next_period():
    said = advice(made_up(computed=4.9, waited=4.9))
    assert said == ("49% of the time is waiting for averages that would fit behind the next period: "
                    'algorithm.kind = "overlap-local-sgd", or period.tau = 32.')


def test_averages_that_take_longer_than_a_period():
    assert advice(made_up(computed=2.0, waited=8.0)) == "80% of the time is waiting for averages: period.tau = 128 leaves about 25%."
    # 8 steps take 2 parts of 10, an average 8
    assert "longer under way than the steps beside them: period.tau = 64 gives" in advice(made_up(2.0, 8.0, tables=of("cocod-sgd", tau=8)))


def test_what_communicates_in_every_step_is_told_of_its_kin():
    assert 'algorithm.kind = "local-sgd" with period.tau = 4 leaves' in advice(made_up(5.0, 5.0, tables=of("sync-sgd")))
    assert 'next period: algorithm.overlap = true, or period.tau = 32' in advice(made_up(4.9, 4.9, tables=of("easgd", tau=8)))
    for kind in ("d2", "gradient-tracking"):
        assert advice(made_up(5.0, 5.0, tables=of(kind))) == ""  # the times do not tell


def test_one_slow_worker():
    said = advice(made_up(computed=[9.0, 3.0, 3.0, 3.0], waited=[0.0, 6.0, 6.0, 6.0]))
    assert said == ("45% of the time is waiting for worker 0, which computes 3 times as long as the others: "
                    "no period and no overlap hides that; look at that node.")


def test_ranks_with_more_workers_than_others():
    said = advice(made_up(computed=[9.0, 9.0, 4.0, 4.0], waited=[0.0, 0.0, 5.0, 5.0], ranks=3))
    assert "ranks that host one worker more than the others: a number of ranks that divides 4" in said


def test_whoever_is_slow_at_the_moment():
    assert "in turns: period.tau = 32 evens it out" in advice(made_up(computed=5.0, waited=4.0, in_turns=9.0))


def test_ranks_without_a_core_of_their_own():
    said = advice(made_up(computed=4.9, waited=4.9, node_cores=2))
    assert said == ("4 ranks share 2 cores, so the waiting, 49% of the time, is for a core and says nothing of a network: "
                    "-n 2 hosts the same 4 workers.")


def test_evaluations_that_take_long():
    said = advice(made_up(computed=9.0, evaluating=10.0))
    assert said.startswith("50% of the 20 s went into evaluation") and "record.eval_every = 400 evaluates less often" in said
    assert advice(made_up(computed=9.0, evaluating=3.0)) == ""


@pytest.mark.parametrize("run", [made_up(9.0, 0.5), made_up(4.9, 4.9, steps=10), made_up(0.0, 0.0, wall_time=0.0, in_turns=0.0)], ids=str)
def test_nothing_is_said_where_nothing_is_to_be_gained_or_known(run):
    assert advice(run) == ""


def test_what_is_advised_exists():
    known = registry.parts("algorithm")
    assert {*advising.OVERLAPPED, *advising.HIDING, *advising.PERIODIC, *advising.PERIODIC.values()} <= known.keys()
    assert all(known[kind].uses_period for kind in advising.PERIODIC.values())


# real runs
def run_of(path):
    with open_run(path) as file:
        return recorded(path, file)


def simulated(tmp_path, **tables):
    path = tmp_path / "sim.h5"
    path.unlink(missing_ok=True)
    given = read({"workers": 8, "steps": 1024, "device": "cpu", "task": {"model": "linear"}} | tables)
    train(assemble(config.resolve(given), Solo(), "time-only"), Solo(), path)
    return run_of(path)


SLOW_NETWORK = {"compute": {"seconds": 0.01}, "network": {"latency": 0.02}}


@pytest.mark.parametrize("kind", ["local-sgd", "dpa", "sync-sgd", "overlap-local-sgd", "d-psgd"])
def test_on_a_slow_network_the_advice_holds(tmp_path, kind):
    before = simulated(tmp_path, algorithm={"kind": kind}, period={"tau": 2}, **SLOW_NETWORK)
    said = advice(before)
    tau = int(said.partition("period.tau = ")[2].split()[0].rstrip("."))
    # with the period that is advised
    other = said.partition('algorithm.kind = "')[2].partition('"')[0]
    periodic = kind if registry.find("algorithm", kind).uses_period else other
    after = simulated(tmp_path, algorithm={"kind": periodic}, period={"tau": tau}, **SLOW_NETWORK)
    assert after.share(after.waited.mean()) <= 0.3 < before.share(before.waited.mean())
    assert after.seconds < before.seconds
    # and with the algorithm that hides it
    if "would fit" in said:
        hidden = simulated(tmp_path, algorithm={"kind": other}, period={"tau": 2}, **SLOW_NETWORK)
        assert hidden.share(hidden.waited.mean()) < 0.1


def test_random_delays_even_out_as_is_said(tmp_path):
    before = simulated(tmp_path, compute={"kind": "exponential"}, period={"tau": 2})
    assert "in turns: period.tau = 8" in advice(before)
    after = simulated(tmp_path, compute={"kind": "exponential"}, period={"tau": 8})
    assert after.share(after.waited.mean()) < 0.7 * before.share(before.waited.mean())


def test_in_turns_is_the_sum_of_the_longest_times(tmp_path):
    tau, steps = 3, 50
    run = simulated(tmp_path, compute={"kind": "exponential"}, period={"tau": tau}, steps=steps)
    with h5py.File(tmp_path / "sim.h5") as file:
        computed = file["train/compute_time"][:]
    periods = [computed[k:k + tau].sum(axis=0) for k in range(0, steps, tau)]
    assert run.in_turns == pytest.approx(sum(period.max() for period in periods), rel=1e-12)
    assert np.allclose(run.computed, computed.sum(axis=0), rtol=1e-12)


@pytest.mark.mpi
def test_a_straggler_among_real_ranks_is_named(folder):  # noqa: F811
    assert coopmpi(*arguments(steps=80, workers=2, pause=[0.004, 0.02]), ranks=2, cwd=folder)[0] == 0
    run = run_of(folder / "run.h5")
    assert "waiting for worker 1, which computes" in advice(dataclasses.replace(run, node_cores=2))
    assert run.node_ranks == 2 and run.node_cores == len(os.sched_getaffinity(0))


def test_slow_evaluations_of_a_real_run_are_named(tmp_path):
    (tmp_path / "slow.py").write_text("import time\nfrom tests.trouble import Trouble\n"
                                      "class Slow(Trouble):\n    figures = {'loss': ('1', '')}\n"
                                      "    def evaluate(self, mean):\n        time.sleep(0.05)\n        return {'loss': (1.0, 1)}\n"
                                      "def task(place):\n    return Slow(place, [0.001], None, None, None)\n")
    words = arguments(steps=60, workers=1, function="slow:task")
    assert coopmpi(*words, cwd=tmp_path, environment={"PYTHONPATH": os.getcwd()})[0] == 0
    run = run_of(tmp_path / "run.h5")
    assert "went into evaluation" in advice(run)
    assert run.evaluating == pytest.approx(0.05 * 20, rel=0.3) and run.recording < run.evaluating


# what a run has learnt
def series(**values):
    return {"evaluations": {"step": np.arange(0, STEPS + 1, 40)} | values}


@pytest.mark.parametrize("more, says", [
    ({}, ""),
    (series(train_loss=np.linspace(2, 3, 21)), "its train_loss is 3, and was 2 at the start; a smaller [optimizer] lr"),
    (series(loss=np.full(21, 2.0)), "its loss is 2, and was 2 at the start; a larger [optimizer] lr"),
    (series(train_loss=np.linspace(2, 1, 21), accuracy=np.linspace(0.2, 0.1, 21)), "its accuracy is 10.00%, and a model that"),
    (series(train_loss=np.full(21, np.nan)), "its train_loss is no number"),
    (series() | {"losses": np.linspace(1, 2, 50)}, "its mini-batch loss is 2, and was 1"),
    ({"status": "failed", "events": [(3, 0.1, "failed", "the loss of worker 1 became nan")]}, "failed: the loss of worker 1 became nan"),
    (series(train_loss=np.linspace(2, 3, 21)) | {"steps": 5}, "")], ids=str)
def test_a_run_that_has_not_learnt(more, says):
    said = not_learnt(made_up(**more))
    assert says in said and bool(says) == bool(said)


@pytest.mark.parametrize("tables, says", [({"optimizer": {"lr": 3.0}, "algorithm": {"kind": "easgd"}}, "its accuracy is"),
                                          ({"optimizer": {"lr": 1e30}}, "became"), ({}, "")], ids=str)
def test_real_runs_say_whether_they_have_learnt(tmp_path, tables, says):
    words = [f"--set={table}.{key}={value}" for table, keys in tables.items() for key, value in keys.items()]
    status, out, err = coopmpi("train", "--set=steps=300", *words, "-o", "run.h5", cwd=tmp_path)
    assert (status == 4) == ("became" in says) and says in (err if status else out)
    assert ("The run did not learn" in out) == ("accuracy" in says)
    inspected = " ".join(coopmpi("inspect", "run.h5", cwd=tmp_path)[1].split())
    assert ("warning" in inspected) == bool(says) and says in inspected
