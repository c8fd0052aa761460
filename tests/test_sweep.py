"""coopmpi sweep as users start it: the file and the screen at its end, kills and signals, failures, several processes, Slurm."""

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest
import tomli_w

from coopmpi.record import sweeps
from coopmpi.sweep import ranking
from coopmpi.sweep.description import load
from tests import slurm_cluster
from tests.in_process import coopmpi as in_process
from tests.in_process import refused
from tests.runs import coopmpi, write_quadratic
from tests.slurm_cluster import Cluster, wait_until

ROOT = Path(__file__).parents[1]
TINY = {
    "title": "Two methods", "mode": "simulate", "seeds": [1, 2],
    "base": {"workers": 2, "steps": 40, "device": "cpu", "task": {"model": "linear", "batch": 16}, "period": {"tau": 4},
             "network": {"kind": "delay", "seconds": 4.0}, "record": {"eval_every": 4}},
    "tune": {"optimizer": {"lr": [0.1, 1e38]}},
    "score": {"figure": "train_loss", "target": "sync"}, "keep": {"rows": 16},
    "methods": [{"name": "sync", "set": {"algorithm.kind": "sync-sgd"}}, {"name": "local", "set": {"algorithm.kind": "local-sgd"}}],
}
NAMES = ("first", "second", "third")
STEPS = {"first": 20, "second": 500, "third": 20}  # of 4 ms
LASTING = {
    "seeds": [1], "base": {"workers": 2, "task": {"kind": "python", "function": "counted:Counted"}, "checkpoint": {"every_steps": 20}},
    "methods": [{"name": name, "set": {"steps": STEPS[name], "task.options.name": name}} for name in NAMES],
}
FINDS_THE_TASK = {"PYTHONPATH": str(ROOT)}


def write(folder, tables, name="s"):
    (folder / f"{name}.toml").write_text(tomli_w.dumps(tables))


def runs_of(path):
    """[(what is told of a run, its group's content)]."""
    with sweeps.open_sweep(path) as file:
        found = []
        for group, about in sweeps.runs(file):
            series = {name: {short: data[:] for short, data in group[name].items()} for name in ("train", "eval") if name in group}
            found.append((about, dict(group.attrs) | {"config": tomllib.loads(group["config"].asstr()[()]) if "config" in group else None} | series))
        return found


def on_a_terminal(columns, *arguments, cwd):
    """(exit status, what appears) of `coopmpi ARGUMENTS` on a terminal of that width."""
    process, terminal = pty.fork()
    if not process:
        os.chdir(cwd)
        os.environ |= {"COLUMNS": str(columns), "TERM": "xterm-256color"}
        os.execv(sys.executable, [sys.executable, "-m", "coopmpi", *arguments])
    said = b""
    try:
        while piece := os.read(terminal, 65536):
            said += piece
    except OSError:  # closed
        pass
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), said.decode().replace("\r\n", "\n")


def plain(text):
    return re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", text)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A folder with the tiny sweep after its end; said: what appeared on a terminal of 60 columns."""
    folder = tmp_path_factory.mktemp("tiny")
    write(folder, TINY)
    status, said = on_a_terminal(60, "sweep", "s.toml", cwd=folder)
    assert status == 0, said
    (folder / "said").write_text(said, newline="")
    return folder


# the file
def test_each_run_is_a_group_that_says_what_it_is(tiny):
    found = [(about["method"], about["role"], about["seed"], about["tuned"]["optimizer.lr"], about["failure"]) for about, _ in runs_of(tiny / "s.h5")]
    tuning = [(method, "tuning", 0, lr, "diverged" if lr > 1 else "") for method in ("sync", "local") for lr in (0.1, 1e38)]
    assert found == [*tuning, *((method, "final", seed, 0.1, "") for method in ("sync", "local") for seed in (1, 2))]
    with h5py.File(tiny / "s.h5") as file:
        assert file.attrs["format"] == "coopmpi-sweep" and file.attrs["format_version"] == 1
        assert tomllib.loads(file.attrs["sweep"]) == TINY


