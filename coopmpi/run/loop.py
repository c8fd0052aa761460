"""The training loop: the same for one process and for every rank of an MPI job."""

import sys
from collections.abc import Generator
from math import inf
from time import perf_counter

from coopmpi.drivers.driver import Waiting
from coopmpi.drivers.stopwatch import Stopwatch
from coopmpi.errors import RankLost
from coopmpi.run.ballot import Ballot
from coopmpi.run.deadline import Deadline
from coopmpi.run.evaluation import evaluate
from coopmpi.run.saving import Saver
from coopmpi.run.snapshots import Snapshots
from coopmpi.run.step_log import StepLog
from coopmpi.run.time_log import TimeLog
from coopmpi.step.requests import Array, Grad


class Trainer:
    """Drives an algorithm for a number of steps, records every step, evaluates and saves now and then.

    feed: what results are handed to, a coopmpi.sinks.Sink; states: of the algorithm and of the task, by default at their
    start; done: steps that they have behind them; trained: the seconds that these took; saver: takes checkpoints;
    snapshots: takes copies of the state in memory.
    """

    def __init__(self, assembly, feed, states=None, done: int = 0, trained: float = 0.0, saver: Saver | None = None,
                 snapshots: Snapshots | None = None):
        self.algorithm, self.context, self.driver = assembly.config.algorithm, assembly.context, assembly.driver
        self.feed, self.clocks = feed, assembly.clocks
        self.eval_every, self.eval_before = assembly.eval_every, assembly.eval_before
        self.evaluated = assembly.config.record.slots
        self.numbers = assembly.mode != "time-only"
        self.state, self.own_state = states or assembly.start()
        self.done, self.trained, self.saver = done, trained, saver
        self.log = StepLog(self.driver, feed, done) if self.numbers else TimeLog(self.driver, feed)
        checkpoint = assembly.config.checkpoint
        self.ballot = Ballot(self.driver.world, self.log, Deadline(checkpoint.margin if saver else 0))
        # rank 0 looks at the time, all count steps
        by_time = saver and self.driver.world.rank == 0 and not checkpoint.every_steps and checkpoint.every_minutes
        self.save_seconds = 60 * checkpoint.every_minutes if by_time else inf
        self.save_steps = checkpoint.every_steps if saver else None
        self.saved_at, self.snapshots = perf_counter(), snapshots
        self.saved = []  # steps of which all ranks have written their state, and no checkpoint is complete yet
        self.stopwatch = self.driver.stopwatch
        self.stop, self.stopped = assembly.stop, False  # targets; by what all ranks have agreed on
        self.figures, self.reached = {}, ""  # of the last evaluation: figures, and the target that was reached

    def train(self):
        """Run all steps; raises Interrupted or NumericalFailure, on all ranks alike."""
        self.begin()
        while not self.ended:
            self.driver.compute(self.step())
        self.end()

    def begin(self):
        """What comes before the steps."""
        self.stopwatch = self.driver.stopwatch = Stopwatch(self.trained)
        if not self.done:
            self.evaluate()

    def go_on_from(self, done: int):
        """The states are those after so many steps."""
        self.done = done
        self.log = self.ballot.log = StepLog(self.driver, self.feed, done)

    @property
    def ended(self) -> bool:
        """Are there no more steps to do?"""
        return self.stopped or bool(self.reached) or self.done == self.context.steps

    def step(self) -> Generator[Grad, tuple[Array, Array], None]:
        """One step, and all that is due after it; it yields each Grad and is sent losses (b,) and gradients (b, d)."""
        driver, context, k, tau = self.driver, self.context, self.done, self.context.tau
        loss = yield from driver.advance(self.algorithm, self.state, context, k)
        self.done = k + 1
        driver.waiting = Waiting(perf_counter(), k)
        outcome = self.ballot.count(self.done, self.stopwatch.seconds, *self.saving())
        driver.waiting = None
        self.stopped = outcome.stop
        saves = not self.ended and (outcome.save or bool(self.save_steps and self.done % self.save_steps == 0))
        pauses = self.ended or (self.done + self.eval_before) % self.eval_every == 0
        if self.ended or saves or outcome.snapshot:
            self.finish_transfers()
        if pauses:
            # it counts as training time now: an evaluation does not
            driver.meet()
        self.trained = self.stopwatch.seconds
        with driver.pause():
            self.log.add(loss, self.trained, tau, context.lr)
            if pauses or saves or outcome.snapshot:
                self.log.hand_over()
            if self.saver is not None:
                self.commit(outcome.saved)
        if pauses:
            self.evaluate()
        # what goes on from here has this step's evaluation behind it
        if saves and not self.ended:
            self.saver.take(self.done, self.stopwatch.seconds)
            self.saved_at = perf_counter()
        if outcome.snapshot and not self.ended:
            self.snapshot()

    def end_here(self):
        """Let the run be complete with the steps so far."""
        if not self.ended:
            self.finish_transfers()
            self.context.steps = self.done
            self.driver.meet()
            self.evaluate()

    def end(self):
        """What comes after the steps; raises what has stopped them, on all ranks alike."""
        if self.reached:
            self.finish_transfers()
        with self.driver.pause():
            self.log.close(self.done, self.state.x)
        self.ballot.agree(self.done, self.done if self.reached else self.context.steps)

    def saving(self) -> tuple[bool, int, bool]:
        """Does this rank want a checkpoint; the newest step that it has written; does it want a snapshot."""
        if self.saver is None:
            return False, -1, False
        snapshot = self.snapshots is not None and self.driver.world.rank == 0 and self.snapshots.due
        return perf_counter() - self.saved_at > self.save_seconds, self.saver.written, snapshot

    def snapshot(self):
        """Copies of the state in memory, when rank 0 has written the rows up to here: they would die with their rank."""
        while self.log.behind(self.done):
            self.log.hand_over()
            if self.driver.world.hurt:
                raise RankLost("a rank was lost while its rows were on their way")
        self.feed.settle()
        self.snapshots.take(self.driver, (self.state, self.own_state), self.done, self.stopwatch.seconds)

    def commit(self, step: int):
        """On rank 0: a checkpoint of what all ranks have written, once the rows up to its step are in the file.

        step: the newest that all ranks have written; the file may be behind, and an older one is complete then.
        """
        saver = self.saver
        if self.driver.world.rank == 0 and step > max(self.saved, default=saver.committed):
            self.saved.append(step)
        if self.saved and self.feed.written >= self.saved[0]:
            saver.commit(max(saved for saved in self.saved if saved <= self.feed.written))
            self.saved = [saved for saved in self.saved if saved > saver.committed]
        if saver.error is not None:
            text = str(saver.failure())
            print(f"coopmpi: {text}; the run goes on", file=sys.stderr, flush=True)
            self.feed.event(self.done, self.trained, "checkpoint", text)
            saver.error = None

    def finish_transfers(self):
        """Complete what is under way; UserError if the algorithm leaves something."""
        self.driver.drive(self.algorithm.finish(self.state, self.context))
        self.driver.drive(self.context.rounds.finish(self.state, self.context))
        self.driver.nothing_left(self.algorithm.name)

    def evaluate(self):
        """Figures of the mean model, recorded and shown; without numbers there is the time alone. Is a target reached?"""
        wall_time = self.stopwatch.seconds
        with self.driver.pause():
            self.figures = evaluate(self.driver, self.state, self.evaluated) if self.numbers else {"virtual_time": self.clocks.time}
            self.feed.evaluation(self.done, wall_time, self.figures)
            if self.stop.targets and self.done:
                # rank 0's clock counts
                found = self.stop.reached(self.figures, self.clocks.time if self.clocks else wall_time)
                self.reached = self.driver.world.from_first(found)
                if self.reached:
                    self.feed.event(self.done, wall_time, "target", self.reached)

    @property
    def waiting(self) -> float:
        """Share of the time so far in which this rank's workers were blocked on communication."""
        time = self.clocks.time if self.clocks else self.trained
        return self.log.waited / time if time else 0.0
