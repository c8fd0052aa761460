"""The run description: what is filled in, what is overridden, and that its resolved form says everything."""

import re
import tomllib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coopmpi import config, registry, synonyms, vocabulary
from coopmpi.errors import UserError
from coopmpi.local.optimizers import SGD, Optimizer
from coopmpi.topology.weights import WEIGHTS
from tests.runs import coopmpi


def resolved(tables):
    """The resolved description as tables."""
    return tomllib.loads(config.dump(config.resolve(tables)))


def test_defaults_are_those_of_the_contract():
    tables = resolved({"algorithm": {"kind": "dpa"}})
    assert tables["seed"] == 0 and tables["dtype"] == "float32" and tables["device"] == "auto"
    assert tables["deterministic"] is False
    assert "workers" not in tables and "steps" not in tables  # the number of ranks; 2000
    task = tables["task"]
    assert task["kind"] == "classify" and task["data"] == "digits" and task["model"] == "mlp"
    assert task["hidden"] == [128] and task["batch"] == 32
    assert task["partition"] == "iid"
    assert resolved({"task": {"partition": "dirichlet"}})["task"]["concentration"] == 0.5
    assert tables["optimizer"] == {"kind": "sgd", "lr": 0.1, "momentum": 0.0, "nesterov": False,
                                   "weight_decay": 0.0}
    assert tables["period"] == {"kind": "every", "tau": 8}
    assert tables["mixing"]["graph"] == "ring" and tables["mixing"]["weights"] == "metropolis"
    assert tables["compress"] == {"kind": "none"}
    assert resolved({})["algorithm"]["kind"] == "local-sgd"


def test_what_plays_no_part_is_not_listed():
    assert "mixing" not in resolved({"algorithm": {"kind": "local-sgd"}})
    assert "period" not in resolved({"algorithm": {"kind": "d-psgd"}})
    assert "concentration" not in resolved({})["task"] and "weights" not in resolved({"algorithm": {"kind": "sgp"}})["mixing"]


