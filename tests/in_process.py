"""`coopmpi ARGUMENTS` in this process, for tests that call it thousands of times."""

import contextlib
import io

import click

from coopmpi.cli import group
from coopmpi.errors import CoopError, UserError, clean


def coopmpi(*arguments):
    """(exit status, what it printed, its message) as `coopmpi ARGUMENTS` has them; other exceptions are raised."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        try:
            group.main(list(map(str, arguments)), prog_name="coopmpi", standalone_mode=False)
        except CoopError as error:
            return error.status, out.getvalue(), clean(str(error))
        except click.ClickException as error:
            return UserError.status, out.getvalue(), error.format_message()
    return 0, out.getvalue(), ""


def refused(*arguments):
    """The message with which `coopmpi ARGUMENTS` refuses its input: status 2, one short sentence."""
    status, out, message = coopmpi(*arguments)
    assert status == 2, (status, out, message)
    assert message and len(message) < 1500 and "\n" not in message and "Traceback" not in message, message
    return message
