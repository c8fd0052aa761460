"""The result file: its layout is a contract, and its numbers are what they say they are."""

import subprocess
import sys
import threading
import tomllib
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as trying
from hypothesis import strategies as st

from coopmpi import __version__, config
from coopmpi.device.host import Host
from coopmpi.drivers.rank_layout import RankLayout
from coopmpi.drivers.solo import Solo
from coopmpi.drivers.stopwatch import Stopwatch
from coopmpi.errors import CoopError
from coopmpi.record.schema import layout_table
from coopmpi.run.assemble import assemble
from coopmpi.run.feed import MOST, Feed
from coopmpi.run.resume import standing
from coopmpi.run.session import train
from coopmpi.run.step_log import BLOCK, StepLog, Table
from tests.runs import coopmpi, read, settings, write_quadratic

D = 5


def record(folder, tables, dimension=D):
    """Train on a quadratic in this process and return the path of the result."""
    path = write_quadratic(folder / "q.h5", tables["workers"], dimension)
    tables = {"task": {"kind": "quadratic", "path": path}} | tables
    train(assemble(config.resolve(tables), Solo()), Solo(), folder / "run.h5")
    return folder / "run.h5"


# layout
T, M, E = 12, 3, 5  # steps, workers, evaluations: every 3 steps and before the first
LAYOUT = {
    "worker": ((M,), "int64", "1"),
    "train/step": ((T,), "int64", "1"),
    "train/loss": ((T, M), "float32", "1"),
    "train/wall_time": ((T,), "float64", "s"),
    "train/compute_time": ((T, M), "float32", "s"),
    "train/wait_time": ((T, M), "float32", "s"),
    "train/bytes_sent": ((T, M), "float64", "B"),
    "train/tau": ((T,), "int32", "1"),
    "train/lr": ((T,), "float64", "1"),
    "train/pause_time": ((T,), "float32", "s"),
    "eval/step": ((E,), "int64", "1"),
    "eval/loss": ((E,), "float64", "1"),
    "eval/consensus": ((E,), "float64", "1"),
    "eval/wall_time": ((E,), "float64", "s"),
    "rounds/step": ((0,), "int64", "1"),
    "rounds/posted": ((0,), "float64", "s"),
    "rounds/finished": ((0,), "float64", "s"),
    "rounds/waited": ((0,), "float64", "s"),
    "rounds/hidden": ((0,), "float64", "1"),
    "rounds/bytes": ((0,), "float64", "B"),
    "final/x": ((M, D), "float64", "1"),
    "final/mean": ((D,), "float64", "1"),
}
SMALL = {"workers": M, "steps": T, "dtype": "float64", "record": {"eval_every": 3}, "period": {"tau": 4}}


def test_the_layout_is_that_of_the_contract(tmp_path):
    with h5py.File(record(tmp_path, SMALL)) as file:
        found = []
        file.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
        assert set(found) == {*LAYOUT, "config", "events", "event", "final/parameter"}
        for name, (shape, dtype, units) in LAYOUT.items():
            assert file[name].shape == shape and file[name].dtype == dtype, name
            assert file[name].attrs.get("units") == units, name
            assert file[name].attrs["description"]
        for group in ("train", "eval", "rounds"):
            for name, data in file[group].items():
                if name != "step":
                    assert data.dims[0][0] == file[group]["step"]
                if data.ndim == 2:
                    assert data.dims[1][0] == file["worker"]
            assert "coordinates" not in file[group].attrs or file[group].attrs["coordinates"] == "wall_time"
        assert file["final/x"].dims[0][0] == file["worker"]
        for data, axis in ((file["final/x"], 1), (file["final/mean"], 0)):
            assert data.dims[axis][0] == file["final/parameter"] and not file["final/parameter"].id.get_storage_size()
        assert file["worker"][:].tolist() == [0, 1, 2]
        assert "without evaluation and writing" in file["train/wall_time"].attrs["description"]

        attributes = dict(file.attrs)
        assert attributes["format"] == "coopmpi-run" and attributes["status"] == b"finished"
        assert attributes["coopmpi"] == __version__ and attributes["ranks"] == 1 and attributes["device"] == "cpu"
        resolved = tomllib.loads(file["config"][()].decode())
        assert resolved["steps"] == T and resolved["workers"] == M and resolved["optimizer"]["lr"] == 0.1
        assert set(file["events"].dtype.names) == {"step", "wall_time", "kind", "text"} and not len(file["events"])


