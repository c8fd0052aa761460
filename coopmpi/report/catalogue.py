"""What there is to choose from: algorithms and the other parts, their keys, and the papers they come from."""

import inspect
import re
import sys
from importlib.resources import files

import msgspec

from coopmpi import registry
from coopmpi.step import Algorithm

KINDS = ("optimizer", "schedule", "period", "graph", "compress", "task", "compute", "network",
         "sink")  # registered, beside the algorithms
# of algorithms, in the order in which they are shown
FAMILIES = {"synchronous": "all gradients are averaged in every step", "periodic averaging": "local steps, then the average of all models",
            "outer step": "local steps, then an optimiser's step on the average",
            "elastic and general": "local steps, then a mixing with centres", "decentralised": "workers exchange models with neighbours in a graph", "compressed": "what travels is compressed"}
TYPES = {"IntType": "integer", "FloatType": "number", "BoolType": "boolean", "StrType": "string",
         "DictType": "table", "VarTupleType": "array", "TupleType": "array", "ListType": "array"}


def algorithm(name):
    """The algorithm class of that name, or the user's own package.module:Class; UserError without."""
    return registry.find("algorithm", name)


def headline(cls):
    """What an algorithm is, in one line: every algorithm has a file of its own, and this is its first line."""
    text = sys.modules[cls.__module__].__doc__ or cls.__doc__ or ""
    return text.strip().partition("\n")[0]


def uses(cls):
    """Which tables of the run description an algorithm reads beside its own, as text."""
    tables = [f"[{name}]" for name in ("period", "mixing", "compress") if getattr(cls, f"uses_{name}")]
    return ", ".join(tables) or "no other table"


def keys(cls):
    """[(key, default, type)] of a part, as TOML says them."""
    return [(field.name, _default(field), _type(msgspec.inspect.type_info(field.type)))
            for field in msgspec.structs.fields(cls)]


def _defaults(cls):
    return ", ".join(f"{key} = {default}" for key, default, _ in keys(cls))


def _default(field):
    if field.required:
        return "required"
    if field.default is msgspec.NODEFAULT:
        return _toml(field.default_factory())
    return "unset" if field.default is None else _toml(field.default)


def _toml(value):
    return msgspec.json.encode(value).decode() if not isinstance(value, float) else repr(value)


def _type(info):
    if isinstance(info, msgspec.inspect.UnionType):
        return " or ".join(_type(kind) for kind in info.types if not isinstance(kind, msgspec.inspect.NoneType))
    if isinstance(info, msgspec.inspect.Metadata):
        return "file"
    if isinstance(info, msgspec.inspect.LiteralType):
        return " or ".join(map(_toml, info.values))
    text = TYPES.get(type(info).__name__, "anything")
    bounds = {">": "gt", ">=": "ge", "<": "lt", "<=": "le"}
    limits = {sign: getattr(info, name, None) for sign, name in bounds.items()}
    return ", ".join([text, *(f"{sign} {limit:g}" for sign, limit in limits.items() if limit is not None)])


def references(names=None):
    """BibTeX entries {key: text}, all of coopmpi/references.bib or those of the given keys."""
    text = (files("coopmpi") / "references.bib").read_text(encoding="utf-8")
    entries = {entry.partition("{")[2].partition(",")[0]: entry.strip() for entry in re.split(r"\n(?=@)", text)}
    return entries if names is None else {name: entries[name] for name in names if name in entries}


def overview():
    """A line for each algorithm, by family: {family, and what its algorithms do: [(name, headline)]}."""
    found = {f"{family}: {what}": [] for family, what in FAMILIES.items()}
    title = {family: heading for family, heading in zip(FAMILIES, found)}
    for name, cls in registry.parts("algorithm").items():
        found.setdefault(title.get(cls.family, cls.family), []).append((name, headline(cls)))
    return found


def everything():
    """All algorithms with their sources and keys, a table."""
    table = _table("algorithm", "what it is, where it comes from, its keys and what it uses")
    for name, cls in registry.parts("algorithm").items():
        own = _defaults(cls) or "no keys of its own"
        table.add_row(name, f"{headline(cls)}\n{cls.source}\n{own}; uses {uses(cls)}\n")
    return table


def story(name):
    """Everything about one algorithm: a list of texts and tables."""
    cls = algorithm(name)
    own = _table("key", "default", "type")
    for row in keys(cls):
        own.add_row(*row)
    slots = _table("state", "kind", "starts as", "purpose")
    for slot in cls.slots:
        slots.add_row(slot.name, slot.kind, slot.start, slot.purpose)
    form = cls.matrix_form is not Algorithm.matrix_form
    facts = [f"uses: {uses(cls)}",
             f"Cooperative SGD form X <- W (X - lr G): {'yes' if form else 'no'}",
             f"source: {getattr(cls, 'source', 'not given')}"]
    return [f"{name}: {headline(cls)}", inspect.getdoc(cls) or "", own if own.rows else "no keys of its own",
            slots if slots.rows else "no state beyond the models and the optimiser's own", "\n".join(facts),
            *references(cls.bibtex).values()]


def parts():
    """All other parts, a table for each kind."""
    from coopmpi.tasks.data.partition import KINDS as PARTITIONS
    from coopmpi.tasks.data.sets import BUILTIN
    from coopmpi.tasks.nn.architectures import KINDS as MODELS
    from coopmpi.tasks.nn.stack import LAYERS
    from coopmpi.topology.weights import WEIGHTS

    tables = []
    for kind in KINDS:
        table = _table("graph ([mixing])" if kind == "graph" else f"[{kind}]", "what it is", "keys")
        for name, cls in registry.parts(kind).items():
            table.add_row(name, _first_paragraph(cls), _defaults(cls))
        tables.append(table)
    weights = _table("weights ([mixing])", "what it is")
    for name, function in WEIGHTS.items():
        weights.add_row(name, _first_paragraph(function))
    layers = _table("layers ([task])", "keys")
    for name, cls in LAYERS.items():
        layers.add_row(name, _defaults(cls))
    names = _table("[task]", "choices")
    for key, choices in (("data", (*BUILTIN, "or a path")), ("model", MODELS), ("partition", PARTITIONS)):
        names.add_row(key, ", ".join(choices))
    return [*tables, weights, names, layers]


def _first_paragraph(thing):
    return " ".join((inspect.getdoc(thing) or "").partition("\n\n")[0].split())


def _table(*columns):
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), show_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, no_wrap=number == 0, overflow="fold")
    return table