# keys that nobody reads: (tables, what decides, keys that it does not read, who would)
UNREAD = [
    ({"algorithm": {"kind": "sync-sgd"}, "period": {"tau": 10}}, 'algorithm.kind = "sync-sgd"', ["period.tau"], "dpa"),
    ({"algorithm": {"kind": "sync-sgd"}, "period": {"kind": "every"}}, 'algorithm.kind = "sync-sgd"', ["period.kind"], "dpa"),
    ({"mixing": {"graph": "star", "lazy": False}}, 'algorithm.kind = "local-sgd"', ["mixing.graph", "mixing.lazy"], "d-psgd"),
    ({"compress": {"kind": "topk", "fraction": 0.1}}, "local-sgd", ["compress.kind", "compress.fraction"], "choco-sgd"),
    ({"compress": {"kind": "sign", "fraction": 0.1}, "algorithm": {"kind": "choco-sgd"}}, "sign", ["compress.fraction"], "topk"),
    ({"optimizer": {"kind": "adam", "momentum": 0.9}}, "adam", ["optimizer.momentum"], "sgd"),
    ({"optimizer": {"no_decay": ["*.bias"]}}, "optimizer.weight_decay = 0.0", ["optimizer.no_decay"], "not 0"),
    ({"schedule": {"floor": 0.1}}, "constant", ["schedule.floor"], "cosine"),
    ({"period": {"kind": "adacomm", "switch": 9}}, "adacomm", ["period.switch"], "post-local"),
    ({"algorithm": {"kind": "easgd", "gamma": 0.5}}, "easgd", ["algorithm.gamma"], "choco-sgd"),
    ({"algorithm": {"kind": "squarm-sgd", "share": 0.5, "threshold": 1.0, "growth_every": 3}}, "algorithm.share = 0.5",
     ["algorithm.threshold", "algorithm.growth_every"], "unset"),
    ({"algorithm": {"kind": "squarm-sgd", "growth_every": 3}}, "algorithm.growth = 0.0", ["algorithm.growth_every"], "not 0"),
    ({"algorithm": {"kind": "double-compressed", "beta": 0.5}}, "kept", ["algorithm.beta"], "block"),
    ({"algorithm": {"kind": "cooperative", "generator": "hierarchical", "alpha": 0.1}}, "hierarchical", ["algorithm.alpha"], "easgd"),
    ({"algorithm": {"kind": "cooperative", "matrix": "w.npy", "generator": "easgd"}}, "w.npy", ["algorithm.generator"], "unset"),
    ({"algorithm": {"kind": "cooperative", "generator": "easgd"}, "mixing": {"graph": "ring"}}, "algorithm.generator", ["mixing.graph"],
     "graph-and-centre"),
    ({"algorithm": {"kind": "dpa"}, "mixing": {"graph": "ring", "shape": [2, 2]}}, "mixing.graph", ["mixing.shape"], "torus"),
    ({"algorithm": {"kind": "dpa"}, "mixing": {"directed": True}}, "mixing.graph", ["mixing.directed"], "a file"),
    ({"algorithm": {"kind": "dpa"}, "mixing": {"graph": "matcha", "weights": "uniform"}}, "matcha", ["mixing.weights"], "complete"),
    ({"algorithm": {"kind": "sgp"}, "mixing": {"weights": "metropolis"}}, "sgp", ["mixing.weights"], "d-psgd"),
    ({"task": {"model": "linear", "hidden": [9]}}, "linear", ["task.hidden"], "mlp"),
    ({"task": {"model": "mlp", "depth": 8}}, "mlp", ["task.depth"], "resnet, vgg"),
    ({"task": {"layers": [], "model": "mlp", "hidden": [9]}}, "task.layers", ["task.model", "task.hidden"], "unset"),
    ({"task": {"concentration": 0.1}}, "iid", ["task.concentration"], "dirichlet"),
    ({"task": {"partition": "dirichlet", "shards_per_worker": 1}}, "dirichlet", ["task.shards_per_worker"], "shards"),
    ({"task": {"samples": 9, "data_seed": 1}}, "digits", ["task.samples", "task.data_seed"], "teacher"),
    ({"task": {"path": "q.h5"}}, "classify", ["task.path"], "quadratic"),
    ({"task": {"kind": "regress", "data": "digits", "outputs": 2}}, "digits", ["task.outputs"], "teacher"),
    ({"task": {"kind": "torch", "module": "m:net", "dataset": "m:data", "standardize": True}}, "m:data", ["task.standardize"], "unset"),
    ({"compute": {"factor": 2.0}}, "constant", ["compute.factor"], "slow-worker"),
]


@pytest.mark.parametrize("tables, decider, keys, reader", UNREAD, ids=lambda value: " ".join(value) if isinstance(value, list) else None)
def test_a_key_that_nobody_reads_is_refused_with_who_reads_it(tables, decider, keys, reader):
    assert config.unread(tables) == keys
    with pytest.raises(UserError) as error:
        config.resolve(tables)
    told = str(error.value)
    assert told.count("does not read") == 1 and decider in told and reader in told and all(key in told for key in keys), told
    rest = config.without(tables, keys)
    assert config.unread(rest) == [] and config.resolve(rest)


class Bold(SGD, frozen=True, kw_only=True):
    """An optimiser of the user's own, with a key that is read only if it is bold."""

    read_with = {"boldness": ("bold", True)}
    bold: bool = False
    boldness: float = 2.0


class Wrong(SGD, frozen=True, kw_only=True):
    read_with = {"lr": ("boldness", 1.0)}


class Bare(Optimizer, frozen=True, kw_only=True):
    """Without weight decay."""


def test_parts_of_ones_own_say_what_they_read():
    assert config.resolve({"optimizer": {"kind": "tests.test_config:Bare", "lr": 0.5}}).optimizer.lr == 0.5
    own = {"kind": "tests.test_config:Bold", "boldness": 3.0}
    assert config.unread({"optimizer": own}) == ["optimizer.boldness"]
    assert config.resolve({"optimizer": own | {"bold": True}}).optimizer.boldness == 3.0
    with pytest.raises(UserError, match="its read_with names 'boldness', which is no key of it"):
        config.resolve({"optimizer": {"kind": "tests.test_config:Wrong"}})


