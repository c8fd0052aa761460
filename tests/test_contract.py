"""Everything that is registered keeps to the rules of its kind, and the rules notice who does not."""

import textwrap

import numpy as np
import pytest

from coopmpi import registry
from coopmpi.compression.compressors import Compressor
from coopmpi.contract import algorithm, compressor, graph, problem, sink
from coopmpi.contract.rules import Broken, Untried, explain, verdicts
from coopmpi.errors import UserError
from coopmpi.sinks import Sink
from coopmpi.step import Algorithm, Finish, Mean, Mix, Slot, Start
from coopmpi.tasks.problem import Problem
from coopmpi.topology.graphs import Graph
from coopmpi.topology.links import PeriodicGrid, Topology
from tests.compression import TABLES
from tests.runs import EVEN_VARIANTS, coopmpi, write_quadratic

RULE = {"ids": lambda rule: rule.__name__}
UNTRIED = {("says_whether_it_follows_numbers", "squarm-sgd-share"), ("says_whether_it_follows_numbers", "squarm-sgd-threshold")}


def tables(variant):
    optimizer = {} if variant == "sparq-sgd" else {"momentum": 0.9, "nesterov": True}
    return {"algorithm": EVEN_VARIANTS[variant], "optimizer": optimizer, "mixing": {"lazy": True}}


# what is registered
@pytest.mark.parametrize("variant", EVEN_VARIANTS)
@pytest.mark.parametrize("rule", algorithm.IN_PROCESS, **RULE)
def test_algorithms(rule, variant):
    trial = algorithm.Trial(tables(variant))
    if (rule.__name__, variant) in UNTRIED:
        with pytest.raises(Untried):
            rule(trial)
    elif rule is algorithm.has_the_matrix_form_that_it_claims:
        claims = type(trial.start().assembly.config.algorithm).matrix_form is not Algorithm.matrix_form
        try:
            rule(trial)
        except Untried:
            assert not claims or variant == "cooperative-hierarchical"  # a cycle of matrices is no form A(tau, W, v)
    else:
        rule(trial)


@pytest.mark.parametrize("name", registry.parts("graph"))
@pytest.mark.parametrize("rule", graph.RULES, **RULE)
def test_graphs(rule, name):
    rule(graph.Trial(name, {}))


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("rule", compressor.RULES, **RULE)
def test_compressors(rule, kind):
    trial = compressor.Trial(registry.build("compress", {"kind": kind} | TABLES[kind]))
    if rule is compressor.contracts_if_it_says_so and not trial.compressor.contractive:
        with pytest.raises(Untried):
            rule(trial)
    else:
        rule(trial)


TASKS = {
    "classify": {"hidden": [8], "batch": 8}, "dirichlet": {"hidden": [8], "batch": 8, "partition": "dirichlet"},
    "whole shards": {"model": "linear", "batch": 0}, "cnn": {"model": "cnn", "batch": 2},
    "regress": {"kind": "regress", "samples": 60, "features": 5, "outputs": 2, "hidden": [4], "batch": 4},
    "quadratic": {"kind": "quadratic"},
    "textbook": {"kind": "python", "function": algorithm.TEXTBOOK},
}


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("rule", problem.RULES, **RULE)
def test_problems(rule, name, tmp_path):
    table = {"kind": "classify"} | TASKS[name]
    if name == "quadratic":
        table["path"] = write_quadratic(tmp_path / "q.h5", problem.WORKERS)
    if name == "cnn" and rule is problem.is_the_slope_of_its_loss:
        pytest.skip("a maximum of pixels has kinks; tests/test_layers.py looks at the layers")
    rule(problem.Trial(registry.build("task", table).prepare, name))


@pytest.mark.parametrize("kind", registry.parts("sink"))
@pytest.mark.parametrize("rule", sink.RULES, **RULE)
def test_sinks(rule, kind):
    rule(sink.Trial(lambda: registry.build("sink", {"kind": kind})))


# every rule is broken by somebody
class InPlace(Algorithm, frozen=True, kw_only=True):
    """Writes the mean into the models while the step still communicates."""

    source = "nobody"

    def step(self, state, context):
        loss = yield from context.local_step(state)
        mean = yield Mean(state.x)
        state.x[:] = mean
        yield Mean(state.x)
        return loss


