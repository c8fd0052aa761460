"""The run description: TOML in, every value validated and every default filled in, resolved TOML out."""

import re
import tomllib
from typing import Annotated, Any, Literal

import msgspec
import tomli_w
from msgspec import Meta

from coopmpi import registry
from coopmpi.errors import CONTROL, UserError, clean, quoted, shortened
from coopmpi.ranges import LARGEST_RUN, Count, NonNegative, Positive, Seed, Whole

LONGEST = 10**6  # characters of a run description
DEEPEST = 20  # tables and arrays within each other
MOST_OPEN = 100  # brackets at a time, also in text
TOO_DEEP = f"tables and arrays may lie within each other up to {DEEPEST} deep, given more"


class Record(registry.Part, frozen=True, kw_only=True):
    """What is written how often. Steps."""

    eval_every: Whole = 0  # 0: twenty times over the run
    final: Literal["all", "mean"] | None = None  # models in the file; default: all up to 1 GB
    per_worker: Literal["all", "summary"] | None = None  # rows of every step; default: all up to 4096 workers


class Saving(registry.Part, frozen=True, kw_only=True):
    """The [checkpoint] table: when the state is saved beside the result."""

    every_minutes: NonNegative = 10.0  # 0: when a signal stops the run only
    every_steps: Count | None = None  # instead
    keep: Count = 2  # the newest so many
    keep_final: bool = False  # at the end of the run, too, so that it can be extended
    margin: NonNegative = 60.0  # seconds before the end of a Slurm job at which a run saves and stops; 0: it does not


class Survive(registry.Part, frozen=True, kw_only=True):
    """The [survive] table: copies of the state in memory, for `--survive`."""

    every_seconds: Positive = 10.0  # longer where that would cost more than 1 % of the time
    buddies: Count = 1  # other ranks that hold a copy of a rank's state


# tables that choose a part by `kind`, with the default choice; without [optimizer] the algorithm may have another one
_CHOICES = {
    "task": "classify",
    "algorithm": "local-sgd",
    "optimizer": "sgd",
    "schedule": "constant",
    "period": "every",
    "compress": "none",
    "compute": "constant",
    "network": "links",
}


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A run description. Tables hold validated parts; see coopmpi.registry."""

    workers: Annotated[int, Meta(ge=1, le=LARGEST_RUN)] | None = None  # default: the number of ranks
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
    checkpoint: Any = None
    survive: Any = None  # read under --survive only
    stop: dict[str, float] = {}  # targets of which any ends the run: {figure of the task, or "minutes": number}
    sinks: tuple = ()  # [[sinks]]: further takers of results, coopmpi.sinks.Sink


def load(path, overrides=()):
    """The tables of a TOML file (None: an empty one) with `table.key=value` overrides applied."""
    tables = {}
    if path is not None:
        name = shortened(str(path))
        try:
            with open(path, encoding="utf-8") as file:
                text = file.read(LONGEST + 1)
        except FileNotFoundError as error:
            raise UserError(f"run description {name!r} does not exist") from error
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"run description {name!r} cannot be read: {error}") from error
        if len(text) > LONGEST:
            raise UserError(f"run description {name!r} has more than {LONGEST} characters, which is the most allowed")
        try:
            tables = _parsed(text, name)
        except tomllib.TOMLDecodeError as error:
            raise UserError(f"{name}: not valid TOML: {error}") from error
    for override in overrides:
        set_key(tables, override)
    return tables


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
    """The Config that the tables describe; UserError for an unknown key, a wrong type or an impossible value."""
    from coopmpi.topology.mixing import mixing_table

    _require_flat(tables)
    tables = dict(tables)
    for key, value in tables.items():
        if key in (*_CHOICES, "mixing", "record", "checkpoint", "survive", "stop") and not isinstance(value, dict):
            raise UserError(f"[{key}] must be a table, given {quoted(value)}")
    built = {}
    for kind, default in _CHOICES.items():
        if kind == "optimizer" and not tables.get(kind):
            default = built["algorithm"].optimizer
        table = {"kind": default} | tables.pop(kind, {})
        if kind == "optimizer" and table["kind"] == "sgd" and built["task"].lr:
            table = {"lr": built["task"].lr} | table
        built[kind] = registry.build(kind, table)
    built["mixing"] = mixing_table(**tables.pop("mixing", {}))
    built["record"] = registry.convert(tables.pop("record", {}), Record, "[record]")
    built["checkpoint"] = registry.convert(tables.pop("checkpoint", {}), Saving, "[checkpoint]")
    built["survive"] = registry.convert(tables.pop("survive", {}), Survive, "[survive]")
    built["stop"] = _targets(tables.pop("stop", {}))
    built["sinks"] = tuple(_sinks(tables.pop("sinks", [])))
    config = registry.convert(tables | built, Config, "run description:")
    if config.steps is not None and config.epochs is not None:
        raise UserError(f"give steps or epochs, not both; given steps = {config.steps} and epochs = {config.epochs}")
    return config


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
    unused = {name for name in ("period", "mixing", "compress") if not getattr(config.algorithm, f"uses_{name}")}
    if config.compress.halves:
        unused -= {"compress"}
    tables = {}
    for key in config.__struct_fields__:
        value = getattr(config, key)
        if key in unused or value in (None, (), {}):
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
