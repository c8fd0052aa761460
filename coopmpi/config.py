"""The run description: TOML in, every value validated and every default filled in, resolved TOML out."""

import os
import re
import tomllib

import msgspec
import tomli_w

from coopmpi import places, readers, registry, vocabulary
from coopmpi.errors import CONTROL, UserError, clean, nearest, quoted, shortened, unknown
from coopmpi.vocabulary import CHOICES, IF_GIVEN, STRUCTS, TABLES, Config

LONGEST = 10**6  # characters of a run description
DEEPEST = 20  # tables and arrays within each other
MOST_OPEN = 100  # brackets at a time, also in text
TOO_DEEP = f"tables and arrays may lie within each other up to {DEEPEST} deep, given more"


def load(path, overrides=()):
    """The tables of a TOML file (None: an empty one) with `table.key=value` overrides applied; `folder` is that of the file."""
    tables = {} if path is None else read(path)
    for override in overrides:
        set_key(tables, override)
    return tables if path is None else {"folder": os.path.dirname(os.path.abspath(path))} | tables


def read(path, what="run description"):
    """The tables of a TOML file; UserError, in which it is called `what`."""
    name = shortened(str(path))
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(LONGEST + 1)
    except FileNotFoundError as error:
        raise UserError(f"{what} {name!r} does not exist") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{what} {name!r} cannot be read: {error}") from error
    if len(text) > LONGEST:
        raise UserError(f"{what} {name!r} has more than {LONGEST} characters, which is the most allowed")
    try:
        return _parsed(text, name)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{name}: not valid TOML: {error}") from error


def _parsed(text, name):
    """The tables of a TOML text; UserError or TOMLDecodeError."""
    depth = 0
    for bracket in re.findall(r"[\[\]{}]", text):
        depth += 1 if bracket in "[{" else -1
        if depth > MOST_OPEN:  # the parser calls itself for each
            raise UserError(f"{name}: {TOO_DEEP}")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise
    except ValueError as error:  # an integer of thousands of digits, a date that does not exist
        raise UserError(f"{name}: a value cannot be read: {shortened(str(error))}") from error


def _require_flat(tables):
    """UserError if tables and arrays lie too deep within each other."""
    level = [tables]
    for _ in range(DEEPEST):
        inside = [item for table in level for item in (table.values() if isinstance(table, dict) else table)]
        level = [item for item in inside if isinstance(item, (dict, list))]
        if not level:
            return
    raise UserError(f"run description: {TOO_DEEP}")


def set_key(tables: dict, override: str):
    """Set the key of nested tables that `table.key=value` names."""
    key, equals, text = override.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path):
        raise UserError(f"--set takes table.key=value, given {quoted(override)}")
    if CONTROL.search(override):
        raise UserError(f"--set {shortened(clean(override))}: control characters and bytes that are not UTF-8 are not "
                        f"allowed")
    table = tables
    for name in path[:-1]:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise UserError(f"--set {shortened(override)}: {shortened(name)!r} is a value, not a table")
    table[path[-1]] = toml_value(text)