class TooEarly(Algorithm, frozen=True, kw_only=True):
    """Goes on with the models that are being sent."""

    source = "nobody"
    slots = (Slot("ticket", "ticket", "none", "mean under way"),)

    def step(self, state, context):
        if state.ticket is not None:
            mean = yield Finish(state.ticket)
            state.x = context.replicate(mean, like=state.x)
        state.ticket = yield Start(Mean(state.x))
        return (yield from context.local_step(state))

    def finish(self, state, context):
        if state.ticket is not None:
            yield Finish(state.ticket)
            state.ticket = None


class Wasteful(Algorithm, frozen=True, kw_only=True):
    source = "nobody"
    slots = (Slot("old", "worker", "zero", "models of the step before"),)

    def step(self, state, context):
        loss = yield from context.local_step(state)
        yield Mean(state.x)
        state.old = np.array([*state.x]) * 1.0 + np.zeros_like(state.x) + np.ones_like(state.x)
        return loss


class Leaky(Algorithm, frozen=True, kw_only=True):
    source = "nobody"

    def step(self, state, context):
        yield Start(Mean(context.copy(state.x)))
        return (yield from context.local_step(state))


class Forgetful(Algorithm, frozen=True, kw_only=True):
    """Keeps something outside of its slots."""

    source = "nobody"

    def step(self, state, context):
        loss = yield from context.local_step(state)
        seen = vars(context).setdefault("seen", 0)
        context.seen = seen + 1
        mean = yield Mean(state.x)
        state.x = context.combine((1.0, 0.01 * context.seen), (state.x, mean))
        return loss


class Curious(Algorithm, frozen=True, kw_only=True):
    """Sends what its loss says, without saying so."""

    source = "nobody"

    def step(self, state, context):
        loss = yield from context.local_step(state)
        if float(loss.sum()) > 0:
            state.x = context.replicate((yield Mean(state.x)), like=state.x)
        return loss


class WrongForm(Algorithm, frozen=True, kw_only=True):
    source = "nobody"
    uses_mixing = True

    def step(self, state, context):
        loss = yield from context.local_step(state)
        state.x = yield Mix(state.x, context.k)
        return loss

    def matrix_form(self, workers, tau, mixing):
        return tau, mixing @ mixing, 0


class DependsOnRanks(Algorithm, frozen=True, kw_only=True):
    source = "nobody"

    def step(self, state, context):
        loss = yield from context.local_step(state)
        mean = yield Mean(state.x)
        state.x = context.combine((1.0, 0.1 / len(context.hosted)), (state.x, mean))
        return loss


@pytest.mark.parametrize("rule, cls, words", [
    (algorithm.works, Leaky, "24 transfers were started and never finished (average)"),
    (algorithm.leaves_its_snapshot_alone, InPlace, "state.x was written in place"),
    (algorithm.leaves_alone_what_is_under_way, TooEarly, "the array of a Mean was written while it was under way"),
    (algorithm.allocates_nothing_large, Wasteful, "times the models"),
    (algorithm.goes_on_from_its_slots, Forgetful, "state.x differs after the resumed run"),
    (algorithm.says_whether_it_follows_numbers, Curious, "needs the numbers"),
    (algorithm.has_the_matrix_form_that_it_claims, WrongForm, "models differ by up to"),
    pytest.param(algorithm.does_not_depend_on_the_ranks, DependsOnRanks, "others than on one", marks=pytest.mark.mpi),
], ids=lambda value: getattr(value, "__name__", None))
def test_a_rule_for_algorithms_is_broken(rule, cls, words):
    trial = algorithm.Trial({"algorithm": {"kind": f"tests.test_contract:{cls.__name__}"}})
    with pytest.raises((Broken, UserError)) as error:
        rule(trial)
    assert words in str(error.value)


def test_a_forecast_that_is_wrong_is_noticed(monkeypatch):
    trial = algorithm.Trial(tables("local-sgd"))
    cost = algorithm.estimate(trial.start(numbers=algorithm.LARGE).assembly)
    monkeypatch.setattr(algorithm, "estimate", lambda assembly: cost._replace(memory=cost.memory | {"slots": 0}))
    with pytest.raises(Broken, match="forecast are"):
        algorithm.costs_what_the_dry_run_says(trial)


class Arrows(Topology):
    """A directed circle that gives the wrong receivers."""

    def __init__(self, workers):
        self.workers = workers

    def sources(self, i, t):
        return ((i + 1) % self.workers,) if self.workers > 1 else ()


class Islands(Graph):
    def bind(self, workers, seed):
        return PeriodicGrid((workers,), [[(2,), (-2,)]])


class OneSided(Graph):
    def bind(self, workers, seed):
        return Arrows(workers)


