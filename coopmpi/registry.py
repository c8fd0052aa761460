"""Parts that users choose by name: `@register("graph", "ring")` is all it takes to add one.

A part is a frozen msgspec struct: its fields are the keys of its TOML table, typed and validated.
`package.module:Class` names a part outside coopmpi.
"""

import importlib
import os
import pkgutil
import sys
from collections import defaultdict
from math import isfinite
from typing import ClassVar

import msgspec

from coopmpi import places
from coopmpi.errors import UserError, quoted, unknown
from coopmpi.ranges import literals
from coopmpi.synonyms import name_here

# where the parts of a kind are defined; a package means every module in it
_HOMES = {
    "task": "coopmpi.tasks",
    "optimizer": "coopmpi.local.optimizers",
    "schedule": "coopmpi.local.schedules",
    "period": "coopmpi.local.periods",
    "graph": "coopmpi.topology.graphs",
    "compress": "coopmpi.compression.compressors",
    "algorithm": "coopmpi.algorithms",
    "compute": "coopmpi.simulation.compute",
    "network": "coopmpi.simulation.network",
    "sink": "coopmpi.sinks",
}
# what a user's own part of a kind derives from
_BASES = {
    "task": "coopmpi.tasks.task:Task",
    "optimizer": "coopmpi.local.optimizers:Optimizer",
    "schedule": "coopmpi.local.schedules:Schedule",
    "period": "coopmpi.local.periods:Period",
    "graph": "coopmpi.topology.graphs:Graph",
    "compress": "coopmpi.compression.compressors:Compressor",
    "algorithm": "coopmpi.step.algorithm:Algorithm",
    "compute": "coopmpi.simulation.compute:Compute",
    "network": "coopmpi.simulation.network:Network",
    "sink": "coopmpi.sinks.sink:Sink",
}
_parts = defaultdict(dict)

# numbers in a run description; products of some of them can still be counted
LARGEST_INTEGER, LARGEST_FLOAT = 10**15, 1e100
OWN_CODE = ("kind", "function", "graph", "base", "module", "loss", "dataset", "augment")  # keys whose value may be package.module:name


NONZERO = object()  # in `read_with`: any number but 0


class Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of everything that a table of the run description can choose.

    read_with: {key: (another key, its values with which the first one plays a part)}, None for unset; see coopmpi.unread.
    """

    read_with: ClassVar[dict[str, tuple]] = {}

    def table(self):
        """Its keys as the run description has them."""
        return msgspec.to_builtins(self)


def register(kind, name):
    """Class decorator: make the part selectable as `name` among the parts of `kind`."""

    def add(cls):
        cls.name = name
        _parts[kind][name] = cls
        return cls

    return add


def parts(kind):
    """All built-in parts of a kind: {name: class}, sorted by name."""
    home = importlib.import_module(_HOMES[kind])
    for module in pkgutil.iter_modules(getattr(home, "__path__", [])):
        importlib.import_module(f"{home.__name__}.{module.name}")
    return dict(sorted(_parts[kind].items()))


def find(kind, name):
    """The part class called `name`, or the user's own class `package.module:Class`."""
    table = parts(kind)
    if isinstance(name, str) and ":" in name:
        return _own(kind, name)
    if not isinstance(name, str) or name not in table:
        raise unknown_part(kind, name)
    return table[name]


def unknown_part(kind, name, where=None):
    """The UserError for a name that no part of a kind has."""
    here = name_here(kind, name) if isinstance(name, str) else None
    if here:
        return UserError(f"[{where or kind}] there is no {kind} {name!r} by this name; here it is {here}")
    return unknown(kind, name, parts(kind), where=f"[{where or kind}] ")


def base(kind):
    """The class that all parts of a kind derive from."""
    module, _, name = _BASES[kind].partition(":")
    return getattr(importlib.import_module(module), name)


def kinds():
    """The names of all kinds."""
    return tuple(_HOMES)


