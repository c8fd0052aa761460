"""What a run description can say: its tables, and the keys that each has."""

from collections import defaultdict
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from coopmpi import registry
from coopmpi.errors import nearest
from coopmpi.ranges import LARGEST_RUN, Count, NonNegative, Positive, Seed, Whole, file_or


class Record(registry.Part, frozen=True, kw_only=True):
    """What is written how often. Steps."""

    eval_every: Whole = 0  # 0: twenty times over the run
    slots: tuple[str, ...] = ()  # state of the algorithm that is evaluated, too, such as the centre z of easgd
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


class Family(registry.Part, frozen=True, kw_only=True):
    """The [plan] table: what is tried. Longer and shorter periods than these are tried around the best.

    graphs and compressors are kinds, or tables with keys of their own.
    """

    algorithms: tuple[str, ...] | None = None  # default: all
    periods: tuple[Count, ...] = (4, 16)
    graphs: tuple[str | dict[str, Any], ...] = ("ring", "one-peer-exponential", "exponential")
    compressors: tuple[str | dict[str, Any], ...] = ("sign", {"kind": "topk", "fraction": 0.01})
    adaptive: bool = True  # AdaComm's periods for local-sgd, too


class Forecast(registry.Part, frozen=True, kw_only=True):
    """The [forecast] table, as `coopmpi plan` writes it: what a run is expected to take. Nothing depends on it."""

    seconds: NonNegative  # to the target
    steps: NonNegative
    gradient: NonNegative  # seconds of a step, as the next two
    other: NonNegative  # compressors, sums, the optimiser
    network: NonNegative


# tables that choose a part by `kind`, with the default choice; without [optimizer] the algorithm may have another one
CHOICES = {
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
    folder: str | None = None  # where files and modules are looked for first; default: that of the run description
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
    plan: Any = None  # read by `coopmpi plan` only
    forecast: Any = None  # what a plan expects of the run
    stop: dict[str, float] = {}  # targets of which any ends the run: {figure of the task, or "minutes": number}
    sinks: tuple = ()  # [[sinks]]: further takers of results, coopmpi.sinks.Sink


# tables of which all runs read all keys; some are there only if they are given
STRUCTS = {"record": Record, "checkpoint": Saving, "survive": Survive, "plan": Family, "forecast": Forecast}
IF_GIVEN = ("plan", "forecast")
TABLES = (*CHOICES, "mixing", *STRUCTS, "stop")
FIGURES = ("train_loss", "loss", "accuracy", "minutes")  # targets in [stop] that most tasks have


def keys(table: str) -> dict[str, list]:
    """{key of a table: its types}, several where it is a key of several parts; of the keys outside of all tables for ""."""
    found = defaultdict(list)

    def add(*structs):
        for struct in structs:
            for field in msgspec.structs.fields(struct):
                found[field.name].append(field.type)

    if table in CHOICES:
        parts = registry.parts(table)
        found["kind"].append(Literal[*parts])
        add(*parts.values())
    elif table == "mixing":
        from coopmpi.topology.mixing import Mixing

        graphs = registry.parts("graph")
        add(Mixing, *graphs.values())
        found |= {"graph": [file_or(*graphs)], "directed": [bool]}
    elif table in STRUCTS:
        add(STRUCTS[table])
    elif table == "stop":
        found |= dict.fromkeys(FIGURES, [float])
    elif not table:
        add(Config)
        for name in (*TABLES, "sinks"):
            del found[name]
    return dict(found)


def meant(name: str) -> list[str]:
    """The keys that may be meant by a name without its table, or in a wrong one: ["optimizer.lr"] for "lr"."""
    return [f"{table}.{name}".removeprefix(".") for table in ("", *TABLES) if name in keys(table)]


def like(name: str) -> list[str]:
    """The keys of which the last part is hardly another name."""
    return [key for near in nearest(name, {key for table in TABLES for key in keys(table)}, alike=0.75) for key in meant(near)]