class Unseeded(Graph):
    def bind(self, workers, seed):
        hop = int(np.random.default_rng().integers(1, workers)) if workers > 1 else 0
        return PeriodicGrid((workers,), [[(hop,), (1,)]])


class Never(Graph):
    def bind(self, workers, seed):
        raise UserError("this graph is for nobody")


class Talkative(Graph):
    def bind(self, workers, seed):
        return PeriodicGrid((workers,), [[(1,), (-1,)]])

    def describe(self, workers):
        return "a ring\nof workers"


@pytest.mark.parametrize("rule, cls, words", [
    (graph.works, Never, "for nobody"), (graph.brings_the_workers_together, Islands, "fall into 2 parts"),
    (graph.links_agree_on_both_sides, OneSided, "disagree"), (graph.is_drawn_from_the_seed, Unseeded, "differ in round"),
    (graph.is_what_it_says, Talkative, "not one line"),
], ids=lambda value: getattr(value, "__name__", None))
def test_a_rule_for_graphs_is_broken(rule, cls, words):
    with pytest.raises((Broken, UserError), match=words):
        rule(graph.Trial(f"tests.test_contract:{cls.__name__}", {}))


def test_weights_that_do_not_sum_to_one_are_noticed(monkeypatch):
    trial = graph.Trial("ring", {})
    bind = trial.bind

    def crooked(workers, seed=0):
        mixing = bind(workers, seed)
        row = mixing._row
        mixing._row = lambda i, t: tuple((j, w * (1 + (i == 0) / 2)) for j, w in row(i, t))
        return mixing

    monkeypatch.setattr(trial, "bind", crooked)
    with pytest.raises(Broken, match="off in round 0"):
        graph.mixes_doubly_stochastically(trial)


class Plain(Compressor, frozen=True, kw_only=True):
    """Sends x as it is: base of those that do something wrong."""

    source = "nobody"

    def fields(self, shape, dtype):
        from coopmpi.compression.wire import Numbers

        return [Numbers(int(np.prod(shape)), dtype)]

    def compress(self, device, x, shape, drawn):
        return [x]

    def restore(self, device, values, shape, drawn, out):
        out[...] = values[0]


class Bursting(Plain, frozen=True, kw_only=True):
    def restore(self, device, values, shape, drawn, out):
        out[...] = values[0] / 0.0 if values[0].shape[1] == 1 else values[0]


class Mixing(Plain, frozen=True, kw_only=True):
    def compress(self, device, x, shape, drawn):
        return [x - x.mean(axis=0)]


class Overwriting(Plain, frozen=True, kw_only=True):
    def compress(self, device, x, shape, drawn):
        x *= 0.5
        return [x]


class Offset(Plain, frozen=True, kw_only=True):
    def restore(self, device, values, shape, drawn, out):
        out[...] = values[0] + 1


class Doubling(Plain, frozen=True, kw_only=True):
    linear = exact = True

    def restore(self, device, values, shape, drawn, out):
        out[...] = 3 * abs(values[0])


class Replacing(Plain, frozen=True, kw_only=True):
    def add(self, device, values, shape, drawn, out):
        out[...] = values[0]


class Dicing(Plain, frozen=True, kw_only=True):
    def compress(self, device, x, shape, drawn):
        return [x * np.random.default_rng().random(x.shape).astype(x.dtype)]


@pytest.mark.parametrize("rule, cls, words", [
    (compressor.works, Bursting, "NaN or Inf"), (compressor.decodes_the_same_everywhere, Mixing, "depends on the other"),
    (compressor.adds_what_it_restores, Replacing, "another sum"),
    (compressor.leaves_models_alone, Overwriting, "writes into its argument"), (compressor.keeps_zero, Offset, "zero"),
    (compressor.contracts_if_it_says_so, Doubling, "it loses"), (compressor.draws_as_it_says, Dicing, "another packet"),
    (compressor.is_linear_and_exact_if_it_says_so, Doubling, "says `exact`"),
], ids=lambda value: getattr(value, "__name__", None))
@pytest.mark.filterwarnings("ignore")
def test_a_rule_for_compressors_is_broken(rule, cls, words):
    with pytest.raises(Broken, match=words):
        rule(compressor.Trial(cls()))


class Sound(Problem):
    """|x - i|^2 / 2, worker by worker: base of those that do something wrong."""

    def __init__(self, place):
        self.place, self.dimension = place, 4
        self.out = np.empty((len(place.hosted), 4), place.dtype)

    def initial(self):
        return np.ones(4, self.place.dtype)

    def gradient(self, x, step):
        self.out[...] = x - np.array(self.place.hosted)[:, None]
        return ((self.out ** 2).sum(axis=1) / 2).astype(x.dtype), self.out

    def evaluate(self, mean):
        return {"loss": (1.0, 1)}


