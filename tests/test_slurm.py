"""A real Slurm with two nodes: launchers, job scripts, signals, the queue, and a node that loses power."""

import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import h5py
import pytest

from coopmpi.drivers.mpi import probe
from tests import slurm_cluster
from tests.slurm_cluster import Cluster, wait_until

REASON = slurm_cluster.missing()
pytestmark = [pytest.mark.slurm, pytest.mark.skipif(bool(REASON), reason=f"no Slurm: {REASON}")]

OPEN_MPI = "Open MPI" in (probe.mpirun() or ("", ""))[1]
only_open_mpi = pytest.mark.skipif(not OPEN_MPI, reason="about Open MPI, and this environment has another MPI")
only_mpich = pytest.mark.skipif(OPEN_MPI, reason="about MPICH, and this environment has Open MPI")
LAUNCHER = "mpirun" if OPEN_MPI else "srun"
TASK_IN_OWN_FOLDER = {"PYTHONPATH": str(Path(__file__).parents[1])}
RUN = """\
workers = 2
steps = {steps}
[task]
kind = "python"
function = "tests.slurm_task:Slow"
[checkpoint]
every_steps = 100
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with Cluster(tmp_path_factory.mktemp("slurm") / "cluster") as running:
        # jobs inherit this: coopmpi of this Python environment, and what root and few cores need
        running.environment |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
                                "PATH": f"{Path(sys.executable).parent}:{running.environment['PATH']}",
                                **TASK_IN_OWN_FOLDER}
        yield running


@pytest.fixture
def jobs(cluster, tmp_path):
    found = Jobs(cluster, tmp_path)
    yield found
    cluster.call("scancel", "--user=root", check=False)
    for node in slurm_cluster.NODES:
        cluster.switch_on(node)
    wait_until(lambda: not cluster.call("squeue", "-h"), "the queue is empty", found.log)


class Jobs:
    """Job scripts of `coopmpi jobscript`, in a folder of their own."""

    def __init__(self, cluster, folder):
        self.cluster, self.folder = cluster, folder

    def submit(self, *options, steps=100, output="run.h5"):
        """The job's number; one rank on each node unless the options say otherwise."""
        (self.folder / "RUN.toml").write_text(RUN.format(steps=steps))
        options = ["--launcher", LAUNCHER, "--time", "00:05:00", *(options or ("--nodes", "2"))]
        script = run_verb("jobscript", *options, "RUN.toml", "-o", output)
        (self.folder / "job.sh").write_text(script)
        return self.sbatch("job.sh")

    def sbatch(self, script, *options):
        return int(self.cluster.call("sbatch", "--parsable", *options, script, cwd=self.folder))

    def state(self, job):
        """RUNNING, PENDING, COMPLETED, ...; of an array's tasks all that differ."""
        shown = self.cluster.call("scontrol", "show", "job", job)
        return "+".join(sorted(set(re.findall(r"JobState=(\S+)", shown))))

    def wait(self, job, state, limit=40):
        wait_until(lambda: self.state(job) == state, f"job {job} is {state}", self.log, limit)

    def wait_for_steps(self, least, output="run.h5"):
        """Until the result file tells of that many steps."""
        wait_until(lambda: self.steps(output) >= least, f"{least} steps of {output}", self.log)

    def steps(self, output="run.h5"):
        try:
            with h5py.File(self.folder / output, swmr=True) as file:
                return len(file["train/step"])
        except (OSError, KeyError):
            return 0

    def run(self, output="run.h5"):
        """What tells this run from all others."""
        with h5py.File(self.folder / output, swmr=True) as file:
            return file.attrs["run"]

    def status(self, output="run.h5"):
        return run_verb("inspect", "--status", str(self.folder / output)).strip()

    def back_from_the_queue(self, job):
        """Slurm keeps a requeued job for two minutes, while nodes end what is left of it: here 3 seconds."""
        wait_until(lambda: "Restarts=1" in self.cluster.call("scontrol", "show", "job", job)
                   and self.state(job) == "PENDING", f"job {job} is back in the queue", self.log)

        time.sleep(3)

        def start():
            self.cluster.call("scontrol", "update", f"JobId={job}", "StartTime=now", check=False)
            return self.state(job) != "PENDING"

        wait_until(start, f"job {job} is started again", self.log)

    def log(self):
        """What jobs and daemons have written."""
        logs = "\n".join(f"{path.name}: {path.read_text()}" for path in sorted(self.folder.glob("*.log")))
        return f"{logs}\n{self.cluster.call('squeue', check=False)}\n{self.cluster.log()}"


