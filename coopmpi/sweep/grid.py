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


def values(point: dict) -> str:
    """A point of a grid in short: lr 0.3, tau 8."""
    return ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in point.items())


def edges(tried: list[dict], best: dict) -> list[Edge]:
    """The keys with numbers of which the best is at an edge of what was tried: a better one may lie beyond."""
    found = []
    for key, value in best.items():
        those = {point[key] for point in tried}
        if len(those) > 1 and all(_is_number(one) for one in those):
            found += [Edge(key, value, side) for side, end in (("smallest", min), ("largest", max)) if value == end(those)]
    return found


def beyond(tried: list, edge: Edge):
    """The next value past an edge, at the same ratio as the last two, or distance where not all are positive; None if there is none."""
    last, inner = sorted(set(tried), reverse=edge.side == "largest")[:2]
    further = last * last / inner if min(tried) > 0 else 2 * last - inner
    further = round(further) if all(isinstance(value, int) for value in tried) else float(f"{further:.3g}")
    return None if further in tried else further


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)
