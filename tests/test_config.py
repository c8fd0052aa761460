"""The run description: what is filled in, what is overridden, and that its resolved form says everything."""

import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coopmpi import config, registry
from coopmpi.errors import UserError
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
    assert task["partition"] == "iid" and task["concentration"] == 0.5
    assert tables["optimizer"] == {"kind": "sgd", "lr": 0.1, "momentum": 0.0, "nesterov": False,
                                   "weight_decay": 0.0}
    assert tables["period"] == {"kind": "every", "tau": 8}
    assert tables["mixing"]["graph"] == "ring" and tables["mixing"]["weights"] == "metropolis"
    assert tables.get("compress", {"kind": "none"}) == {"kind": "none"}  # listed where it plays a part
    assert resolved({})["algorithm"]["kind"] == "local-sgd"


def test_what_plays_no_part_is_not_listed():
    assert "mixing" not in resolved({"algorithm": {"kind": "local-sgd"}})
    assert "period" not in resolved({"algorithm": {"kind": "d-psgd"}})


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
    assert tables == {"steps": 5, "optimizer": {"lr": 0.3, "momentum": 0.9}, "period": {"tau": 2}}


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


DESCRIPTIONS = table(
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
                        kind("easgd", alpha=st.floats(0.01, 1), overlap=st.booleans())),
    period=kind("every", tau=count),
    mixing=st.one_of(
        table(graph=st.sampled_from(["ring", "star", "exponential"]), weights=st.sampled_from(sorted(WEIGHTS))),
        table(graph=st.just("torus"), shape=st.tuples(count, count).map(list)),
        table(graph=st.just("erdos-renyi"), probability=st.floats(0.01, 1), lazy=st.booleans()),
        table(graph=st.just("random-regular"), degree=count)).filter(
            lambda keys: "graph" in keys or not {"shape", "probability", "degree"} & set(keys)),
    record=table(eval_every=st.integers(0, 99)),
    stop=st.dictionaries(word, st.one_of(positive, count), max_size=2),
)


LENGTHS = st.one_of(st.none(), st.tuples(st.just("steps"), count), st.tuples(st.just("epochs"), positive))


@given(DESCRIPTIONS, LENGTHS)
@settings(max_examples=60)
def test_the_resolved_description_resolves_to_itself(tables, length):
    if length:
        tables[length[0]] = length[1]
    once = config.resolve(tables)
    text = config.dump(once)
    again = config.resolve(tomllib.loads(text))
    assert config.dump(again) == text
    # what the algorithm does not use is dropped; all else is the same
    dropped = {name for name in ("period", "mixing") if not getattr(once.algorithm, f"uses_{name}")}
    for key in once.__struct_fields__:
        assert key in dropped or getattr(again, key) == getattr(once, key), key


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
