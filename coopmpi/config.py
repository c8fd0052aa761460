"""The run description: TOML in, every value validated and every default filled in, resolved TOML out."""

import tomllib
from pathlib import Path
from typing import Any, Literal

import msgspec
import tomli_w

from coopmpi import registry
from coopmpi.errors import UserError
from coopmpi.ranges import Count, Positive, Seed, Whole


class Record(registry.Part, frozen=True, kw_only=True):
    """What is written how often. Steps."""

    eval_every: Whole = 0  # 0: twenty times over the run


# tables that choose a part by `kind`, with the default choice
_CHOICES = {
    "task": "classify",
    "optimizer": "sgd",
    "schedule": "constant",
    "algorithm": "local-sgd",
    "period": "every",
    "compress": "none",
    "compute": "constant",
    "network": "links",
}


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A run description. Tables hold validated parts; see coopmpi.registry."""

    workers: Count | None = None  # default: the number of ranks
    steps: Count | None = None  # default 2000, unless epochs are given
    epochs: Positive | None = None
    seed: Seed = 0
    dtype: Literal["float32", "float64"] = "float32"
    device: Literal["auto", "cpu", "gpu"] = "auto"
    device_buffers: Literal["staged", "direct"] = "staged"
    deterministic: bool = False
    task: Any = None
    optimizer: Any = None
    schedule: Any = None
    algorithm: Any = None
    period: Any = None
    mixing: Any = None
    compress: Any = None
    compute: Any = None  # this and the next are read by `coopmpi simulate` only
    network: Any = None
    record: Any = None
    sinks: tuple = ()  # [[sinks]]: further takers of results, coopmpi.sinks.Sink


def load(path, overrides=()):
    """The tables of a TOML file (None: an empty one) with `table.key=value` overrides applied."""
    tables = {}
    if path is not None:
        try:
            tables = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise UserError(f"run description {str(path)!r} does not exist") from error
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"run description {str(path)!r} cannot be read: {error}") from error
        except tomllib.TOMLDecodeError as error:
            raise UserError(f"{path}: not valid TOML: {error}") from error
    for override in overrides:
        _apply(tables, override)
    return tables


def _apply(tables, override):
    key, equals, text = override.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path):
        raise UserError(f"--set takes table.key=value, given {override!r}")
    table = tables
    for name in path[:-1]:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise UserError(f"--set {override}: {name!r} is a value, not a table")
    table[path[-1]] = toml_value(text)


def toml_value(text):
    """The value that a word of the command line stands for: TOML, or else the word itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()


def resolve(tables):
    """The Config that the tables describe; UserError for an unknown key, a wrong type or an impossible value."""
    from coopmpi.topology.mixing import mixing_table

    tables = dict(tables)
    for key, value in tables.items():
        if key in (*_CHOICES, "mixing", "compress", "record") and not isinstance(value, dict):
            raise UserError(f"[{key}] must be a table, given {value!r}")
    built = {kind: registry.build(kind, {"kind": default} | tables.pop(kind, {})) for kind, default in _CHOICES.items()}
    built["mixing"] = mixing_table(**tables.pop("mixing", {}))
    built["record"] = registry.convert(tables.pop("record", {}), Record, "[record]")
    built["sinks"] = tuple(_sinks(tables.pop("sinks", [])))
    config = registry.convert(tables | built, Config, "run description:")
    if config.steps is not None and config.epochs is not None:
        raise UserError(f"give steps or epochs, not both; given steps = {config.steps} and epochs = {config.epochs}")
    return config


def _sinks(tables):
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise UserError(f"sinks must be an array of tables, [[sinks]], given {tables!r:.100}")
    for table in tables:
        if "kind" not in table:
            raise UserError(f"[[sinks]] needs a kind, given {table!r:.100}")
        yield registry.build("sink", table)


def dump(config):
    """The resolved TOML: every key that plays a part in this run, defaults included."""
    unused = {name for name in ("period", "mixing", "compress") if not getattr(config.algorithm, f"uses_{name}")}
    tables = {}
    for key in config.__struct_fields__:
        value = getattr(config, key)
        if key in unused or value is None or value == ():
            continue
        if key == "sinks":
            value = [{"kind": sink.name} | _without_none(msgspec.to_builtins(sink)) for sink in value]
        if isinstance(value, msgspec.Struct):
            kind = {"kind": value.name} if key in _CHOICES else {}
            value = kind | _without_none(value.table())
        tables[key] = value
    return tomli_w.dumps(tables)


def _without_none(value):
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return value
