"""A rule is a function whose docstring says what must hold; it raises Broken, or any other error, where that fails."""

import traceback
from collections.abc import Callable, Iterator
from typing import NamedTuple

from coopmpi.drivers.driver import PACKAGE
from coopmpi.errors import CoopError


class Broken(AssertionError):
    """What was seen instead."""


class Untried(Exception):
    """Why a rule does not apply, or cannot be tried here."""


class Verdict(NamedTuple):
    """state: "holds", "broken" or "untried"; why: one sentence where it does not hold."""

    rule: str
    state: str
    why: str = ""


def require(condition, what: str):
    """Broken unless the condition holds."""
    if not condition:
        raise Broken(what)


def sentence(rule: Callable) -> str:
    """What the rule says."""
    return " ".join(rule.__doc__.split("\n\n")[0].split())


def verdicts(rules, trial) -> Iterator[Verdict]:
    """Try the rules on a trial, one after the other; after the first, which says whether it works at all, all the others."""
    for number, rule in enumerate(rules):
        try:
            rule(trial)
        except Untried as reason:
            yield Verdict(sentence(rule), "untried", str(reason))
        except (Exception, SystemExit) as error:  # whatever somebody's own code raises
            yield Verdict(sentence(rule), "broken", explain(error))
            if number == 0:
                return
        else:
            yield Verdict(sentence(rule), "holds")


def explain(error: BaseException) -> str:
    """One sentence, with the line of somebody's own code where the error came about, if it came about there."""
    if isinstance(error, (CoopError, Broken)):
        return str(error)
    text = f"{type(error).__name__}: {error}"
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        file = frame.f_code.co_filename
        if "site-packages" not in file and not file.startswith((PACKAGE, "<")):
            return f"{file}, line {line}: {text}"
    return text
