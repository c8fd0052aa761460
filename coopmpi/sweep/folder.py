"""The folder beside the file of a sweep, where each of its runs has files of its own: this is how a sweep goes on where it stopped.

    NAME.toml      the run description
    NAME.h5        the result of the run
    NAME.log       what the run printed
    NAME.failed    why it failed, if it crashed or was killed: it is not tried again by itself
    .NAME.lock     held while the run goes on, by whichever process does it
"""

from pathlib import Path

import tomli_w

from coopmpi.errors import UserError
from coopmpi.record.lock import Lock
from coopmpi.record.reader import ended
from coopmpi.sweep.plan import Job


class Folder:
    """The files of the runs of the sweep in `output`."""

    def __init__(self, output):
        self.path = Path(output).with_suffix(".runs")

    def create(self):
        try:
            self.path.mkdir(exist_ok=True)
        except OSError as error:
            raise UserError(f"the folder {str(self.path)!r} for the runs of the sweep cannot be made: {error.strerror}") from error

    def result(self, name: str) -> Path:
        return self.path / f"{name}.h5"

    def log(self, name: str) -> Path:
        return self.path / f"{name}.log"

    def describe(self, job: Job) -> Path:
        """Write the run description; its path."""
        path = self.path / f"{job.name}.toml"
        path.write_text(tomli_w.dumps(job.tables), encoding="utf-8")
        return path

    def done(self, name: str) -> bool:
        """Has the run come to its end, good or bad?"""
        return self._failed(name).exists() or ended(self.result(name)) in ("finished", "failed")

    def failure(self, name: str) -> str:
        """Why a run that is done failed; empty if it did not."""
        if self._failed(name).exists():
            return self._failed(name).read_text(encoding="utf-8")
        return "diverged" if ended(self.result(name)) == "failed" else ""

    def fail(self, name: str, why: str):
        """Note that a run ended without a word in its result file."""
        self._failed(name).write_text(why, encoding="utf-8")

    def forget_failures(self):
        """Let runs that crashed or were killed be tried again."""
        for note in self.path.glob("*.failed"):
            note.unlink()

    def claim(self, name: str) -> Lock | None:
        """The right to do a run, which nobody else has until it is released; None: another process does it."""
        try:
            return Lock(self.path / name)
        except UserError:
            return None

    def _failed(self, name):
        return self.path / f"{name}.failed"