def test_a_group_holds_what_the_result_file_of_the_run_has(tiny):
    """... and one that repeats its run description gives the same numbers."""
    for about, kept in runs_of(tiny / "s.h5"):
        if about["role"] != "final":
            continue
        (tiny / "again.toml").write_text(tomli_w.dumps(kept["config"]))
        assert in_process("simulate", tiny / "again.toml", "-o", tiny / "again.h5", "--overwrite", "--quiet")[0] == 0
        with h5py.File(tiny / "again.h5") as file:
            assert kept["config"] == tomllib.loads(file["config"].asstr()[()])
            for name in file["eval"]:
                assert name == "wall_time" or np.array_equal(kept["eval"][name], file[f"eval/{name}"])
            # 40 steps in rows of three, and one ends at each evaluation
            ends = kept["train"]["step"]
            assert set(ends) == {*range(4, 41, 4), *range(3, 40, 3)} and kept["status"] == b"finished"
            each = file["train/bytes_sent"][:]
            np.testing.assert_allclose(np.cumsum(kept["train"]["bytes_sent"] * np.diff(ends, prepend=0)), np.cumsum(each)[ends - 1], rtol=1e-14)
            assert np.array_equal(kept["train"]["virtual_time"], file["train/virtual_time"][:][ends - 1])
            starts = [0, *ends[:-1]]
            loss = file["train/loss"][:].astype(float)
            np.testing.assert_allclose(kept["train"]["loss"], [loss[a:b].mean() for a, b in zip(starts, ends)], rtol=1e-6)
            for name, end in (("loss_min", np.min), ("loss_max", np.max)):
                assert np.array_equal(kept["train"][name], [end(file[f"train/{name}"][a:b]) for a, b in zip(starts, ends)])


def test_scores_in_the_file_are_those_of_the_series(tiny):
    found = {(about["method"], about["role"], about["seed"], about["failure"]): (about, kept) for about, kept in runs_of(tiny / "s.h5")}
    for (method, role, seed, failure), (about, kept) in found.items():
        if failure:
            assert np.isnan(about["final"]) and about["took"] == np.inf
            continue
        losses, reference = kept["eval"]["train_loss"][1:], found["sync", role, seed, ""][1]["eval"]["train_loss"]
        assert about["final"] == losses[-1] and about["target"] == pytest.approx(1.02 * reference[-1], rel=1e-15)
        step = kept["eval"]["step"][1:][losses <= about["target"]][0]
        # a gradient takes 1 s, an average 4
        assert about["took"] == (5 * step if method == "sync" else 2 * step)


def test_a_sweep_may_keep_no_series_of_the_tuning_and_evaluations_alone(tmp_path, tiny):
    write(tmp_path, TINY | {"keep": {"rows": 0, "tuning": False}})
    shutil.copytree(tiny / "s.runs", tmp_path / "s.runs")
    assert in_process("sweep", tmp_path / "s.toml", "-o", tmp_path / "s.h5", "--quiet")[0] == 0
    for about, kept in runs_of(tmp_path / "s.h5"):
        assert ("train" in kept) == ("eval" in kept) == (about["role"] == "final")
        if "train" in kept:
            assert kept["train"]["step"].tolist() == kept["eval"]["step"][1:].tolist()
    assert os.path.getsize(tmp_path / "s.h5") < os.path.getsize(tiny / "s.h5")


def test_xarray_opens_a_run(tiny):
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("h5netcdf")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with xarray.open_dataset(tiny / "s.h5", group="runs/4/train", engine="h5netcdf") as data:
            assert data.loss.dims == ("step",) and data.bytes_sent.attrs["units"] == "B"
            assert "several steps" in data.attrs["rows"]
        with xarray.open_datatree(tiny / "s.h5", engine="h5netcdf") as tree:
            assert "wall_time" in tree["runs/7/eval"].coords and tree["runs/7/eval"].loss.dims == ("step",)
            assert tree["runs/7"].attrs["role"] == "final"


# the screen
def test_the_closing_screen_ranks_and_warns(tiny):
    said = plain((tiny / "said").read_text().rpartition("\x1b[?25h")[2])
    table = [line.split() for line in said.splitlines() if line.startswith(("local", "sync"))]
    assert [row[0] for row in table] == ["local", "sync"] and table[0][1:3] == ["lr", "0.1"] and table[0][-1] == "1.00"
    assert "failed in tuning: 2 of 4 runs (2 diverged)" in said
    assert "optimizer.lr = 0.1, the smallest value that was tried, is the best for local; sync" in " ".join(said.split())


def test_the_live_view_fits_and_gives_the_cursor_back(tiny):
    with open(tiny / "said", newline="") as file:
        noted, view, _ = re.split(r"\x1b\[\?25[lh]", file.read())  # the cursor is hidden, and shown again
    assert noted == "coopmpi: sync does not read period.tau: left out there\n"
    lines = re.split(r"[\r\n]+", plain(view))
    assert max(map(len, lines)) <= 60 and any(" 4/8 runs  2 failed  ETA 0:" in line for line in lines)
    assert "  sync, tuning, lr 0.1" in lines and "  local, seed 2, lr 0.1" in lines


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_closing_screen_fits(tiny, width):
    lines = ranking.screen(load(tiny / "s.toml")[0], tiny / "s.h5", width).splitlines()
    assert max(map(len, lines)) <= width and any(line.startswith("local") for line in lines)