def test_several_choices_are_told_at_once_and_long_lists_are_cut():
    tables = {"algorithm": {"kind": "sync-sgd"}, "period": {"tau": 3}, "task": {"depth": 8}}
    assert config.unread(tables) == ["task.depth", "period.tau"]
    with pytest.raises(UserError) as error:
        config.resolve(tables)
    readers = [name for name, cls in registry.parts("algorithm").items() if cls.uses_period]
    assert f"(read by {', '.join(readers[:6])} and {len(readers) - 6} others)" in str(error.value)
    assert "task.depth" in str(error.value) and "--set 'period={}'" in str(error.value)


@pytest.mark.parametrize("tables", [
    {"period": {}, "mixing": {}, "algorithm": {"kind": "sync-sgd"}},  # as after --set period={}
    {"compress": {"kind": "none"}}, {"compress": {"kind": "fp16"}},  # all algorithms have this choice
    {"compute": {"seconds": 1.0}, "network": {"latency": 1.0}, "survive": {"buddies": 2}, "checkpoint": {"keep": 1},
     "record": {"final": "mean"}, "stop": {"minutes": 1}, "sinks": [{"kind": "jsonl"}]},  # of other verbs and ways to start
    {"device": "cpu", "device_buffers": "direct"},
    {"algorithm": {"kind": "dpa"}, "mixing": {"graph": "complete", "weights": "uniform"}},
])
def test_what_plays_a_part_somewhere_is_accepted(tables):
    assert config.unread(tables) == [] and config.resolve(tables)


def test_weights_of_a_file_are_its_own(tmp_path):
    np.save(tmp_path / "w.npy", np.full((4, 4), 0.25))
    (tmp_path / "weighted.txt").write_text("# i j w\n\n0 1 0.5\n1 2 0.5\n")
    (tmp_path / "links.txt").write_text("0 1\n1 2\n")
    for name, unread in (("w.npy", ["mixing.weights"]), ("weighted.txt", ["mixing.weights"]), ("links.txt", [])):
        graph = {"graph": str(tmp_path / name), "weights": "metropolis"}
        assert config.unread({"algorithm": {"kind": "dpa"}, "mixing": graph}) == unread


# overrides
@pytest.mark.parametrize("override, tables", [
    ("seed=3", {"seed": 3}),
    ("seed = 3 ", {"seed": 3}),
    ("optimizer.lr=1e-2", {"optimizer": {"lr": 0.01}}),
    ("deterministic=true", {"deterministic": True}),
    ("algorithm.kind=sync-sgd", {"algorithm": {"kind": "sync-sgd"}}),
    ('algorithm.kind="sync-sgd"', {"algorithm": {"kind": "sync-sgd"}}),
    ("task.data=/data/my set.npz", {"task": {"data": "/data/my set.npz"}}),
    ("task.hidden=[64, 32]", {"task": {"hidden": [64, 32]}}),
    ("task.options.deep.down=1", {"task": {"options": {"deep": {"down": 1}}}}),
    ("task.layers=[{type = 'relu'}]", {"task": {"layers": [{"type": "relu"}]}}),
    ("task.data=a=b", {"task": {"data": "a=b"}}),
])
def test_an_override_is_toml_or_a_bare_word(override, tables):
    assert config.load(None, [override]) == tables


