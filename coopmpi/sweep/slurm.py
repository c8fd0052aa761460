"""The job script of a Slurm array whose tasks carry out a sweep together."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from coopmpi.report.jobscript import SAVING
from coopmpi.sweep.description import Sweep


def text(sweep: Sweep, description: str, output: str, overrides: Sequence[str], tasks: int, cores: int | None, time: str) -> str:
    """The script; cores: of each task of the array, by default as many as a run has ranks."""
    cores = max(cores or 1, sweep.ranks)
    command = ["coopmpi", "sweep", description, "-o", output, *(f"--set={override}" for override in overrides), "--cores", str(cores)]
    made = [*command, "--slurm", str(tasks), "--time", time]
    name = "".join(c if c.isalnum() or c in "-_." else "_" for c in Path(output).stem)
    # mpirun starts ranks where Slurm has tasks for them; other runs are processes of one task
    shape = {"ntasks": cores} if sweep.ranks > 1 else {"ntasks": 1, "cpus-per-task": cores}
    options = {"job-name": name, "array": f"0-{tasks - 1}", "nodes": 1, **shape, "time": time, "signal": f"B:USR1@{SAVING}",
               "output": "%x-%A-%a.log", "open-mode": "append"}
    return "\n".join(["#!/bin/bash", f"# {shlex.join(made)}", *(f"#SBATCH --{key}={value}" for key, value in options.items()), "",
                      "# sbatch it from a shell that finds coopmpi. The tasks share the runs out among them, and the last one at work writes",
                      f"# {output}. Submitted again, it goes on.",
                      f"# {SAVING} s before the time limit Slurm sends USR1 to this script; passed on, it makes all runs save and stop",
                      "trap 'kill -USR1 \"$sweep\"' USR1", f"{shlex.join([*command, '--array'])} &", "sweep=$!", 'wait "$sweep"', "status=$?",
                      'while kill -0 "$sweep" 2>/dev/null; do wait "$sweep"; status=$?; done  # a signal ends a wait, not the sweep',
                      'exit "$status"']) + "\n"
