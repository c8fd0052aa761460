"""A plan on the screen, and as JSON."""

import json
import textwrap
from math import isinf

from coopmpi.planner.plan import LEVEL, Plan

MOST = 12  # rows of the ranking
NARROWEST, WIDEST = 26, 140  # characters for the labels; of a line where there is no terminal


def shown(plan: Plan, columns: int | None = None) -> str:
    """The ranking, what else was found, and what planning has cost. columns: width of the terminal, None: what is needed."""
    from rich.console import Console
    from rich.table import Table

    text = ""
    if plan.choices:
        chosen = _fitting(_columns(plan.choices[:MOST]), (columns or WIDEST) - NARROWEST)
        table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False)
        table.add_column("", overflow="fold")
        for name in chosen:
            table.add_column(name, justify="right", no_wrap=True)
        for number, choice in enumerate(plan.choices[:MOST], start=1):
            table.add_row(f"{number}{'=' if choice.tie else ' '} {choice.label}", *(cells[number - 1] for cells in chosen.values()))
        console = Console(width=columns or WIDEST, highlight=False)
        with console.capture() as captured:
            console.print(table)
        text = "".join(f"{line.rstrip()}\n" for line in captured.get().splitlines())
    return text + "\n".join(_wrapped(_notes(plan), columns))


def _columns(choices):
    """{heading: cells}, the most important first."""
    return {"seconds": [f"{one.seconds:.3g}" for one in choices],
            f"{LEVEL:.0%} of runs": [f"{one.low:.3g} to {one.high:.3g}" for one in choices],
            "lr": [f"{one.lr:.3g}{'^' * one.edge}" for one in choices],
            "s/step": [f"{one.piloted or one.per_step:.3g}{'*' * bool(one.piloted)}" for one in choices],
            "steps": [f"{one.steps:.0f}" for one in choices],
            "gradient/other/network": ["/".join(f"{100 * share:.0f}" for share in (one.gradient, one.other, one.network)) + " %" for one in choices],
            "MB/step": [f"{one.sent / 1e6:.3g}" for one in choices]}


def _fitting(found, width):
    """As many of the first columns as have room."""
    chosen = {}
    for name, cells in found.items():
        width -= max(map(len, (name, *cells))) + 2
        if width < 0:
            break
        chosen[name] = cells
    return chosen


def _wrapped(lines, columns):
    for line in lines:
        yield from textwrap.wrap(line, columns, subsequent_indent="  ") if columns else [line]


def _notes(plan):
    target = f"{plan.target.figure} {'>=' if plan.target.rises else '<='} {plan.target.value:g}"
    if not plan.choices:
        yield f"No candidate reaches {target}."
    if any(choice.tie for choice in plan.choices[:MOST]):
        yield "=  may be as fast as the first"
    if any(choice.edge for choice in plan.choices[:MOST]):
        yield "^  the last learning rate that was tried in its direction; a further one may be better"
    if any(choice.piloted for choice in plan.choices):
        yield "*  measured on the ranks; the seconds rest on it"
    if len(plan.choices) > MOST:
        yield f"{len(plan.choices) - MOST} more reach the target."
    if plan.missed:
        closest = [f"{label} ({value:.3g} after {seconds:.3g} s)" for label, (value, seconds) in list(plan.missed.items())[:3]]
        late = "did not reach the target, or were stopped when others had" if plan.choices else "came closest"
        yield f"{len(plan.missed)} {late}: {', '.join(closest)}{', ...' if len(plan.missed) > 3 else ''}"
    if plan.left_out:
        yield f"{len(plan.left_out)} were not tried, as the time was over: {', '.join(plan.left_out[:3])}{', ...' if len(plan.left_out) > 3 else ''}"
    if plan.refused:
        yield f"{len(plan.refused)} do not fit this run, {plan.refused[0][0]}: {plan.refused[0][1]:.90}"
    whence = "By forecasts, with" if any(choice.piloted for choice in plan.choices) else "With"
    for found in plan.what_if:
        others = f"; {', '.join(found.open[:2])} may be faster: plan again with such a machine file" if found.open else ""
        yield f"{whence} {found.change}: {'the target is not reached' if isinf(found.seconds) else f'{found.label}, {found.seconds:.3g} s'}{others}"
    if plan.choices:
        best = plan.choices[0]
        yield f"What limits the first: {best.limit}."
        yield _price(plan, best)


def _price(plan, best):
    """What planning cost against what it gains."""
    known = [choice for choice in plan.choices if choice.label == plan.described]
    cost = f"Planning took {plan.took:.3g} s"
    if not known:
        verdict = "which is more than the run itself takes" if plan.took > best.seconds else "which is less than the run itself takes"
        return f"{cost}, {verdict}."
    gain = known[0].seconds - best.seconds
    return f"{cost}, and gains {gain:.3g} s for each run against {plan.described}{': more than it gains' if plan.took > gain else ''}."


def as_json(plan: Plan) -> str:
    """All of it, but the curves."""
    return json.dumps({"target": plan.target._asdict(), "machine": plan.machine.about.table(), "choices": [choice._asdict() for choice in plan.choices],
                       "missed": plan.missed, "refused": dict(plan.refused), "left_out": plan.left_out,
                       "what_if": [found._asdict() for found in plan.what_if], "took": plan.took, "worker_steps": plan.trained}, indent=2)
