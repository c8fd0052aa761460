"""Users' mistakes at the command line: exit status, one clear message, nothing left behind."""

import os
import subprocess
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.in_process import refused
from tests.runs import coopmpi, write_quadratic

PYTHON_TASKS = '''
import numpy as np

answer = 42

class Short:
    dimension = 3
    def initial(self): return np.zeros(2, "float32")
    def gradient(self, x, step): return x.sum(axis=1), x

def nothing(place): pass
def short(place): return Short()
'''


def write_inputs(folder):
    """Everything the cases below refer to."""
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(40, 4)), np.arange(40) % 3
    spoilt = x.copy()
    spoilt[7, 2] = np.nan
    np.savez(folder / "good.npz", x=x, y=y)
    np.savez(folder / "nan.npz", x=spoilt, y=y)
    np.savez(folder / "negative.npz", x=x, y=np.where(y == 2, -5, y))
    np.savez(folder / "far.npz", x=x, y=np.where(np.arange(40) == 11, 900, y))
    np.savez(folder / "pickled.npz", x=x, y=np.array([{"label": 1}] * 40, dtype=object))
    table = "".join(f"{a},{b},{'red' if i % 2 else 'blue'}\n" for i, (a, b, *_) in enumerate(x))
    (folder / "gap.csv").write_text(f"left,right,colour\n{table}".replace(f",{x[3, 1]},", ",,"))
    (folder / "cut.npz").write_bytes((folder / "good.npz").read_bytes()[:700])
    with h5py.File(folder / "whole.h5", "w") as file:
        file["x"], file["y"] = x, y
    (folder / "cut.h5").write_bytes((folder / "whole.h5").read_bytes()[:1500])
    header = bytes([0, 0, 8, 3, 0, 0, 0, 9, 0, 0, 0, 5, 0, 0, 0, 5])  # 9 images of 5 x 5
    (folder / "train-images-idx3-ubyte").write_bytes(header + bytes(100))
    (folder / "train-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 9]) + bytes(9))

    write_quadratic(folder / "q3.h5", 3)
    with h5py.File(folder / "no-b.h5", "w") as file:
        file["a"], file["x0"] = np.ones(2), np.ones(2)
    write_quadratic(folder / "q-nan.h5", 4)
    with h5py.File(folder / "q-nan.h5", "a") as file:
        file["b"][1, 2] = np.inf

    (folder / "parts.txt").write_text("0 1\n2 3\n")
    np.save(folder / "leaky.npy", np.full((4, 4), 0.3))
    (folder / "pytasks.py").write_text(PYTHON_TASKS)
    (folder / "unfinished.py").write_text("def task(place:\n")
    (folder / "broken.toml").write_text("steps = 5\n[task\nkind = 3\n")
    (folder / "latin.toml").write_bytes(b"# caf\xe9\nsteps = 5\n")
    (folder / "brackets.toml").write_text(f"a = {'[' * 5000}")
    (folder / "long.toml").write_text("# so long\n" * 200000)
    (folder / "flat.toml").write_text('task = "classify"\n')
    (folder / "a-folder").mkdir()


def values(*pairs):
    return [f"--set={pair}" for pair in pairs]


def on_graph(*pairs):
    return values("algorithm.kind=dpa", "workers=4", *pairs)


def quadratic(path):
    return values("task.kind=quadratic", f"task.path={path}", "workers=4")


def python_task(function, *pairs):
    return values("task.kind=python", f"task.function={function}", *pairs)


# arguments after `coopmpi train -o run.h5`, and what the message must say
CASES = {
    # the command line and the file
    "unknown option": (["--outptu"], ["--outptu"]),
    "no ranks": (["-n", "0"], ["0", "x>=1"]),
    "set without a value": (values("junk"), ["'junk'", "table.key=value"]),
    "set without a key": (values("=3"), ["'=3'", "table.key=value"]),
    "set below a value": (values("seed=1", "seed.deep=2"), ["seed.deep=2", "not a table"]),
    "no such file": (["nowhere.toml"], ["nowhere.toml", "does not exist"]),
    "a folder as file": (["a-folder"], ["a-folder", "cannot be read"]),
    "TOML syntax": (["broken.toml"], ["broken.toml", "line 2"]),
    "not UTF-8": (["latin.toml"], ["latin.toml", "utf-8"]),
    "task not a table": (["flat.toml"], ["[task]", "table", "'classify'"]),
    "set not a table": (values("mixing=3"), ["[mixing]", "table", "3"]),
    # keys and values
    "unknown table": (values("optimiser.lr=1"), ["'optimiser'", "'optimizer'"]),
    "unknown key": (values("optimizer.momentun=0.9"), ["[optimizer]", "'momentun'", "'momentum'"]),
    "unknown period key": (values("period.tua=3"), ["[period]", "'tua'", "'tau'"]),
    "wrong type": (values("optimizer.lr=fast"), ["[optimizer] lr", "float", "'fast'"]),
    "wrong type in a list": (values('task.hidden=[8, "x"]'), ["[task] hidden[1]", "int", "'x'"]),
    "wrong choice": (values("dtype=float16"), ["dtype", "'float16'"]),
    "steps and epochs": (values("steps=5", "epochs=2"), ["steps", "epochs", "5", "2"]),
    "no steps": (values("steps=0"), ["steps", ">= 1", "0"]),
    "endless epochs": (values("epochs=inf"), ["epochs", "finite", "inf"]),
    "negative lr": (values("optimizer.lr=-0.1"), ["[optimizer] lr", "> 0", "-0.1"]),
    "lr not a number": (values("optimizer.lr=nan"), ["[optimizer] lr", "finite", "nan"]),
    "nesterov alone": (values("optimizer.nesterov=true"), ["nesterov", "momentum > 0"]),
    # too large
    "seed of many digits": (values(f"seed={'9' * 5000}"), ["4300 digits"]),
    "seed of many bits": (values(f"seed=0x{'f' * 5000}"), ["seed", "9223372036854775807", "20000 bits"]),
    "many brackets": (values(f"task.hidden={'[' * 5000}"), ["20 deep"]),
    "many tables": (values(f"{'.'.join('a' * 500)}=1"), ["20 deep"]),
    "brackets in a file": (["brackets.toml"], ["brackets.toml", "20 deep"]),
    "a long file": (["long.toml"], ["long.toml", "1000000 characters"]),
    "many epochs": (values("epochs=1e308"), ["epochs", "1e+100"]),
    "more epochs than steps": (values("epochs=1e99"), ["epochs = 1e+99", "1e+15 steps"]),
    "wide": (values(f"task.hidden=[{10**18}]"), ["hidden", "1000000000000000"]),
    "wide twice": (values(f"task.hidden=[{10**14}, {10**14}]"), ["parameters each", "allowed"]),
    "many samples": (values("task.data=teacher", f"task.samples={10**18}"), ["samples", "1000000000000000"]),
    "many numbers": (values("task.data=teacher", f"task.samples={10**12}", f"task.features={10**12}"), ["samples x features"]),
    "large batch": (values(f"task.batch={2**40}"), ["batch", "1438", "65536"]),
    "many workers": (values(f"workers={10**9}"), ["workers", "1000000"]),
    "deep image": (values(f'task.layers=[{{type="conv", channels=1, kernel=1, padding={10**14}}}]'), ["one sample takes"]),
    "factor of steps": (values("schedule.kind=step", "schedule.factor_each=1e99",
                               "schedule.milestones=[1, 2, 3, 4]"), ["factor_each"]),
    "a long word": (values(f"task.model={'x' * 5000}"), ["model: unknown value 'xxx", "..."]),
    "a long name": ([f"{'x' * 5000}.toml"], ["xxx", "cannot be read"]),
    "a long path": (values(f"task.data={'x' * 5000}.npz"), ["xxx", "no such file"]),
    "not UTF-8 on the command line": (values("task.data=\udcff"), ["\\xff", "not UTF-8"]),
    "an escape on the command line": (values("task.data=\x1b[2J"), ["\\x1b[2J", "control characters"]),
    "weights not a name": (on_graph("mixing.weights=[]"), ["[]", "metropolis"]),
    "graph not a name": (on_graph("mixing.graph=[]"), ["[]", "graph"]),
    "a link in a million million": (on_graph("mixing.graph=erdos-renyi", "mixing.probability=1e-300"), ["no links"]),
    "nan in an array": (values("schedule.kind=step", "schedule.milestones=[nan]"), ["milestones", "finite"]),
    # names
    "algorithm": (values("algorithm.kind=local-sdg"), ["'local-sdg'", "'local-sgd'"]),
    "algorithm not a name": (values("algorithm.kind=[1]"), ["[1]", "local-sgd"]),
    "algorithm of another kind": (values("algorithm.kind=os.path:join"), ["os.path:join", "subclass"]),
    "optimizer": (values("optimizer.kind=adma"), ["'adma'", "'adam'"]),
    "task": (values("task.kind=clasify"), ["'clasify'", "'classify'"]),
    "model": (values("task.model=mpl"), ["'mpl'", "'mlp'"]),
    "partition": (values("task.partition=shard"), ["'shard'", "'shards'"]),
    "data": (values("task.data=digit"), ["'digit'", "'digits'"]),
    "graph": (on_graph("mixing.graph=rnig"), ["'rnig'", "'ring'"]),
    "weights": (on_graph("mixing.weights=metropolitan"), ["'metropolitan'", "'metropolis'"]),
    # graphs
    "hypercube of 6": (on_graph("mixing.graph=hypercube", "workers=6"), ["hypercube", "6"]),
    "missing graph": (on_graph("mixing.graph=none.txt"), ["none.txt"]),
    "disconnected graph": (on_graph("mixing.graph=parts.txt"), ["parts.txt", "not connected", "worker 2"]),
    "W not stochastic": (on_graph("mixing.graph=leaky.npy"), ["leaky.npy", "doubly stochastic", "1.2"]),
    # data
    "missing data": (values("task.data=none.npz"), ["none.npz"]),
    "truncated npz": (values("task.data=cut.npz"), ["cut.npz", "truncated"]),
    "truncated h5": (values("task.data=cut.h5"), ["cut.h5"]),
    "truncated IDX": (values("task.data=train-images-idx3-ubyte"), ["idx3", "truncated", "241", "116"]),
    "pickled": (values("task.data=pickled.npz"), ["pickled.npz", "pickle"]),
    "NaN in the data": (values("task.data=nan.npz"), ["nan.npz", "NaN", "row 7"]),
    "a gap in a table": (values("task.data=gap.csv"), ["gap.csv", "line 5, column 2 ('right')", "missing"]),
    "a key of tables": (values("task.data=good.npz", "task.label=colour"), ["label", "CSV", "good.npz", "no part"]),
    "negative labels": (values("task.data=negative.npz"), ["negative.npz", "negative", "row 2"]),
    "label out of range": (values("task.data=far.npz"), ["far.npz", "900", "row 11"]),
    "quadratic for others": (quadratic("q3.h5"), ["q3.h5", "4 workers", "(3, 7)"]),
    "quadratic without b": (quadratic("no-b.h5"), ["no-b.h5", "'b'"]),
    "quadratic with Inf": (quadratic("q-nan.h5"), ["q-nan.h5", "'b'", "finite"]),
    "quadratic not HDF5": (quadratic("good.npz"), ["good.npz", "HDF5"]),
    # the user's own code
    "no such module": (python_task("pytask:nothing"), ["pytask:nothing", "no module"]),
    "no such function": (python_task("pytasks:nothign"), ["'nothign'", "'nothing'"]),
    "no function named": (python_task("pytasks"), ["package.module:name", "'pytasks'"]),
    "syntax error": (python_task("unfinished:task"), ["unfinished", "line 1"]),
    "not a function": (python_task("pytasks:answer"), ["pytasks:answer", "42"]),
    "unknown options": (python_task("pytasks:nothing", "task.options.size=3"), ["pytasks:nothing", "size"]),
    "returns nothing": (python_task("pytasks:nothing"), ["pytasks:nothing", "dimension", "None"]),
    "returns junk": (python_task("pytasks:short"), ["pytasks:short", "(3,)", "(2,)"]),
    # too much
    "out of memory": (values("task.hidden=[100000000000]"), ["not enough memory", "TiB"]),
}
STATUS = {"out of memory": 1}

# a case of each stage: options, run description, graph, data, user's code, memory
AMONG_RANKS = ["unknown option", "TOML syntax", "unknown key", "W not stochastic", "truncated npz",
               "NaN in the data", "a gap in a table", "returns junk", "out of memory"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder)
    return folder


def content(folder):
    """What lies there, but for what Python may leave beside a user's module."""
    return sorted(path for path in folder.iterdir() if path.name != "__pycache__")


def check(folder, case, **how):
    arguments, words = CASES[case]
    before = content(folder)
    status, out, err = coopmpi("train", "-o", "run.h5", *arguments, cwd=folder, limit=60, **how)
    assert status == STATUS.get(case, 2), out + err
    line = one_line(err)
    for word in words:
        assert word in line, f"{word!r} is not in: {line}"
    assert not out.strip()
    assert content(folder) == before


def one_line(err):
    """The only line of ours, among what mpirun says."""
    assert "Traceback" not in err and "Warning" not in err, err
    line, = [line for line in err.splitlines() if line.startswith("coopmpi: ") and "running as root" not in line]
    return line


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_is_told_in_one_line(folder, case):
    check(folder, case)


@pytest.mark.mpi
@pytest.mark.parametrize("case", AMONG_RANKS)
def test_among_ranks_one_of_them_tells_it(folder, case):
    check(folder, case, ranks=2)


@pytest.mark.mpi
@pytest.mark.parametrize("case", ["disconnected graph", "negative lr"])
def test_ranks_that_coopmpi_starts_do_so_too(folder, case):
    arguments, words = CASES[case]
    status, _, err = coopmpi("train", "-n", 2, "-o", "run.h5", *arguments, cwd=folder)
    assert status == 2 and all(word in one_line(err) for word in words)
    assert not (folder / "run.h5").exists()


@pytest.mark.mpi
def test_more_ranks_than_workers(folder):
    status, _, err = coopmpi("train", "-o", "run.h5", "--set=workers=2", ranks=3, cwd=folder)
    assert status == 2 and "3 ranks" in one_line(err) and "workers = 2" in err
    assert not (folder / "run.h5").exists()


# the result file
SHORT = ["--set=task.kind=quadratic", "--set=task.path=q.h5", "--set=workers=2", "--quiet"]


@pytest.fixture
def place(tmp_path):
    write_quadratic(tmp_path / "q.h5", 2)
    return tmp_path


@pytest.mark.parametrize("output, words", [
    ("nowhere/run.h5", ["'nowhere'", "does not exist"]),
    ("q.h5/run.h5", ["'q.h5'", "does not exist"]),
    (".", ["is a folder"]),
    ("q.h5", ["'q.h5'", "exists already", "--overwrite"]),
    ("/dev/null", ["'/dev/null'", "not a regular file"]),
])
def test_an_output_that_cannot_be(place, output, words):
    before = (place / "q.h5").read_bytes()
    overwrite = ["--overwrite"] if output == "/dev/null" else []
    status, _, err = coopmpi("train", *SHORT, "-o", output, *overwrite, cwd=place)
    assert status == 2 and all(word in one_line(err) for word in words), err
    assert sorted(path.name for path in place.iterdir()) == ["q.h5"] and (place / "q.h5").read_bytes() == before
    assert Path("/dev/null").is_char_device()


def test_an_output_in_a_folder_of_somebody_else(place):
    (place / "sealed").mkdir(mode=0o500)
    main = ("-m", "coopmpi")
    if os.geteuid() == 0:  # root may write everywhere
        place.chmod(0o755)
        (place / "sealed").chmod(0o755)
        # code is loaded while it can be read for certain
        main = ("-c", "import os, coopmpi.cli, coopmpi.cli.train, coopmpi.run.session, coopmpi.drivers.solo, "
                      "coopmpi.record.writer, coopmpi.drivers.mpi.launch, coopmpi.registry as r; "
                      "[r.parts(kind) for kind in r._HOMES]; import coopmpi.topology.mixing; "
                      "os.setgid(65534); os.setuid(65534); coopmpi.cli.main()")
    status, _, err = coopmpi("train", *SHORT, "-o", "sealed/run.h5", cwd=place, main=main)
    assert status == 2 and "'sealed'" in one_line(err) and "may not write" in err
    assert not list((place / "sealed").iterdir())


def test_overwriting_keeps_the_old_file_until_the_new_one_is_there(place):
    (place / "run.h5").write_text("precious")
    status, _, err = coopmpi("train", *SHORT, "-o", "run.h5", "--overwrite", "--set=task.path=none.h5", cwd=place)
    assert status == 2 and "none.h5" in one_line(err)
    assert (place / "run.h5").read_text() == "precious"
    status, _, err = coopmpi("train", *SHORT, "-o", "run.h5", "--overwrite", "--set=steps=3", cwd=place)
    assert status == 0, err
    with h5py.File(place / "run.h5") as file:
        assert file["train/step"].shape == (3,)


# a full disk: files are limited to so many bytes, before anything is written, at some row, at the final models
LIMITED = """
import resource, sys
import coopmpi.drivers.mpi.launch as launch
if launch.launched_ranks()[1]:
    import coopmpi.drivers.mpi.world  # MPI has files of its own
limit = int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
from coopmpi.cli import main
main()
"""


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [None, 2])
@pytest.mark.parametrize("limit, steps, leaves", [
    (20_000, 50, None),
    (250_000, 100_000, "rows"),
    (400_000, 20, "rows"),
], ids=["at once", "rows", "models"])
def test_a_full_disk_ends_the_run_with_one_message(place, ranks, limit, steps, leaves):
    dimension = 100_000 if limit == 400_000 else 5
    write_quadratic(place / "q.h5", 2, dimension)
    status, _, err = coopmpi(limit, "train", *SHORT, f"--set=steps={steps}", "-o", "run.h5", cwd=place,
                             ranks=ranks, main=("-c", LIMITED), limit=60)
    check_full(place / "run.h5", status, err, "File too large", leaves)


