"""Hosts on this machine: namespaces with links of a given rate to a common switch. Needs root and the programs ip and tc.

Each is held by a process that ends when its standard input is closed: however this program ends, the kernel then ends all that
runs on the hosts and removes their network.
"""

import json
import os
import subprocess
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path

from coopmpi.drivers.mpi.launch import mpirun

NET = "10.77.0"  # addresses; seen by nobody outside
CONGESTION = "cubic"  # control of TCP, Linux's default; not that of this machine, which may be another
PASSED = ("PATH", "PYTHONPATH", "OMP_NUM_THREADS")  # environment of the ranks


@contextmanager
def hosts(count: int, mbit: int):
    """A Network of so many hosts, whose links carry so many Mbit/s in each direction.

    PermissionError where namespaces cannot be made.
    """
    if os.geteuid():
        raise PermissionError("network namespaces take root")
    with ExitStack() as held:
        switch, *machines = [held.enter_context(Namespace(f"node{number}")) for number in range(count + 1)]
        switch.do("ip link add br0 type bridge", f"ip addr add {NET}.254/24 dev br0", "ip link set br0 up")
        for number, machine in enumerate(machines, start=1):
            limit = f"root tbf rate {mbit}mbit burst {max(16_000, 128 * mbit)} latency 100ms"
            switch.do(f"ip link add port{number} type veth peer name eth0 netns {machine.pid}",
                      f"ip link set port{number} master br0 up", f"tc qdisc add dev port{number} {limit}")
            machine.do(f"ip addr add {NET}.{number}/24 dev eth0", "ip link set eth0 up", f"tc qdisc add dev eth0 {limit}",
                       f"ip route change {NET}.0/24 dev eth0 congctl {CONGESTION}")
        yield Network(switch, machines, Path(held.enter_context(tempfile.TemporaryDirectory())))


class Namespace:
    """A host name, processes and a network of its own; files are shared, except those of /dev/shm."""

    def __init__(self, name):
        keep = f"hostname {name} && mount -t tmpfs tmpfs /dev/shm && ip link set lo up && echo && exec cat"
        self.name, unshare = name, "unshare --net --uts --ipc --pid --fork --kill-child --mount-proc"
        self._keeper = subprocess.Popen([*unshare.split(), "sh", "-c", keep], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, start_new_session=True)

    def __enter__(self):
        if not self._keeper.stdout.readline():
            raise PermissionError(f"no namespaces here: {self._keeper.stderr.read().decode().strip()}")
        self.pid = int(Path(f"/proc/{self._keeper.pid}/task/{self._keeper.pid}/children").read_text(encoding="ascii"))
        return self

    def __exit__(self, *error):
        self._keeper.stdin.close()
        self._keeper.wait()

    def command(self, *words: str) -> list[str]:
        """The command line that carries out `words` here."""
        return [*f"nsenter --target {self.pid} --net --uts --ipc --pid --mount --wd".split(), *words]

    def beside(self, *words: str) -> list[str]:
        """... with the name and network of this host, as a process of the one that calls."""
        return [*f"nsenter --target {self.pid} --net --uts".split(), *words]

    def do(self, *commands):
        """Carry out commands that look after the network; what they print."""
        printed = ""
        for command in commands:
            done = subprocess.run(self.beside(*command.split()), capture_output=True, text=True, check=False)
            if done.returncode:
                raise PermissionError(f"{command}: {done.stderr.strip()}")
            printed += done.stdout
        return printed


class Network:
    """machines: the hosts, with addresses NET.1, NET.2 ... on their interface eth0."""

    def __init__(self, switch, machines, folder):
        self.machines, self._switch = machines, switch
        # in place of ssh: drops the options, takes the name of the host, and runs the rest there
        self._agent = folder / "agent"
        cases = "\n".join(f"{m.name}) exec {' '.join(m.command())} env TMPDIR=/dev/shm sh -c \"$*\" ;;" for m in machines)
        self._agent.write_text('#!/bin/sh\nwhile [ "${1#-}" != "$1" ]; do shift; done\nhost=$1; shift\n'
                               f'case $host in\n{cases}\nesac\n', encoding="ascii")
        self._agent.chmod(0o700)

    def mpirun(self, *options: str) -> tuple[list[str], dict[str, str]]:
        """(command, environment) that start a rank on each host, with further options of Open MPI's mpirun."""
        count = len(self.machines)
        command, environment = mpirun(count, lambda text: None)
        here = (f"--prtemca plm_ssh_agent {self._agent} --prtemca prte_if_include {NET}.0/24 "
                f"--host {','.join(f'{machine.name}:1' for machine in self.machines)} --mca pml ob1 --mca btl tcp,self "
                f"--mca btl_tcp_if_include {NET}.0/24")
        if count > len(os.sched_getaffinity(0)):
            here += " --mca mpi_yield_when_idle 1"  # a host does not know that its cores are those of the others, too
        passed = [word for name in PASSED if name in environment for word in ("-x", name)]
        # the switch has to see the other hosts' processes
        return [*self._switch.beside(*command), *here.split(), *passed, *options], environment

    def sent(self) -> list[int]:
        """Bytes that have left each host so far, headers of all packets included."""
        return [json.loads(machine.do("tc -json -s qdisc show dev eth0"))[0]["bytes"] for machine in self.machines]
