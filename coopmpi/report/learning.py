"""Says so where a run has not learnt anything."""

from math import isnan

from coopmpi.report.progress import FORMS
from coopmpi.report.recorded import Recorded

ENOUGH = 10  # steps after which a loss should have fallen


def not_learnt(run: Recorded) -> str:
    """One sentence; empty for a run that has learnt something, or is too short to tell."""
    failed = [text for _, _, kind, text in run.events if kind == "failed"]
    if run.status == "failed" and failed:
        return f"The run failed: {failed[-1]}."
    if run.steps < ENOUGH:
        return ""
    name, first, last = _losses(run)
    if isnan(last):
        return f"The run did not learn: its {name} is no number."
    if last >= first:
        return (f"The run did not learn: its {name} is {last:.4g}, and was {first:.4g} at the start; "
                f"{'a smaller [optimizer] lr usually helps' if last > first else 'a larger [optimizer] lr may help'}.")
    for name, chance in run.chance.items():
        if run.figures[name] <= chance:
            form = FORMS.get(name, ".4g")
            return f"The run did not learn: its {name} is {run.figures[name]:{form}}, and a model that has learnt nothing gets {chance:{form}}."
    return ""


def _losses(run):
    """(name, at the start, at the end) of the loss that tells; NaN without one."""
    for name in ("train_loss", "loss"):
        values = run.evaluations.get(name, ())
        if len(values) > 1:
            return name, float(values[0]), float(values[-1])
    if len(run.losses) > 1:
        return "mini-batch loss", float(run.losses[0]), float(run.losses[-1])
    return "loss", 1.0, 0.0
