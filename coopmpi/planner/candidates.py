"""What a plan chooses from: algorithms with their periods, graphs and compressors."""

import json
from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

from coopmpi import config, registry
from coopmpi.drivers.solo import Solo
from coopmpi.errors import UserError, unknown
from coopmpi.run.assemble import assemble, follows_numbers
from coopmpi.vocabulary import Family

LONGEST = 64  # period
CHOSEN = ("algorithm", "period", "mixing", "compress")  # tables that a candidate sets
APART = ("sinks", "checkpoint", "survive", "compute", "network", "stop", "forecast")  # tables of a run that say nothing of its progress


class Candidate(NamedTuple):
    """A choice of tables. label: for people."""

    label: str
    tables: dict[str, dict]

    @property
    def algorithm(self) -> str:
        return self.tables["algorithm"]["kind"]

    @property
    def tau(self) -> int | None:
        """Its period, where that is the same over the run."""
        period = self.tables.get("period", {})
        return period.get("tau") if period.get("kind", "every") == "every" else None

    def with_tau(self, tau: int) -> "Candidate":
        """The same with another period."""
        return named(self.tables | {"period": self.tables["period"] | {"tau": tau}})


def named(tables: dict) -> Candidate:
    """The candidate of these tables, which its label tells in short."""
    parts = []
    for table, key in (("algorithm", "kind"), ("period", "kind"), ("mixing", "graph"), ("compress", "kind")):
        if chosen := dict(tables.get(table, {})):
            first = chosen.pop(key, None)
            parts += [first] if first and first != "every" else []
            parts += [f"{name} {value:g}" if isinstance(value, (int, float)) else f"{name} {value}" for name, value in chosen.items()]
    return Candidate(", ".join(parts), tables)


def without_choice(tables: dict) -> dict:
    """The tables of a run description that are the same for all candidates."""
    return {key: value for key, value in tables.items() if key not in (*CHOSEN, "plan")}


def candidates(tables: dict, family: Family) -> tuple[list[Candidate], list[tuple[str, str]]]:
    """(what fits the run of these tables, [(label, why it was left out)])."""
    known = registry.parts("algorithm")
    for name in family.algorithms or ():
        if name not in known:
            raise unknown("algorithm", name, known, where="[plan] algorithms: ")
    found, refused, common = {}, [], without_choice(tables)
    # the run as it is described comes first, with its own keys
    own = {key: tables[key] for key in CHOSEN if key in tables}
    described = [named(own)] if own.get("algorithm") else []
    for candidate in [*described, *(one for name in family.algorithms or known for one in _variants(known[name], family))]:
        if candidate.label in found or (candidate.algorithm == "cooperative" and candidate not in described):
            continue  # the latter is a form, of which others are cases
        try:
            resolved = config.resolve(common | candidate.tables)
            assemble(resolved, Solo(), "simulate" if follows_numbers(resolved) else "time-only")
        except UserError as error:
            refused.append((candidate.label, str(error)))
        else:
            found[candidate.label] = candidate
    return list(found.values()), refused


def _variants(algorithm, family) -> Iterator[Candidate]:
    name = algorithm.name
    periods = [{"tau": tau} for tau in family.periods] if algorithm.uses_period else [None]
    if name == "local-sgd" and family.adaptive:
        periods += [{"kind": "adacomm", "tau": max(family.periods), "interval_steps": 2 * max(family.periods)}]
    graphs = [_table("graph", graph) for graph in family.graphs] if algorithm.uses_mixing else [None]
    compressors = [_table("kind", one) for one in family.compressors] if algorithm.uses_compress else [None]
    if name == "sync-sgd":
        compressors = [None, {"kind": "bf16"}]
    for period, graph, compressor in product(periods, graphs, compressors):
        tables = {"algorithm": {"kind": name}, "period": period, "mixing": graph, "compress": compressor}
        yield named({key: table for key, table in tables.items() if table})


def _table(key, given):
    return {key: given} if isinstance(given, str) else dict(given)


def progress_key(tables: dict) -> str:
    """Runs of the same key have the same losses at the same steps, whatever the machine."""
    return json.dumps({key: value for key, value in tables.items() if key not in APART}, sort_keys=True)
