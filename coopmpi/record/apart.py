"""Reading in a child process: a damaged file can crash the HDF5 library, or keep it busy without end."""

import faulthandler
import os
import resource
import signal
import struct
from collections.abc import Callable, Iterator

from coopmpi.errors import UserError
from coopmpi.inputs import DAMAGE, told

PATIENCE = 4.0  # seconds without a sign of life after which the child is ended
HEAD = struct.Struct("<?Q")  # is it an error message? bytes that follow
_in_child = False


def texts(path, work: Callable[[], Iterator[str]]) -> Iterator[str]:
    """The texts that work() yields, computed in a child process; what it cannot read is a UserError about `path`.

    `work` calls `alive` now and then, and always before something that may take seconds.
    """
    out, into = os.pipe()
    child = os.fork()
    if not child:
        os.close(out)
        _serve(path, work, into)
    os.close(into)
    error, status = None, None
    try:
        with open(out, "rb") as pipe:
            while len(head := pipe.read(HEAD.size)) == HEAD.size:
                failed, size = HEAD.unpack(head)
                text = pipe.read(size)
                if len(text) < size:
                    break
                if failed:
                    error = text.decode(errors="replace")
                else:
                    yield text.decode(errors="replace")
        status = os.waitpid(child, 0)[1]
    finally:
        if status is None:  # nobody wants the rest
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    if error is not None:
        raise UserError(error)
    if os.WIFSIGNALED(status):
        ended = signal.Signals(os.WTERMSIG(status)).name
        why = (f"nothing more could be read within {PATIENCE:g} s; it is damaged, or lies on a very slow disk"
               if ended == "SIGALRM" else f"reading it ended with {ended}")
        raise UserError(f"{path}: damaged: {why}")
    if status:
        raise UserError(f"{path}: damaged: reading it failed")


def alive():
    """A sign of life of the child: it may take PATIENCE seconds to the next one. Elsewhere nothing happens."""
    if _in_child:
        signal.setitimer(signal.ITIMER_REAL, PATIENCE)


def _serve(path, work, into):
    """All that the child does; it ends here."""
    global _in_child
    _in_child, status = True, 1
    try:
        # the alarm ends the process also while it is deep in the library
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        faulthandler.disable()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        alive()
        try:
            for text in work():
                _send(into, False, text)
        except UserError as error:
            _send(into, True, str(error))
        except DAMAGE as error:
            _send(into, True, f"{path}: damaged: {told(error)}")
        status = 0
    finally:
        os._exit(status)


def _send(into, failed, text):
    # the parent may take its time, when somebody pages through its output
    signal.setitimer(signal.ITIMER_REAL, 0)
    content = text.encode(errors="replace")
    content = memoryview(HEAD.pack(failed, len(content)) + content)
    while content:
        content = content[os.write(into, content):]
    alive()
