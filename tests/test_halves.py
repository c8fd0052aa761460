"""Whole vectors as 16-bit numbers: what every algorithm may send, and what rounding may not touch."""

import h5py
import numpy as np
import pytest

from coopmpi import config, registry
from coopmpi.contract.algorithm import Trial
from coopmpi.drivers.solo import Solo
from coopmpi.errors import UserError
from coopmpi.run.assemble import assemble
from coopmpi.step import Mean, Mix
from tests.runs import VARIANTS, coopmpi, lockstep, read, settings

M, D = 6, 60
DENSE = [name for name, table in VARIANTS.items() if not registry.parts("algorithm")[table["kind"]].uses_compress]
TAKING = [name for name in DENSE if registry.parts("algorithm")[VARIANTS[name]["kind"]].takes_halves]


def half(x):
    return x.astype("float16").astype(x.dtype)


def asked(request, **tables):
    """The answer that a run with [compress] kind = "fp16" gives to one request, and its driver."""
    job = Trial({"algorithm": {"kind": "d-psgd"}, "compress": {"kind": "fp16"}, "dtype": "float64"} | tables).start()

    def step():
        return (yield request)

    job.driver.at(0)
    return job.driver.drive(step()), job.driver


@pytest.fixture
def x():
    return np.random.default_rng(1).standard_normal((M, D))


def test_a_mean_is_rounded_on_both_ways(x):
    answer, driver = asked(Mean(x))
    assert np.array_equal(answer, half(sum(half(x)) * (1 / M))[None])
    assert driver.sent.sum() == 2 * (M - 1) * 2 * D


def test_a_mean_near_something_is_rounded_in_the_difference(x):
    near = 100 + np.random.default_rng(2).standard_normal((1, D))
    answer, _ = asked(Mean(near + 1e-3 * x, near=near))
    assert abs(answer - near - 1e-3 * x.mean(axis=0)).max() < 1e-6
    alone, _ = asked(Mean(near + 1e-3 * x))
    assert abs(alone - near - 1e-3 * x.mean(axis=0)).max() > 1e-3  # what rounded models would lose


def test_what_must_be_exact_and_what_groups_average_is_not_rounded(x):
    assert np.allclose(asked(Mean(x, exact=True))[0], x.mean(axis=0), rtol=1e-14)
    assert np.allclose(asked(Mean(x, group=2))[0][::2], x.reshape(3, 2, D).mean(axis=1), rtol=1e-14)


@pytest.mark.parametrize("graph", ["ring", "complete", "one-peer-exponential"])
def test_a_mix_keeps_the_mean_of_what_is_mixed(x, graph):
    answer, driver = asked(Mix(x, 1), mixing={"graph": graph})
    w = driver.wiring.mixing.matrix(1).toarray()
    assert np.allclose(answer, x + w @ half(x) - half(x), atol=1e-14)
    assert np.allclose(answer.mean(axis=0), x.mean(axis=0), atol=1e-14)
    assert abs(answer - w @ x).max() > 1e-6  # something was rounded
    assert driver.sent.sum() == 2 * D * np.count_nonzero(w - np.diag(np.diag(w)))


def tables(variant, kind, **more):
    return read({"workers": M, "steps": 120, "deterministic": True, "device": "cpu", "algorithm": VARIANTS[variant],
                 "task": {"data": "digits", "hidden": [16], "batch": 8}, "period": {"tau": 4}, "mixing": {"lazy": True},
                 "compress": {"kind": kind}} | more)


@pytest.mark.parametrize("kind", ["fp16", "bf16"])
@pytest.mark.parametrize("variant", TAKING)
def test_every_algorithm_sends_half_and_loses_little(variant, kind):
    whole, rounded = (lockstep(tables(variant, name)) for name in ("none", kind))
    assert rounded.log.sent == whole.log.sent / 2
    assert not np.array_equal(rounded.state.x, whole.state.x)
    assert rounded.figures["train_loss"] == pytest.approx(whole.figures["train_loss"], rel=0.02)


def test_other_compressors_are_left_to_the_algorithms_that_use_them():
    assert np.array_equal(lockstep(tables("local-sgd", "sign")).state.x, lockstep(tables("local-sgd", "none")).state.x)


def test_weighted_and_grouped_averages_are_refused():
    assert set(DENSE) - set(TAKING) == {"cooperative"}
    with pytest.raises(UserError, match="cooperative averages may not be rounded"):
        assemble(config.resolve(tables("cooperative", "bf16")), Solo())


def test_the_run_description_in_the_result_says_so():
    for kind in ("fp16", "none"):
        assert f'kind = "{kind}"' in config.dump(config.resolve(tables("local-sgd", kind)))


@pytest.mark.mpi
@pytest.mark.parametrize("variant", ["sync-sgd", "local-sgd", "overlap-local-sgd", "d-psgd", "easgd-overlap", "streaming-diloco"])
def test_ranks_and_an_interruption_change_nothing(tmp_path, variant):
    words = [*settings(tables(variant, "fp16")), "--quiet"]
    for arguments, ranks in ((["train", *words, "-o", "alone.h5"], None), (["train", *words, "-o", "four.h5"], 4),
                             (["train", *words, "--set=steps=50", "--set=checkpoint.keep_final=true", "-o", "two.h5"], 2),
                             (["resume", "two.h5", "--quiet", "--set=steps=120"], 3)):
        status, out, err = coopmpi(*arguments, ranks=ranks, cwd=tmp_path)
        assert status == 0, out + err
    with h5py.File(tmp_path / "alone.h5") as alone:
        for other in ("four.h5", "two.h5"):
            with h5py.File(tmp_path / other) as file:
                for name in ("final/x", "train/loss", "train/bytes_sent"):
                    assert np.array_equal(file[name][:], alone[name][:]), (other, name)
