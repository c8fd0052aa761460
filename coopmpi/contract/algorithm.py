"""The rules for algorithms."""

import os
import subprocess
import sys
import tempfile
import tomllib
import tracemalloc
from pathlib import Path

import numpy as np

from coopmpi import config
from coopmpi.contract.rules import Untried, require
from coopmpi.drivers.solo import Solo
from coopmpi.errors import CoopError
from coopmpi.run.assemble import assemble
from coopmpi.run.cost import estimate
from coopmpi.step import Advance, Finish, Grad, Start

STEPS = 24
TEXTBOOK = "coopmpi.contract.textbook:Textbook"
LARGE = 200_000  # numbers of a model that is looked at for its memory


class Trial:
    """An algorithm and the other tables of a run description, put to work on the textbook problem in one process."""

    def __init__(self, tables: dict):
        tables = {"workers": 6, "steps": STEPS, "device": "cpu", "deterministic": True, "period": {"tau": 3}} | tables
        self.tables = config.without(tables, config.unread(tables))

    def start(self, watch=lambda state, request: None, numbers=60, mode="train", **more) -> "Job":
        """A run at its start; watch(state, request) is called at every request."""
        task = {"kind": "python", "function": TEXTBOOK, "options": {"numbers": numbers}}
        return Job(assemble(config.resolve({"task": task} | self.tables | more), Solo(), mode), watch)


class Job:
    """A run that is carried out step by step."""

    def __init__(self, assembly, watch):
        self.assembly, self.driver, self.context = assembly, assembly.driver, assembly.context
        self.algorithm, self.state, self.k = assembly.config.algorithm, assembly.start()[0], 0
        answer = self.driver.answer

        def watched(request):
            watch(self.state, request)
            return answer(request)

        self.driver.answer = watched

    def go(self, steps: int):
        """Carry out so many steps; the losses of the last one."""
        for _ in range(steps):
            loss = self.driver.step(self.algorithm, self.state, self.context, self.k)
            self.k += 1
        return loss

    def finish(self):
        """Complete all transfers, as at the end of a run."""
        for part in (self.algorithm, self.context.rounds):
            self.driver.drive(part.finish(self.state, self.context))
        self.driver.nothing_left(self.algorithm.name)

    def arrays(self):
        """{name: array} of all slots that are saved."""
        return {slot.name: getattr(self.state, slot.name) for slot in self.assembly.slots if slot.kind != "ticket"}


def works(trial):
    """Every step yields known requests, with a row for each worker, and returns the workers' losses."""
    job = trial.start()
    job.go(STEPS)
    job.finish()


def leaves_its_snapshot_alone(trial):
    """From a step's first exchange to its last, the arrays that the slots referred to keep their numbers: rebind slots
    (state.x = ...) instead of writing into them."""
    held = []

    def watch(state, request):
        for name, array, copy in held:
            require(np.array_equal(array, copy), f"state.{name} was written in place after the step's first exchange")
        if not isinstance(request, Grad) and not held:
            held.extend((slot.name, array, array.copy()) for slot in state.slots if slot.kind in ("worker", "replica")
                        for array in [getattr(state, slot.name)])

    job = trial.start(watch)
    for _ in range(STEPS):
        held.clear()
        job.go(1)


def leaves_alone_what_is_under_way(trial):
    """From Start to Finish, what is being sent keeps its numbers: MPI may still read it."""
    under_way = {}

    def watch(state, request):
        for kind, array, copy in under_way.values():
            require(np.array_equal(array, copy), f"the array of a {kind} was written while it was under way; start it with a copy")
        if isinstance(request, Finish):
            under_way.pop(next(iter(under_way), None), None)
        elif isinstance(request, Start):
            sent = request.request.packed.rows if isinstance(request.request, Advance) else request.request.x
            sent = getattr(sent, "rows", sent)
            under_way[len(under_way), id(request)] = type(request.request).__name__, sent, sent.copy()

    trial.start(watch).go(STEPS)


