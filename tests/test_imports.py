"""Who imports whom: --help stays instant, and each room keeps to what it is for."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import coopmpi

ROOT = Path(coopmpi.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
HEAVY = {"mpi4py", "cupy", "scipy", "h5py", "numpy", "matplotlib", "plotext", "networkx", "torch", "xarray", "pandas", "tensorboardX", "PIL"}


# at run time
@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["plot", "--help"], ["--version"]], ids=" ".join)
def test_help_imports_nothing_heavy(arguments):
    program = ("import sys\nfrom coopmpi.cli import main\ntry:\n    main()\nfinally:\n"
               "    print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)")
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "coopmpi" in done.stdout
    assert "click" in done.stderr.split() and not HEAVY & set(done.stderr.split())


def loaded(program):
    """The packages that a Python program has loaded at its end."""
    program += "\nimport sys\nprint(*{name.partition('.')[0] for name in sys.modules})"
    return set(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split())


def test_the_package_alone_loads_nothing_and_opening_a_result_no_mpi():
    assert not loaded("import coopmpi") & (HEAVY | {"click"})
    assert not loaded("import coopmpi; coopmpi.open") & {"mpi4py", "click", "torch", "xarray"}


# in the source
def imports(path):
    """All that a file imports, wherever in it: modules, and module.name for `from module import name`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def users(module):
    """Files of the package that import the module or something in it."""
    return {path.relative_to(ROOT).as_posix() for path in FILES
            if any(f"{name}.".startswith(f"{module}.") for name in imports(path))}


def test_the_walk_sees_imports_of_all_forms(tmp_path):
    path = tmp_path / "file.py"
    path.write_text("import a.b as c\nfrom d import e as f, g\ndef late():\n    import h\n")
    assert list(imports(path)) == ["a.b", "d.e", "d.g", "h"]
    assert "run/cost.py" in users("coopmpi.step") and "run/cost.py" in users("coopmpi.run")


# module -> the folders and files that may import it
HOMES = {
    "click": ["cli/"],
    "mpi4py": ["drivers/mpi/"],
    "cupy": ["device/gpu.py"],
    "h5py": ["record/", "inputs.py", "topology/files.py"],  # the last one writes mixing matrices
    "networkx": ["topology/"],
    "matplotlib": ["report/plot/"],
    "PIL": ["tasks/data/formats/images.py"],
    "torch": ["bridges/torch/"],
    "safetensors": ["bridges/torch/"],
    "xarray": ["record/tree.py"],
    "tensorboardX": ["sinks/tensorboard.py"],
}


@pytest.mark.parametrize("module", HOMES)
def test_a_library_is_imported_in_its_home_only(module):
    strangers = {path for path in users(module) if not path.startswith(tuple(HOMES[module]) or ("?",))}
    assert not strangers
    assert users(module) or not HOMES[module]


# the floors of the house, upper ones first; what is on a floor imports its own and lower ones only
FLOORS = [
    ["__main__"],
    ["cli"],
    ["torch", "python"],
    ["contract"],
    ["sweep"],
    ["report"],
    ["planner"],
    ["run"],
    ["drivers"],
    ["config"],
    ["vocabulary"],
    ["tasks", "bridges"],
    ["algorithms"],
    ["theory", "topology", "compression", "local", "simulation"],
    ["record"],
    ["sinks"],
    ["step"],
    ["device"],
    ["inputs"],
    ["readers"],
    ["registry", "streams"],
    ["places", "ranges", "drafts"],
    ["errors", "synonyms"],
]
PURE = {"algorithms", "step", "topology", "compression", "local"}  # no MPI, no files of ours, no clock
LEVEL = {room: len(FLOORS) - i for i, floor in enumerate(FLOORS) for room in floor}


def room(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def each(files):
    return pytest.mark.parametrize("path", files, ids=lambda path: path.relative_to(ROOT).as_posix())


@each([path for path in FILES if room(path) != "__init__"])
def test_imports_run_downwards_only(path):
    assert room(path) in LEVEL, f"{room(path)} needs a floor"
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "coopmpi" and len(parts) > 1 and parts[1] in LEVEL:
            assert LEVEL[parts[1]] <= LEVEL[room(path)], f"{name} is above"


def test_no_file_imports_itself_by_way_of_others():
    """Imports inside functions count, too."""
    names = {".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}
    graph = {}
    for name, path in names.items():
        found = [imported if imported in names else imported.rpartition(".")[0] for imported in imports(path)]
        graph[name] = {imported for imported in found if imported in names}
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        raise AssertionError(" -> ".join(error.args[1])) from None


@each([path for path in FILES if room(path) in PURE])
def test_algorithms_and_parts_know_no_mpi_no_recording_and_no_clock(path):
    above = tuple(f"coopmpi.{name}" for name in ("drivers", "record", "cli", "report", "tasks"))
    for name in imports(path):
        assert not name.startswith(above)
        assert name.split(".")[0] not in {"mpi4py", "time", "datetime", "click", "subprocess", "socket", "random"}
        assert name.split(".")[0] != "h5py" or path.name == "files.py"