def run_verb(*arguments):
    done = subprocess.run([sys.executable, "-m", "coopmpi", *arguments], capture_output=True, text=True, timeout=60,
                          check=True)
    return done.stdout


def finished_in_one_piece(path, steps, run=None):
    """The run description, if all steps are there once, in the file of that run: one that starts anew is another."""
    with h5py.File(path) as file:
        assert file["train/step"][:].tolist() == list(range(1, steps + 1))
        assert run is None or file.attrs["run"] == run
        return tomllib.loads(file["config"].asstr()[()])


# launchers
@only_mpich
def test_srun_starts_ranks_on_both_nodes(cluster, tmp_path):
    said = cluster.call("srun", "--mpi=pmi2", "--nodes=2", "--ntasks-per-node=2", "coopmpi", "doctor", cwd=tmp_path)
    assert "4 on 2 nodes, 2 per node" in said


@only_open_mpi
def test_mpirun_in_a_batch_script_starts_ranks_on_both_nodes(jobs):
    (jobs.folder / "job.sh").write_text("#!/bin/bash\nmpirun --bind-to none coopmpi doctor\n")
    job = jobs.sbatch("job.sh", "--nodes=2", "--ntasks-per-node=2", "--output=doctor.log")
    jobs.wait(job, "COMPLETED")
    assert "4 on 2 nodes, 2 per node" in (jobs.folder / "doctor.log").read_text()


@pytest.mark.parametrize("kind", ["none"] if not OPEN_MPI else ["none", "pmi2"])
def test_wrong_type_of_mpi_is_said_once(cluster, tmp_path, kind):
    said = cluster.call("srun", f"--mpi={kind}", "--nodes=2", "--ntasks-per-node=2", "--kill-on-bad-exit=1", "coopmpi",
                        "train", "--set=steps=5", cwd=tmp_path, check=False)
    assert said.count("coopmpi: the launcher started 4 processes") == 1 and "Traceback" not in said
    assert ("mpirun --bind-to none" if OPEN_MPI else "srun --mpi=pmi2") in said
    assert "code 2" in said and not list(tmp_path.iterdir())


def test_batch_script_of_several_tasks_without_a_launcher_is_refused(jobs):
    (jobs.folder / "job.sh").write_text("#!/bin/bash\ncoopmpi train --set=steps=5 --quiet -o run.h5\n")
    job = jobs.sbatch("job.sh", "--nodes=2", "--ntasks-per-node=1", "--output=two.log")
    jobs.wait(job, "FAILED")
    said = (jobs.folder / "two.log").read_text()
    assert "a Slurm job of 2 tasks needs a launcher" in said and not (jobs.folder / "run.h5").exists()
    jobs.wait(jobs.sbatch("job.sh", "--ntasks=1", "--output=one.log"), "COMPLETED")
    assert jobs.status() == "finished"


# job scripts
def test_job_script_starts_a_run_and_has_nothing_to_do_afterwards(jobs):
    jobs.wait(jobs.submit("--nodes", "2"), "COMPLETED")
    assert jobs.status() == "finished"
    finished_in_one_piece(jobs.folder / "run.h5", steps=100)
    written = (jobs.folder / "run.h5").read_bytes()
    jobs.wait(jobs.sbatch("job.sh"), "COMPLETED")
    assert (jobs.folder / "run.h5").read_bytes() == written


