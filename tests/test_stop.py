"""[stop]: a run ends at the first evaluation that reaches a target, and is until then the run that it would have been."""

import os
import signal

import h5py
import numpy as np
import pytest
from rich.filesize import decimal

from coopmpi import config
from coopmpi.drivers.solo import Solo
from coopmpi.errors import UserError
from coopmpi.record import checkpoint
from coopmpi.run.assemble import assemble
from coopmpi.run.resume import continued
from coopmpi.run.stop import Stop
from coopmpi.sinks import Sink
from coopmpi.tasks.problem import Problem
from tests.in_process import coopmpi as here
from tests.in_process import refused
from tests.interruptions import content, interrupted, run
from tests.runs import EVEN_VARIANTS, coopmpi, read, settings, write_quadratic

M, STEPS = 6, 60
SERIES = ("train/step", "train/loss", "train/tau", "train/bytes_sent", "eval/step", "eval/loss", "eval/consensus")


def tables(path, variant="dpa", **more):
    return read({"workers": M, "steps": STEPS, "deterministic": True, "device": "cpu", "algorithm": EVEN_VARIANTS[variant],
                 "task": {"kind": "quadratic", "path": path}, "period": {"tau": 4}, "mixing": {"lazy": True},
                 "optimizer": {"lr": 0.02}, "compress": {"kind": "topk", "fraction": 0.3}, "record": {"eval_every": 5}} | more)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_quadratic(tmp_path_factory.mktemp("stop") / "q.h5", M, 20, noise=0.01)


def series(path):
    with h5py.File(path) as file:
        return {name: file[name][:] for name in SERIES}


def targets(path):
    """[(step, text)] of the targets that were reached."""
    with h5py.File(path) as file:
        return [(int(step), text.decode()) for step, _, kind, text in file["events"][:] if kind == b"target"]


@pytest.mark.parametrize("variant", EVEN_VARIANTS)
def test_until_its_target_a_run_is_the_one_without(path, tmp_path, variant):
    run(tables(path, variant), tmp_path / "whole.h5")
    whole = series(tmp_path / "whole.h5")
    target = float(whole["eval/loss"][6])
    # the first evaluation after the start that is as good
    first = next(i for i, loss in enumerate(whole["eval/loss"]) if i and loss <= target)
    step = int(whole["eval/step"][first])
    assert 0 < step < STEPS
    run(tables(path, variant, stop={"loss": target}), tmp_path / "run.h5")
    assert targets(tmp_path / "run.h5") == [(step, f"loss {whole['eval/loss'][first]:.5g} <= {target:g}")]
    for name, values in series(tmp_path / "run.h5").items():
        assert np.array_equal(values, whole[name][:first + 1 if name.startswith("eval") else step]), name
    # transfers that were under way are complete: the models are those of a run that was to be so long
    run(tables(path, variant, steps=step), tmp_path / "short.h5")
    assert np.array_equal(content(tmp_path / "run.h5")["final/x"], content(tmp_path / "short.h5")["final/x"])
    assert not checkpoint.folder_of(tmp_path / "run.h5").exists()


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [None, 2])
def test_on_the_command_line(tmp_path, ranks):
    options = ["--set", "workers=4", "--set", "steps=400", "--set", "deterministic=true", "--set", "record.eval_every=20",
               "--set", "algorithm.kind=overlap-local-sgd"]
    assert coopmpi("train", *options, "-o", "whole.h5", "--quiet", cwd=tmp_path)[0] == 0
    options += ["--train-loss", 0.5, "--minutes", 50]
    status, out, err = coopmpi("train", *options, "-o", "run.h5", ranks=ranks, cwd=tmp_path)
    assert status == 0, err
    (step, text), = targets(tmp_path / "run.h5")
    assert step < 400 and f"target reached: {text}" in out and text in " ".join(out.split("target reached")[1].split())
    with h5py.File(tmp_path / "run.h5") as file, h5py.File(tmp_path / "whole.h5") as whole:
        assert file.attrs["status"] == b"finished"
        losses = file["eval/train_loss"][:]
        assert losses[-1] <= 0.5 < losses[1:-1].min() and file["eval/step"][-1] == step == len(file["train/step"])
        assert np.array_equal(file["train/loss"][:], whole["train/loss"][:step])
        assert np.array_equal(file["train/tau"][:], whole["train/tau"][:step])
        seconds, sent = file["train/wall_time"][step - 1], file["train/bytes_sent"][:].sum(axis=0).mean()
    out = " ".join(here("inspect", tmp_path / "run.h5")[1].split())
    assert f"target {text}, after {step} steps, {seconds:.2f} s, {decimal(round(sent))} sent per worker" in out


def test_rising_figures_and_those_of_a_task_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {"workers": 2, "steps": STEPS, "record": {"eval_every": 5}}
    run(given | {"steps": 400, "stop": {"accuracy": 0.8, "loss": 1e-6}}, "digits.h5")
    with h5py.File("digits.h5") as file:
        assert file["eval/accuracy"][-1] >= 0.8 > file["eval/accuracy"][:-1].max()
    own = {"task": {"kind": "python", "function": "tests.test_stop:Counting"}}
    run(given | own | {"stop": {"score": 21}}, "up.h5")
    run(given | own | {"stop": {"misses": 70}}, "down.h5")
    assert targets("up.h5") == [(25, "score 25 >= 21")] and targets("down.h5") == [(30, "misses 70 <= 70")]


