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


def unknown(what, given, allowed, where=""):
    """The UserError for a name that is not one of `allowed`, with the nearest valid one."""
    allowed = sorted(allowed)
    near = difflib.get_close_matches(str(given), allowed, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return UserError(f"{where}unknown {what} {given!r}{hint} (allowed: {', '.join(allowed) or 'none'})")