def toml_value(text):
    """The value that a word of the command line stands for: TOML, or else the word itself."""
    try:
        return _parsed(f"value = {text}", repr(shortened(text)))["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()


def resolve(tables):
    """The Config that the tables describe; UserError for an unknown key, a wrong type, an impossible value, or a key that
    plays no part in the run."""
    config, strange = _build(tables)
    if strange:
        raise readers.refusal(strange)
    return config


def unread(tables) -> list[str]:
    """The keys of the tables that play no part in the run that they describe, as ["period.tau"]; all else is checked as by `resolve`."""
    return list(_build(tables)[1])


def without(tables, keys) -> dict:
    """The tables without these keys, named as `unread` does."""
    found = {name: dict(table) if isinstance(table, dict) else table for name, table in tables.items()}
    for key in keys:
        name, _, inner = key.partition(".")
        del found[name][inner]
    return found


def _build(tables):
    """(Config, {key of the tables that is not read: who decides on it})."""
    from coopmpi.topology.mixing import keys_of, located, mixing_table, of_other_graphs

    _require_flat(tables)
    for name in TABLES:
        if not isinstance(tables.get(name, {}), dict):
            raise UserError(f"[{name}] must be a table, given {quoted(tables[name])}")
    rest, built, strange = dict(tables), {}, {}
    folder = rest.pop("folder", "") or "."
    if not isinstance(folder, str) or CONTROL.search(folder):
        raise UserError(f"folder must be the name of a folder, given {quoted(folder)}")
    if registry.own_code(tables):
        rest["folder"] = os.path.abspath(folder)
        places.search(folder)

    def own(table, keys, known, others):
        """The keys of a table without those of other choices, which are noted; UserError for one that nobody has."""
        for key in keys:
            if key not in known and f"{table}.{key}" not in others:
                raise unknown("key", key, known, where=f"[{table}] ", meant=vocabulary.meant(key))
        strange.update(others)
        return {key: value for key, value in keys.items() if f"{table}.{key}" not in others}

    for kind, default in CHOICES.items():
        keys = rest.pop(kind, {})
        if kind == "optimizer" and not keys:
            default = built["algorithm"].optimizer
        keys = {"kind": default} | keys
        if kind == "optimizer" and keys["kind"] == "sgd" and built["task"].lr:
            keys = {"lr": built["task"].lr} | keys
        known = ("kind", *registry.find(kind, keys["kind"]).__struct_fields__)
        built[kind] = places.located(registry.build(kind, own(kind, keys, known, readers.of_other_kinds(kind, keys))), folder)
    mixing = located(rest.pop("mixing", {}), folder)
    built["mixing"] = mixing_table(**own("mixing", mixing, keys_of(mixing), of_other_graphs(mixing)))
    for name, cls in STRUCTS.items():
        if name in rest or name not in IF_GIVEN:
            built[name] = registry.convert(own(name, rest.pop(name, {}), cls.__struct_fields__, {}), cls, f"[{name}]")
    built["stop"] = _targets(rest.pop("stop", {}))
    built["sinks"] = tuple(places.located(sink, folder) for sink in _sinks(rest.pop("sinks", [])))
    fields = Config.__struct_fields__
    for key in rest:
        if key not in fields:
            what = "table" if isinstance(rest[key], dict) else "key"
            near = vocabulary.meant(key) or nearest(key, fields) or vocabulary.like(key)
            raise unknown(what, key, fields, where="run description: ", meant=near)
    config = registry.convert(rest | built, Config, "run description:")
    if config.steps is not None and config.epochs is not None:
        raise UserError(f"give steps or epochs, not both; given steps = {config.steps} and epochs = {config.epochs}")
    given = {f"{name}.{key}" for name, table in tables.items() if isinstance(table, dict) for key in table}
    return config, strange | {key: reader for key, reader in readers.unread(config).items() if key in given}


def _targets(table):
    """The [stop] table; which figures there are, the task knows."""
    for name, target in table.items():
        if type(target) not in (int, float):
            raise UserError(f"[stop] {name} must be a number, given {quoted(target)}")
        registry.require_usual_numbers(target, f"[stop] {name}")
    if table.get("minutes", 1) <= 0:
        raise UserError(f"[stop] minutes must be more than 0, given {table['minutes']}")
    return table


def _sinks(tables):
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise UserError(f"sinks must be an array of tables, [[sinks]], given {tables!r:.100}")
    for table in tables:
        if "kind" not in table:
            raise UserError(f"[[sinks]] needs a kind, given {table!r:.100}")
        yield registry.build("sink", table)


def dump(config):
    """The resolved TOML: every key that plays a part in this run, defaults included."""
    unread, tables = readers.unread(config), {}
    for name in config.__struct_fields__:
        value = getattr(config, name)
        if name == "sinks":
            value = [{"kind": sink.name} | msgspec.to_builtins(sink) for sink in value]
        elif isinstance(value, registry.Part):
            keys = ({"kind": value.name} if name in CHOICES else {}) | value.table()
            value = {key: item for key, item in keys.items() if f"{name}.{key}" not in unread}
        if value not in (None, [], {}):
            tables[name] = _without_none(value)
    return tomli_w.dumps(tables)


def _without_none(value):
    if isinstance(value, list):
        return [_without_none(item) for item in value]
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return value


def flat(table: dict, before: str = "") -> dict:
    """{dotted key: value} of nested tables."""
    found = {}
    for key, value in table.items():
        found |= flat(value, f"{before}{key}.") if isinstance(value, dict) else {f"{before}{key}": value}
    return found