def test_array_of_runs(jobs):
    job = jobs.submit("--array", "1,4%2", "--array-key", "period.tau", steps=20)
    jobs.wait(job, "COMPLETED")
    for tau in (1, 4):
        assert finished_in_one_piece(jobs.folder / f"run-{tau}.h5", steps=20)["period"]["tau"] == tau


def test_at_the_time_limit_the_run_is_saved_and_requeued(jobs):
    job = jobs.submit("--nodes", "2", "--requeue", steps=1000)
    jobs.wait_for_steps(150)
    run = jobs.run()
    jobs.cluster.call("scancel", "--batch", "--signal=USR1", job)  # as --signal=B:USR1@60 does
    jobs.back_from_the_queue(job)
    saved = jobs.steps()
    assert 150 <= saved < 1000 and jobs.status() in ("interrupted", "running")
    jobs.wait(job, "COMPLETED")
    finished_in_one_piece(jobs.folder / "run.h5", steps=1000, run=run)
    log = next(jobs.folder.glob("*.log")).read_text()
    assert "stopped by SIGUSR1" in log


def test_script_without_requeue_saves_and_ends(jobs):
    job = jobs.submit("--nodes", "2", steps=1000)
    jobs.wait_for_steps(150)
    jobs.cluster.call("scancel", "--batch", "--signal=USR1", job)
    jobs.wait(job, "FAILED")
    assert jobs.status() == "interrupted"


def test_cancelled_job_does_not_come_back(jobs):
    job = jobs.submit("--nodes", "2", "--requeue", steps=5000)
    jobs.wait_for_steps(10)
    jobs.cluster.call("scancel", job)
    jobs.wait(job, "CANCELLED")
    assert "Restarts=0" in jobs.cluster.call("scontrol", "show", "job", job)


def test_run_comes_back_after_a_lost_node(jobs):
    job = jobs.submit("--nodes", "2", "--requeue", steps=1000)
    jobs.wait_for_steps(250)
    run = jobs.run()
    jobs.cluster.switch_off("n2")
    jobs.cluster.wait_until_lost("n2")
    jobs.cluster.switch_on("n2")
    jobs.back_from_the_queue(job)
    jobs.wait(job, "COMPLETED", limit=90)
    finished_in_one_piece(jobs.folder / "run.h5", steps=1000, run=run)


@only_open_mpi
def test_script_with_survive_goes_on_without_a_killed_rank(jobs):
    job = jobs.submit("--nodes", "2", "--survive", steps=600)
    jobs.wait_for_steps(50)
    run = jobs.run()
    victims = running_with(f"SLURM_CONF={jobs.cluster.folder}/", f"SLURM_JOB_ID={job}\0", "OMPI_COMM_WORLD_RANK=1\0")
    assert victims
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    jobs.wait(job, "COMPLETED")
    finished_in_one_piece(jobs.folder / "run.h5", steps=600, run=run)
    assert "1 of 2 ranks were lost" in run_verb("inspect", "--series", "events", str(jobs.folder / "run.h5"))


# the cluster itself
def test_nothing_stays_behind_when_the_tests_are_killed(tmp_path):
    program = ("import os, signal, sys\nfrom pathlib import Path\nfrom tests.slurm_cluster import Cluster\n"
               "with Cluster(Path(sys.argv[1])) as cluster:\n"
               "    cluster.call('sbatch', '--output=/dev/null', '--wrap', 'sleep 99')\n"
               "    print('up', flush=True)\n    os.kill(os.getpid(), signal.SIGKILL)\n")
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "cluster")], capture_output=True, text=True,
                          timeout=60, check=False, cwd=Path(__file__).parents[1])
    assert done.stdout == "up\n", done.stderr
    wait_until(lambda: not running_with(f"SLURM_CONF={tmp_path}"), "all processes of the cluster are gone", limit=5)
    assert str(tmp_path) not in Path("/proc/mounts").read_text()


def running_with(*texts):
    """Numbers of the processes that have all these texts in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            environment = path.read_bytes().decode(errors="replace")
            if all(text in environment for text in texts):
                found.append(int(path.parent.name))
        except OSError:
            pass  # it has just ended
    return found