def test_the_layers_of_a_network_are_listed(tmp_path):
    tables = {"workers": 2, "steps": 1, "task": {"kind": "classify", "hidden": [70]}}
    with h5py.File(record(tmp_path, tables)) as file:
        layout, row = file["final/layout"][:], file["final/x"][1]
        assert layout.dtype["offset"] == layout.dtype["size"] == layout.dtype["shape"].base == "i8"
        assert layout["name"].tolist() == [b"1.dense.weight", b"1.dense.bias", b"3.dense.weight.T", b"3.dense.bias"]
        shapes = [tuple(entry["shape"][:entry["ndim"]]) for entry in layout]
        assert shapes == [(64, 70), (70,), (10, 70), (10,)]  # (inputs, outputs), or the transpose if its name says so
        assert layout["size"].tolist() == [int(np.prod(shape)) for shape in shapes]
        assert np.array_equal(layout["offset"], np.cumsum([0, *layout["size"][:-1]])) and layout["size"].sum() == len(row)


def test_a_layout_keeps_long_names_and_scalars():
    long, scalar = "\u00e4" * 99, "s"
    table = layout_table([(long, (2, 3, 4), 0), (scalar, (), 24)])
    assert [name.decode() for name in table["name"]] == [long, scalar]
    assert table["ndim"].tolist() == [3, 0] and table["size"].tolist() == [24, 1] and table["shape"].tolist() == [[2, 3, 4], [0, 0, 0]]
    assert layout_table([(scalar, (), 0)])["shape"].tolist() == [[0]]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("mode", ["train", "simulate", "time-only"])
def test_xarray_opens_the_file_and_each_group_as_it_is(tmp_path, mode):
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("h5netcdf")
    tables = {"workers": M, "steps": T, "record": {"eval_every": 3}, "task": {"kind": "classify", "hidden": [7]}}
    train(assemble(config.resolve(tables), Solo(), mode), Solo(), tmp_path / "run.h5")
    times = {"wall_time"} if mode == "train" else {"wall_time", "virtual_time"}
    with xarray.open_datatree(tmp_path / "run.h5", engine="h5netcdf") as tree, h5py.File(tmp_path / "run.h5") as file:
        tree.load()
        assert {name for name, item in file.items() if isinstance(item, h5py.Group)} == set(tree.children)
        assert set(tree["train"].coords) == {"step", "worker"} | times
        if mode != "time-only":
            assert np.array_equal(tree["final/x"], file["final/x"][:]) and tree["final/x"].dims == ("worker", "parameter")
            assert np.array_equal(tree["final/layout"].values["offset"], file["final/layout"]["offset"])
        groups = ["/", *tree.children]
    for group in groups:
        with xarray.open_dataset(tmp_path / "run.h5", engine="h5netcdf", group=group) as found:
            found.load()
            assert all(found[name].attrs["units"] and found[name].attrs["description"] for name in found.variables
                       if name not in ("config", "events", "layout"))
    with xarray.open_dataset(tmp_path / "run.h5", engine="h5netcdf", group="train") as found:
        assert found.wait_time.dims == ("step", "worker") and found.wait_time.attrs["units"] == "s"
        assert found.step.values.tolist() == list(range(1, T + 1)) and float(found.bytes_sent.sel(step=8).sum()) > 0


