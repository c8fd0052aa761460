"""A terminal of a given size for tests: a command runs in it, and its screen is looked at as somebody before it sees it."""

import fcntl
import os
import pty
import select
import signal
import struct
import termios
import time
from typing import NamedTuple

import pyte

LIMIT = 60


class Seen(NamedTuple):
    """What was there to see: status of the command; screens while it ran, whenever one had changed; the lines from first to last."""

    status: int
    screens: list[list[str]]
    lines: list[str]
    cursor_hidden: bool


def seen(command, columns, lines=24, cwd=None, act=None):
    """Run the command to its end. act(screen, pid): called with each changed screen; True: it need not be called again."""
    pid, terminal = pty.fork()
    if not pid:
        if cwd is not None:
            os.chdir(cwd)
        time.sleep(0.1)  # until the terminal has its size
        # readline, which pytest imports, may have set COLUMNS and LINES behind Python's back
        environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")} | {"TERM": "xterm-256color"}
        os.execvpe(command[0], list(map(str, command)), environment)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    screen = pyte.HistoryScreen(columns, lines, history=10000, ratio=1)
    stream, screens, end = pyte.ByteStream(screen), [], time.monotonic() + LIMIT
    while time.monotonic() < end:
        if not select.select([terminal], [], [], 0.1)[0]:
            continue
        try:
            some = os.read(terminal, 65536)
        except OSError:
            break
        if not some:
            break
        stream.feed(some)
        if select.select([terminal], [], [], 0.02)[0]:
            continue  # it has not drawn everything yet
        screens.append([line.rstrip() for line in screen.display])
        if act is not None and act(screens[-1], pid):
            act = None
    else:
        os.kill(pid, signal.SIGKILL)
        raise AssertionError(f"hung for more than {LIMIT} s: {command}\n" + "\n".join(screens[-1]))
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.close(terminal)
    above = ["".join(row[column].data for column in range(columns)).rstrip() for row in screen.history.top]
    whole = "\n".join(above + [line.rstrip() for line in screen.display]).rstrip().split("\n")
    return Seen(status, screens, whole, screen.cursor.hidden)