class Infinite(Sound):
    def gradient(self, x, step):
        losses, gradients = super().gradient(x, step)
        return losses + np.inf, gradients


class Random(Sound):
    def gradient(self, x, step):
        losses, gradients = super().gradient(x, step)
        return losses, gradients + np.random.default_rng().random()


class Writing(Sound):
    def gradient(self, x, step):
        x -= 1
        return super().gradient(x, step)


class ByRank(Sound):
    def gradient(self, x, step):
        losses, gradients = super().gradient(x, step)
        return losses + len(losses), gradients


class Steeper(Sound):
    def gradient(self, x, step):
        losses, gradients = super().gradient(x, step)
        return losses, gradients * 1.1


class NoPair(Sound):
    def evaluate(self, mean):
        return {"loss": 1.0}


@pytest.mark.parametrize("rule, cls, words", [
    (problem.works, Infinite, "NaN or Inf"), (problem.repeats_itself, Random, "draw from coopmpi.streams"),
    (problem.leaves_models_alone, Writing, "writes into x"), (problem.does_not_depend_on_the_ranks, ByRank, "losses differ"),
    (problem.is_the_slope_of_its_loss, Steeper, "slopes"), (problem.evaluates_what_it_declares, NoPair, "not \\(sum, count\\)"),
], ids=lambda value: getattr(value, "__name__", None))
def test_a_rule_for_problems_is_broken(rule, cls, words):
    for other in problem.RULES:
        other(problem.Trial(Sound, "sound"))
    with pytest.raises(Broken, match=words):
        rule(problem.Trial(cls, "wrong"))


def test_rules_for_sinks_are_broken():
    class NoModels(Sink):
        def final(self, worker, row):
            raise OSError("no")

    class NoResume(Sink):
        def reopen(self, about, step):
            raise OSError("no")

    class NeedsLosses(Sink):
        def steps(self, rows):
            rows.loss.mean()

    class NoEvents(Sink):
        def event(self, step, wall_time, kind, text):
            raise OSError("no")

    for cls, rule in ((NoModels, sink.takes_a_whole_run), (NoResume, sink.goes_on_with_an_interrupted_run),
                      (NeedsLosses, sink.takes_simulations), (NoEvents, sink.takes_an_empty_run)):
        with pytest.raises((OSError, AttributeError)):
            rule(sink.Trial(cls))


# coopmpi check
def check(tmp_path, source, name="Mine", *arguments):
    """(exit status, what was said) of `coopmpi check mine:NAME`."""
    (tmp_path / "mine.py").write_text(textwrap.dedent(source))
    status, out, err = coopmpi("check", f"mine:{name}", *arguments, cwd=tmp_path, environment={"PYTHONDONTWRITEBYTECODE": "1"})
    assert "Traceback" not in err
    return status, " ".join((out + err).split())