# numbers
def test_figures_are_those_of_the_models(tmp_path):
    """Local SGD on the quadratic in plain float64: x <- x - lr a (x - b), averaged every tau steps."""
    m, tau, steps, lr = 4, 3, 10, 0.1
    tables = {"workers": m, "steps": steps, "dtype": "float64", "record": {"eval_every": 1},
              "period": {"tau": tau}, "optimizer": {"lr": lr}}
    path = record(tmp_path, tables)
    with h5py.File(tmp_path / "q.h5") as file:
        a, b, x = file["a"][:], file["b"][:], np.tile(file["x0"][:], (m, 1))
    consensus, objective, losses = [], [], []
    for k in range(steps + 1):
        mean = x.mean(axis=0)
        consensus.append(((x - mean) ** 2).sum() / m)
        objective.append((0.5 * a * (mean - b) ** 2).sum() / m)
        losses.append((0.5 * a * (x - b) ** 2).sum(axis=1))
        last, x = x, x - lr * a * (x - b)
        if (k + 1) % tau == 0:
            x = np.tile(x.mean(axis=0), (m, 1))
    with h5py.File(path) as file:
        np.testing.assert_allclose(file["eval/consensus"][:], consensus, rtol=1e-10, atol=1e-28)
        np.testing.assert_allclose(file["eval/loss"][:], objective, rtol=1e-12)
        assert set(file["eval"]) == {"step", "wall_time", "loss", "consensus"}  # what this task declares
        np.testing.assert_allclose(file["train/loss"][:], losses[:-1], rtol=1e-6)
        np.testing.assert_allclose(file["final/x"][:], last, rtol=1e-12)
        np.testing.assert_allclose(file["final/mean"][:], last.mean(axis=0), rtol=1e-12)


def test_time_goes_on_and_contains_the_computation(tmp_path):
    tables = {"workers": 4, "steps": 300, "task": {"kind": "classify", "hidden": [16]}}
    with h5py.File(record(tmp_path, tables)) as file:
        wall, compute, wait = (file["train"][name][:] for name in ("wall_time", "compute_time", "wait_time"))
        assert wall[0] > 0 and (np.diff(wall) > 0).all()
        assert (compute > 0).all() and (wait >= 0).all()
        # one process does all: its columns are alike, and no longer than the step
        assert (compute == compute[:, :1]).all()
        assert (compute[:, 0] + wait[:, 0] <= np.diff(wall, prepend=0) * 1.001).all()
        at = file["eval/step"][:]
        assert at[0] == 0 and (file["eval/wall_time"][1:] >= wall[at[1:] - 1]).all()
        assert (file["eval/wall_time"][1:-1] < wall[at[1:-1]]).all()


def ring_all_reduce(m):
    return 2 * (m - 1) / m


# algorithm and mixing, workers, vectors that each worker sends in a round (all alike, or one by one)
TRAFFIC = {
    "ring": ({"graph": "ring"}, 6, 2),
    "torus": ({"graph": "torus", "shape": [3, 4]}, 12, 4),
    "hypercube": ({"graph": "hypercube"}, 8, 3),
    "star": ({"graph": "star"}, 5, [4, 1, 1, 1, 1]),
    "exponential": ({"graph": "exponential"}, 8, 3),
    "one-peer": ({"graph": "one-peer-exponential"}, 8, 1),
    "random-regular": ({"graph": "random-regular", "degree": 3}, 10, 3),
    "complete": ({"graph": "complete"}, 6, ring_all_reduce(6)),
}


@pytest.mark.parametrize("graph", TRAFFIC)
@pytest.mark.parametrize("dtype, itemsize", [("float32", 4), ("float64", 8)])
def test_bytes_sent_over_a_graph_are_degree_times_model(tmp_path, graph, dtype, itemsize):
    mixing, m, vectors = TRAFFIC[graph]
    tables = {"workers": m, "steps": 7, "dtype": dtype, "algorithm": {"kind": "dpa"}, "mixing": mixing,
              "period": {"tau": 3}}
    expected = np.zeros((7, m))
    expected[[2, 5]] = np.multiply(vectors, itemsize * D)
    with h5py.File(record(tmp_path, tables)) as file:
        np.testing.assert_allclose(file["train/bytes_sent"][:], expected, rtol=1e-15)
        assert (file["train/tau"][:] == 3).all()


