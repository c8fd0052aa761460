"""Thresholds that workers size from their own past: the wanted share speaks, and nothing runs away."""

import json
from math import exp
from pathlib import Path

import numpy as np
import pytest

from coopmpi import config
from coopmpi.compression import triggers
from coopmpi.device.host import Host
from coopmpi.drivers.solo import Solo
from coopmpi.errors import UserError
from coopmpi.run.assemble import assemble
from coopmpi.run.loop import Trainer
from coopmpi.sinks import Sink
from tests.runs import coopmpi, lockstep, write_quadratic
from tests.interruptions import content, interrupted, run

M, D, TAU = 6, 60, 3
SIGN = {"kind": "sign"}  # keeps up with few messages
SIGN_TOPK = {"kind": "sign-topk", "fraction": 0.1}  # does not


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_quadratic(tmp_path_factory.mktemp("triggers") / "q.h5", M, D, noise=1.0)


def tables(path, rounds, compress=SIGN, **algorithm):
    return {"workers": M, "steps": TAU * rounds, "dtype": "float64", "device": "cpu", "period": {"tau": TAU},
            "task": {"kind": "quadratic", "path": path}, "optimizer": {"lr": 0.05, "momentum": 0.5},
            "algorithm": {"kind": "squarm-sgd"} | algorithm, "compress": compress}


def watched(given):
    """(spoke (rounds, m), c after each round (rounds, m), the Trainer) of a run."""
    trainer = Trainer(assemble(config.resolve(given), Solo()), Sink())
    spoke, c, add = [], [], trainer.log.add

    def look(*step):
        if trainer.done % TAU == 0:
            spoke.append(trainer.driver.sent > 0)
            c.append(triggers.thresholds(trainer.state.sized, trainer.context.device))
        add(*step)

    trainer.log.add = look
    trainer.train()
    return np.array(spoke), np.array(c), trainer


@pytest.mark.parametrize("share", [0.25, 0.5, 0.8])
def test_the_wanted_share_of_rounds_is_spoken_in(path, share):
    spoke, _, _ = watched(tables(path, 400, share=share))
    assert spoke[:20].all()  # copies catch up first
    assert abs(spoke[200:].mean() - share) < 0.04
    assert (abs(spoke[200:].mean(axis=0) - share) < 0.08).all()  # by each of the workers, too


def test_the_share_comes_back_when_the_learning_rate_falls(path):
    falls = {"schedule": {"kind": "step", "milestones": [0.5]}}
    spoke, _, _ = watched(tables(path, 400, share=0.5) | falls)
    assert abs(spoke[300:].mean() - 0.5) < 0.1


@pytest.mark.parametrize("compress, share", [(SIGN, 0.5), (SIGN, 0.7), (SIGN_TOPK, 0.2)])
def test_a_share_is_off_by_what_the_threshold_has_moved(path, compress, share):
    """Adding up the steps of ln c: equality where the bound is never met, and never less."""
    spoke, c, _ = watched(tables(path, 200, compress, share=share))
    rounds = len(spoke) - 1
    least = share + np.log(c[-1] / c[0]) / (triggers.PACE * rounds)
    found = spoke[1:].mean(axis=0)
    assert (found > least - 1e-9).all()
    assert compress is SIGN_TOPK or np.allclose(found, least, atol=1e-9)


def test_where_messages_cannot_keep_up_workers_speak_more_often_than_asked(path):
    """A threshold that follows without a bound ends with a consensus distance of 5000 here."""
    falls = {"schedule": {"kind": "step", "milestones": [0.5]}}
    half = lockstep(tables(path, 800, SIGN_TOPK, share=0.5) | falls)
    spoke, _, trainer = watched(tables(path, 800, SIGN_TOPK, share=0.2) | falls)
    assert spoke[600:].mean() > 0.3
    assert trainer.figures["consensus"] < 10 * half.figures["consensus"]


def test_all_speak_while_the_learning_rate_warms_up(path):
    spoke, c, _ = watched(tables(path, 120, share=0.3) | {"schedule": {"warmup": 20 * TAU}})
    assert spoke[:20].all() and (c[:19] == 0).all() and (c[20:] > 0).all()
    assert not spoke[60:].all(axis=0).any()


def test_equals_the_rule_written_out():
    share, rows, device = 0.3, np.zeros((2, 2)), Host()
    s = np.exp(3 * np.sin(np.arange(80) / 3)[:, None] + np.array([0.0, 5.0]))
    c = triggers.START * s[0]
    for r in range(80):
        triggers.resize(rows, s[r], share, device)
        if r:
            c = [min(old * exp(triggers.PACE * ((now > old) - share)), triggers.ROOM / share * least)
                 for old, now, least in zip(c, s[r], s[:r + 1].min(axis=0))]
        assert np.allclose(triggers.thresholds(rows, device), c, rtol=1e-12, atol=0)


def test_a_stopped_run_goes_on_with_its_thresholds(path, tmp_path):
    given = tables(path, 150, share=0.5)
    run(given, tmp_path / "whole.h5")
    interrupted(given, tmp_path / "parts.h5", step=100 * TAU)
    run(given, tmp_path / "parts.h5", resume=True)
    whole, parts = content(tmp_path / "whole.h5"), content(tmp_path / "parts.h5")
    rounds = whole["train/bytes_sent"][110 * TAU - 1::TAU]
    assert rounds.any() and not rounds.all()  # some are silent
    assert all(np.array_equal(parts[name], whole[name]) for name in whole)


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_size_the_same_thresholds_as_one_process(path, tmp_path, ranks):
    given = tables(path, 120, share=0.5) | {"dtype": "float32", "deterministic": True}
    (tmp_path / "runs.json").write_text(json.dumps({"ranks": given}))
    script = str(Path(__file__).with_name("train_many.py"))
    status, out, err = coopmpi(tmp_path / "runs.json", tmp_path, ranks=ranks, main=(script,))
    assert status == 0, out + err
    run(given, tmp_path / "alone.h5")
    alone, found = content(tmp_path / "alone.h5"), content(tmp_path / "ranks.h5")
    assert not alone["train/bytes_sent"][80 * TAU - 1::TAU].all()  # some are silent
    for name in ("final/x", "train/loss", "train/bytes_sent"):
        assert np.array_equal(found[name], alone[name]), name


@pytest.mark.parametrize("given", [{"threshold": 5.0}, {"growth": 1.0}])
def test_a_share_and_a_constant_exclude_each_other(path, given):
    with pytest.raises(UserError, match="share = 0.5 does not read algorithm"):
        lockstep(tables(path, 2, share=0.5, **given))
