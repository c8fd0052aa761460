"""The clock stops for evaluations and writing, transfers do not: what they gain is paid for. On a scripted clock."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coopmpi import config
from coopmpi.device.host import Host
from coopmpi.drivers import driver as driving
from coopmpi.drivers import stopwatch, tickets
from coopmpi.drivers.driver import Driver
from coopmpi.drivers.solo import Solo
from coopmpi.run import loop
from coopmpi.run.assemble import assemble
from coopmpi.run.loop import Trainer
from coopmpi.sinks import Sink
from coopmpi.step import Finish, Mean, Start
from coopmpi.tasks.problem import Problem
from tests.runs import EVEN_VARIANTS, read

GRADIENT, EVALUATION, TRAVEL = 0.25, 8.0, 1.75  # seconds; sums of them are exact


class Clock:
    """Takes the place of perf_counter; time passes only where somebody says so."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    for module in (driving, stopwatch, tickets, loop):
        monkeypatch.setattr(module, "perf_counter", clock)
    return clock


class Travelling:
    """A transfer that arrives at a given moment, whatever the rank does meanwhile."""

    def __init__(self, clock, arrival):
        self.clock, self.arrival = clock, arrival

    def progress(self):
        return self.clock.now >= self.arrival

    def wait(self):
        self.clock.now = max(self.clock.now, self.arrival)


class Far(Solo):
    """One of two ranks, whose transfers take `travel` seconds, one after the other; what arrives is its own.

    others: what they vote.
    """

    size = 2

    def __init__(self, clock, travel, others=()):
        self.clock, self.travel, self.others, self.free = clock, travel, list(others), 0.0

    def transfer(self):
        self.free = max(self.free, self.clock.now) + self.travel
        return Travelling(self.clock, self.free)

    def exchange(self, sends, receives, device, number, part=0):
        for (_, row, silent), (_, into) in zip(sends, receives):
            into[...] = 0 if silent else row
        return self.transfer()

    def all_sum(self, source, target, device):
        target[...] = self.size * source
        return self.transfer()

    def group_sum(self, rows, members, out, device, number, ordered):
        out[...] = self.size * rows.sum(axis=0)
        return self.transfer()

    def vote(self, values):
        return lambda: np.maximum(values, self.others.pop(0)) if self.others else np.array(values)


class Slow(Problem):
    """Gradients and evaluations take their time."""

    dimension = 6

    def __init__(self, clock=None, dtype="float32"):
        self.clock, self.dtype = clock, dtype

    def initial(self):
        return np.ones(self.dimension, self.dtype)

    def gradient(self, x, step):
        self.clock.now += GRADIENT
        return x[:, 0].copy(), x.copy()

    def evaluate(self, mean):
        self.clock.now += EVALUATION
        return {"loss": (1.0, 1)}


class Rows:
    """In place of a StepLog; handing rows on takes `seconds`."""

    failed_at, failure = np.inf, None

    def __init__(self, driver, seconds=0.0):
        self.driver, self.seconds, self.wall_time, self.waited = driver, seconds, [], []

    def add(self, loss, wall_time, tau, lr):
        self.driver.task.problem.clock.now += self.seconds
        self.wall_time.append(wall_time)
        self.waited.append(self.driver.waited)

    def look(self):
        pass

    def hand_over(self):
        pass

    def close(self, end, models):
        pass


problem = None  # of the run description below


# fragments that travel at the same time
VARIANTS = EVEN_VARIANTS | {"streaming-diloco-delay": {"kind": "streaming-diloco", "delay": 5}}


def trained(clock, variant, travel, eval_every, writing=0.0):
    """The Rows of a run of 24 steps."""
    global problem
    problem = Slow(clock)
    tables = read({"workers": 2, "steps": 24, "algorithm": VARIANTS[variant], "period": {"tau": 8}, "device": "cpu",
                   "task": {"kind": "python", "function": "tests.test_pauses:prepared"}, "mixing": {"lazy": True},
                   "compress": {"kind": "topk", "fraction": 0.5}, "record": {"eval_every": eval_every}})
    trainer = Trainer(assemble(config.resolve(tables), Far(clock, travel)), Sink())
    trainer.log = Rows(trainer.driver, writing)
    trainer.train()
    return trainer.log


