"""A user's own problem: any Python function that returns a coopmpi.tasks.problem.Problem."""

import inspect
from typing import Any

import numpy as np

from coopmpi.errors import UserError
from coopmpi.registry import Part, load_object, register


@register("task", "python")
class Python(Part, frozen=True, kw_only=True):
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
        problem = function(place, **self.options)
        for name in ("dimension", "initial", "gradient"):
            if not hasattr(problem, name):
                raise UserError(f"[task] function {self.function} must return a problem with `dimension`, `initial` and "
                                f"`gradient` (see coopmpi.tasks.problem.Problem); {name!r} is missing in {problem!r}")
        initial = problem.initial()
        if np.shape(initial) != (problem.dimension,) or getattr(initial, "dtype", None) != place.dtype:
            raise UserError(f"[task] function {self.function}: initial() must give a NumPy array of shape "
                            f"({problem.dimension},) and dtype {place.dtype}, given {initial!r}")
        return problem