@pytest.mark.parametrize("algorithm, tau, rounds, vectors", [
    ({"kind": "sync-sgd"}, 1, range(7), ring_all_reduce(6)),
    ({"kind": "local-sgd"}, 3, [2, 5], ring_all_reduce(6)),
    ({"kind": "easgd"}, 3, [2, 5], ring_all_reduce(6)),
    ({"kind": "easgd", "overlap": True}, 3, [2, 5], ring_all_reduce(6)),
    ({"kind": "d-psgd"}, 1, range(7), 2),
], ids=lambda value: value.get("kind") if isinstance(value, dict) else None)
def test_bytes_sent_by_each_algorithm(tmp_path, algorithm, tau, rounds, vectors):
    tables = read({"workers": 6, "steps": 7, "algorithm": algorithm, "period": {"tau": 3}})
    expected = np.zeros((7, 6))
    expected[list(rounds)] = vectors * 4 * D
    with h5py.File(record(tmp_path, tables)) as file:
        np.testing.assert_allclose(file["train/bytes_sent"][:], expected, rtol=1e-15)
        assert (file["train/tau"][:] == tau).all()


# rows on their way
ROW = np.dtype([("loss", "f4"), ("bytes_sent", "f8")])


@given(st.data())
@trying(max_examples=50, deadline=None)
def test_rows_are_handed_on_in_order_however_they_arrive(data):
    """Every rank hands over its steps in blocks of any length, ranks run ahead of each other, nothing is lost."""
    steps, ranks = data.draw(st.integers(1, 300)), data.draw(st.integers(1, 4))
    workers = data.draw(st.integers(ranks, 6))
    numbers = data.draw(st.permutations(range(workers)))  # a node's ranks need not host neighbours
    cuts = RankLayout(workers, ranks)
    sources = {rank: sorted(numbers[i] for i in cuts.hosted(rank)) for rank in range(ranks)}
    table, taken = Table(sources, ROW.itemsize, 0, 64), []
    full = np.empty((steps, workers), ROW)
    full["loss"], full["bytes_sent"] = (np.arange(steps * workers).reshape(steps, workers) + shift for shift in (0, 2**40 + 1))
    reached = [0] * ranks
    while min(reached) < steps:
        rank = data.draw(st.sampled_from([r for r in range(ranks) if reached[r] < steps]))
        begin, end = reached[rank], min(steps, reached[rank] + data.draw(st.sampled_from([1, 7, 63, 64, 150])))
        table.put(rank, begin, full[begin:end, sources[rank]].T.ravel())
        reached[rank] = end
        first, block = table.take()
        assert first == len(taken)
        taken.extend(block.view(ROW).T)
        assert len(taken) == table.taken == min(reached)
    assert np.array_equal(np.array(taken), full)


BY_NODE = """
from coopmpi.drivers.mpi import world
world.on_one_node = lambda comm: comm.Split(comm.rank % {nodes})
from coopmpi.cli import main
main()
"""


@pytest.mark.mpi
@pytest.mark.parametrize("nodes", [2, 3])
def test_rows_come_by_the_first_ranks_of_nodes(tmp_path, nodes):
    """The ranks of a node host workers that are no neighbours; a sum of what each sends tells them apart."""
    words = ["train", "--quiet", *settings({"workers": 7, "steps": 150, "deterministic": True, "device": "cpu",
                                           "algorithm": {"kind": "d-psgd"}, "mixing": {"graph": "star"}})]
    status, out, err = coopmpi(*words, "-o", "alone.h5", cwd=tmp_path)
    assert status == 0, out + err
    status, out, err = coopmpi(*words, "-o", "nodes.h5", ranks=5, cwd=tmp_path, main=("-c", BY_NODE.format(nodes=nodes)))
    assert status == 0, out + err
    with h5py.File(tmp_path / "alone.h5") as alone, h5py.File(tmp_path / "nodes.h5") as file:
        for name in ("train/step", "train/loss", "train/bytes_sent", "final/x"):
            assert np.array_equal(file[name][:], alone[name][:]), name
        assert len(np.unique(file["train/bytes_sent"][0])) > 1  # the hub of a star sends more
        assert (file["train/compute_time"][:] > 0).all()


