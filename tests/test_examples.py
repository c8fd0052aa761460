"""What is shown to newcomers works: examples/, README.md, docs/, environment.yml."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from unittest import mock

import h5py
import numpy as np
import pytest

from coopmpi import __version__, config, registry, vocabulary
from coopmpi.contract import sink
from coopmpi.device.host import Host
from coopmpi.drivers.solo import Solo
from coopmpi.report import catalogue
from coopmpi.sweep import session
from coopmpi.sweep.description import parsed
from coopmpi.tasks.problem import Place

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def train(tmp_path, *arguments, name="run.h5"):
    """The final models and the evaluations (accuracy, loss) of a run that is started where the examples are."""
    command = [sys.executable, "-B", "-m", "coopmpi", "train", *map(str, arguments), "-o", str(tmp_path / name)]
    done = subprocess.run(command, cwd=EXAMPLES, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    with h5py.File(tmp_path / name) as file:
        accuracy = file["eval/accuracy"][:] if "accuracy" in file["eval"] else None
        return file["final/x"][:], accuracy, file["eval/loss"][:]


@pytest.mark.parametrize("average_every, twin", [(1, "local-sgd"), (1000, "dpa")])
def test_own_algorithm_is_local_sgd_or_gossip_at_its_ends(tmp_path, average_every, twin):
    common = ["--set", "workers=5", "--set", "steps=30", "--set", "period.tau=3", "--set", "dtype=float64"]
    own, *_ = train(tmp_path, *common, "--set", "algorithm.kind=own_algorithm:GossipPGA",
                    "--set", f"algorithm.average_every={average_every}")
    same, *_ = train(tmp_path, *common, "--set", f"algorithm.kind={twin}", name="twin.h5")
    assert np.abs(own).max() > 0
    np.testing.assert_allclose(own, same, rtol=0, atol=1e-12)


def own_problem(monkeypatch, workers=3):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    from own_task import RobustRegression

    place = Place(workers, range(workers), 7, "float64", Host(), Solo())
    return RobustRegression(place, features=6, samples=50)


def test_own_task_gradient_against_central_differences(monkeypatch):
    problem = own_problem(monkeypatch)
    x = np.random.default_rng(1).standard_normal((3, 6))
    _, gradient = problem.gradient(x, step=0)
    h = 1e-6
    for c in range(6):
        up, down = x.copy(), x.copy()
        up[:, c] += h
        down[:, c] -= h
        slope = (problem.gradient(up, 0)[0] - problem.gradient(down, 0)[0]) / (2 * h)
        np.testing.assert_allclose(gradient[:, c], slope, rtol=1e-5, atol=1e-7)


def test_own_task_finds_the_truth_behind_the_outliers(tmp_path, monkeypatch):
    keys = ("workers=3", "seed=7", "steps=500", "task.kind=python", "task.function=own_task:RobustRegression",
            "task.options.features=6")
    models, accuracy, loss = train(tmp_path, *(f"--set={key}" for key in keys))
    truth = own_problem(monkeypatch).truth
    # Cauchy noise: least squares would be off by several units
    assert np.abs(models.mean(axis=0) - truth).max() < 0.4
    assert loss[-1] < loss[0] and accuracy is None


def test_commented_run_description_learns_the_digits(tmp_path):
    models, accuracy, _ = train(tmp_path, "digits.toml")
    assert len(models) == 8 and accuracy[0] < 0.3 and accuracy[-1] > 0.9


@pytest.mark.filterwarnings("error")
def test_xarray_opens_the_groups_as_documented(tmp_path):
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("h5netcdf")
    train(tmp_path, "--set", "workers=3", "--set", "steps=20")
    for options in ({}, {"driver_kwds": {"swmr": True}}):
        with xarray.open_dataset(tmp_path / "run.h5", group="train", engine="h5netcdf", **options) as data:
            assert data.loss.dims == ("step", "worker") and data.loss.shape == (20, 3)
            assert data.step.values.tolist() == list(range(1, 21))
            assert data.wait_time.attrs["units"] == "s"
            with h5py.File(tmp_path / "run.h5") as file:
                assert np.array_equal(data.loss.mean("worker"), file["train/loss"][:].mean(axis=1))
        with xarray.open_dataset(tmp_path / "run.h5", group="eval", engine="h5netcdf", **options) as data:
            assert data.accuracy.dims == ("step",)


def test_the_notebook_runs_and_is_stored_with_what_it_shows(tmp_path, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    for variable in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(variable, str(tmp_path))
    stored = nbformat.read(EXAMPLES / "results.ipynb", as_version=4)
    run = nbclient.execute(nbformat.read(EXAMPLES / "results.ipynb", as_version=4), cwd=str(tmp_path), timeout=120, kernel_name="python3")
    shown, expected = ([[output.output_type for output in cell.outputs] for cell in notebook.cells if cell.cell_type == "code"]
                       for notebook in (run, stored))
    assert shown == expected and {*sum(shown, [])} == {"stream", "execute_result", "display_data"}
    assert all(shown[1:])
    assert any("image/png" in output.get("data", ()) for cell in stored.cells for output in cell.get("outputs", ()))
    # the model as NumPy computes it is as good as the run has recorded
    computed, recorded = run.cells[-1].outputs[0].text.splitlines()[-1].split(" recorded: ")
    assert float(computed) == float(recorded) > 0.9


def test_result_files_are_read_as_documented(tmp_path, monkeypatch, capsys):
    pytest.importorskip("xarray")
    pytest.importorskip("h5netcdf")
    train(tmp_path)
    monkeypatch.chdir(tmp_path)
    page, found = (ROOT / "docs" / "result-file.md").read_text(), {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(block, found)
    assert found["tree"]["train"].loss.shape == (2000, 4) and found["train"].loss.dims == ("step", "worker")
    told = found["run"].model(2)
    assert told.keys() == found["model"].keys() and all(np.array_equal(told[name], found["model"][name]) for name in told)
    # the names and shapes that the page shows
    assert str({name: tensor.shape for name, tensor in told.items()}) in page


def test_the_example_of_a_sink_keeps_the_rules(tmp_path, monkeypatch):
    """With a stand-in for MLflow, which is large."""
    stand_in = mock.MagicMock()
    monkeypatch.setitem(sys.modules, "mlflow", stand_in)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for rule in sink.RULES:
        rule(sink.Trial(lambda: registry.build("sink", {"kind": "own_sink:MLflow", "experiment": "digits"})))
    stand_in.set_experiment.assert_called_with("digits")
    first, second, *_ = stand_in.log_metrics.call_args_list
    assert first == mock.call({"eval/loss": 2.0, "eval/consensus": 0.0}, step=0)
    assert second.args[0]["train/loss"] == 1 and second.kwargs == {"step": 6}
    assert stand_in.end_run.call_args_list[0] == mock.call("FINISHED")


def documented_keys():
    """{section: {key: set of defaults}} of the tables in docs/run-description.md."""
    found, section = {}, None
    for line in (ROOT / "docs" / "run-description.md").read_text().splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ").partition("]")[0].lstrip("[")
        row = re.match(r"\| `(\w+)` \| `?([^|`]*)`? \| .*\|", line)
        if row:
            found.setdefault(section, {}).setdefault(row[1], set()).add(row[2].strip())
    return found


def test_every_key_is_documented_with_its_default():
    documented = documented_keys()
    expected = [("Top level", vocabulary.Config), *vocabulary.STRUCTS.items()]
    expected += [(kind, cls) for kind in ("task", "optimizer", "schedule", "algorithm", "period", "compress")
                 for cls in registry.parts(kind).values()]
    expected += [("sinks", cls) for cls in registry.parts("sink").values()]
    from coopmpi.tasks.nn.stack import LAYERS
    from coopmpi.topology.graphs import GraphFile
    from coopmpi.topology.mixing import Mixing

    graphs = [Mixing, GraphFile, *registry.parts("graph").values()]
    tables = {"task", "optimizer", "schedule", "algorithm", "period", "mixing", "compress", "record", "compute", "network",
              "checkpoint", "survive", "plan", "forecast", "stop"}
    for section, cls in [*expected, *(("mixing", cls) for cls in graphs)]:
        for key, default, _ in catalogue.keys(cls):
            if (cls, key) in ((Mixing, "graph"), (GraphFile, "path")):
                continue
            if section != "Top level" or key not in tables:
                if (cls.__name__, key) != ("Regress", "data"):  # told in words
                    assert default in documented[section].get(key, ()), (cls.__name__, key)
    page = (ROOT / "docs" / "run-description.md").read_text()
    for name, cls in LAYERS.items():
        keys = [key if default == "required" else f"{key} = {default}" for key, default, _ in catalogue.keys(cls)]
        assert f"`{name}`" in page and all(f"`{key}`" in page for key in keys)


def test_no_documented_key_is_made_up():
    from coopmpi.topology.graphs import GraphFile
    from coopmpi.topology.mixing import Mixing

    mixing = [Mixing, GraphFile, *registry.parts("graph").values()]
    fixed = {"Top level": vocabulary.Config, **vocabulary.STRUCTS}
    for section, keys in documented_keys().items():
        kind = section.removesuffix("s") if section == "sinks" else section
        classes = mixing if section == "mixing" else [fixed[section]] if section in fixed else registry.parts(kind).values()
        assert set(keys) <= {key for cls in classes for key in cls.__struct_fields__}, section


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_run_descriptions_and_links_in_the_documentation(page):
    text = page.read_text()
    for block in re.findall(r"```toml\n(.*?)```", text, re.DOTALL):
        tables = tomllib.loads(block)
        if "methods" in tables:
            session.check(parsed(tables))
        else:
            config.resolve(tables)
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (page.parent / target).exists(), target


def test_documented_algorithm_is_the_example():
    page = (ROOT / "docs" / "own-algorithm-and-task.md").read_text()
    code = re.search(r"```python\n(from coopmpi.step.*?)```", page, re.DOTALL)
    assert code[1].strip() in (EXAMPLES / "own_algorithm.py").read_text()


def test_conda_environment_has_every_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    python = f"python{project['requires-python']}"
    wanted = [python, *project["dependencies"], *project["optional-dependencies"]["test"]]
    text = (ROOT / "environment.yml").read_text()
    lines = {re.sub(r"[- ]", "", line.partition("#")[0]) for line in text.splitlines()}
    for requirement in wanted:
        assert re.sub("^torch", "pytorch", requirement.replace("-", "")) in lines, requirement


def test_the_citation_is_of_this_version():
    version = re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)[1]
    assert version == __version__ == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
