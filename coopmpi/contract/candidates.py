"""Finds out what a user's object is, and how the rules for its kind are tried on it."""

from functools import partial

from coopmpi import config, registry
from coopmpi.contract import algorithm, compressor, graph, problem, sink
from coopmpi.errors import UserError, unknown

KINDS = ("algorithm", "graph", "compress", "sink", "task")


def candidate(path: str, tables: dict):
    """(what it is, its rules, the trial they are given) of the object at `package.module:name`.

    tables: those of a run description; its own keys stand where a run has them: algorithm, mixing, compress, sinks, task.
    """
    found = registry.load_object(path, "what to check")
    for kind in KINDS:
        if isinstance(found, type) and issubclass(found, registry.base(kind)):
            return _TRIALS[kind](path, tables)
    for other in registry.kinds():
        if isinstance(found, type) and issubclass(found, registry.base(other)):
            raise UserError(f"{path} is a part for [{other}], for which there are no rules yet (there are for "
                            f"{', '.join(KINDS)})")
    if callable(found):
        return _problem(path, tables)
    raise UserError(f"{path} must be an algorithm, graph, compressor, sink, or a function or class that gives a problem; "
                    f"found {found!r:.80}")


def _algorithm(path, tables):
    own = tables.pop("algorithm", {}) | {"kind": path}
    config.resolve(tables | {"algorithm": own})
    return "an algorithm", algorithm.RULES, algorithm.Trial(tables | {"algorithm": own})


def _graph(path, tables):
    keys = _own(tables, "mixing")
    config.resolve({"mixing": keys | {"graph": path}})
    return "a graph", graph.RULES, graph.Trial(path, keys)


def _compressor(path, tables):
    built = registry.build("compress", _own(tables, "compress") | {"kind": path})
    return "a compressor", compressor.RULES, compressor.Trial(built)


def _sink(path, tables):
    make = partial(registry.build, "sink", _own(tables, "sinks") | {"kind": path})
    make()
    return "a sink", sink.RULES, sink.Trial(make)


def _task(path, tables):
    task = registry.build("task", _own(tables, "task") | {"kind": path})
    return "a task", problem.RULES, problem.Trial(task.prepare, f"[task] {path}")


def _problem(path, tables):
    task = registry.build("task", _own(tables, "task") | {"kind": "python", "function": path})
    return "a problem", problem.RULES, problem.Trial(task.prepare, f"[task] {path}")


def _own(tables, name):
    """The table with the candidate's own keys; UserError for another, which would play no part."""
    for other in tables:
        if other != name:
            raise unknown("table", other, [name], where="--set: ")
    return tables.get(name, {})


_TRIALS = {"algorithm": _algorithm, "graph": _graph, "compress": _compressor, "sink": _sink, "task": _task}