def test_a_finished_sweep_is_told_again_without_its_runs(tiny, tmp_path):
    shutil.copy(tiny / "s.h5", tmp_path)
    write(tmp_path, TINY)
    before = (tmp_path / "s.h5").read_bytes()
    status, out, message = in_process("sweep", tmp_path / "s.toml", "-o", tmp_path / "s.h5")
    assert (status, message) == (0, "") and "failed in tuning: 2 of 4" in out
    assert (tmp_path / "s.h5").read_bytes() == before and not (tmp_path / "s.runs").exists()


def test_compare_takes_the_file(tiny):
    status, out, message = in_process("compare", tiny / "s.h5", "--train-loss", "2", "--json")
    assert status == 0, message
    found = {row["run"]: row for row in json.loads(out)}
    assert len(found) == 2 and all(row["runs"] == 2 for row in found.values())
    told = {(about["method"], about["seed"]): kept for about, kept in runs_of(tiny / "s.h5") if about["role"] == "final"}
    for label, row in found.items():
        method = "sync" if "sync" in label else "local"
        assert row["train_loss"] == [told[method, seed]["eval"]["train_loss"][-1] for seed in (1, 2)]


# what is refused
def test_another_sweep_or_file_is_not_replaced(tiny, tmp_path):
    shutil.copy(tiny / "s.h5", tmp_path)
    write(tmp_path, TINY | {"seeds": [1]})
    assert "holds another sweep" in refused("sweep", tmp_path / "s.toml", "-o", tmp_path / "s.h5")
    (tmp_path / "o.h5").write_bytes(b"something else")
    assert "exists already" in refused("sweep", tmp_path / "s.toml", "-o", tmp_path / "o.h5")
    assert (tmp_path / "o.h5").read_bytes() == b"something else"


def test_mistakes_in_run_descriptions_are_told_before_any_run(tmp_path):
    for tables, says in (
            (TINY | {"methods": [*TINY["methods"], {"name": "c", "set": {"algorithm.kind": "dpa", "mixing.graph": "hypercube"}}], "base": TINY["base"] | {"workers": 3}},
             "hypercube"),
            (TINY | {"methods": [{"name": "sync", "set": {"algorithm.kind": "sync-sgd", "period.tau": 2}}]}, "method 'sync': algorithm.kind = \"sync-sgd\" does not read period.tau"),
            (TINY | {"tune": {"optimizer.lr": [0.1, -1.0]}}, "method 'sync': [optimizer] lr"), (TINY | {"base": {"wrkers": 3}}, "did you mean 'workers'")):
        write(tmp_path, tables)
        assert says in refused("sweep", tmp_path / "s.toml", "-o", tmp_path / "s.h5")
        assert {path.name for path in tmp_path.iterdir()} == {"s.toml"}


def test_a_run_that_is_refused_ends_the_sweep_with_its_message(tmp_path):
    write(tmp_path, TINY | {"base": TINY["base"] | {"task": {"data": "nowhere.npz"}}})
    assert "sync, seed 0: " in (said := refused("sweep", tmp_path / "s.toml", "-o", tmp_path / "s.h5")) and "nowhere.npz" in said


def test_an_unknown_figure_is_told(tmp_path):
    write(tmp_path, TINY | {"score": {"figure": "top5"}, "tune": {}, "seeds": [1], "methods": TINY["methods"][:1]})
    assert "no 'top5'; allowed: " in refused("sweep", tmp_path / "s.toml", "-o", tmp_path / "s.h5")


def test_a_dry_run_tells_what_there_is_to_do(tmp_path):
    write(tmp_path, TINY)
    status, out, _ = in_process("sweep", tmp_path / "s.toml", "--dry-run")
    assert status == 0 and "local: 2 runs to tune optimizer.lr, then 2" in out and "at most 10 runs" in out
    assert {path.name for path in tmp_path.iterdir()} == {"s.toml"}


def test_files_lie_beside_the_description_of_the_sweep(tmp_path, monkeypatch):
    write_quadratic(tmp_path / "q.h5", 2)
    write(tmp_path, {"mode": "simulate", "seeds": [1], "methods": [{"name": "m"}],
                     "base": {"workers": 2, "steps": 5, "task": {"kind": "quadratic", "path": "q.h5"}}})
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert in_process("sweep", tmp_path / "s.toml", "--quiet") == (0, "", "")
    (about, kept), = runs_of(elsewhere / "s.h5")
    assert about["failure"] == "" and kept["config"]["task"]["path"] == str(tmp_path / "q.h5")


