"""A Slurm of two nodes on this one machine, for tests: `with Cluster(folder) as cluster: cluster.call("sinfo")`.

All of it runs in a PID namespace, and each node in a PID namespace inside that one. The kernel ends every process of a
namespace when its first process ends, and first processes here end when a pipe to them is closed. So nothing stays
behind when a test fails or the tests themselves are killed, and a node is switched off by closing its pipe. Mounts
are made in mount namespaces, which end with their last process, too. A node has a host name, a /dev/shm and a TMPDIR of
its own, empty when it is switched on: process numbers begin anew in a namespace, and mpirun names its files after them.
"""

import os
import re
import secrets
import shutil
import socket
import subprocess
import time
from contextlib import ExitStack

PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "unshare", "nsenter")
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
NODES = ("n1", "n2")
CPUS = 4  # that each node says it has
NODE_TIMEOUT = 5  # seconds until a node that does not answer counts as lost

CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthInfo=socket={folder}/munge/socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/log/slurmctld
SlurmdLogFile={folder}/log/%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,sched_min_interval=0,bf_interval=1
SlurmdTimeout={timeout}
MessageTimeout=3
KillWait=3
NodeName=n1 NodeAddr=127.0.0.1 Port={ports[1]} CPUs={cpus}
NodeName=n2 NodeAddr=127.0.0.1 Port={ports[2]} CPUs={cpus}
PartitionName=test Nodes=n1,n2 Default=YES MaxTime=60
"""

# a shell as first process collects the orphans; `cat` ends when the pipe is closed, and the shell with it
HOST = 'exec 3<&0; mount --bind "$0" /etc/hosts && echo up; cat <&3 >/dev/null & wait $!'
NODE = """exec 3<&0
hostname "$0" && mount -t tmpfs tmpfs /dev/shm && mount -t tmpfs tmpfs "$TMPDIR"
slurmd -D -N "$0" & cat <&3 >/dev/null & wait $!
"""
ISOLATED = ("unshare", "--mount", "--pid", "--fork", "--mount-proc")


def missing():
    """Why there can be no Slurm here, in one sentence; "" if there can."""
    absent = [program for program in PROGRAMS if not shutil.which(program, path=PATH)]
    if absent:
        return f"no {', '.join(absent)} here (Debian: slurmctld, slurmd, slurm-client, munge)"
    if os.geteuid() != 0:
        return "only root can start the daemons of Slurm"
    if subprocess.run([*ISOLATED, "true"], check=False, capture_output=True).returncode:
        return "this machine or container allows no namespaces"
    return ""


class Cluster:
    """Daemons, two nodes of 4 processors each, and a way to run commands there."""

    def __init__(self, folder):
        self.folder = folder
        self.environment = os.environ | {"SLURM_CONF": f"{folder}/slurm.conf", "PATH": PATH, "TMPDIR": f"{folder}/tmp"}
        self._processes, self._nodes, self._enter = [], {}, []

    def __enter__(self):
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error):
        for process in self._processes:
            if process.stdin:
                process.stdin.close()
        for process in self._processes:
            process.wait()

    def _start(self):
        self._configure()
        host = self._run(*ISOLATED, "bash", "-c", HOST, f"{self.folder}/hosts", stdout=subprocess.PIPE)
        host.stdout.readline()
        namespaces = f"/proc/{host.pid}/ns"
        self._enter = ["nsenter", f"--mount={namespaces}/mnt", f"--pid={namespaces}/pid_for_children"]
        munge = f"{self.folder}/munge"
        self._run(*self._enter, "munged", "--foreground", "--force", f"--socket={munge}/socket",
                  f"--key-file={munge}/key", f"--pid-file={munge}/pid", f"--log-file={munge}/log",
                  f"--seed-file={munge}/seed", stdin=subprocess.DEVNULL)
        wait_until(lambda: os.path.exists(f"{munge}/socket"), "munged has opened its socket")
        self._run(*self._enter, "slurmctld", "-D", "-i", stdin=subprocess.DEVNULL)
        for node in NODES:
            self.switch_on(node)

    def _configure(self):
        for name in ("state", "log", "munge", "tmp", *NODES):
            (self.folder / name).mkdir(parents=True)
        self.folder.chmod(0o755)
        (self.folder / "munge").chmod(0o700)
        (self.folder / "munge" / "key").write_bytes(secrets.token_bytes(128))
        (self.folder / "munge" / "key").chmod(0o600)
        with open("/etc/hosts") as file:
            hosts = file.read() + "".join(f"127.0.0.1 {node}\n" for node in NODES)
        (self.folder / "hosts").write_text(hosts)
        text = CONFIGURATION.format(host=socket.gethostname(), ports=free_ports(3), folder=self.folder,
                                    timeout=NODE_TIMEOUT, cpus=CPUS)
        (self.folder / "slurm.conf").write_text(text)

    def _run(self, *command, stdin=subprocess.PIPE, stdout=None):
        """A process that is waited for at the end, after all the pipes have been closed."""
        with open(self.folder / "log" / "daemons", "ab") as log:
            process = subprocess.Popen(command, env=self.environment, stdin=stdin, stdout=stdout or log, stderr=log)
        self._processes.append(process)
        return process

    def switch_on(self, node):
        """Start a node that is off, and wait until it can take jobs."""
        if node in self._nodes:
            return
        self._nodes[node] = self._run(*self._enter, *ISOLATED, "--uts", "--ipc", "bash", "-c", NODE, node)
        wait_until(lambda: re.fullmatch("idle|mixed|allocated", self.state(node)), f"{node} is up", self.log)

    def switch_off(self, node):
        """The node's daemon and all that runs there are gone at once, as after a power cut."""
        process = self._nodes.pop(node)
        process.stdin.close()
        process.wait()

    def wait_until_lost(self, node):
        """Until Slurm has noticed that the node is off."""
        wait_until(lambda: self.state(node).startswith("down"), f"{node} is down", self.log)

    def state(self, node):
        """idle, allocated, down, ...; a star behind it: does not answer."""
        return self.call("sinfo", "-h", "-n", node, "-o", "%T", check=False).strip()

    def call(self, *command, check=True, cwd="/", limit=60, environment=None):
        """stdout of a command that runs in the cluster's namespaces; with check=False, stderr as well."""
        # entering a mount namespace leads to its root folder
        inside = ["sh", "-c", 'cd "$0" && exec "$@"', str(cwd), *map(str, command)]
        done = subprocess.run([*self._enter, *inside], env=self.environment | (environment or {}), text=True,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=limit, check=False,
                              stderr=subprocess.PIPE if check else subprocess.STDOUT)
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}\n{self.log()}"
        return done.stdout

    def log(self):
        """The last lines of all daemons."""
        return "\n".join(f"{path.name}: {line}" for path in sorted((self.folder / "log").iterdir())
                         for line in path.read_text(errors="replace").splitlines()[-15:])


def free_ports(count):
    """Ports that nobody listens on now."""
    with ExitStack() as open_sockets:
        sockets = [open_sockets.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def wait_until(condition, what, more=lambda: "", limit=30):
    """The first true value of condition(), asked ten times a second."""
    end = time.monotonic() + limit
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < end, f"not within {limit} s: {what}\n{more()}"
        time.sleep(0.1)
