"""What a shell proposes: asked by click's protocol, as the scripts for bash, zsh and fish do."""

import os
import shutil
import subprocess
import sys

import pytest

from coopmpi import registry

HEAVY = {"mpi4py", "h5py", "torch", "cupy", "scipy", "matplotlib", "networkx"}
PROGRAM = ("import sys\nfrom coopmpi.cli import main\ntry:\n    main()\nfinally:\n"
           "    print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)")


def asked(folder, line, shell="bash"):
    """The words that are proposed for the last one of the line."""
    words = line.split(" ")
    # zsh and bash give the number of the word, fish the word itself
    environment = {"_COOPMPI_COMPLETE": f"{shell}_complete", "COMP_WORDS": line,
                   "COMP_CWORD": words[-1] if shell == "fish" else str(len(words) - 1)}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=os.environ | environment, cwd=folder, capture_output=True, text=True,
                          check=False)
    assert not HEAVY & set(done.stderr.split()), done.stderr
    lines = [line for line in done.stdout.splitlines() if line]
    return lines[1::3] if shell == "zsh" else [line.partition(",")[2].partition("\t")[0] for line in lines]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("completion")
    (folder / "runs").mkdir()
    for name in ("run.toml", "run.h5", "rows.npz", "runs/old.toml", ".hidden.toml", "r with space.toml"):
        (folder / name).touch()
    return folder


# bash takes "=" for a word of its own, and replaces what comes after it
@pytest.mark.parametrize("line, expected", [
    ("coopmpi tra", ["train"]),
    ("coopmpi train --train", ["--train-loss"]),
    ("coopmpi train r", ["run.toml", "runs/"]),
    ("coopmpi train runs/", ["runs/old.toml"]),
    ("coopmpi inspect r", ["run.h5", "runs/"]),
    ("coopmpi compare run.h5 r", ["run.h5", "runs/"]),
    ("coopmpi train -o r", ["run.h5", "runs/"]),
    ("coopmpi train --set per", ["period."]),
    ("coopmpi train --set se", ["seed="]),
    ("coopmpi train --set period.t", ["period.tau=", "period.taus="]),
    ("coopmpi train --set algorithm.kind =", list(registry.parts("algorithm"))),
    ("coopmpi train --set algorithm.kind = overlap-l", ["overlap-local-sgd"]),
    ("coopmpi train --set = algorithm.kind = overlap-l", ["overlap-local-sgd"]),
    ("coopmpi simulate run.toml --set seed = 3 --set = opt", ["optimizer."]),
    ("coopmpi train --set mixing.graph = r", ["random-regular", "ring", "rows.npz", "run.h5", "run.toml", "runs/"]),
    ("coopmpi train --set mixing.weights = ", ["best-constant", "metropolis", "uniform"]),
    ("coopmpi train --set task.partition = d", ["dirichlet"]),
    ("coopmpi train --set task.data = d", ["digits"]),
    ("coopmpi train --set task.path = ro", ["rows.npz"]),
    ("coopmpi train --set deterministic = ", ["true", "false"]),
    ("coopmpi train --set dtype = ", ["float32", "float64"]),
    ("coopmpi train --set optimizer.lr = ", []),
    ("coopmpi train --set no.such = ", []),
    ("coopmpi train no/such/folder/", []),
    ("coopmpi graph r", ["random-regular", "ring"]),
    ("coopmpi algorithms d-", ["d-psgd"]),
    ("coopmpi tarin r", ["resume", "run"]),  # for want of anything better
])
def test_bash_is_told_what_may_come(folder, line, expected):
    assert sorted(asked(folder, line)) == sorted(expected)


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_are_told_whole_words(folder, shell):
    assert asked(folder, "coopmpi train --set algorithm.kind=overlap-l", shell) == ["algorithm.kind=overlap-local-sgd"]
    assert asked(folder, "coopmpi train run", shell) == ["run.toml", "runs/"]


@pytest.mark.parametrize("words, expected", [
    ("coopmpi train --set algorithm.kind = overlap-l", ["overlap-local-sgd"]),
    ("coopmpi train --set period.t", ["period.tau=", "period.taus="])])
def test_the_script_for_bash_works_in_bash(folder, tmp_path, words, expected):
    if shutil.which("bash") is None:
        pytest.skip("there is no bash")
    (tmp_path / "coopmpi").write_text(f"#!{sys.executable}\nfrom coopmpi.cli import main\nmain()\n")
    (tmp_path / "coopmpi").chmod(0o755)
    script = (f'eval "$(_COOPMPI_COMPLETE=bash_source coopmpi)"; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); '
              '_coopmpi_completion coopmpi; printf "%s\\n" "${COMPREPLY[@]}"; complete -p coopmpi')
    done = subprocess.run(["bash", "-c", script], env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}, cwd=folder,
                          capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [*expected, "complete -o nosort -F _coopmpi_completion coopmpi"], done.stderr
