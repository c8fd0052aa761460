"""What a sweep is, from its TOML file: settings, methods, the grids that methods are tuned over, and the runs that follow."""

from contextlib import contextmanager
from typing import Any, Literal

import tomli_w

from coopmpi import config, registry
from coopmpi.config import flat
from coopmpi.errors import UserError, quoted, unknown
from coopmpi.ranges import Count, Fraction, NonNegative, Seed, Whole

LEAN = {"record.per_worker": "summary", "record.final": "mean"}  # in the results of the runs, unless the sweep says otherwise
Target = float | str | None  # a value of the figure; or a method, whose lowest figure at the end counts


class Setting(registry.Part, frozen=True, kw_only=True):
    """A [[settings]] table: what all methods are compared in."""

    name: str = ""
    set: dict[str, Any] = {}
    tune: dict[str, Any] = {}
    target: Target = None  # these two instead of the [score] table's
    tolerance: NonNegative | None = None


class Method(registry.Part, frozen=True, kw_only=True):
    """A [[methods]] table: one of what is compared."""

    name: str
    set: dict[str, Any] = {}
    tune: dict[str, Any] = {}
    settings: tuple[str, ...] = ()  # in which it is run; none: in all


class Score(registry.Part, frozen=True, kw_only=True):
    """The [score] table: what tuning makes small, and what the ranking goes by."""

    figure: str = "loss"  # of the evaluations
    target: Target = None  # to reach it soon comes first, then the figure at the end
    tolerance: NonNegative = 0.02  # share by which the target is easier than what a method reaches
    by: Literal["seconds", "steps", "bytes"] = "seconds"  # soon in terms of
    tail: Fraction = 0.0  # share of the evaluations whose mean is the figure at the end; 0: the last one alone
    smooth: Count = 1  # evaluations in the moving average that has to reach the target


class Keep(registry.Part, frozen=True, kw_only=True):
    """The [keep] table: what of a run goes into the file of the sweep."""

    rows: Whole = 1000  # of its steps, at most, and those of its evaluations
    tuning: bool = True  # of tuning runs, too


class Sweep(registry.Part, frozen=True, kw_only=True):
    """settings x methods x seeds; in each setting each method is tuned first, over a grid and with a seed of its own."""

    title: str = ""
    mode: Literal["train", "simulate"] = "train"
    ranks: Count = 1  # of each run of train
    seeds: tuple[Seed, ...] = (1, 2, 3)
    tuning_seed: Seed = 0
    widen: Whole = 0  # values that a grid may get beyond an edge where its best is, for each key
    base: dict[str, Any] = {}
    tune: dict[str, Any] = {}  # key: the values to try; a method's, else a setting's, else this
    score: Any = Score()
    keep: Any = Keep()
    settings: tuple[Any, ...] = (Setting(),)
    methods: tuple[Any, ...]

    def methods_in(self, setting: Setting) -> list[Method]:
        return [method for method in self.methods if not method.settings or setting.name in method.settings]

    def target(self, setting: Setting) -> Target:
        return self.score.target if setting.target is None else setting.target

    def tolerance(self, setting: Setting) -> float:
        return self.score.tolerance if setting.tolerance is None else setting.tolerance

    def grid(self, setting: Setting, method: Method) -> dict[str, list]:
        """{dotted key: the values to try} of a method in a setting, without keys of a common grid that the method does not read."""
        if method.tune:
            return flat(method.tune)
        common = flat(setting.tune or self.tune)
        first = self._common(setting) | flat(method.set) | {key: values[0] for key, values in common.items()}
        left_out = self._unread(method, first)
        return {key: values for key, values in common.items() if key not in left_out}

    def description(self, setting: Setting, method: Method, tuned: dict, seed: int) -> dict:
        """The tables of a run; tuned: {dotted key: value}."""
        own = flat(method.set) | tuned | {"seed": seed}
        keys = self._common(setting) | own
        left_out = self._unread(method, keys)
        # what the method itself sets is not left out: there it is a mistake, which is told when the run description is resolved
        return nested({key: value for key, value in keys.items() if key in own or key not in left_out})

    def notes(self) -> list[str]:
        """What the user should know: keys for all methods that some of them do not read."""
        found = {}
        for method in self.methods:
            for setting in self.settings:
                if method in self.methods_in(setting):
                    found.setdefault(method.name, {}).update(dict.fromkeys(self._not_read(setting, method)))
        return [f"{name} does not read {', '.join(keys)}: left out there" for name, keys in found.items() if keys]

    def _not_read(self, setting, method):
        """Keys of the base, of the setting and of a common grid."""
        grid = self.grid(setting, method)
        common = {} if method.tune else flat(setting.tune or self.tune)
        own = flat(method.set) | {key: values[0] for key, values in grid.items()}
        left_out = self._unread(method, self._common(setting) | own)
        return [*(key for key in left_out if key not in own), *(key for key in common if key not in grid)]

    def _common(self, setting):
        return LEAN | flat(self.base) | flat(setting.set)

    @staticmethod
    def _unread(method, keys):
        """Those of the dotted keys that play no part in a run with them all."""
        with mistakes_of(method.name):
            left_out = config.unread(nested(keys))
        return [key for key in keys if ".".join(key.split(".")[:2]) in left_out]


