"""One writer for one result file: a lock that ends with its process, whatever ends that."""

import errno
import fcntl
import os
import time
from pathlib import Path

from coopmpi.errors import UserError

PACE = 0.1  # seconds between two attempts


def is_held(result) -> bool:
    """Does a process write this result file, as far as this machine can tell?"""
    result = Path(result).resolve()
    try:
        with open(_beside(result), encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _beside(result):
    """The hidden file whose lock it is."""
    return result.with_name(f".{result.name}.lock")


class Lock:
    """Held from its construction to `release`. UserError if somebody else holds it for longer than `patience` seconds.

    It is a lock on a hidden file beside the result, which stays where it is as long as somebody waits for it. A process that
    inherits `handle` holds it, too.
    """

    def __init__(self, result, patience: float = 0.0):
        result = Path(result).resolve()
        self.path = _beside(result)
        end = time.monotonic() + patience
        while not self._attempt():
            if time.monotonic() > end:
                raise UserError(f"output {str(result)!r} is being written by another run; choose another -o, or wait for it")
            time.sleep(PACE)

    def _attempt(self):
        self.handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self.handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # the file may have been removed by whoever held the lock before
            if os.path.exists(self.path) and os.fstat(self.handle).st_ino == os.stat(self.path).st_ino:
                return True
        except OSError as error:
            if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                return True  # a file system without locks
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                os.close(self.handle)
                raise
        os.close(self.handle)
        return False

    def release(self):
        """Let others write."""
        self.path.unlink(missing_ok=True)
        os.close(self.handle)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.release()
