"""The training loop: the same for one process and for every rank of an MPI job."""

from time import perf_counter

from coopmpi.run.ballot import Ballot
from coopmpi.run.evaluation import evaluate
from coopmpi.run.step_log import StepLog
from coopmpi.run.stopwatch import Stopwatch
from coopmpi.run.time_log import TimeLog


class Trainer:
    """Drives an algorithm for a number of steps, records every step, evaluates now and then.

    feed: what results are handed to, a coopmpi.sinks.Sink; done: steps that the state has behind it; trained: the
    seconds that they took.
    """

    def __init__(self, assembly, feed, done: int = 0, trained: float = 0.0):
        self.algorithm, self.context, self.driver = assembly.config.algorithm, assembly.context, assembly.driver
        self.feed, self.eval_every, self.clocks = feed, assembly.eval_every, assembly.clocks
        self.numbers = assembly.mode != "time-only"
        self.state, self.own_state = assembly.start()  # of the algorithm and its parts, and of the task
        self.done, self.trained = done, trained
        self.log = StepLog(self.driver, feed, done) if self.numbers else TimeLog(self.driver, feed)
        self.ballot = Ballot(self.driver.world, self.log)
        self.stopwatch = Stopwatch()
        self.figures = {}  # of the last evaluation

    def train(self):
        """Run all steps; raises Interrupted or NumericalFailure, on all ranks alike."""
        driver, context, state = self.driver, self.context, self.state
        self.stopwatch = stopwatch = Stopwatch(self.trained)
        driver.wall_time = lambda: stopwatch.seconds
        if not self.done:
            self.evaluate()
        for k in range(self.done, context.steps):
            tau = context.tau
            loss = driver.step(self.algorithm, state, context, k)
            self.done = k + 1
            ends = self.ballot.stops(self.done, stopwatch.seconds) or self.done == context.steps
            if ends:
                self.finish_transfers()
            pauses = ends or self.done % self.eval_every == 0
            if pauses:
                self.meet()
            self.trained = stopwatch.seconds
            with stopwatch.pause():
                self.log.add(loss, self.trained, tau)
            if pauses:
                self.evaluate()
            if ends:
                break
        with stopwatch.pause():
            self.log.close(self.done, state.x)
        self.ballot.agree(self.done, context.steps)

    def finish_transfers(self):
        """Complete what is under way; UserError if the algorithm leaves something."""
        self.driver.drive(self.algorithm.finish(self.state, self.context))
        self.driver.drive(self.context.rounds.finish(self.state, self.context))
        self.driver.nothing_left(self.algorithm.name)

    def meet(self):
        """Wait for the other ranks now, while it counts as training time: an evaluation does not."""
        self.driver.device.synchronize()
        begin = perf_counter()
        self.driver.world.sum([0.0])
        self.driver.waited += perf_counter() - begin

    def evaluate(self):
        """Figures of the mean model, recorded and shown; without numbers there is the time alone."""
        wall_time = self.stopwatch.seconds
        with self.stopwatch.pause():
            self.figures = evaluate(self.driver, self.state.x) if self.numbers else {"virtual_time": self.clocks.time}
            self.feed.evaluation(self.done, wall_time, self.figures)

    @property
    def waiting(self) -> float:
        """Share of the time so far in which this rank's workers were blocked on communication."""
        time = self.clocks.time if self.clocks else self.trained
        return self.log.waited / time if time else 0.0