@contextmanager
def mistakes_of(method: str):
    """A UserError inside this context is about that method."""
    try:
        yield
    except UserError as error:
        raise UserError(f"method {method!r}: {error}") from error


def load(path, overrides=()) -> tuple[Sweep, str]:
    """The sweep that a TOML file describes, with `table.key=value` overrides applied, and its text; UserError for what cannot be."""
    tables = config.load(path, overrides)
    folder = {"folder": tables.pop("folder")}
    # files and modules lie beside the description of the sweep, not beside those of its runs
    return parsed(tables | {"base": folder | _table(tables, "base")}), tomli_w.dumps(tables)


def parsed(tables: dict) -> Sweep:
    """The sweep of these tables; UserError."""
    built = {name: registry.convert(_table(tables, name), cls, f"[{name}]") for name, cls in (("score", Score), ("keep", Keep))}
    for name, cls in (("settings", Setting), ("methods", Method)):
        if name in tables:
            built[name] = tuple(registry.convert(table, cls, f"[[{name}]]") for table in _array(tables, name))
    if not built.get("methods"):
        raise UserError("a sweep compares methods: give one or more [[methods]], each with a name and what it sets")
    sweep = registry.convert(tables | built, Sweep, "sweep:")
    _check(sweep)
    return sweep


def _table(tables, name):
    found = tables.get(name, {})
    if not isinstance(found, dict):
        raise UserError(f"[{name}] must be a table, given {quoted(found)}")
    return found


def _array(tables, name):
    found = tables[name]
    if not isinstance(found, list) or not all(isinstance(table, dict) for table in found):
        raise UserError(f"{name} must be an array of tables, [[{name}]], given {quoted(found)}")
    if name == "methods" and any("name" not in table for table in found):
        raise UserError("each of [[methods]] needs a name")
    return found


def _check(sweep):
    for what in ("settings", "methods"):
        names = [one.name for one in getattr(sweep, what)]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise UserError(f"[[{what}]]: two are called {quoted(twice)}; each needs a name of its own")
    if not sweep.seeds or len(set(sweep.seeds)) < len(sweep.seeds):
        raise UserError(f"seeds must be one or more different numbers, given {list(sweep.seeds)}")
    if sweep.mode == "simulate" and sweep.ranks != 1:
        raise UserError(f'mode = "simulate" has one process for each run; ranks = {sweep.ranks} is for mode = "train"')
    settings = {setting.name for setting in sweep.settings}
    for method in sweep.methods:
        for name in method.settings:
            if name not in settings:
                raise unknown("setting", name, settings, where=f"[[methods]] {method.name}: ")
    for setting in sweep.settings:
        methods, target = {method.name for method in sweep.methods_in(setting)}, sweep.target(setting)
        if isinstance(target, str) and target not in methods:
            raise unknown("method", target, methods, where=f"target {f'in setting {setting.name!r}' * bool(setting.name)}: ".replace(" :", ":"))
    for tune in (one.tune for one in (sweep, *sweep.settings, *sweep.methods)):
        for key, values in flat(tune).items():
            if not isinstance(values, list) or not values:
                raise UserError(f"tune {key} must be an array of the values to try, given {quoted(values)}")


def nested(keys: dict) -> dict:
    """The nested tables of {dotted key: value}; UserError if a key is a value and a table."""
    tables = {}
    for key, value in keys.items():
        *path, last = key.split(".")
        table = tables
        for name in path:
            table = table.setdefault(name, {})
            if not isinstance(table, dict):
                raise UserError(f"{key}: {name!r} is a value in one table of the sweep, and a table in another")
        table[last] = value
    return tables
