"""The processes of a sweep: several runs at once, each a `coopmpi train` or `coopmpi simulate` of its own."""

import os
import signal
import subprocess
import sys
from typing import NamedTuple

from coopmpi.errors import Interrupted, UserError, clean
from coopmpi.record.lock import Lock
from coopmpi.sweep.description import Sweep
from coopmpi.sweep.folder import Folder
from coopmpi.sweep.plan import Job

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")  # one for each rank: the other cores have other runs
ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGXCPU)  # for an end
LAST_WORDS = 2000  # bytes at the end of what a run printed


class Member(NamedTuple):
    """A run that goes on."""

    job: Job
    process: subprocess.Popen
    lock: Lock


class Crew:
    """The runs that this process has started and that go on. As a context it counts the signals that ask for an end.

    cores: of this machine that they may have in all; a run of train takes one for each rank.
    """

    def __init__(self, sweep: Sweep, folder: Folder, cores: int):
        self.sweep, self.folder = sweep, folder
        self.size = max(1, cores // sweep.ranks)
        self.members = []
        self.asked = self._passed_on = 0

    def __enter__(self):
        self._before = {number: signal.signal(number, self._ask) for number in ASKING}
        return self

    def __exit__(self, *error):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number, frame):
        self.asked += 1

    @property
    def full(self) -> bool:
        return len(self.members) >= self.size

    def start(self, job: Job, lock: Lock):
        """Start a run, or go on with it where an earlier process had to stop."""
        environment = os.environ | {name: os.environ.get(name, "1") for name in THREADS}
        with open(self.folder.log(job.name), "ab") as log:
            # in a session of its own: a terminal's Ctrl-C does not arrive there. It inherits the lock: if this process is killed, the
            # run is not free for others before it has ended
            process = subprocess.Popen(self._command(job), env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                       pass_fds=(lock.handle,), start_new_session=True)
        self.members.append(Member(job, process, lock))

    def ended(self) -> list[Job]:
        """The jobs that have ended since this was last asked; UserError if the description of one was refused."""
        gone = [member for member in self.members if member.process.poll() is not None]
        self.members = [member for member in self.members if member not in gone]
        for member in gone:
            member.lock.release()
        for member in gone:
            self._judge(member.job, member.process.returncode)
        return [member.job for member in gone]

    def stop(self):
        """Ask all runs to save what they can and to end; whoever is asked twice ends at once."""
        for member in self.members:
            member.process.terminate()

    def pass_on(self):
        """Stop the runs as often as somebody has asked for an end."""
        for _ in range(self.asked - self._passed_on):
            self.stop()
        self._passed_on = self.asked

    def _command(self, job):
        description, result = self.folder.describe(job), self.folder.result(job.name)
        command = [sys.executable, "-P", "-m", "coopmpi", self.sweep.mode, str(description), "-o", str(result), "--quiet"]
        if self.sweep.mode == "simulate":
            return [*command, "--overwrite"]
        return [*command, "--continue", *(["-n", str(self.sweep.ranks)] if self.sweep.ranks > 1 else [])]

    def _judge(self, job, status):
        if status == UserError.status:
            raise UserError(f"{job.method}, seed {job.seed}: {self._last_words(job)}")
        if self.folder.done(job.name):
            self.folder.log(job.name).unlink()
        elif status == Interrupted.status:
            self.asked = max(self.asked, 1)  # its signal, or the end of its Slurm job, is for the sweep, too
        elif not self.asked:
            how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"crashed with exit status {status}"
            self.folder.fail(job.name, f"{how}: {self._last_words(job)}".removesuffix(": "))

    def _last_words(self, job):
        """The last line that a run printed."""
        with open(self.folder.log(job.name), "rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - LAST_WORDS))
            lines = log.read().decode(errors="replace").split("\n")
        return clean(next((line for line in reversed(lines) if line.strip()), "")).removeprefix("coopmpi: ")
