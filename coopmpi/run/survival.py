"""A run that outlives the loss of ranks: the survivors take over their workers from the last snapshot and go on.

Workers are not ranks: m, W and the trajectory stay as they are, and no algorithm knows of a loss. Nothing outlives an
attempt but the run description, the data, the snapshots, and on rank 0 the open result file.
"""

from collections.abc import Callable

from coopmpi.errors import UserError
from coopmpi.run.assemble import assemble, together
from coopmpi.run.feed import Feed
from coopmpi.run.loop import Trainer
from coopmpi.run.saving import Saver, restore, restore_newest
from coopmpi.run.session import train
from coopmpi.run.snapshots import Rows, Snapshots


class Survival:
    """What a rank keeps from one attempt to the next. sinks: makes further takers of results, where it becomes rank 0."""

    def __init__(self, config, output, sinks: Callable[[], list]):
        self.output, self.sinks = output, sinks
        self.snapshots = Snapshots(config.survive.every_seconds, config.survive.buddies)
        self.losses = 0
        self.feed = None  # of rank 0
        self.done, self.seconds, self.run, self.signal = 0, 0.0, "", None
        self.told = ""  # who was lost

    def watch(self, trainer: Trainer):
        """Take snapshots in this attempt."""
        trainer.snapshots, self.run = self.snapshots, trainer.saver.run
        self.feed = trainer.feed if trainer.driver.world.rank == 0 else None

    def note(self, trainer: Trainer):
        """Where the attempt was when a rank was lost."""
        trainer.saver.wait()
        self.done, self.seconds = max(self.done, trainer.done), max(self.seconds, trainer.stopwatch.seconds)
        self.signal = trainer.ballot.signal

    def recover(self, world):
        """The world of the survivors."""
        found = world.survivors()
        self.losses += 1
        self.told = (f"{len(found.lost)} of {world.size} ranks were lost (rank {', '.join(map(str, found.lost))}); {found.size} "
                     f"{'go' if found.size > 1 else 'goes'} on")
        return found

    def begin_again(self, assembly, world, states, about) -> Trainer:
        """The Trainer where the last snapshot stands; where there is none, the newest checkpoint on the disk, or the start."""
        driver = assembly.driver
        # a rank may have been lost before all knew how the run is called
        self.run = next((run for run in world.texts(self.run) if run), "")
        step = self.snapshots.newest(world, assembly.config.workers)
        if step >= 0:
            restore(driver, states, Rows(self.snapshots.collect(driver, step), states))
        else:
            try:
                step = restore_newest(driver, states, self.output, self.run).step
            except UserError:
                # from the start: a damaged checkpoint may have filled a part of the states
                states, step = assembly.start(), 0
        # the clock goes on, what was lost included
        done, trained = world.vote([self.done, self.seconds])().tolist()
        together(world, lambda: self._open_feed(world, about, step, trained, done))
        self.run = world.from_first(self.feed.result.run if world.rank == 0 else None)
        saver = Saver(driver, states, self.output, self.run, assembly.config.checkpoint.keep)
        trainer = Trainer(assembly, self.feed or Feed(), states, step, trained, saver)
        trainer.ballot.signal = self.signal
        self.watch(trainer)
        # without it a second loss would go back as far again
        if step:
            self.snapshots.take(driver, states, step, trained)
        return trainer

    def _open_feed(self, world, about, step, trained, done):
        if world.rank:
            return
        from coopmpi.record.writer import Writer

        kept = step or -1  # a run that starts again evaluates its start again
        if self.feed is not None and self.feed.result.opened:
            self.feed.cut(about, kept)
        elif self.run:
            self.feed = Feed(Writer(self.output), self.sinks())
            self.feed.begin(about, kept)
        else:
            # the rank 0 before may have created a file, but no step was done
            self.feed = Feed(Writer(self.output, overwrite=True), self.sinks())
            self.feed.begin(about)
        self.feed.event(step, trained, "lost", f"{self.told} from step {step}: {max(0, int(done) - step)} steps are repeated")


def train_and_survive(config, world, output, sinks, overwrite=False, resume=False, place=None):
    """Train in a world that may lose ranks; sinks: makes the further takers of results.

    place: a dictionary in which "world" is always the present one.
    """
    survival = Survival(config, output, sinks)
    while True:
        try:
            assembly = assemble(config, world)
            own_sinks = sinks() if world.rank == 0 else ()
            return train(assembly, world, output, own_sinks, overwrite, resume, survival)
        except BaseException as error:  # of whatever kind: in the middle of a loss anything can be raised
            if not world.is_loss(error):
                raise
            world = place["world"] = survival.recover(world)
