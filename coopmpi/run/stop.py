"""When a run has reached what it was started for: the [stop] table."""

from collections.abc import Collection, Mapping

from coopmpi.errors import UserError, unknown

MINUTES = "minutes"  # of training; in a simulation, of virtual time


class Stop:
    """Targets of which any ends a run.

    targets: {figure, or "minutes": number}; figures: {name: (unit, description)} that the task has; rising: names of
    those that are better when they are larger. UserError for a figure that is none.
    """

    def __init__(self, targets: Mapping[str, float], figures: Mapping[str, tuple[str, str]], rising: Collection[str]):
        for name, target in targets.items():
            if name not in figures and name != MINUTES:
                raise unknown("figure", name, (*figures, MINUTES), where="[stop] ")
            if name == "accuracy" and figures[name][0] == "1" and target > 1:
                raise UserError(f"[stop] accuracy is a share of 1, given {target:g}; {target:g} % are {target / 100:g}")
        self.targets, self._rising = targets, (*rising, MINUTES)

    def rules(self) -> list[str]:
        """The targets in words."""
        return [f"{name} {self._sign(name)} {target:g}" for name, target in self.targets.items()]

    def reached(self, figures: Mapping[str, float], seconds: float) -> str:
        """The first target that is reached, in words; empty if none is."""
        values = {**figures, MINUTES: seconds / 60}
        for name, target in self.targets.items():
            if values[name] >= target if name in self._rising else values[name] <= target:
                return f"{name} {values[name]:.5g} {self._sign(name)} {target:g}"
        return ""

    def _sign(self, name):
        return ">=" if name in self._rising else "<="