# the example
def test_the_example_and_its_page(tmp_path):
    example = ROOT / "examples" / "sweep.toml"
    assert tomllib.loads(re.search(r"```toml\n(.*?)```", (ROOT / "docs" / "sweep.md").read_text(), re.DOTALL)[1]) == tomllib.loads(example.read_text())
    fewer = ("base.steps=60", "tune={}", "base.optimizer.lr=0.8", "seeds=[1]", "score.target=1.5")
    status, out, err = coopmpi("sweep", example, *(f"--set={key}" for key in fewer), cwd=tmp_path)
    assert status == 0 and "sweep.h5: 4 runs" in out, out + err
    ratios = {line.partition("  ")[0].split(" ")[0]: float(line.split()[-1]) for line in out.splitlines()[-5:-1]}
    # an average takes many times as long as a gradient
    assert len(ratios) == 4 and max(ratios, key=ratios.get) == "sync-sgd" and ratios["sync-sgd"] > 3


# going on
COUNTED = """
import os
from tests.slurm_task import Slow

class Counted(Slow):
    def __init__(self, place, name):
        super().__init__(place)
        with open("starts", "a") as file:
            file.write(f"{name}\\n")
"""


@pytest.fixture
def lasting(tmp_path):
    """A folder with a sweep of three runs, of which the second lasts; `starts` gets a line for each that is begun."""
    (tmp_path / "counted.py").write_text(COUNTED)
    write(tmp_path, LASTING)
    return tmp_path


