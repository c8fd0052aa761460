"""The training loop: the same for one process and for every rank of an MPI job."""

from time import perf_counter

import numpy as np

from coopmpi.run.ballot import Ballot
from coopmpi.run.step_log import StepLog
from coopmpi.step import State


class Trainer:
    """Drives an algorithm for a number of steps, records every step, evaluates now and then.

    writer: the result file, None except on rank 0; watcher: told of progress, see coopmpi.report.console.
    """

    def __init__(self, assembly, writer, watcher, checkpoint=None):
        self.algorithm, self.context, self.driver = assembly.config.algorithm, assembly.context, assembly.driver
        self.writer, self.watcher, self.eval_every = writer, watcher, assembly.eval_every
        driver, self.clocks = self.driver, assembly.clocks
        self.state = State(assembly.slots, driver.task.initial(), driver)
        self.done = 0 if checkpoint is None else checkpoint.step  # steps
        self.log = StepLog(driver, writer, self.clocks, self.done)
        self.ballot = Ballot(driver.world, self.log)
        # seconds: when it started, what evaluation and writing took, training time up to the last step
        self.started, self.paused, self.trained = perf_counter(), 0.0, 0.0
        self.figures = {}  # of the last evaluation
        if checkpoint is not None:
            self.restore(checkpoint)

    def train(self):
        """Run all steps; raises Interrupted or NumericalFailure, on all ranks alike."""
        driver, context, state = self.driver, self.context, self.state
        self.started = perf_counter() - self.trained
        driver.wall_time = lambda: self.wall_time
        if not self.done:
            self.evaluate()
        for k in range(self.done, context.steps):
            context.at(k)
            driver.at(k)
            tau = context.tau
            loss = driver.drive(self.algorithm.step(state, context))
            driver.drive(context.rounds.after_step(k, loss, context))
            self.done = k + 1
            ends = self.ballot.stops(self.done, self.wall_time) or self.done == context.steps
            if ends:
                driver.drive(self.algorithm.finish(state, context))
                driver.drive(context.rounds.finish())
                driver.nothing_left(self.algorithm.name)
            pauses = ends or self.done % self.eval_every == 0
            if pauses:
                self.meet()
            self.trained = self.wall_time
            self.pause(self.record, loss, tau)
            if pauses:
                self.evaluate()
            if ends:
                break
        self.pause(self.log.close, self.done, state.x)
        self.ballot.agree(self.done, context.steps)

    def meet(self):
        """Wait for the other ranks now, while it counts as training time: an evaluation does not."""
        self.driver.device.synchronize()
        begin = perf_counter()
        self.driver.world.sum([0.0])
        self.driver.waited += perf_counter() - begin

    def record(self, loss, tau):
        self.log.add(loss, self.trained, tau)
        self.watcher.stepped(self.done, self.trained, self.waiting)

    @property
    def waiting(self):
        """Share of the time so far in which this rank's workers were blocked on communication."""
        time = self.clocks.time if self.clocks else self.trained
        return self.log.waited / time if time else 0.0

    @property
    def wall_time(self):
        return perf_counter() - self.started - self.paused

    def pause(self, work, *arguments):
        """Do something that does not count as training time."""
        begin = perf_counter()
        result = work(*arguments)
        self.paused += perf_counter() - begin
        return result

    def evaluate(self):
        """Figures of the mean model and the consensus distance, recorded and shown on rank 0."""
        self.pause(self._evaluate, self.wall_time)

    def _evaluate(self, wall_time):
        driver, x = self.driver, self.state.x
        mean = driver.mean(x)
        # (1/m) sum_i ||x_i - mean||^2, and each figure as (sum, count)
        away = sum(driver.device.squared_distance(row, mean[0]) for row in x)
        shares = {"consensus": (away, len(driver.hosted))} | driver.task.evaluate(mean)
        sums, counts = driver.world.sum(np.array(list(shares.values())).T)
        self.figures = dict(zip(shares, (sums / counts).tolist()))
        if self.clocks:
            self.figures["virtual seconds"] = self.clocks.time
        if self.writer is not None:
            self.writer.evaluation(self.done, wall_time, self.figures)
        self.watcher.evaluated(self.done, wall_time, self.figures)

    def restore(self, checkpoint):
        """Go on where the checkpoint was made."""
        driver, device = self.driver, self.driver.device
        self.trained = checkpoint.wall_time
        self.context.rounds.replay(checkpoint.periods, checkpoint.first_loss, self.context, self.trained)
        for slot in self.state.slots:
            if slot.kind != "ticket":
                owners = [*driver.hosted, *(driver.wiring.audience.remote if slot.kind == "memory" else ())]
                getattr(self.state, slot.name)[:] = device.asarray(checkpoint.rows(slot, owners))
        checkpoint.close()

    def save_state(self, writer):
        """Write all slots, for a run that goes on later; every rank takes part."""
        driver = self.driver
        for slot in self.state.slots:
            if slot.kind == "ticket":
                continue
            rows = driver.device.to_host(getattr(self.state, slot.name))
            if slot.kind == "replica":
                rows = rows if driver.world.rank == 0 else ()
            else:
                rows = driver.world.collect(rows[:len(driver.hosted)], driver.rank_layout)
            for place, row in enumerate(rows):
                writer.state(slot.name, place, row)
        if writer is not None:
            writer.state_complete(self.done)

    def save(self, writer):
        """Write the final models and their mean; every rank takes part."""
        driver = self.driver
        mean = driver.device.to_host(driver.mean(self.state.x))[0]
        rows = driver.world.collect(driver.device.to_host(self.state.x), driver.rank_layout)
        for worker, row in enumerate(rows):
            writer.final(worker, row)
        if writer is not None:
            writer.final_mean(mean)
