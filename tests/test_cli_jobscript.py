"""coopmpi jobscript: its options, the scripts of jobscripts/, and what the shell does with them."""

import os
import shlex
import shutil
import signal as signals
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from coopmpi.cli import group
from coopmpi.errors import UserError

SCRIPTS = sorted((Path(__file__).parents[1] / "jobscripts").glob("*.sh"))
each_script = pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)


def jobscript(*options):
    done = CliRunner().invoke(group, ["jobscript", *options], standalone_mode=False)
    if done.exception:
        raise done.exception
    return done.stdout


def test_all_kinds_of_jobs_have_a_script():
    kinds = {"cpu-srun", "cpu-mpirun", "gpu-node", "gpu-nodes", "requeue", "array", "survive"}
    assert {path.stem for path in SCRIPTS} == kinds


@each_script
def test_scripts_are_what_the_verb_prints(path):
    text = path.read_text()
    program, verb, *options = shlex.split(text.splitlines()[1].removeprefix("# "))
    assert (program, verb) == ("coopmpi", "jobscript") and jobscript(*options) == text
    assert len(text.splitlines()) < 40 and max(map(len, text.splitlines())) <= 120


@each_script
def test_shellcheck_finds_nothing(path):
    if not shutil.which("shellcheck"):
        pytest.skip("no shellcheck here (Debian: shellcheck)")
    done = subprocess.run(["shellcheck", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("options, words", [
    (["--time", "4h"], ["--time 4h", "HH:MM:SS"]), (["--array", "0..3"], ["--array 0..3", "0-7"]),
    (["--array-key", "a b"], ["--array-key a b", "period.tau"]),
    (["--survive"], ["--survive", "srun", "--launcher mpirun"])])
def test_mistakes_are_told(options, words):
    with pytest.raises(UserError) as found:
        jobscript(*options, "RUN.toml", "-o", "run.h5")
    assert all(word in str(found.value) for word in words)


# the shell, with programs of ours in the place of coopmpi, srun and scontrol
COOPMPI = """#!/bin/bash
if [[ $1 == inspect ]]; then echo "$STATUS"; exit; fi
printf '%s\\n' "$@" > arguments
[[ $LASTS ]] || exit "${RETURNS:-0}"
steps=$(seq 500)  # a trap that comes into a substitution fails
trap 'touch asked; exit 3' USR1
touch started
for _ in $steps; do sleep 0.01; done
"""
SRUN = '#!/bin/bash\nwhile [[ $1 == -* ]]; do shift; done\nexec "$@"\n'
OTHERS = '#!/bin/bash\necho "$0 $*" >> called\n'


@pytest.fixture
def shell(tmp_path):
    for name, text in (("coopmpi", COOPMPI), ("srun", SRUN), ("scontrol", OTHERS), ("sleep_", OTHERS)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)

    def run(text, signal=None, **environment):
        """(exit status, commands called) of a script, which may get a signal while it trains."""
        text = text.replace("sleep 600", "sleep_ 600")
        environment |= {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7",
                        "LASTS": "yes" if signal else ""}
        process = subprocess.Popen(["bash", "-c", text], cwd=tmp_path, env=os.environ | environment)
        if signal:
            while not (tmp_path / "started").exists():
                assert process.poll() is None
            process.send_signal(getattr(signals, signal))
        status = process.wait(timeout=20)
        called = tmp_path / "called"
        return status, called.read_text().replace(f"{tmp_path}/", "") if called.exists() else ""

    run.folder = tmp_path
    return run


@pytest.mark.parametrize("requeue, status, returns, ends, called", [
    (True, "finished", "0", 0, ""), (True, "failed", "4", 4, ""), (True, "interrupted", "3", 1, ""),
    (True, "running", "0", 1, "sleep_ 600\n"), (True, "", "2", 1, ""),
    (False, "finished", "0", 0, ""), (False, "running", "0", 1, ""), (False, "interrupted", "3", 1, "")])
def test_the_file_tells_how_a_run_ended(shell, requeue, status, returns, ends, called):
    script = jobscript(*["--requeue"] * requeue, "RUN.toml", "-o", "run.h5")
    assert shell(script, STATUS=status, RETURNS=returns) == (ends, called)


@pytest.mark.parametrize("status, called", [
    ("interrupted", "scontrol requeue 7\n"), ("running", "scontrol requeue 7\n"), ("finished", "")])
def test_usr1_reaches_the_run_and_puts_the_job_back(shell, status, called):
    script = jobscript("--requeue", "RUN.toml", "-o", "run.h5")
    assert shell(script, "SIGUSR1", STATUS=status)[1] == called
    assert (shell.folder / "asked").exists()


def test_names_with_spaces_and_array_tasks_reach_coopmpi(shell):
    script = jobscript("--array", "3,5", "--array-key", "period.tau", "my run.toml", "-o", "out $x/a b.h5")
    assert shell(script, STATUS="finished", SLURM_ARRAY_TASK_ID="5")[0] == 0
    assert (shell.folder / "arguments").read_text().splitlines() == [
        "train", "my run.toml", "--set", "period.tau=5", "-o", "out $x/a b-5.h5", "--continue"]
    assert "#SBATCH --job-name=a_b\n" in script