MISTAKES = {
    # what is written, the line that is named, and words of the sentence
    "forgotten yield": ("mean = Mean(state.x)\nstate.x = context.replicate(mean, like=state.x)\nreturn loss", 10, ["Mean"]),
    "a request as a model": ("state.x = Mix(state.x, context.k)\nreturn loss", 9, ["where it is yielded", "state.x = yield Mix"]),
    "forgotten return": ("state.x = context.replicate((yield Mean(state.x)), like=state.x)", 7, ["end it with `return loss`"]),
    "Mix without uses_mixing": ("state.x = yield Mix(state.x, context.k)\nreturn loss", 9, ["uses_mixing = True"]),
    "pack without uses_compress": ("yield Mean(context.pack(state.x, context.k))\nreturn loss", 9, ["uses_compress = True"]),
    "unknown request": ("yield state.x\nreturn loss", 9, ["unknown request", "Advance, Finish, Gather, Grad, Mean, Mix"]),
    "wrong shape of a model": ("state.x = state.x[:, :3]\nreturn loss", 9, ["shape (6, 3)", "shape (6, 60)"]),
    "wrong dtype of a model": ("state.x = state.x.astype('float64')\nreturn loss", 9, ["float64", "float32"]),
    "wrong shape of a request": ("yield Mean(state.x[0])\nreturn loss", 9, ["row for each of the 6 workers", "shape (60,)"]),
    "wrong shape of a loss": ("yield Mean(state.x)\nreturn loss.mean()", 7, ["shape (6,)"]),
    "undeclared slot": ("state.memo = loss\nreturn loss", 9, ["state.memo is no declared slot", 'Slot("memo"']),
    "mean without replicate": ("state.x = yield Mean(state.x)\nreturn loss", 9, ["context.replicate(value, like=state.x)"]),
    "finish twice": ("t = yield Start(Mean(context.copy(state.x)))\nyield Finish(t)\nyield Finish(t)\nreturn loss", 11, ["once"]),
    "a started gradient": ("yield Start(Grad(state.x))\nreturn loss", 9, ["Start takes one of Mix, Mean, Reduce, Gather, Advance"]),
    "an error of Python": ("yield Mean(state.x)\nreturn loss + undefined", 10, ["NameError", "undefined"]),
    "a group that does not divide": ("yield Mean(state.x, group=4)\nreturn loss", 9, ["group of 4", "6 workers"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_newcomers_mistakes_get_one_sentence_with_file_and_line(tmp_path, mistake):
    body, line, words = MISTAKES[mistake]
    head = "from coopmpi.step import Algorithm, Finish, Grad, Mean, Mix, Start\n\n\n" \
           "class Mine(Algorithm, frozen=True, kw_only=True):\n    source = 'me'\n\n" \
           "    def step(self, state, context):\n        loss = yield from context.local_step(state)\n"
    status, said = check(tmp_path, head + textwrap.indent(body, " " * 8) + "\n")
    assert status == 2 and f"mine.py, line {line}: " in said and said.count("->") == 1, said
    assert all(word in said for word in words), said
    assert "0 rules hold, 1 broken" in said and "does not keep to the contract" in said


@pytest.mark.parametrize("body, words", [
    ("loss = context.local_step(state)\n        yield Mean(state.x)\n        return loss", "loss = yield from local_step"),
    ("return state.x[:, 0]", "never yields"),
])
def test_a_helper_without_yield_from(tmp_path, body, words):
    status, said = check(tmp_path, "from coopmpi.step import Algorithm, Mean\n\n\n"
                         "class Mine(Algorithm, frozen=True, kw_only=True):\n    source = 'me'\n\n"
                         f"    def step(self, state, context):\n        {body}\n")
    assert status == 2 and words in said and "mine.py, line 7: " in said, said


def test_a_class_of_the_wrong_kind(tmp_path):
    status, _, err = coopmpi("train", "--set", "algorithm.kind=coopmpi.topology.graphs:Ring", cwd=tmp_path)
    assert status == 2 and "must be a subclass of coopmpi.step.algorithm.Algorithm" in err and "part for [graph]" in err
    status, said = check(tmp_path, "Mine = 3")
    assert status == 2 and "must be an algorithm, graph, compressor, sink" in said
    status, said = check(tmp_path, "from coopmpi.local.optimizers import SGD as Mine")
    assert status == 2 and "part for [optimizer], for which there are no rules yet" in said
    status, said = check(tmp_path, "", "Nobody")
    assert status == 2 and "Nobody" in said


@pytest.mark.mpi
def test_examples_keep_to_the_contract(tmp_path):
    from pathlib import Path

    source = Path(__file__).parents[1] / "examples"
    for name, cls, more in (("own_algorithm", "GossipPGA", ["--set", "algorithm.average_every=2", "--set", "workers=4"]),
                            ("own_task", "RobustRegression", ["--set", "task.options.features=5"])):
        (tmp_path / "mine.py").write_text((source / f"{name}.py").read_text())
        status, out, err = coopmpi("check", f"mine:{cls}", *more, cwd=tmp_path)
        assert status == 0 and " 0 broken" in out, out + err
        assert "1, 2 and 4 ranks" in out or cls != "GossipPGA"


def test_keys_that_play_no_part_are_refused(tmp_path):
    source = "from coopmpi.topology.graphs import Ring\nclass Mine(Ring): pass"
    status, said = check(tmp_path, source, "Mine", "--set", "algorithm.alpha=1")
    assert status == 2 and "unknown table 'algorithm'" in said
    status, said = check(tmp_path, source, "Mine", "--set", "mixing.hops=1")
    assert status == 2 and "unknown key 'hops'" in said


def test_an_error_from_elsewhere_is_told_without_a_place():
    def rule(trial):
        """It works."""
        int("x")

    verdict, = verdicts([rule, rule], None)
    assert verdict.state == "broken" and "ValueError" in verdict.why and "test_contract.py, line" in verdict.why
    assert explain(KeyError("k")) == "KeyError: 'k'"
