"""Runs over several hosts, which are network namespaces: rows travel between them in pieces."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from benchmarks import wire
from benchmarks.hosts import hosts
from coopmpi import config
from coopmpi.drivers.solo import Solo
from coopmpi.run.assemble import assemble
from coopmpi.run.session import train
from tests.runs import VARIANTS, read, settings
from tests.test_survive import OPEN_MPI, check, tables, whole

LIMIT = 100  # seconds
pytestmark = [pytest.mark.mpi, pytest.mark.skipif(not OPEN_MPI, reason="hosts are joined by Open MPI")]


@pytest.fixture(scope="module")
def network():
    try:
        with hosts(4, 1000) as found:
            yield found
    except PermissionError as error:
        pytest.skip(str(error))


def run(network, options, *words, cwd=None):
    """Start a rank on each host; what they wrote to stderr."""
    command, environment = network.mpirun(*options)
    done = subprocess.run([*command, sys.executable, *map(str, words)], env=environment, cwd=cwd, capture_output=True, text=True,
                          timeout=LIMIT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stderr


def described(variant):
    """Models of 120 kB, packets of 90 kB."""
    return read({"workers": 6, "steps": 12, "deterministic": True, "device": "cpu", "algorithm": VARIANTS[variant],
                 "task": {"data": "digits", "hidden": [400], "batch": 8}, "period": {"tau": 3}, "mixing": {"lazy": True},
                 "compress": {"kind": "topk", "fraction": 0.5}})


def test_bits_do_not_depend_on_the_hosts(network, tmp_path):
    runs = {name: described(name) for name in
            ("local-sgd", "dpa", "d-psgd", "gradient-tracking", "choco-sgd", "squarm-sgd-share", "double-compressed")}
    (tmp_path / "runs.json").write_text(json.dumps(runs))
    run(network, (), Path(__file__).with_name("train_many.py"), tmp_path / "runs.json", tmp_path)
    for name, given in runs.items():
        train(assemble(config.resolve(given), Solo()), Solo(), tmp_path / "alone.h5", overwrite=True)
        with h5py.File(tmp_path / "alone.h5") as alone, h5py.File(tmp_path / f"{name}.h5") as found:
            assert found.attrs["ranks"] == 4
            for dataset in ("final/x", "train/loss", "train/bytes_sent"):
                assert np.array_equal(alone[dataset][:], found[dataset][:]), (name, dataset)


@pytest.mark.parametrize("variant", ["dpa", "choco-sgd"])
def test_a_rank_is_lost_while_pieces_travel(network, tmp_path, variant):
    shutil.copy(Path(__file__).with_name("deadly.py"), tmp_path)
    given = tables(variant, calls=[[2, "coopmpi.drivers.mpi.transfer:Rows._post_ready", 20, True]], pause=0.02, numbers=200_000)
    whole(tmp_path, given)
    run(network, ("--with-ft", "ulfm"), "-m", "coopmpi", "train", "--survive", "--quiet", "-o", "run.h5", *settings(given), cwd=tmp_path)
    check(tmp_path, 1)


@pytest.mark.parametrize("algorithm, kind", [("d-psgd", "none"), ("local-sgd", "none"), ("local-sgd", "fp16"), ("choco-sgd", "topk"),
                                            ("double-compressed", "sign")])
def test_bytes_are_those_on_the_wire(network, tmp_path, algorithm, kind):
    counted, sent = wire.measured(network, tmp_path, wire.described(algorithm, kind))
    assert 0.98 < sent / counted / wire.HEADERS < 1.05