def prepared(place):
    return problem


@pytest.mark.parametrize("travel", [TRAVEL / 4, TRAVEL, 4 * TRAVEL], ids="travels {}".format)
@pytest.mark.parametrize("variant", VARIANTS)
def test_evaluations_do_not_change_the_time_of_training(clock, variant, travel):
    alone = trained(clock, variant, travel, eval_every=24)
    for eval_every in (8, 5, 1):
        found = trained(clock, variant, travel, eval_every)
        assert found.wall_time == alone.wall_time, eval_every
        assert found.waited == alone.waited, eval_every


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_moves_while_rows_are_written_is_paid_for(clock, variant):
    """A transfer that is found complete after a pause may have been so for a part of it, and never longer."""
    alone = trained(clock, variant, 4 * TRAVEL, eval_every=24)
    found = trained(clock, variant, 4 * TRAVEL, eval_every=24, writing=0.125)
    assert alone.wall_time[-1] <= found.wall_time[-1] <= alone.wall_time[-1] + 0.125 * found.driver.posted


def seconds():
    return st.integers(0, 20).map(float)


@given(steps=st.lists(st.tuples(seconds(), seconds(), st.booleans()), min_size=1, max_size=5), travel=st.integers(0, 100))
def test_a_transfer_is_due_as_if_the_clock_had_not_stopped(steps, travel):
    """steps: (seconds of training, of the pause after it, is it an evaluation?)."""
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        for module in (driving, stopwatch, tickets):
            patch.setattr(module, "perf_counter", clock)
        driver = Driver(2, Slow(clock), None, Host(), Far(clock, travel))
        posted = driver.stopwatch.seconds
        ticket = driver.start(Start(Mean(np.ones((1, 6)))))
        for training, pause, evaluation in steps:
            clock.now += training
            driver.progress()
            if evaluation:
                driver.meet()
            with driver.pause():
                clock.now += pause
        before = driver.stopwatch.seconds
        assert before - posted == sum(training for training, _, _ in steps)
        driver.finish(Finish(ticket))
        (_, finished, waited, _), = driver.rounds
    due = max(before, posted + travel)
    assert waited == driver.waited == finished - before
    # it may have been complete for a part of the pause after which it was found so
    assert due <= finished <= due + max([pause for _, pause, evaluation in steps if not evaluation], default=0)


@pytest.mark.parametrize("elsewhere, waited", [(2.0, 0.0), (1.0, 1.0), (0.25, 1.75), (2.5, 0.0)])
def test_ranks_that_meet_wait_for_the_last_one_and_for_nothing_else(clock, elsewhere, waited):
    """elsewhere: seconds that the other rank spends in the meeting, the last one fewer than the first."""
    driver = Driver(2, Slow(clock), None, Host(), Far(clock, 2.0, [[-elsewhere]]))
    ticket = driver.start(Start(Mean(np.ones((1, 6)))))
    driver.meet()
    assert clock.now == 2.0 and driver.stopwatch.seconds == driver.waited == waited
    driver.finish(Finish(ticket))
    assert clock.now == 2.0 and driver.stopwatch.seconds == driver.waited == 2.0


def test_what_a_rank_has_paid_for_counts_as_if_it_had_come_so_much_later(clock):
    driver = Driver(2, Slow(clock), None, Host(), Far(clock, 2.0))
    ticket = driver.start(Start(Mean(np.ones((1, 6)))))
    with driver.pause():
        clock.now += 1.5
    driver.finish(Finish(ticket))
    assert driver.stopwatch.seconds == driver.waited == 2.0
    # the other one has paid nothing and arrives 0.5 s later
    driver.world.others = [[-0.0]]
    driver.world.sum = lambda values: setattr(clock, "now", clock.now + 0.5)
    driver.meet()
    assert driver.waited == 2.0  # it would have come 1 s before this one
    driver.world.others = [[-0.0]]
    driver.meet()
    assert driver.waited == 2.5  # all of this was settled when they met
