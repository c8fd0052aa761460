"""The parent of an mpirun: it passes signals on, shows what the ranks print, and returns the exit status.

A signal that ends mpirun ends the ranks before they can save anything; SIGUSR1 reaches them. So mpirun runs in a session
of its own, where a terminal's Ctrl-C does not arrive, and the parent turns every request to end into SIGUSR1.
"""

import json
import os
import selectors
import signal
import subprocess
import sys
import threading
from collections.abc import Callable

from coopmpi.drivers.mpi.launch import PROGRESS_MARK

SAVING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGXCPU)  # all ask for a save and an end
AT_ONCE = 1 << 16  # bytes that are read
PATIENCE = 1.0  # seconds that ranks have to end after a second request; MPICH's mpiexec passes SIGTERM on to them


class Parent:
    """Runs one mpirun. show(report): draws what rank 0 reports of its progress, a dict, or None at its end."""

    def __init__(self, command: list[str], environment: dict[str, str], show: Callable[[dict | None], None]):
        self.command, self.environment, self.show = command, environment, show
        self.asked = 0  # how often somebody asked for an end
        self._drawn = False  # is something drawn that all else has to stay above?
        self._begun = {"stdout": b"", "stderr": b""}  # lines without an end

    def run(self) -> int:
        """The exit status of mpirun; 128 + the signal's number if one ended it."""
        before = {number: signal.signal(number, self._pass_on) for number in SAVING}
        try:
            self._mpirun = subprocess.Popen(self.command, env=self.environment, stdin=subprocess.DEVNULL,
                                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
            self._read()
            status = self._mpirun.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        return status if status >= 0 else 128 - status

    def _pass_on(self, number, frame):
        self.asked += 1
        if self.asked == 1:
            self._mpirun.send_signal(signal.SIGUSR1)
        elif number in (signal.SIGINT, signal.SIGTERM):
            # no longer to be saved: mpirun ends its ranks, or else the kernel ends the whole session
            self._mpirun.terminate()
            threading.Timer(PATIENCE, self._kill).start()

    def _kill(self):
        if self._mpirun.poll() is None:
            os.killpg(self._mpirun.pid, signal.SIGKILL)

    def _read(self):
        """Pass on what is printed until everybody has closed it."""
        with selectors.DefaultSelector() as streams:
            for stream, name in ((self._mpirun.stdout, "stdout"), (self._mpirun.stderr, "stderr")):
                streams.register(stream, selectors.EVENT_READ, name)
            while streams.get_map():
                for key, _ in streams.select():
                    if not self._pass_on_some(key.fileobj, key.data):
                        streams.unregister(key.fileobj)

    def _pass_on_some(self, stream, name):
        """Pass on what is there, in whole lines as mpirun does; False: it has ended."""
        some = os.read(stream.fileno(), AT_ONCE)
        *lines, self._begun[name] = (self._begun[name] + some).split(b"\n")
        for line in lines:
            if line.startswith(PROGRESS_MARK):
                report = json.loads(line[len(PROGRESS_MARK):])
                self._drawn = report is not None
                self.show(report)
            else:
                _write(getattr(sys, name), line + b"\n", self._drawn)
        if not some:
            _write(getattr(sys, name), self._begun[name], self._drawn)
        return bool(some)


def _write(stream, line: bytes, drawn: bool):
    """A stream of ours that is closed or full ends nothing."""
    try:
        if drawn:
            # whoever draws puts it above
            stream.write(line.decode(errors="replace"))
        else:
            stream.buffer.write(line)
        stream.flush()
    except (OSError, ValueError):
        return
