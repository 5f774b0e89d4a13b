"""A commit without the code that keeps a run from hanging, for `bench.campaign` to compare with.

`python -m tests.reliability.unguarded` prints the hash of the commit. Its waits end neither after a
time-out nor at a stop word, its timed loop leaves no record of its phases and calls, and it has no
flight records, watchdogs or witness. The commit is made in a temporary worktree and no branch names
it; the project itself does not change.
"""

import subprocess
import tempfile
from pathlib import Path

from tests.kernels.broken_kernels import SYNC, Patch, apply
from tests.launch import ROOT

LOOP, SESSION, WATCHDOG = (
    "kernels/devices/loop_cpu.cpp",
    "bench/harness/session.py",
    "bench/harness/watchdog.py",
)
GUARDS = [
    # Waits end.
    Patch(
        SYNC,
        "  Timer timer;\n",
        "  for (u64 seen; !poll(seen);) cpu_relax();\n",
        until="    if (a.yields && polls % (looks * POLLS_PER_LOOK) == 0) yield();\n  }\n",
    ),
    # The timed loop leaves a record.
    Patch(LOOP, "  watch->phase = (u64)action.phase;\n", ""),
    Patch(LOOP, "  if (begins || action.call) watch->calls = (u64)action.call;\n", ""),
    # Others watch.
    Patch(
        SESSION, 'start_witness(folder, pids, hosts[rank] if hosts else "")\n', "folder.rmdir()\n"
    ),
    Patch(SESSION, "FlightRecord(folder, rank", "FlightRecord(None, rank"),
    Patch(
        WATCHDOG,
        "        if pids:\n",
        "        if not hosts:\n            return\n        if pids:\n",
    ),
]


def commit() -> str:
    """Make the commit and return its hash. Raises ValueError if the tree lacks a guard at its
    expected place."""

    def git(*words: str, at: Path = ROOT) -> str:
        identity = "-c", "user.name=nobody", "-c", "user.email=nobody@localhost"
        command = ["git", *identity, *words]
        return subprocess.run(command, cwd=at, check=True, capture_output=True, text=True).stdout

    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder) / "worktree"
        git("worktree", "add", "--quiet", "--detach", str(at), "HEAD")
        try:
            apply(at, GUARDS)
            git("commit", "--no-verify", "--no-gpg-sign", "-qam", "Without guards", at=at)
            return git("rev-parse", "HEAD", at=at).strip()
        finally:
            git("worktree", "remove", "--force", str(at))


if __name__ == "__main__":
    print(commit())