class Counting(Problem):
    """Its score grows by 1 in every step, its misses become fewer by 1."""

    dimension, figures, rising = 3, {"score": ("1", "steps"), "misses": ("1", "100 - steps")}, ("score",)

    def __init__(self, place):
        self.dtype = place.dtype

    def initial(self):
        return np.zeros(self.dimension, self.dtype)

    def gradient(self, x, step):
        self.steps = step + 1
        return np.zeros(len(x), self.dtype), np.zeros_like(x)

    def evaluate(self, mean):
        steps = getattr(self, "steps", 0)
        return {"score": (steps, 1), "misses": (100 - steps, 1)}


class Silent(Counting):
    """Evaluates nothing."""

    figures = Problem.figures
    evaluate = Problem.evaluate


def test_the_first_of_several_targets_counts_and_what_is_no_number_is_none():
    stop = Stop({"loss": 0.1, "accuracy": 0.9, "minutes": 2.0}, {"loss": ("1", ""), "accuracy": ("1", "")}, ("accuracy",))
    assert stop.rules() == ["loss <= 0.1", "accuracy >= 0.9", "minutes >= 2"]
    assert stop.reached({"loss": 0.2, "accuracy": 0.8}, 119) == ""
    assert stop.reached({"loss": np.nan, "accuracy": np.nan}, 0) == ""
    assert stop.reached({"loss": 0.1, "accuracy": 0.95}, 130) == "loss 0.1 <= 0.1"
    assert stop.reached({"loss": 0.2, "accuracy": 0.9}, 130) == "accuracy 0.9 >= 0.9"
    assert stop.reached({"loss": 0.2, "accuracy": 0.8}, 120) == "minutes 2 >= 2"


# minutes
def test_minutes_of_training(tmp_path, path):
    run(tables(path, stop={"minutes": 1e-9}), tmp_path / "run.h5")
    (step, text), = targets(tmp_path / "run.h5")
    assert step == 5 and text.startswith("minutes ") and text.endswith(" >= 1e-09")


@pytest.mark.parametrize("options", [[], ["--time-only"]], ids=str)
def test_minutes_of_a_simulation_are_virtual(tmp_path, path, options):
    given = settings({key: value for key, value in tables(path).items() if key != "checkpoint"})
    # a step takes a second, an evaluation comes every 5 steps
    out = tmp_path / "sim.h5"
    status, printed, _ = here("simulate", *given, "--set=compute.kind=constant", "--set=compute.seconds=1",
                              "--set=network.latency=0", "--minutes", 0.7, "-o", out, *options)
    assert status == 0 and "target reached: minutes 0.75 >= 0.7" in printed
    assert targets(out) == [(45, "minutes 0.75 >= 0.7")]
    assert "minutes 0.75 >= 0.7, after 45 steps, 45.0" in " ".join(here("inspect", out)[1].split())


# with what else may happen
def test_a_signal_at_the_same_step_does_not_make_it_unfinished(path, tmp_path):
    class Presses(Sink):
        def evaluation(self, step, wall_time, figures):
            if step == 30:
                os.kill(os.getpid(), signal.SIGINT)

    run(tables(path, stop={"loss": 1e6}, record={"eval_every": 30}), tmp_path / "run.h5", sinks=[Presses()])
    assert [step for step, _ in targets(tmp_path / "run.h5")] == [30] and content(tmp_path / "run.h5")


def test_a_checkpoint_at_the_same_step_is_not_left_behind(path, tmp_path):
    run(tables(path, "overlap-dpa", stop={"loss": 1e6}, checkpoint={"every_steps": 5}), tmp_path / "run.h5")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run.h5"]


def test_an_interrupted_run_goes_on_to_its_target(path, tmp_path):
    run(tables(path, "overlap-dpa"), tmp_path / "whole.h5")
    target = float(series(tmp_path / "whole.h5")["eval/loss"][9])
    given = tables(path, "overlap-dpa", stop={"loss": target})
    run(given, tmp_path / "once.h5")
    interrupted(given, tmp_path / "parts.h5", step=12)
    run(continued(tmp_path / "parts.h5"), tmp_path / "parts.h5", resume=True)
    assert targets(tmp_path / "parts.h5") == targets(tmp_path / "once.h5") != []
    for name, values in content(tmp_path / "once.h5").items():
        assert np.array_equal(content(tmp_path / "parts.h5")[name], values), name


