"""The values that a method is tuned over: all combinations, where the best lies among them, and what lies beyond an edge."""

from itertools import product
from typing import NamedTuple


class Edge(NamedTuple):
    """The best value of a key is the least or the most of those tried."""

    key: str
    value: float
    side: str  # "smallest" or "largest"


def points(grid: dict[str, list]) -> list[dict]:
    """All combinations of {key: values}."""
    return [dict(zip(grid, values)) for values in product(*grid.values())]


def edges(tried: list[dict], best: dict) -> list[Edge]:
    """The keys with numbers of which the best is at an edge of what was tried: a better one may lie beyond."""
    found = []
    for key, value in best.items():
        values = {point[key] for point in tried}
        if len(values) > 1 and all(_is_number(one) for one in values):
            found += [Edge(key, value, side) for side, end in (("smallest", min), ("largest", max)) if value == end(values)]
    return found


def beyond(values: list, edge: Edge):
    """The next value past an edge, at the same ratio as the last two, or distance where not all are positive; None if there is none."""
    last, inner = (sorted(set(values)) if edge.side == "smallest" else sorted(set(values), reverse=True))[:2]
    further = last * last / inner if min(values) > 0 else 2 * last - inner
    further = round(further) if all(isinstance(value, int) for value in values) else float(f"{further:.3g}")
    return None if further in values else further


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)
