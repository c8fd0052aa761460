"""A problem of the user's own: anything with the members of coopmpi.tasks.problem.Problem."""

import inspect
from typing import Any

from coopmpi.errors import UserError
from coopmpi.registry import load_object, register
from coopmpi.tasks.task import Task


@register("task", "python")
class Python(Task, frozen=True, kw_only=True):
    """`function = "package.module:name"` is called with the Place and the table `options`."""

    function: str
    options: dict[str, Any] = {}

    def prepare(self, place):
        function = load_object(self.function, "[task] function")
        if not callable(function):
            raise UserError(f"[task] function {self.function} must be a function, found {function!r}")
        try:
            inspect.signature(function).bind(place, **self.options)
        except TypeError as error:
            raise UserError(f"[task] function {self.function} cannot be called with a place and the options "
                            f"{sorted(self.options)}: {error}") from error
        return function(place, **self.options)
