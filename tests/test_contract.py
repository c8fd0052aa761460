"""What every registered algorithm must keep to, whatever it computes (docs: coopmpi/step.py)."""

import tracemalloc

import numpy as np
import pytest

from coopmpi import config
from coopmpi.drivers.solo import Solo
from coopmpi.errors import UserError
from coopmpi.run.assemble import assemble
from coopmpi.step import Advance, Finish, Grad, Mean, Mix, Packed, Recall, Start, relay
from tests.runs import EVEN_VARIANTS, write_quadratic

M, D, STEPS = 6, 200_000, 24


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_quadratic(tmp_path_factory.mktemp("contract") / "q.h5", M, D)


class Job:
    """An assembled run that can be stepped one by one, with a look at every request."""

    def __init__(self, path, variant, watch=lambda state, request: None):
        tables = {"workers": M, "steps": STEPS, "device": "cpu", "task": {"kind": "quadratic", "path": path},
                  "optimizer": {} if variant == "sparq-sgd" else {"momentum": 0.9, "nesterov": True},
                  "algorithm": EVEN_VARIANTS[variant], "period": {"tau": 3}, "mixing": {"lazy": True}}
        self.assembly = assemble(config.resolve(tables), Solo())
        self.driver, self.context = self.assembly.driver, self.assembly.context
        self.algorithm = self.assembly.config.algorithm
        self.state, _ = self.assembly.start()
        self.watch = watch

    def step(self, k):
        self.context.at(k)
        self.driver.at(k)
        loss = self.driver.drive(self.watched(self.algorithm.step(self.state, self.context)))
        self.driver.drive(self.context.rounds.after_step(k, loss, self.state, self.context))
        return loss

    def watched(self, generator):
        def watch(request):
            self.watch(self.state, request)
            return (yield request)

        return relay(generator, watch)


@pytest.mark.parametrize("variant", EVEN_VARIANTS)
def test_arrays_have_a_worker_axis_and_requests_are_known(path, variant):
    def watch(state, request):
        asked = request.request if isinstance(request, Start) else request
        if isinstance(asked, (Advance, Recall)):
            assert asked.copies.shape == (M, D)
        elif isinstance(asked, (Mix, Mean)) and isinstance(asked.x, Packed):
            assert asked.x.rows.shape == (M, asked.x.nbytes)
        elif isinstance(asked, Mean):
            assert asked.x.shape[0] == M and asked.x.ndim == 2  # also parts of a model
        elif isinstance(asked, (Grad, Mix)):
            assert asked.x.shape == (M, D)
        else:
            assert isinstance(asked, Finish)

    job = Job(path, variant, watch)
    for k in range(7):
        loss = job.step(k)
        assert loss.shape == (M,) and job.state.x.shape == (M, D)


@pytest.mark.parametrize("variant", EVEN_VARIANTS)
def test_state_is_what_was_declared(path, variant):
    job = Job(path, variant)
    for k in range(7):
        job.step(k)
    for slot in job.assembly.slots:
        held = getattr(job.state, slot.name)
        if slot.kind != "ticket":
            assert held.shape == (M if slot.kind in ("worker", "memory") else slot.rows, slot.columns or D)
    with pytest.raises(UserError, match=r"test_contract.py, line \d+: state.memo is no declared slot"):
        job.state.memo = 3
    with pytest.raises(UserError, match=r"shape \(1, 200000\).*replicate"):
        job.state.x = job.state.x[:1]


@pytest.mark.parametrize("variant", EVEN_VARIANTS)
def test_a_round_leaves_its_snapshot_alone(path, variant):
    """From the first exchange of a step on, what the slots referred to then stays as it was until the last one."""
    held = []

    def watch(state, request):
        for array, copy in held:
            assert np.array_equal(array, copy)
        if not isinstance(request, Grad) and not held:
            arrays = [getattr(state, slot.name) for slot in state.slots if slot.kind in ("worker", "replica")]
            held.extend((array, array.copy()) for array in arrays)

    job = Job(path, variant, watch)
    for k in range(7):
        held.clear()
        job.step(k)


@pytest.mark.parametrize("variant", EVEN_VARIANTS)
def test_what_is_under_way_does_not_change(path, variant):
    """From Start to Finish the array that is being sent stays as it was: MPI may still read it."""
    under_way = []

    def watch(state, request):
        if isinstance(request, Finish):
            array, copy = under_way.pop(0)
            assert np.array_equal(array, copy)
        elif isinstance(request, Start):
            under_way.append((request.request.x, request.request.x.copy()))

    job = Job(path, variant, watch)
    for k in range(10):
        job.step(k)


@pytest.mark.parametrize("variant", EVEN_VARIANTS)
def test_steady_state_allocates_nothing_large(path, variant):
    job = Job(path, variant)
    for k in range(12):
        job.step(k)
    made = job.context.device.pool.nbytes_of(lambda array: True)
    tracemalloc.start()
    try:
        for k in range(12, STEPS):
            job.step(k)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert job.context.device.pool.nbytes_of(lambda array: True) == made
    assert peak < 2.1 * M * D * 4  # the quadratic task's own temporaries, no more


@pytest.mark.parametrize("variant", EVEN_VARIANTS)
def test_forecast_equals_what_is_allocated(path, variant):
    from coopmpi.run.cost import estimate

    job = Job(path, variant)
    for k in range(STEPS):
        job.step(k)
    cost = estimate(job.assembly)
    # the pool also holds the task's gradients
    pooled = job.context.device.pool.nbytes_of(lambda array: array.ndim == 2) - M * D * 4
    forecast = cost.memory["slots"] + cost.memory["exchange"] + cost.memory.get("compression", 0)
    # what a compressor needs in between may be recycled from, or into, the rest
    assert abs(forecast - pooled) <= (0.03 * pooled if job.algorithm.uses_compress else 0)
    assert cost.bytes_sent > 0 and cost.messages
