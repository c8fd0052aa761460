"""When the batch system will end the job that a run is part of."""

import os
import shutil
import subprocess
import time
from math import inf

PATIENCE = 10  # seconds for an answer of Slurm


class Deadline:
    """`passed` from `margin` seconds before the end of the Slurm job on; never outside of one, or with margin = 0."""

    def __init__(self, margin: float):
        self.margin = margin
        self._end = _end_of_job() if margin else inf

    @property
    def passed(self) -> bool:
        return time.time() > self._end - self.margin


def _end_of_job() -> float:
    """Seconds since 1970; inf if there is no end, or nobody knows."""
    job = os.environ.get("SLURM_JOB_ID")
    if not job:
        return inf
    if os.environ.get("SLURM_JOB_END_TIME", "").isdigit():
        return float(os.environ["SLURM_JOB_END_TIME"])
    if shutil.which("squeue") is None:
        return inf
    try:
        asked = subprocess.run(["squeue", "--noheader", "--job", job, "--format", "%e"], capture_output=True, text=True,
                               timeout=PATIENCE, check=False)
        return time.mktime(time.strptime(asked.stdout.split()[0], "%Y-%m-%dT%H:%M:%S"))
    except (subprocess.TimeoutExpired, OSError, ValueError, IndexError):
        return inf  # no end, or no answer: signals remain