def _own(kind, path):
    """The user's own class at `package.module:Class`; UserError if it is no part of that kind."""
    cls = load_object(path, f"[{kind}] kind")
    if not (isinstance(cls, type) and issubclass(cls, base(kind))):
        fits = [other for other in _BASES if isinstance(cls, type) and issubclass(cls, base(other))]
        what = f"which is a part for [{fits[0]}]" if fits else f"found {cls!r:.100}"
        raise UserError(f"[{kind}] kind = {path!r} must be a subclass of {_BASES[kind].replace(':', '.')}, {what}")
    cls.name = path  # so that the resolved run description finds it again
    return cls


def load_object(path, where):
    """The object at `package.module:name`; UserError says which half is missing."""
    module_name, _, attribute = path.partition(":")
    if not all(name.isidentifier() for name in [*module_name.split("."), attribute]):
        raise UserError(f'{where} must be "package.module:name", given {quoted(path)}')
    if os.getcwd() not in sys.path:
        places.search(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UserError(f"{where} = {path!r}: no module named {error.name!r} can be imported "
                        "(looked for in the folder of the run description, then in the working directory)") from error
    except (ImportError, SyntaxError) as error:
        raise UserError(f"{where} = {path!r}: module {module_name} cannot be imported: {error}") from error
    if not hasattr(module, attribute):
        public = [name for name in vars(module) if not name.startswith("_")]
        raise unknown(f"name in module {module_name}", attribute, public, where=f"{where} = {path!r}: ")
    return getattr(module, attribute)


def own_code(tables):
    """The modules of users that a run description imports, from its tables: sorted names, without coopmpi's own."""
    found, waiting = set(), [tables]
    while waiting:
        table = waiting.pop()
        items = table.items() if isinstance(table, dict) else enumerate(table)
        for key, value in items:
            if isinstance(value, (dict, list, tuple)):
                if key == "metrics" and isinstance(value, dict):
                    waiting += [{"function": function} for function in value.values()]
                elif key != "options":  # what a user's own function is given
                    waiting.append(value)
            elif key in OWN_CODE and isinstance(value, str) and ":" in value and not os.path.isfile(value):
                found.add(value.partition(":")[0])
    return sorted(name for name in found if name.partition(".")[0] != "coopmpi")


def convert(table, cls, where):
    """A validated instance of struct `cls` from the TOML table at `where` (such as "[task]")."""
    for key, value in table.items():
        if key not in cls.__struct_fields__:
            raise unknown("key", key, cls.__struct_fields__, where=f"{where} ")
        require_usual_numbers(value, f"{where} {key}", key.endswith("seed"))
    try:
        return msgspec.convert(table, cls)
    except UnicodeEncodeError as error:
        raise UserError(f"{where}: text and names of files must be UTF-8, given {quoted(error.object)}") from error
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$.")
        path = path.rstrip("`")
        key = path.partition("[")[0].partition(".")[0]
        allowed = next((literals(field.type) for field in msgspec.structs.fields(cls) if field.name == key), ())
        if allowed:
            raise unknown("value", table[key], allowed, where=f"{where} {key}: ") from error
        given = f", given {quoted(table[key])}" if key in table else ""
        raise UserError(f"{where} {path + ': ' if path else ''}{message}{given}") from error


def require_usual_numbers(value, where, seed=False):
    """UserError if a number, also in an array, is not finite or so large that nothing can be computed with it."""
    if isinstance(value, (list, tuple)):
        for item in value:
            require_usual_numbers(item, where, seed)
    elif isinstance(value, float):
        if not isfinite(value):
            raise UserError(f"{where}: numbers must be finite, given {value}")
        if abs(value) > LARGEST_FLOAT:
            raise UserError(f"{where}: numbers may be up to {LARGEST_FLOAT:g}, given {value}")
    elif isinstance(value, int):
        largest = 2**63 - 1 if seed else LARGEST_INTEGER
        if abs(value) > largest:
            raise UserError(f"{where}: integers may be up to {largest}, given {quoted(value)}")


def build(kind, table):
    """The part that `table` describes: {"kind": name, ...its own keys}; `kind` itself is not passed on."""
    cls = find(kind, table["kind"])
    own = {key: value for key, value in table.items() if key != "kind"}
    return convert(own, cls, f"[{kind}]")
