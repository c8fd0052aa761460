"""Names of result files for runs that were given none."""

import os
from contextlib import contextmanager
from itertools import chain, count

from coopmpi.errors import UserError


@contextmanager
def free_name():
    """The first of run.h5, run-2.h5, ... that is free in the working directory; no other run gets it, whenever it starts.

    An empty file holds it until the run puts its own in place; if it is still empty at the end, it is removed. UserError.
    """
    name = next(filter(_created, chain(["run.h5"], (f"run-{i}.h5" for i in count(2)))))
    try:
        yield name
    finally:
        if os.path.exists(name) and not os.path.getsize(name):
            os.unlink(name)


def _created(name):
    """Is there an empty file of that name now that was not there before?"""
    try:
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666))
    except FileExistsError:
        return False
    except OSError as error:
        raise UserError(f"output {name!r} cannot be created in the working directory: {error.strerror}; give a name with -o") from error
    return True
