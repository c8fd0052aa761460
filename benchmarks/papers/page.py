"""The pages of the papers' experiments: each is a sweep, its file of results, a table and a picture."""

import tomllib
from pathlib import Path
from typing import Literal

import msgspec

from coopmpi.sweep.description import Sweep, load

FOLDER = Path(__file__).parent


class Page(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a page shows, a table of pages.toml."""

    columns: list[str]  # of the table, see benchmarks.papers.measures
    x: Literal["virtual_time", "megabytes", "step"] = "virtual_time"  # of the curves
    log: bool = False  # a logarithmic x
    excess: bool = False  # curves of the loss above the final one of the target's method, on a logarithmic y
    points: list[str] = []  # measures drawn as points over the key, one panel each, in place of curves
    key: str = "period.tau"
    limits: dict[str, float] = {}  # the largest possible speed-up in a setting


def names() -> list[str]:
    return sorted(_pages())


def page_of(name) -> Page:
    return msgspec.convert(_pages()[name], Page)


def sweep_of(name) -> tuple[Sweep, str]:
    """The sweep, and its text."""
    return load(FOLDER / f"{name}.toml")


def results_of(name) -> Path:
    """The file of the sweep."""
    return FOLDER / "results" / f"{name}.h5"


def _pages():
    return tomllib.loads((FOLDER / "pages.toml").read_text(encoding="utf-8"))