def test_a_summary_holds_mean_least_and_most(tmp_path):
    path = record(tmp_path, SMALL)
    with h5py.File(path) as file:
        losses, sent = file["train/loss"][:], file["train/bytes_sent"][:]
    path.unlink()
    with h5py.File(record(tmp_path, SMALL | {"record": {"eval_every": 3, "per_worker": "summary"}})) as file:
        assert np.array_equal(file["train/loss"], losses.mean(axis=1, dtype=float).astype("f4"))
        assert np.array_equal(file["train/loss_min"], losses.min(axis=1))
        assert np.array_equal(file["train/loss_max"], losses.max(axis=1))
        assert np.array_equal(file["train/bytes_sent"], sent.mean(axis=1))
        assert file["train/compute_time_max"].shape == (T,)
        assert file["train/loss_max"].attrs["description"].endswith("most of all workers")
        assert file["train/loss_min"].dims[0].keys() == ["step"]
    status, out, err = coopmpi("inspect", path)
    assert status == 0 and "of the time, on average" in out, out + err


def test_a_file_that_was_not_closed_is_not_finished(tmp_path):
    """Its writer was killed between the last word and the closing."""
    path = record(tmp_path, SMALL)
    assert standing(path).done
    leave = f"import h5py, os; file = h5py.File({str(path)!r}, 'r+', libver='latest'); file.swmr_mode = True; os._exit(0)"
    subprocess.run([sys.executable, "-c", leave], check=True)
    assert not standing(path).done and standing(path).by_accident
    assert coopmpi("inspect", "--status", path)[1] == "running\n"


class Failing:
    """A result file on a disk that is full from the second row on."""

    def __init__(self):
        self.rows, self.status = [], None

    def open(self, about):
        pass

    def steps(self, row):
        if self.rows:
            raise CoopError("the disk is full")
        self.rows.append(row)

    def close(self, status):
        self.status = status


def test_what_the_writing_thread_meets_is_raised_by_a_later_call():
    feed = Feed(Failing())
    feed.begin(None)
    feed.steps(1)
    feed.settle()
    feed.steps(2)
    with pytest.raises(CoopError, match="full"):
        feed.settle()
    feed.settle()
    feed.close("failed")
    assert feed.result.rows == [1] and feed.result.status == "failed"


def test_a_slow_file_holds_back_a_limited_number_of_calls():
    """The memory of a run does not grow with a disk that does not follow."""
    go, begun = threading.Event(), threading.Event()

    class Slow(Failing):
        def steps(self, row):
            begun.set()
            go.wait()
            self.rows.append(row)

    feed = Feed(Slow())
    feed.begin(None)
    for row in range(MOST):
        feed.steps(row)
    assert begun.wait(10) and feed.result.rows == []
    blocked = threading.Thread(target=lambda: [feed.steps(MOST), feed.steps(MOST + 1)])
    blocked.start()
    blocked.join(0.2)
    assert blocked.is_alive()
    go.set()
    blocked.join(10)
    feed.close("finished")
    assert feed.result.rows == list(range(MOST + 2))


@pytest.mark.parametrize("below", [{}, {1: [1]}], ids=["a rank among others", "the first of its node"])
def test_a_rank_keeps_nothing_of_what_it_has_handed_over(below):
    sent = []
    world = SimpleNamespace(rank=1, below=below, hand_over=sent.append, handed_over=lambda: ())
    driver = SimpleNamespace(rank_layout=RankLayout(2, 2), hosted=range(1, 2), device=Host(), clocks=None, computing=(), waited=0.0,
                             sent=np.ones(1), rounds=[(0.0, 1.0, 0.5, 8.0)], k=0, world=world, stopwatch=Stopwatch())
    log = StepLog(driver, Feed())
    for k in range(10 * BLOCK):
        log.add(np.ones(1, np.float32), 0.1 * k, 1, 0.1)
    assert len(sent) == 10 and all(len(kept) == 0 for kept in vars(log).values() if isinstance(kept, list))