def start(folder, *options):
    command = [sys.executable, "-m", "coopmpi", "sweep", "s.toml", "--cores", "1", *options]
    return subprocess.Popen(command, cwd=folder, env=os.environ | FINDS_THE_TASK, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def children(process):
    return [int(number) for number in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def started(folder):
    return (folder / "starts").read_text().split() if (folder / "starts").exists() else []


def in_the_second_run(folder, process):
    """Wait until the first run is done and the second has been saved; what tells the two from all others."""
    def there():
        assert process.poll() is None, process.communicate()
        return list(folder.glob("s.runs/second-*.h5.state/*/manifest.json"))

    wait_until(there, "the second run has a checkpoint")
    return identities(folder)


def identities(folder):
    found = {}
    for path in folder.glob("s.runs/*.h5"):
        with h5py.File(path, swmr=True) as file:
            found[path.name.partition("-")[0]] = file.attrs["run"]
    return found


def check_the_end(folder, before, starts):
    status, out, err = coopmpi("sweep", "s.toml", "--cores", "1", cwd=folder, environment=FINDS_THE_TASK)
    assert status == 0 and (folder / "s.h5").exists(), out + err
    after = identities(folder)
    assert len(after) == 3 and before.items() <= after.items() and started(folder) == starts
    assert all(about["failure"] == "" and kept["train"]["step"][-1] == STEPS[about["method"]] for about, kept in runs_of(folder / "s.h5"))


def test_after_a_kill_of_everything_it_goes_on_with_the_run_that_was_cut_off(lasting):
    process = start(lasting)
    before = in_the_second_run(lasting, process)
    run, = children(process)
    for number in (process.pid, run):
        os.kill(number, signal.SIGKILL)
    process.communicate()
    check_the_end(lasting, before, ["first", "second", "second", "third"])


def test_a_run_that_outlives_its_sweep_is_waited_for(lasting):
    process = start(lasting)
    before = in_the_second_run(lasting, process)
    process.kill()
    process.communicate()
    check_the_end(lasting, before, ["first", "second", "third"])


@pytest.mark.parametrize("number, whom", [(signal.SIGINT, "the sweep"), (signal.SIGTERM, "its run")])
def test_a_signal_stops_the_runs_and_keeps_what_is_there(lasting, number, whom):
    process = start(lasting)
    before = in_the_second_run(lasting, process)
    run, = children(process)
    os.kill(process.pid if whom == "the sweep" else run, number)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 3 and "1 of 3 runs are done, and the same command goes on" in err, out + err
    assert not Path(f"/proc/{run}").exists() and not (lasting / "s.h5").exists()
    check_the_end(lasting, before, ["first", "second", "second", "third"])


def test_a_killed_run_is_a_result_and_can_be_tried_again(lasting):
    process = start(lasting)
    in_the_second_run(lasting, process)
    os.kill(*children(process), signal.SIGKILL)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and "failed: second, seed 1: killed by SIGKILL" in out, out + err
    assert [about["failure"] for about, _ in runs_of(lasting / "s.h5")] == ["", "killed by SIGKILL", ""]
    status, out, _ = coopmpi("sweep", "s.toml", cwd=lasting, environment=FINDS_THE_TASK)
    assert status == 0 and "killed by SIGKILL" in out and len(started(lasting)) == 3
    status, out, err = coopmpi("sweep", "s.toml", "--retry", cwd=lasting, environment=FINDS_THE_TASK)
    assert status == 0 and "failed" not in out and len(started(lasting)) == 4, out + err
    assert [about["failure"] for about, _ in runs_of(lasting / "s.h5")] == [""] * 3


def test_several_processes_share_the_runs(lasting):
    processes = [start(lasting, "--array") for _ in range(2)]
    ends = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ends
    assert sorted(started(lasting)) == ["first", "second", "third"] and len(runs_of(lasting / "s.h5")) == 3
    assert any("seed" not in out for out, _ in ends)


@pytest.mark.mpi
def test_training_on_two_ranks_with_one_that_crashes(tmp_path):
    shutil.copy(ROOT / "tests" / "trouble.py", tmp_path)
    write(tmp_path, {"ranks": 2, "seeds": [1], "score": {"figure": "consensus"}, "base": {"workers": 2, "steps": 10, "task": {"kind": "python", "function": "trouble:trouble"}},
                     "methods": [{"name": "sound"}, {"name": "cold", "set": {"task.options.raises": [1, 5]}}]})
    status, out, err = coopmpi("sweep", "s.toml", cwd=tmp_path)
    assert status == 0 and "failed: cold, seed 1: crashed" in out, out + err
    (sound, kept), (cold, _) = runs_of(tmp_path / "s.h5")
    assert (sound["failure"], kept["mode"], kept["ranks"], kept["status"]) == ("", "train", 2, b"finished")
    assert cold["failure"].startswith("crashed with exit status 1") and np.isnan(cold["final"])
    assert "the coffee is cold" in next(tmp_path.glob("s.runs/cold*.log")).read_text()


# Slurm
def job_script(folder, *options):
    status, out, message = in_process("sweep", "s.toml", "-o", "s.h5", *options)
    assert status == 0, message
    (folder / "job.sh").write_text(out)
    return out


@pytest.mark.parametrize("ranks", [1, 2])
def test_shellcheck_finds_nothing_in_the_job_script(tmp_path, monkeypatch, ranks):
    if not shutil.which("shellcheck"):
        pytest.skip("no shellcheck here (Debian: shellcheck)")
    monkeypatch.chdir(tmp_path)
    write(tmp_path, TINY | {"mode": "train", "ranks": ranks})
    text = job_script(tmp_path, "--slurm", "3", "--cores", "4", "--set", "title='two words'")
    done = subprocess.run(["shellcheck", "job.sh"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "--array=0-2" in text and ("--ntasks=4" if ranks > 1 else "--cpus-per-task=4") in text


def test_the_job_script_saves_before_the_time_limit(lasting, monkeypatch):
    monkeypatch.chdir(lasting)
    job_script(lasting, "--slurm", "1")
    environment = os.environ | FINDS_THE_TASK | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    process = subprocess.Popen(["bash", "job.sh"], cwd=lasting, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    before = in_the_second_run(lasting, process)
    process.send_signal(signal.SIGUSR1)
    assert "the same command goes on" in process.communicate(timeout=20)[1] and process.returncode == 3
    check_the_end(lasting, before, ["first", "second", "second", "third"])


@pytest.mark.slurm
@pytest.mark.skipif(bool(slurm_cluster.missing()), reason=f"no Slurm: {slurm_cluster.missing()}")
def test_an_array_of_jobs_does_a_sweep(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, TINY)
    job_script(tmp_path, "--slurm", "2", "--time", "00:05:00")
    with Cluster(tmp_path / "cluster") as cluster:
        path = f"{Path(sys.executable).parent}:{cluster.environment['PATH']}"
        job = cluster.call("sbatch", "--parsable", "job.sh", cwd=tmp_path, environment={"PATH": path}).strip()
        wait_until(lambda: not cluster.call("squeue", "-h", "-j", job, check=False).strip(), "the array is done", cluster.log, limit=60)
        assert "COMPLETED" in cluster.call("scontrol", "show", "job", job)
    assert len(runs_of(tmp_path / "s.h5")) == 8
    assert sum("written" in path.read_text() or "ratio" in path.read_text() for path in tmp_path.glob("s-*.log")) >= 1
