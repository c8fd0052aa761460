"""Streaming DiLoCo against a matrix recursion and against DiLoCo, its traffic, and what hides behind the delay."""

import numpy as np
import pytest

from coopmpi import config
from coopmpi.drivers.solo import Solo
from coopmpi.errors import UserError
from coopmpi.run.assemble import assemble
from coopmpi.run.loop import Trainer
from coopmpi.sinks import Sink
from tests.runs import lockstep, write_quadratic
from tests.test_algorithms import SEED, STEPS, M, Reference

D = 12


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_quadratic(tmp_path_factory.mktemp("streaming") / "q.h5", M, D, noise=0.1)


def tables(path, tau=6, kind="streaming-diloco", **keys):
    return {"workers": M, "steps": STEPS, "seed": SEED, "dtype": "float64", "device": "cpu",
            "task": {"kind": "quadratic", "path": path}, "optimizer": {"lr": 0.05, "momentum": 0.9},
            "algorithm": {"kind": kind} | keys, "period": {"tau": tau}}


@pytest.mark.parametrize("tau, keys", [
    (6, {}), (6, {"fragments": 2, "delay": 2}), (6, {"fragments": 3, "delay": 5, "merge": 0.0}),
    (6, {"fragments": 12, "delay": 3}), (5, {"fragments": 5, "delay": 0, "merge": 0.9}),
    (7, {"fragments": 7, "delay": 6, "outer_lr": 0.7, "beta": 0.0}), (4, {"fragments": 1, "delay": 3}),
], ids=str)
def test_equals_the_recursion(path, tau, keys):
    trainer = lockstep(tables(path, tau, **keys))
    x, z = Reference(path, momentum=0.9).run("streaming-diloco", tau, None, **keys)
    assert abs(trainer.state.x - x).max() < 1e-10 and abs(trainer.state.z - z).max() < 1e-10


@pytest.mark.parametrize("steps", [24, 25])
def test_one_fragment_without_delay_is_diloco(path, steps):
    one = lockstep(tables(path, fragments=1, delay=0, merge=0.0, outer_lr=0.7) | {"steps": steps})
    diloco = lockstep(tables(path, kind="diloco") | {"steps": steps})
    for name in ("x", "z", "u"):
        assert np.array_equal(getattr(one.state, name), getattr(diloco.state, name))


def test_a_fragment_is_merged_exactly_delay_steps_after_its_launch(path):
    """Without merging, workers agree on a fragment right after it arrives, and on nothing else."""
    agreed = {}
    for steps in range(1, 13):
        trainer = lockstep(tables(path, fragments=3, delay=1, merge=0.0) | {"steps": steps})
        spread = np.ptp(trainer.state.x, axis=0).reshape(3, -1).max(axis=1)
        agreed[steps] = np.flatnonzero(spread < 1e-12).tolist()
    # launches after steps 2, 4, 6 of every period of 6
    assert {steps: parts for steps, parts in agreed.items() if parts} == {3: [0], 5: [1], 7: [2], 9: [0], 11: [1]}


@pytest.mark.parametrize("fragments", [1, 2, 3, 6])
def test_peak_traffic_is_divided_by_the_fragments_and_the_sum_is_not(path, fragments):
    def bytes_of_steps(given):
        trainer, sent = Trainer(assemble(config.resolve(given), Solo()), Sink()), []
        add = trainer.log.add
        trainer.log.add = lambda *arguments: (sent.append(trainer.driver.sent[0]), add(*arguments))
        trainer.train()
        return np.array(sent)

    streaming = bytes_of_steps(tables(path, fragments=fragments) | {"steps": 24})
    diloco = bytes_of_steps(tables(path, kind="diloco") | {"steps": 24})
    assert diloco.max() == 2 * (M - 1) / M * 8 * D
    assert streaming.max() == pytest.approx(diloco.max() / fragments)
    assert streaming.sum() == pytest.approx(diloco.sum())


@pytest.mark.parametrize("delay, waited", [(0, 2.5), (1, 1.5), (2, 0.5), (3, 0.0)])
def test_a_transfer_hides_behind_the_delay(path, delay, waited):
    """A mean takes 2.5 s, a step 1 s: each of the transfers costs what the delay does not cover."""
    given = tables(path, fragments=1, delay=delay) | {
        "steps": 24, "compute": {"kind": "constant", "seconds": 1.0}, "network": {"kind": "delay", "seconds": 2.5}}
    trainer = Trainer(assemble(config.resolve(given), Solo(), mode="simulate"), Sink())
    trainer.train()
    last = 2.5 - waited if delay else 0  # of the fragment launched after the last step nothing is hidden
    assert trainer.clocks.time == pytest.approx(24 + 4 * waited + last)


@pytest.mark.parametrize("change", [
    {"algorithm": {"kind": "streaming-diloco", "delay": 6}}, {"period": {"tau": 1}},
    {"period": {"kind": "adacomm"}}, {"period": {"kind": "post-local"}},
], ids=str)
def test_needs_a_fixed_period_longer_than_the_delay(path, change):
    with pytest.raises(UserError, match="streaming-diloco needs .* greater than"):
        lockstep(tables(path) | change)
