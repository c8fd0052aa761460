"""What a user is told when something is wrong, and the exit status that goes with it."""

import difflib


class CoopError(Exception):
    """Ends the run with `status` and one message; never shown as a traceback."""

    status = 1


class UserError(CoopError):
    """Bad input or configuration: says the rule, what was given, and what is allowed."""

    status = 2


class Interrupted(CoopError):
    """A signal asked the run to stop; its state was saved first."""

    status = 3


class NumericalFailure(CoopError):
    """NaN or Inf; the message names worker and step."""

    status = 4


class Misuse(UserError):
    """A request that cannot be answered; the caller that knows the request's line of code adds it."""


def located(where, text):
    """The UserError for a mistake in somebody's own code; where: a frame that is running, or a function."""
    code = getattr(where, "f_code", None)
    if code is not None:
        return UserError(f"{code.co_filename}, line {where.f_lineno}: {text}")
    code = getattr(where, "__code__", None) or getattr(getattr(where, "__func__", None), "__code__", None)
    return UserError(f"{code.co_filename}, line {code.co_firstlineno}: {text}" if code else text)


def unknown(what, given, allowed, where=""):
    """The UserError for a name that is not one of `allowed`, with the nearest valid one."""
    allowed = sorted(allowed)
    near = difflib.get_close_matches(str(given), allowed, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return UserError(f"{where}unknown {what} {given!r}{hint} (allowed: {', '.join(allowed) or 'none'})")
