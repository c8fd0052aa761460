"""An experiment as its TOML file describes it: settings, and methods that are tuned and compared in each of them."""

import tomllib
from itertools import product
from pathlib import Path
from typing import Any, Literal

import msgspec

from benchmarks.descriptions import read

FOLDER = Path(__file__).parent


class Variant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A setting or a method: a name, and the keys it sets in the run description, such as "period.tau" = 8."""

    name: str
    set: dict[str, Any] = {}
    tune: dict[str, list] = {}  # keys and the values to try: a method's, else a setting's, else the experiment's
    settings: list[str] = []  # of a method: where it is run, instead of in all settings
    limit: float | None = None  # of a setting: the largest possible speed-up
    budget: float | None = None  # of a setting, instead of the experiment's
    tolerance: float | None = None  # of a setting, instead of the experiment's


class Experiment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """settings x methods x seeds; in each setting each method is tuned over a grid first, with a seed of its own.

    budget: virtual seconds of every run; without one, a run has the `steps` of `base`. target: the method whose
    lowest final loss, plus `tolerance` of it, all are tuned to reach soon. tail: share of a run's evaluations whose
    mean is "final". smooth: evaluations in the moving average that has to reach the target.
    """

    title: str
    source: str
    base: dict[str, Any]
    methods: list[Variant]
    settings: tuple[Variant, ...] = (Variant(name=""),)
    seeds: tuple[int, ...] = (1, 2, 3)
    tuning_seed: int = 0
    tune: dict[str, list] = {}
    budget: float | None = None
    score: Literal["train_loss", "loss"] = "train_loss"
    target: str | None = None
    centre: str | None = None  # slot of a centre variable whose training loss is noted, too
    tolerance: float = 0.02
    tail: float = 0.1
    smooth: int = 5
    columns: list[str]  # of the table, see benchmarks.papers.measures
    x: Literal["virtual_time", "megabytes", "step"] = "virtual_time"  # of the curves
    log: bool = False  # a logarithmic x
    excess: bool = False  # curves of the loss above the final one of the target's method, on a logarithmic y
    points: list[str] = []  # measures drawn as points, one panel each, in place of curves

    def methods_in(self, setting):
        return [method for method in self.methods if not method.settings or setting.name in method.settings]

    def grid(self, setting, method):
        """What a method is tuned over in that setting: dicts of keys."""
        tune = method.tune or setting.tune or self.tune
        return [dict(zip(tune, values)) for values in product(*tune.values())]

    @property
    def reference(self):
        """The method that sets the target."""
        return next(method for method in self.methods if method.name == self.target)

    def seconds(self, setting):
        """Virtual seconds of a run in that setting, None where steps count."""
        return setting.budget or self.budget

    def goal(self, setting, loss):
        """The target in that setting, where the reference ends with such a loss."""
        return loss * (1 + (self.tolerance if setting.tolerance is None else setting.tolerance))

    def description(self, setting, method, chosen, seed):
        """The tables of one run; what the method does not read of the base is left out."""
        tables = {}
        later = setting.set | method.set | chosen | {"seed": seed}
        for key, value in [*_flat(self.base), *later.items()]:
            table = tables
            *path, last = key.split(".")
            for name in path:
                table = table.setdefault(name, {})
            table[last] = value
        return read(tables)


def names():
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load(name):
    return msgspec.convert(tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8")), Experiment)


def _flat(tables, prefix=""):
    for key, value in tables.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