def test_a_finished_run_is_extended_to_another_target(path, tmp_path):
    def wanted(loss):
        return tables(path, "overlap-local-sgd", stop={"loss": loss}, checkpoint={"keep_final": True})

    run(tables(path, "overlap-local-sgd"), tmp_path / "whole.h5")
    found = series(tmp_path / "whole.h5")["eval/loss"]
    first, second = float(found[4]), float(found[9])
    run(wanted(second), tmp_path / "once.h5")
    run(wanted(first), tmp_path / "run.h5")
    reached = targets(tmp_path / "run.h5")
    for unchanged in ((), ("steps=100",), (f"stop.loss={first!r}",)):
        with pytest.raises(UserError, match=r"finished at its target .* after \d+ steps; give another .* --set stop\.loss="):
            continued(tmp_path / "run.h5", unchanged)
    run(continued(tmp_path / "run.h5", [f"stop.loss={second!r}"]), tmp_path / "run.h5", resume=True)
    assert targets(tmp_path / "run.h5") == reached + targets(tmp_path / "once.h5")
    assert np.array_equal(content(tmp_path / "run.h5")["final/x"], content(tmp_path / "once.h5")["final/x"])
    out = " ".join(here("inspect", tmp_path / "run.h5")[1].split())
    assert all(f"{text}, after {step} steps" in out for step, text in targets(tmp_path / "run.h5"))
    # ... or to its steps
    run(continued(tmp_path / "run.h5", ["stop={}"]), tmp_path / "run.h5", resume=True)
    assert np.array_equal(content(tmp_path / "run.h5")["final/x"], content(tmp_path / "whole.h5")["final/x"])


def test_a_finished_run_whose_state_was_not_kept_is_not_extended(path, tmp_path):
    run(tables(path, stop={"loss": 1e6}), tmp_path / "run.h5")
    with pytest.raises(UserError, match="keep_final = true"):
        continued(tmp_path / "run.h5", ["stop.loss=0.001"])


def test_a_target_that_is_not_reached_is_told_as_such(path, tmp_path):
    status, out, _ = here("train", *settings(tables(path)), "--loss", -1, "-o", tmp_path / "run.h5")
    assert status == 0 and "target not reached: loss = -1" in " ".join(out.split())
    assert targets(tmp_path / "run.h5") == [] and len(content(tmp_path / "run.h5")["train/step"]) == STEPS
    assert "target not reached: loss = -1" in " ".join(here("inspect", tmp_path / "run.h5")[1].split())


# descriptions
@pytest.mark.parametrize("given, message", [
    (["--set=stop.acuracy=0.9"],
     "[stop] unknown figure 'acuracy'; did you mean 'accuracy'? (allowed: accuracy, loss, minutes, train_loss)"),
    (["--set=stop.consensus=0.9"], "allowed: accuracy, loss, minutes, train_loss"),
    (["--accuracy", "97"], "[stop] accuracy is a share of 1, given 97; 97 % are 0.97"),
    (["--set=task.kind=regress", "--accuracy", "0.9"], "unknown figure 'accuracy' (allowed: loss, minutes, train_loss)"),
    (["--set=task.kind=python", "--set=task.function=tests.test_stop:Silent", "--loss", "0.9"],
     "unknown figure 'loss' (allowed: minutes)"),
    (["--set=stop.loss=low"], "[stop] loss must be a number, given 'low'"),
    (["--set=stop.loss=true"], "[stop] loss must be a number, given True"),
    (["--loss", "nan"], "[stop] loss: numbers must be finite, given nan"),
    (["--minutes", "0"], "[stop] minutes must be more than 0, given 0.0"),
    (["--set=stop=0.1"], "[stop] must be a table, given 0.1"),
    (["--loss", "low"], "'low' is not a valid float"),
])
def test_refused_before_training(tmp_path, given, message):
    for verb in ("train", "simulate"):
        assert message in refused(verb, *given, "-o", tmp_path / "run.h5")
    assert not any(tmp_path.iterdir())


def test_without_numbers_there_are_minutes_alone(tmp_path):
    message = refused("simulate", "--time-only", "--loss", 0.1, "--minutes", 1, "-o", tmp_path / "s.h5")
    assert "--time-only computes no numbers" in message and "given loss, minutes" in message


def test_a_quadratic_has_no_training_data(path, tmp_path):
    message = refused("train", *settings(tables(path)), "--train-loss", 0.1, "-o", tmp_path / "run.h5")
    assert "(allowed: loss, minutes)" in message


def test_options_are_keys_and_the_dry_run_says_the_rule(path):
    options = ["--set=stop.loss=0.5", "--loss", 0.25, "--minutes", 3]
    status, out, _ = here("train", "--dry-run", *settings(tables(path)), *options)
    assert status == 0 and "[stop]\nloss = 0.25\nminutes = 3.0\n" in out
    assert "# stops when loss <= 0.25 or minutes >= 3, looked at every 5 steps" in out
    status, out, _ = here("train", "--dry-run", *settings(tables(path)))
    assert "[stop]" not in out and "# stops" not in out
    assert config.resolve({"stop": {"loss": 1}}).stop == {"loss": 1.0}


def test_an_assembly_is_checked_on_all_ranks_alike(path):
    with pytest.raises(UserError, match="unknown figure 'train_loss'"):
        assemble(config.resolve(tables(path, stop={"train_loss": 0.1})), Solo())
