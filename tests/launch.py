"""How tests start real ranks."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
MPIRUN = Path(sys.executable).parent / "mpirun"


def shared_by(pid: int | str) -> set[Path]:
    """The files in shared memory that a process maps by name."""
    return {Path(name) for name in re.findall(r" (/dev/shm/\S+)$", Path(f"/proc/{pid}/maps").read_text(), re.MULTILINE)}


def mpirun(ranks: int, *command: str, timeout_s: float = 240, **environment: str) -> "subprocess.CompletedProcess[str]":
    """`mpirun -n RANKS python COMMAND` from the project's root, with its output as text."""
    return subprocess.run(
        [str(MPIRUN), "-n", str(ranks), sys.executable, *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )
