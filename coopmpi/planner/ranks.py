"""The search of a plan on the ranks of a job, for tasks that are too large for one process."""

import json

import numpy as np

from coopmpi import config
from coopmpi.errors import NumericalFailure
from coopmpi.planner.curves import Curve, Evaluations, Target
from coopmpi.planner.pilot import passing_run
from coopmpi.run.assemble import assemble


class Ranks:
    """Trains for rank 0 what that asks for; the other ranks `serve` meanwhile. Seconds are real ones."""

    def __init__(self, world, target: Target):
        self.world, self.target = world, target

    def curve(self, tables: dict, seconds: float) -> Curve:
        """On rank 0: a run to the target, or until so many seconds are over."""
        return self._trained(*self._told([tables, seconds if np.isfinite(seconds) else None]))

    def dismiss(self):
        """On rank 0: there is nothing more to do."""
        self._told(None)

    def serve(self):
        """On the other ranks: take part until rank 0 dismisses them."""
        while (asked := self._told(None)) is not None:
            self._trained(*asked)

    def _told(self, asked):
        self.world.wait_for_first()
        return json.loads(self.world.from_first(json.dumps(asked)))

    def _trained(self, tables, seconds):
        stop = {self.target.figure: self.target.value} | ({} if seconds is None else {"minutes": seconds / 60})
        assembly = assemble(config.resolve(tables | {"stop": stop, "checkpoint": {"every_minutes": 0}}), self.world)
        notes = Evaluations(target=self.target, cap=None)
        with passing_run(assembly, self.world, [notes]) as trainer, np.errstate(all="ignore"):
            try:
                trainer.train()
                end = "steps" if trainer.done == trainer.context.steps else "late"
            except NumericalFailure:
                end = "diverged"
        if notes.values and self.target.met(notes.values[-1]):
            end = "target"
        return Curve(notes.steps_done, notes.values, notes.seconds, end)
