"""Stopping a run at a chosen step, and going on with it, in this process."""

import os
import signal

import h5py
import pytest

from coopmpi import config
from coopmpi.drivers.solo import Solo
from coopmpi.errors import Interrupted
from coopmpi.record import checkpoint
from coopmpi.record.reader import run_of
from coopmpi.run import ballot, step_log
from coopmpi.run.assemble import assemble
from coopmpi.run.session import train
from coopmpi.sinks import Sink


class Stops(Sink):
    """Presses Ctrl-C after a step."""

    step: int

    def steps(self, rows):
        if rows.first + len(rows.tau) == self.step:
            os.kill(os.getpid(), signal.SIGINT)


def run(given, output, resume=False, sinks=()):
    train(assemble(config.resolve(given), Solo()), Solo(), output, sinks, resume=resume)


def interrupted(given, output, step, resume=False):
    """Train until a signal after that step stops the run; the step at which it did."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(ballot, "VOTE_SECONDS", 0)
        patch.setattr(step_log, "BLOCK", 1)  # sinks see every step at once
        run(given, output, resume, [Stops(step=step)])
    return saved_step(output)


def saved_step(output):
    """Of the newest checkpoint beside a result file."""
    return next(checkpoint.checkpoints(output, run_of(output))).step


def content(path):
    """What two equal runs have in common."""
    with h5py.File(path) as file:
        assert file.attrs["status"].rstrip(b"\0 ") == b"finished"
        names = ("final/x", "final/mean", "train/step", "train/loss", "train/tau", "train/bytes_sent")
        return {name: file[name][:] for name in names}
