"""Starts real runs with a fault from outside, or inside a rank (`fault_ranks.py`), and reads how
they end."""

import os
import re
import subprocess
import sys
import time
from contextlib import suppress

import psutil

from reports.tables.show import text
from tests.launch import MPIRUN, ROOT
from wiretax.record.result import read

TIMEOUT_S = 1.5
PROMISED_S = TIMEOUT_S + 2
SOON_S = PROMISED_S + 1
CORES = len(os.sched_getaffinity(0))
SMALL = f"-b 16K -e 16K --mode isolated --max-time 20 --timeout {TIMEOUT_S}".split()
# With this option MPICH's launcher should spare the survivors of a killed rank; MPICH 5.0.2 does so
# in one of four cases. Ranks in their own session that write standard error to a file (APART)
# always survive.
SPARING = ("-disable-auto-cleanup",)
APART = ("sh", "-c", 'exec setsid --wait "$@" 2>>"$RANK_ERRORS"', "sh")


def soon_s(quiet_s=SOON_S):
    """What may take these seconds on a quiet machine, on this one, whose cores others share."""
    return quiet_s * max(1.0, os.getloadavg()[0] / CORES)


def wait_for(condition, patience_s=60.0):
    """Return the condition's value once it is true."""
    late_s = time.monotonic() + patience_s
    while not (value := condition()):
        assert time.monotonic() < late_s, f"the condition is still false after {patience_s} s"
        time.sleep(0.005)
    return value


def processes(out):
    """Return the living processes of the runs in `out`: {process id: rank, or None}."""
    ranks = {}
    for process in psutil.process_iter():
        try:
            if (
                any(str(out) in word for word in process.cmdline())
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                is_rank = "witness.py" not in " ".join(process.cmdline())
                ranks[process.pid] = process.environ().get("PMI_RANK") if is_rank else None
        except psutil.NoSuchProcess:
            continue
    return ranks


def blocks_in(folder):
    """Return the number of blocks in the runs of a folder."""
    return sum(path.read_bytes().count(b'"kind":"block"') for path in folder.glob("*.jsonl"))


def parent_of(pid):
    """Return the process id of the parent, or None if the process has ended."""
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).ppid()
    return None


class Launch:
    """A run in the background: `signal` sends a signal, `end` waits for the end. The words of an
    option are separate."""

    def __init__(
        self,
        out,
        *options,
        ranks=2,
        program=("-m", "bench.allreduce"),
        launcher=(),
        apart=False,
        small=SMALL,
        **environment,
    ):
        self.out = out
        python = [*(APART if apart else ()), sys.executable]
        command = [
            MPIRUN,
            *launcher,
            "-n",
            str(ranks),
            *python,
            *program,
            *small,
            "--out",
            str(out),
            *(word for option in options for word in str(option).split()),
        ]
        self.process = subprocess.Popen(
            [str(word) for word in command],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        )

    def ranks(self):
        """{rank: process id}, without the guards, which are the ranks' parents."""
        rank_of_pid = processes(self.out)
        return {
            int(rank): pid
            for pid, rank in rank_of_pid.items()
            if rank is not None and rank_of_pid.get(parent_of(pid)) == rank
        }

    def guards(self):
        """{rank: process id}"""
        return {rank: parent_of(pid) for rank, pid in self.ranks().items()}

    def blocks(self):
        return blocks_in(self.out)

    def signal(self, pid, number):
        self.moment_s = time.monotonic()
        os.kill(pid, number)

    def end(self, patience_s=20):
        stdout, stderr = self.process.communicate(timeout=patience_s)
        self.took_s = time.monotonic() - self.moment_s
        return subprocess.CompletedProcess(
            self.process.args, self.process.returncode, stdout, stderr
        )


def struck(out, fault, *options, ranks=2, spared=False, **environment):
    """Run with a fault of `fault_ranks.py`, as in "1 operation 40 kill:0". Return the output and
    the seconds from the fault to the end of all ranks."""
    errors = out.with_suffix(".stderr")
    run = Launch(
        out,
        *options,
        ranks=ranks,
        program=["tests/ranks/fault_ranks.py", *fault.split()],
        launcher=SPARING if spared else (),
        apart=spared,
        RANK_ERRORS=str(errors),
        **environment,
    )
    run.moment_s = time.monotonic()
    done = run.end(40)
    if spared:
        wait_for(lambda: not run.ranks())
        done.stderr += errors.read_text()
    moment = re.search(r"struck at ([\d.]+)", done.stderr)
    assert moment, done.stderr
    return done, time.time() - float(moment[1])


def said_in(done):
    """Return the ranks' sentences about their end."""
    return [line for line in done.stderr.splitlines() if line.startswith("wiretax:")]


def sentence(done):
    """Return the only sentence of a run that a fault has ended."""
    assert len(said_in(done)) == 1, done.stderr
    assert done.returncode == 1, done.stderr
    return said_in(done)[0]


def show(out):
    """Return the output of `reports show` for the only run."""
    [run] = out.glob("*.jsonl")
    return text(read(run))
