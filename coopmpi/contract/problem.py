"""The rules for problems."""

import numpy as np

from coopmpi.contract.rules import Untried, require
from coopmpi.device.host import Host
from coopmpi.drivers.driver import Driver
from coopmpi.drivers.solo import Solo
from coopmpi.tasks.problem import Objective, Place

WORKERS, SEED = 4, 7
SMALL = 1e-5  # step of a difference, relative to the size of the model
STEPS = 4  # gradients before what is looked at: slots have changed then


class Trial:
    """prepare(place) gives the problem of one rank."""

    def __init__(self, prepare, name: str):
        self.prepare, self.name = prepare, name

    def objective(self, hosted=range(WORKERS), dtype="float64") -> Objective:
        """The problem for these of the workers, with its own slots at their start."""
        place = Place(WORKERS, hosted, SEED, dtype, Host(), Solo())
        objective = Objective(self.prepare(place), place, self.name)
        objective.driver = Driver(len(hosted), objective, None, place.device, Solo())
        objective.start(objective.driver)
        return objective

    def models(self, objective):
        """Models (b, d) near the initial one, different for every worker."""
        x = objective.initial()
        size = max(1.0, abs(x).max())
        drawn = [np.random.default_rng(i).standard_normal(x.size) for i in objective.place.hosted]
        return (x + 0.1 * size * np.array(drawn)).astype(x.dtype)


def works(trial):
    """dimension, initial() and gradient(x, step) fit each other, in float32 and float64."""
    for dtype in ("float32", "float64"):
        objective = trial.objective(dtype=dtype)
        losses, gradients = objective.gradient(trial.models(objective), 0)
        require(np.isfinite(losses).all() and np.isfinite(gradients).all(), f"losses or gradients are NaN or Inf ({dtype})")


def repeats_itself(trial):
    """The same models and the same step give the same numbers, also after the gradient was written over."""
    one, other = trial.objective(), trial.objective()
    x = trial.models(one)
    for k in (0, 1, 5):
        losses, gradients = (answer.copy() for answer in one.gradient(x, k))
        again = other.gradient(x, k)
        require(np.array_equal(losses, again[0]) and np.array_equal(gradients, again[1]),
                f"two gradients of step {k} differ: draw from coopmpi.streams.stream(seed, purpose, worker, step)")
        again[1][...] = np.nan  # who asked may write over it


def leaves_models_alone(trial):
    """gradient() and evaluate() do not write into the models."""
    objective = trial.objective()
    x = trial.models(objective)
    before = x.copy()
    objective.gradient(x, 0)
    require(np.array_equal(x, before), "gradient() writes into x")
    mean = x[:1].copy()
    objective.evaluate(mean, objective.driver)
    require(np.array_equal(mean, before[:1]), "evaluate() writes into the mean model")


def does_not_depend_on_the_ranks(trial):
    """A worker gets the same numbers whichever other workers live on its rank."""
    whole, parts = trial.objective(), [trial.objective(range(2)), trial.objective(range(2, WORKERS))]
    for k in range(STEPS):
        losses, gradients = (answer.copy() for answer in whole.gradient(trial.models(whole), k))
        answers = [part.gradient(trial.models(part), k) for part in parts]
        require(np.array_equal(losses, np.concatenate([answer[0] for answer in answers])), f"losses differ at step {k}")
        require(np.allclose(gradients, np.concatenate([answer[1] for answer in answers]), rtol=1e-12, atol=1e-14),
                f"gradients differ at step {k}")


def is_the_slope_of_its_loss(trial):
    """The gradient is the slope of the loss, by central differences along five directions."""
    objective = trial.objective()
    x = trial.models(objective)
    h = SMALL * max(1.0, abs(x).max())
    _, gradients = trial.objective().gradient(x, 0)
    gradients = gradients.copy()
    for direction in range(5):
        v = np.random.default_rng(100 + direction).standard_normal(x.shape)
        v /= np.linalg.norm(v, axis=1, keepdims=True)
        # slots of the problem's own are at their start each time
        up, down = (trial.objective().gradient(x + sign * h * v, 0)[0].copy() for sign in (1, -1))
        slopes, expected = (up - down) / (2 * h), (gradients * v).sum(axis=1)
        off = abs(slopes - expected).max() / max(1e-8, abs(gradients).max())
        require(off < 1e-3, f"slopes {np.round(slopes, 6).tolist()} of the losses, but {np.round(expected, 6).tolist()} "
                            "from the gradients (noise that is in the gradient alone looks like this, too)")


def evaluates_what_it_declares(trial):
    """evaluate() gives (sum, count) for each of its figures."""
    objective = trial.objective()
    if not hasattr(objective.problem, "evaluate"):
        raise Untried("it has no evaluate()")
    objective.gradient(trial.models(objective), 0)
    for name, answer in objective.evaluate(trial.models(objective)[:1], objective.driver).items():
        require(isinstance(answer, tuple) and len(answer) == 2, f"{name!r} is {answer!r:.60}, not (sum, count)")
        total, count = map(float, answer)
        require(count > 0 and np.isfinite(total), f"{name!r} is {total} over {count}, or missing")


RULES = (works, repeats_itself, leaves_models_alone, does_not_depend_on_the_ranks, is_the_slope_of_its_loss,
         evaluates_what_it_declares)
