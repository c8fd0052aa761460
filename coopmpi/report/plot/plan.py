"""The picture of a plan: figures of the best choices over the seconds that they are predicted to take."""

import numpy as np

from coopmpi.planner.plan import Plan
from coopmpi.report.plot.curves import Line, Panel

MOST = 6  # lines


def panel(plan: Plan) -> Panel:
    """The curves of the best choices, each to the target."""
    lines = [_line(choice.label, plan.curves[choice.label], choice.piloted and choice.piloted / choice.per_step) for choice in plan.choices[:MOST]]
    values = np.concatenate([line.mean for line in lines])
    view = (float(values.min()), 1.0) if plan.target.rises else (0.9 * float(values.min()), 1.1 * float(values.max()))
    seconds = "seconds, by the pilots" if any(choice.piloted for choice in plan.choices) else "predicted seconds"
    return Panel(plan.target.figure, seconds, f"{plan.target.figure}, to {plan.target.value:g}", lines, "" if plan.target.rises else "y", False, view, "")


def _line(label, curve, slower):
    """slower: how many times as long a step took in a pilot."""
    seconds, values = np.array(curve.seconds) * (slower or 1.0), np.array(curve.values)
    return Line(label, 1, seconds, values, values, values)
