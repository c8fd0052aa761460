"""One simulated run, and what is kept of it: a row per evaluation."""

from typing import NamedTuple

import numpy as np

from coopmpi.errors import Interrupted, NumericalFailure
from coopmpi.sinks import Sink

COLUMNS = ("step", "virtual_time", "waiting", "megabytes", "tau", "train_loss", "loss", "accuracy", "consensus",
           "centre")


class Job(NamedTuple):
    tables: dict
    budget: float | None  # virtual seconds
    centre: str | None = None  # a slot whose training loss is noted, too


class Notes(Sink):
    """Writes down every evaluation; ends the run when its time is over."""

    budget: float | None
    centre: str | None

    def __post_init__(self):
        self.rows, self.trainer = [], None

    def evaluation(self, done, wall_time, figures):
        trainer = self.trainer
        row = {"step": done, "virtual_time": figures["virtual_time"], "waiting": trainer.waiting,
               "megabytes": trainer.log.sent / 1e6, "tau": trainer.context.tau} | figures
        if self.centre is not None:
            total, count = trainer.driver.task.evaluate(getattr(trainer.state, self.centre), trainer.driver)["train_loss"]
            row["centre"] = total / count
        self.rows.append([row.get(name, np.nan) for name in COLUMNS])
        if self.budget is not None and row["virtual_time"] >= self.budget:
            raise Interrupted("the budget is spent")


def run(job):
    """The rows (evaluations, columns) of a run; where it diverges, the last is NaN, its step infinite."""
    from threadpoolctl import threadpool_limits

    from coopmpi import config
    from coopmpi.drivers.solo import Solo
    from coopmpi.run.assemble import assemble
    from coopmpi.run.loop import Trainer

    notes = Notes(budget=job.budget, centre=job.centre)
    with threadpool_limits(1), np.errstate(all="ignore"):
        notes.trainer = Trainer(assemble(config.resolve(job.tables), Solo(), mode="simulate"), notes)
        try:
            notes.trainer.train()
        except Interrupted:
            pass
        except NumericalFailure:
            notes.rows.append([np.inf, *[np.nan] * (len(COLUMNS) - 1)])
    return np.array(notes.rows)
