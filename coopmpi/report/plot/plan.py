"""The picture of a plan: figures of the best choices over the seconds that they are predicted to take; pilots beside their predictions."""

import numpy as np

from coopmpi.planner.plan import Plan
from coopmpi.report.plot.curves import Line, Panel

MOST = 6  # lines


def panels(plan: Plan) -> list[Panel]:
    """What there is to draw."""
    return [_curves(plan), *([_pilots(plan)] if any(choice.piloted for choice in plan.choices) else [])]


def _curves(plan):
    """Of the best choices, each to the target."""
    lines = [_line(choice.label, plan.curves[choice.label], choice.piloted and choice.piloted / choice.per_step) for choice in plan.choices[:MOST]]
    values = np.concatenate([line.mean for line in lines])
    view = (float(values.min()), 1.0) if plan.target.rises else (0.9 * float(values.min()), 1.1 * float(values.max()))
    seconds = "seconds, by the pilots" if any(choice.piloted for choice in plan.choices) else "predicted seconds"
    return Panel(plan.target.figure, seconds, f"{plan.target.figure}, to {plan.target.value:g}", lines, "" if plan.target.rises else "y", False, view, "")


def _pilots(plan):
    """Milliseconds of a step: of each choice a line from what was predicted to what was measured."""
    pairs = [(choice.label, 1e3 * choice.per_step, 1e3 * choice.piloted) for choice in plan.choices if choice.piloted]
    lines = [Line(label, 1, np.array([predicted] * 2), *3 * [np.array([predicted, measured])]) for label, predicted, measured in pairs]
    ends = np.array([min(min(pair[1:]) for pair in pairs), max(max(pair[1:]) for pair in pairs)])
    lines.append(Line("as predicted", 1, *4 * [ends]))
    return Panel("step", "predicted milliseconds of a step", "milliseconds of a step in a pilot", lines, "", False, (0.9 * ends[0], 1.1 * ends[1]), "")


def _line(label, curve, slower):
    """slower: how many times as long a step took in a pilot."""
    seconds, values = np.array(curve.seconds) * (slower or 1.0), np.array(curve.values)
    return Line(label, 1, seconds, values, values, values)