def test_overrides_change_the_file_key_by_key_and_the_last_one_wins(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('steps = 5\n[optimizer]\nlr = 0.5\nmomentum = 0.9\n')
    tables = config.load(path, ["optimizer.lr=0.2", "optimizer.lr=0.3", "period.tau=2"])
    assert tables == {"steps": 5, "optimizer": {"lr": 0.3, "momentum": 0.9}, "period": {"tau": 2}, "folder": str(tmp_path)}


@pytest.mark.parametrize("override", ["", "seed", "=1", "a..b=1", ".a=1"])
def test_what_is_no_override_is_refused(override):
    with pytest.raises(UserError, match="table.key=value"):
        config.load(None, [override])


# the resolved form
unit = st.floats(0, 1, exclude_max=True)
positive = st.floats(1e-6, 1e6)
word = st.text("aB1 .:=#\"'\\\nüß", max_size=6)
count = st.integers(1, 10**6)


def table(required=None, **optional):
    return st.fixed_dictionaries(required or {}, optional=optional)


def kind(name, **optional):
    return table({"kind": st.just(name)}, **optional)


@st.composite
def read(draw, descriptions):
    """Descriptions without the keys that play no part."""
    tables = draw(descriptions)
    return config.without(tables, config.unread(tables))


DESCRIPTIONS = read(table(
    workers=count, seed=st.integers(0, 2**63 - 1), dtype=st.sampled_from(["float32", "float64"]),
    deterministic=st.booleans(), device=st.sampled_from(["auto", "cpu", "gpu"]),
    task=st.one_of(
        kind("classify", data=word, hidden=st.lists(count, max_size=3), batch=st.integers(0, 99),
             standardize=st.booleans(), classes=st.integers(2, 9), concentration=positive,
             layers=st.lists(st.dictionaries(word, st.one_of(st.integers(-9, 9), word), max_size=2), max_size=2)),
        kind("regress", outputs=count, noise=positive, test_fraction=st.floats(0.1, 0.9)),
        st.fixed_dictionaries({"kind": st.just("quadratic"), "path": word}),
        st.fixed_dictionaries({"kind": st.just("python"), "function": word},
                              optional={"options": st.dictionaries(word, st.lists(st.booleans(), max_size=2),
                                                                   max_size=2)})),
    optimizer=st.one_of(
        kind("sgd", lr=positive, momentum=unit, weight_decay=positive),
        kind("sgd", nesterov=st.just(True)).map(lambda sgd: sgd | {"momentum": 0.9}),
        kind("adam", lr=positive, beta1=unit, beta2=unit, epsilon=positive)),
    schedule=st.one_of(kind("constant", warmup=count), kind("cosine", floor=unit),
                       kind("step", milestones=st.lists(positive, max_size=3).map(sorted), factor_each=positive)),
    algorithm=st.one_of(st.sampled_from(sorted(registry.parts("algorithm"))).map(lambda name: {"kind": name}),
                        kind("easgd", alpha=st.floats(0.01, 1), overlap=st.booleans()),
                        kind("cooperative", generator=st.sampled_from(["easgd", "hierarchical"]), matrix=word, alpha=st.floats(0.01, 1)),
                        kind("squarm-sgd", share=st.floats(0.1, 0.9), growth=st.just(2.0), growth_every=count)),
    compress=st.sampled_from([{"kind": "none"}, {"kind": "topk", "fraction": 0.5}, {"kind": "bf16"}]),
    period=kind("every", tau=count),
    mixing=st.one_of(
        table(graph=st.sampled_from(["ring", "star", "exponential"]), weights=st.sampled_from(sorted(WEIGHTS))),
        table(graph=st.just("torus"), shape=st.tuples(count, count).map(list)),
        table(graph=st.just("erdos-renyi"), probability=st.floats(0.01, 1), lazy=st.booleans()),
        table(graph=st.just("random-regular"), degree=count)).filter(
            lambda keys: "graph" in keys or not {"shape", "probability", "degree"} & set(keys)),
    record=table(eval_every=st.integers(0, 99)),
    stop=st.dictionaries(word, st.one_of(positive, count), max_size=2),
))


LENGTHS = st.one_of(st.none(), st.tuples(st.just("steps"), count), st.tuples(st.just("epochs"), positive))


@given(DESCRIPTIONS, LENGTHS)
@settings(max_examples=60)
def test_the_resolved_description_resolves_to_itself(tables, length):
    if length:
        tables[length[0]] = length[1]
    once = config.resolve(tables)
    text = config.dump(once)
    again = config.resolve(tomllib.loads(text))
    assert config.dump(again) == text and again == once


def test_a_part_of_the_users_own_is_found_again(tmp_path, monkeypatch):
    (tmp_path / "own_parts.py").write_text(
        "from coopmpi.local.optimizers import SGD\n\n"
        "class Bolder(SGD, frozen=True, kw_only=True):\n    boldness: float = 2.0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    once = config.resolve({"optimizer": {"kind": "own_parts:Bolder", "boldness": 3.0}})
    again = config.resolve(tomllib.loads(config.dump(once)))
    assert again == once and again.optimizer.boldness == 3.0


@pytest.mark.parametrize("arguments", [
    [],
    ["--set=epochs=2", "--set=workers=3"],
    ["--set=algorithm.kind=dpa", "--set=workers=6", "--set=mixing.graph=torus", "--set=mixing.shape=[2,3]",
     "--set=steps=9"],
])
def test_the_output_of_a_dry_run_is_a_run_description(tmp_path, arguments):
    status, out, err = coopmpi("train", "--dry-run", *arguments, cwd=tmp_path)
    assert status == 0, err
    (tmp_path / "again.toml").write_text(out)
    status, again, err = coopmpi("train", "again.toml", "--dry-run", cwd=tmp_path)
    assert status == 0 and again == out
    tables = tomllib.loads(out)
    assert tables["workers"] > 0 and tables["steps"] > 0 and "epochs" not in tables
    assert [path.name for path in tmp_path.iterdir()] == ["again.toml"]


def test_the_code_that_a_description_imports_is_named():
    tables = {"algorithm": {"kind": "mine:Algorithm"}, "task": {"kind": "python", "function": "pkg.tasks:make",
              "options": {"graph": "odd:one", "name": "no:code"}}, "mixing": {"graph": "matcha", "base": "graphs:Mine"},
              "sinks": [{"kind": "sinks.a:B"}, {"kind": "jsonl", "path": "a:b"}], "optimizer": {"kind": "sgd"},
              "compress": {"kind": "coopmpi.compression.compressors:Sign"}}
    assert registry.own_code(tables) == ["graphs", "mine", "pkg.tasks", "sinks.a"]
    assert registry.own_code({}) == []


@pytest.mark.parametrize("algorithm, optimizer, kind", [
    ("diloco", {}, "adamw"), ("streaming-diloco", {}, "adamw"), ("diloco", {"lr": 0.1}, "sgd"), ("local-sgd", {}, "sgd")])
def test_without_an_optimizer_the_one_of_the_publication_is_taken(algorithm, optimizer, kind):
    tables = {"algorithm": {"kind": algorithm}} | ({"optimizer": optimizer} if optimizer else {})
    assert config.resolve(tables).optimizer.name == kind


# errors of choice
@pytest.mark.parametrize("tables, told", [
    ({"dtype": "float16"}, r"run description: dtype: unknown value 'float16'.* \(allowed: float32, float64\)"),
    ({"device": 3}, r"device: unknown value 3 \(allowed: auto, cpu, gpu\)"),
    ({"record": {"final": "last"}}, r"\[record\] final: unknown value 'last' \(allowed: all, mean\)"),
    ({"algorithm": {"kind": "cooperative", "generator": "easg"}}, r"generator: unknown value 'easg'; did you mean 'easgd'\? \(allowed: ea"),
    ({"task": {"model": "mpl"}}, r"\[task\] model: unknown value 'mpl'; did you mean 'mlp'"),
    ({"task": {"partition": "dirichlett"}}, r"\[task\] partition: unknown value 'dirichlett'; did you mean 'dirichlet'"),
    ({"lr": 1}, "unknown key 'lr'; did you mean 'optimizer.lr'"),
    ({"task": {"tau": 1}}, r"\[task\] unknown key 'tau'; did you mean 'period.tau'"),
    ({"minutes": 1}, "did you mean 'stop.minutes'"),
    ({"momentun": 0.9}, "did you mean 'algorithm.momentum' or 'optimizer.momentum'"),
    ({"perod": {"tau": 1}}, "unknown table 'perod'; did you mean 'period'"),
    ({"period": {"tua": 1}}, r"\[period\] unknown key 'tua'; did you mean 'tau'"),
    ({"checkpoint": {"keep_finall": True}}, "did you mean 'keep_final'"),
    ({"algorithm": {"kind": "fedavg"}}, "no algorithm 'fedavg' by this name; here it is local-sgd"),
    ({"algorithm": {"kind": "Post_Local_SGD"}}, 'here it is local-sgd with period.kind = "post-local"'),
    ({"mixing": {"graph": "clique"}}, r"\[mixing\] there is no graph 'clique' by this name; here it is complete"),
])
def test_a_wrong_choice_is_told_what_there_is(tables, told):
    with pytest.raises(UserError, match=told):
        config.resolve(tables)


def test_translations_of_names_are_names():
    for kind, here in synonyms._NAMES.items():
        for text, others in here.items():
            assert text.partition(" ")[0] in registry.parts(kind) and not set(others) & set(registry.parts(kind))
            for key, value in re.findall(r"(\w+\.\w+)(?: = (\S+[\w\"]))?", text):
                table, _, name = key.partition(".")
                assert name in vocabulary.keys(table), key