def check_full(path, status, err, reason, leaves):
    assert status == 1, err
    assert f"writing {path.name!r} failed: {reason}" in one_line(err)
    assert [entry.name for entry in path.parent.glob("*run*")] == ([path.name] if leaves else [])
    if leaves:
        with h5py.File(path) as file:
            assert file.attrs["status"] == b"failed"
            n = len(file["train/step"])
            assert n > 0 and all(len(file["train"][name]) == n for name in file["train"])
            assert np.isfinite(file["train/loss"][:]).all() and (file["train/loss"][:] > 0).all()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
@pytest.mark.parametrize("size, leaves", [("8k", None), ("400k", "rows")])
def test_a_disk_that_is_really_full(tmp_path, size, leaves):
    write_quadratic(tmp_path / "q.h5", 2)
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], capture_output=True,
                           check=False)
    if mount.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        status, _, err = coopmpi("train", *SHORT, "--set=task.path=../q.h5", "--set=steps=100000", "-o", "run.h5",
                                 cwd=disk)
        check_full(disk / "run.h5", status, err, "No space left on device", leaves)
    finally:
        subprocess.run(["umount", disk], check=True)


# other verbs; each answers within a second or so
@pytest.mark.parametrize("arguments, words", [
    (["graph", "ring", "-m", "100000000"], ["100000000", "1000000"]), (["graph", "ring", "--size", "nan"], ["--size", "nan"]),
    (["graph", "ring", "--size", "1e308"], ["--size", "1e+308"]), (["graph", "ring", "--seed", str(2**64)], ["--seed"]),
    (["graph", "cat" * 2000], ["unknown graph", "..."]), (["graph", "torus", "--shape", "[" * 5000], ["20 deep"]),
    (["simulate", "--dry-run", "--set=compute.seconds=1e30"], ["compute", "seconds", "1000000000", "1e+30"]),
    (["simulate", "--dry-run", "--set=network.latency=1e30"], ["network", "latency", "1000000000"]),
    (["graph", "matcha", "--budget", "\udcff"], ["UTF-8", "udcff"]),
    (["inspect", "x" * 5000], ["cannot be read"]), (["inspect", "/dev/zero"], ["device"]),
])
def test_what_is_too_large_for_others(arguments, words):
    begin = time.monotonic()
    message = refused(*arguments)
    assert all(word in message for word in words) and len(message) < 800, message
    assert time.monotonic() - begin < 2