def allocates_nothing_large(trial):
    """Once it is under way, a step allocates no fresh array as large as the models: context.combine and context.copy
    recycle."""
    job = trial.start(numbers=LARGE)
    models, pool = job.state.x.nbytes, job.context.device.pool
    job.go(STEPS // 2)
    made = pool.nbytes_of(lambda array: True)
    tracemalloc.start()
    try:
        job.go(STEPS // 2)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    grown = pool.nbytes_of(lambda array: True) - made
    require(not grown, f"{grown / models:.2g} times the models were allocated anew in {STEPS // 2} steps")
    # two temporaries are the textbook problem's own
    require(peak < 2.1 * models, f"arrays of {peak / models - 2:.2g} times the models came and went outside of the device's pool")


def costs_what_the_dry_run_says(trial):
    """--dry-run forecasts its memory and its bytes."""
    job = trial.start(numbers=LARGE)
    job.go(STEPS)
    cost = estimate(job.assembly)
    held = job.context.device.pool.nbytes_of(lambda array: array.ndim == 2) - job.state.x.nbytes  # the problem's gradients
    forecast = cost.memory["slots"] + cost.memory["exchange"] + cost.memory.get("compression", 0)
    # what a compressor needs in between may be recycled from, or into, the rest
    tolerance = 0.03 * held if job.algorithm.uses_compress else 0
    require(abs(forecast - held) <= tolerance, f"forecast are {forecast / 1e6:.4g} MB, held {held / 1e6:.4g} MB")
    require(cost.messages and cost.bytes_sent > 0, "forecast is a run in which nothing is sent")


def goes_on_from_its_slots(trial):
    """A run that is finished, saved by its slots alone and resumed computes the numbers of one that never stopped."""
    half = STEPS // 2 + 1
    whole, before, after = trial.start(), trial.start(), trial.start()
    whole.go(STEPS)
    before.go(half)
    before.finish()
    for name, values in before.arrays().items():
        after.arrays()[name][...] = values
    after.k = half
    after.go(STEPS - half)
    for name, values in whole.arrays().items():
        require(np.array_equal(values, after.arrays()[name]),
                f"state.{name} differs after the resumed run: what the next step needs must be in a slot, and `finish` neutral")


def says_whether_it_follows_numbers(trial):
    """What it sends, and when, depends on no numbers, or `follows_numbers` says why: simulate --time-only relies on it."""
    reason = trial.start().algorithm.follows_numbers()
    if reason:
        raise Untried(reason)
    network = {"latency": 0.1, "bandwidth": 2000.0, "jitter": 0.1}
    compute = {"kind": "exponential"} | dict.fromkeys(("compress", "unpack", "mix", "optimizer"), 1e-3)
    full, alone = (trial.start(mode=mode, network=network, compute=compute) for mode in ("simulate", "time-only"))
    full.go(STEPS)
    alone.go(STEPS)
    require(np.array_equal(full.assembly.clocks.now, alone.assembly.clocks.now), "virtual times differ without the numbers")


def has_the_matrix_form_that_it_claims(trial):
    """Its `matrix_form` (tau, W, v), if it has one, gives the models: X <- W (X - lr G)."""
    job = trial.start(dtype="float64", optimizer={"lr": 0.05})
    m, lr, given = job.driver.workers, 0.05, job.assembly.config
    graph = given.mixing.bind(m, given.seed) if job.algorithm.uses_mixing else None
    form = job.algorithm.matrix_form(m, job.context.tau, graph.matrix(0).toarray() if graph else np.eye(m))
    if form is None or (graph and not graph.fixed):
        raise Untried("it claims none")
    tau, w, v = form
    problem = job.driver.task.problem
    x = np.tile(problem.initial(), (m + v, 1))
    for k in range(STEPS):
        x[:m] -= lr * problem.gradient(x[:m], k)[1]
        if (k + 1) % tau == 0:
            x = w @ x
    job.go(STEPS)
    job.finish()
    off = abs(job.state.x - x[:m]).max()
    require(off < 1e-12, f"models differ by up to {off:.2g} after {STEPS} steps")


def does_not_depend_on_the_ranks(trial):
    """With deterministic = true, models are the same to the last bit on 1, 2 and 4 ranks."""
    from coopmpi.drivers.mpi import launch

    if launch.find_mpirun() is None:
        raise Untried("there is no mpirun here")
    task = {"kind": "python", "function": TEXTBOOK, "options": {"noise": 0.1}}
    description = config.dump(config.resolve({"task": task} | trial.tables))
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "run.toml").write_text(description)
        found = [_models(folder, ranks, launch) for ranks in (1, 2, 4) if ranks <= tomllib.loads(description)["workers"]]
    for models in found[1:]:
        require(np.array_equal(models, found[0]), "models on several ranks are others than on one")


def _models(folder, ranks, launch):
    from coopmpi.record.reader import open_run

    output = Path(folder, f"{ranks}.h5")
    command, environment = launch.mpirun(ranks, lambda text: None)
    command += [sys.executable, "-m", "coopmpi", "train", str(Path(folder, "run.toml")), "-o", str(output), "--quiet"]
    done = subprocess.run(command, env=environment, cwd=os.getcwd(), capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("coopmpi: ")] or done.stderr.splitlines()[-1:]
        raise CoopError(f"on {ranks} ranks: {' '.join(said).removeprefix('coopmpi: ')}")
    with open_run(output) as file:
        return file["final/x"][:]


IN_PROCESS = (works, leaves_its_snapshot_alone, leaves_alone_what_is_under_way, allocates_nothing_large,
              costs_what_the_dry_run_says, goes_on_from_its_slots, says_whether_it_follows_numbers,
              has_the_matrix_form_that_it_claims)
RULES = (*IN_PROCESS, does_not_depend_on_the_ranks)
