"""What a user is told when something is wrong, and the exit status that goes with it."""

import difflib
import re

QUOTED = 200  # characters of what was given that a message shows
# control characters other than newline and tab, those that turn the direction of writing, halves of characters
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


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


class RankLost(CoopError):
    """Ranks have died; the others may go on."""


class Misuse(UserError):
    """A request that cannot be answered; the caller that knows the request's line of code adds it."""


def kind_of_error(name):
    """The class of that name among CoopError and what derives from it; CoopError for any other."""
    kinds = [CoopError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    return next((kind for kind in kinds if kind.__name__ == name), CoopError)


def located(where, text):
    """The UserError for a mistake in somebody's own code; where: a frame that is running, or a function."""
    code = getattr(where, "f_code", None)
    if code is not None:
        return UserError(f"{code.co_filename}, line {where.f_lineno}: {text}")
    code = getattr(where, "__code__", None) or getattr(getattr(where, "__func__", None), "__code__", None)
    return UserError(f"{code.co_filename}, line {code.co_firstlineno}: {text}" if code else text)


def quoted(value):
    """repr(value) for a message: at most QUOTED characters, whatever was given."""
    if isinstance(value, int) and value.bit_length() > 4 * QUOTED:
        return f"an integer of {value.bit_length()} bits"  # Python refuses to write very large ones
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        return f"a {type(value).__name__} too large to be shown"
    return shortened(text)


def shortened(text):
    """The text, cut after QUOTED characters."""
    return text if len(text) <= QUOTED else f"{text[:QUOTED]}..."


def clean(text):
    r"""The text with control characters as \xNN: what a file holds is shown on a terminal, not obeyed by it."""
    return CONTROL.sub(_escaped, text)


def _escaped(found):
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00  # a byte of a file name that is not UTF-8
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def missing(whose, package, extra):
    """The UserError for an optional package that is not installed. whose: what needs it; extra: of coopmpi, which brings it."""
    return UserError(f"{whose} needs the package {package}, which is not installed: pip install 'coopmpi[{extra}]'")


def nearest(given, allowed, alike=0.5):
    """[the name of `allowed` that is most like the one that was given], or [] if none is; alike: how much it has to be, up to 1."""
    return difflib.get_close_matches(given[:QUOTED], allowed, n=1, cutoff=alike) if isinstance(given, str) else []


def unknown(what, given, allowed, where="", meant=()):
    """The UserError for a name that is not one of `allowed`; meant: names that may have been meant, in place of the nearest one."""
    allowed = sorted(allowed)
    meant = [*meant] or nearest(given, allowed)
    hint = f"; did you mean {' or '.join(map(repr, meant))}?" if meant else ""
    return UserError(f"{where}unknown {what} {quoted(given)}{hint} (allowed: {', '.join(allowed) or 'none'})")
