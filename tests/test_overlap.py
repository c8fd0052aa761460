"""Transfers that go on during gradients: what the record says of them, and that they really move."""

import subprocess
import sys
import textwrap
import threading
import time

import h5py
import numpy as np
import pytest

from coopmpi.drivers.driver import Driver
from coopmpi.drivers.mpi.launch import mpirun
from coopmpi.drivers.solo import Solo
from coopmpi.step import Finish, Grad, Mean, Start
from tests.runs import coopmpi, write_quadratic

TRAVEL, COMPUTE = 0.08, 0.05  # seconds


class Slow:
    """A transfer that is there a given time after it was posted; a test of it takes a while."""

    def __init__(self):
        self.there, self.blocked = time.perf_counter() + TRAVEL, 0.0

    def progress(self):
        self.block(0.01)

    def wait(self):
        self.block(max(0.0, self.there - time.perf_counter()))

    def block(self, seconds):
        begin = time.perf_counter()
        time.sleep(seconds)
        self.blocked += time.perf_counter() - begin


class SlowWorld(Solo):
    size = 2

    def all_sum(self, source, target, device):
        target[:] = source
        return Slow()


class Sleeper:
    dimension = 3

    def gradient(self, x, k):
        time.sleep(COMPUTE)
        return np.zeros(1), np.zeros_like(x)


def test_a_round_knows_when_it_was_posted_and_how_long_it_blocked():
    from coopmpi.device.host import Host

    driver = Driver(2, Sleeper(), None, Host(), SlowWorld())
    x = np.ones((1, 3))

    def overlapped():
        ticket = yield Start(Mean(x))
        yield Grad(x)
        yield Finish(ticket)
        return ticket.transfer.blocked

    before = driver.stopwatch.seconds
    blocked = driver.drive(overlapped())
    (posted, finished, waited, nbytes), = driver.rounds
    after = driver.stopwatch.seconds
    assert before <= posted < finished <= after
    # what blocked the rank, a test of the transfer between gradients included, is not hidden; the gradient is
    start, end = driver.computing
    assert blocked <= waited <= finished - posted - (end - start)
    assert finished - posted >= TRAVEL and waited == pytest.approx(driver.waited, rel=1e-9)
    assert nbytes == x.nbytes  # 2 (m - 1) / m of it, m = 2
    driver.at(1)
    assert driver.rounds == [] and driver.waited == 0


@pytest.mark.parametrize("overlap", [True, False])
def test_the_file_holds_a_row_per_round_and_inspect_sums_them_up(tmp_path, overlap):
    write_quadratic(tmp_path / "q.h5", 2)
    (tmp_path / "run.toml").write_text(textwrap.dedent(f"""
        workers = 2
        steps = 100
        [task]
        kind = "quadratic"
        path = "{tmp_path / 'q.h5'}"
        [algorithm]
        kind = "easgd"
        overlap = {str(overlap).lower()}
        [period]
        tau = 5
        """))
    status, _, error = coopmpi("train", "run.toml", "-o", "run.h5", ranks=2, cwd=tmp_path)
    assert status == 0, error
    with h5py.File(tmp_path / "run.h5") as file:
        names = ("step", "posted", "finished", "waited", "hidden")
        step, posted, finished, waited, hidden = (file["rounds"][name][:] for name in names)
        wall, wait = file["train/wall_time"][:], file["train/wait_time"][:, 0]
    # with overlap a round is finished at the next one, and the last one with the run
    assert step.tolist() == ([*range(10, 101, 5), 100] if overlap else [*range(5, 101, 5)])
    assert (waited >= 0).all() and (waited <= finished - posted).all() and waited.sum() <= wait.sum() * (1 + 1e-6)
    assert np.allclose(waited, (1 - hidden) * (finished - posted), rtol=0, atol=1e-9)
    assert (finished <= wall[step - 1]).all() and (np.diff(finished) > 0).all()
    started = np.arange(5, 101, 5)  # steps, counted from 1
    assert (posted <= wall[started - 1]).all() and (posted >= wall[started - 2]).all()
    status, text, _ = coopmpi("inspect", "run.h5", cwd=tmp_path)
    share = 1 - waited.sum() / (finished - posted).sum()
    assert status == 0 and f"{share:.1%} of the time that transfers were under way" in " ".join(text.split())
    status, text, _ = coopmpi("inspect", "run.h5", "--series", "rounds/posted", cwd=tmp_path)
    assert text.splitlines()[1] == f"{step[0]}\t{posted[0]}"
    status, text, _ = coopmpi("inspect", "run.h5", "--series", "hidden", cwd=tmp_path)
    assert text.splitlines() == ["step\thidden", *(f"{k}\t{share}" for k, share in zip(step, hidden))]


def test_without_tickets_inspect_says_nothing_of_hiding(tmp_path):
    write_quadratic(tmp_path / "q.h5", 2)
    (tmp_path / "run.toml").write_text(f'workers = 2\nsteps = 4\n[task]\nkind = "quadratic"\npath = "{tmp_path / "q.h5"}"\n')
    assert coopmpi("train", "run.toml", "-o", "run.h5", cwd=tmp_path)[0] == 0
    status, text, _ = coopmpi("inspect", "run.h5", cwd=tmp_path)
    assert status == 0 and "transfers were under way" not in " ".join(text.split())


RENDEZVOUS = """
    import time
    import numpy as np
    from coopmpi.device.host import Host
    from coopmpi.drivers.mpi.world import connect

    world, n = connect(), 1 << 22
    row, arrived = np.full(n, world.rank, np.float32), np.full(n, -1, np.float32)
    world.sum([0.0])
    transfer = world.exchange([(1 - world.rank, row, False)], [(1 - world.rank, arrived)], Host(), 1)
    with world.moving:
        time.sleep(1.0)  # no call of MPI in here
    there = bool((arrived == 1 - world.rank).all())
    world.sum([0.0])
    transfer.wait()
    assert (arrived == 1 - world.rank).all()
    if world.rank == 0:
        print(there)
    """


def test_a_large_message_arrives_while_the_main_thread_is_busy(tmp_path):
    """Long enough for a transfer many times over."""
    (tmp_path / "move.py").write_text(textwrap.dedent(RENDEZVOUS))
    command, environment = mpirun(2, lambda text: None)
    done = subprocess.run([*command, sys.executable, str(tmp_path / "move.py")], env=environment,
                          capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 and done.stdout.split()[-1] == "True", done.stderr


def test_the_thread_enters_mpi_only_inside_its_context():
    from coopmpi.drivers.mpi.transfer import PACE, Mover

    class Counted:
        calls = 0

        def Iprobe(self):
            assert threading.current_thread() is not threading.main_thread()
            self.calls += 1

    comm = Counted()
    mover = Mover(comm)
    time.sleep(10 * PACE)
    assert comm.calls == 0
    with mover:
        time.sleep(50 * PACE)
    time.sleep(5 * PACE)  # a call that had begun
    calls = comm.calls
    assert 0 < calls <= 50
    time.sleep(20 * PACE)
    assert comm.calls == calls
