"""One launch of a campaign: its command line, its processes from start to end, what it left behind; and the worktrees
of variants that run another revision.
"""

import ctypes
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from bench.campaigns.variants import Variant, bench_at, git
from bench.harness.options import USAGE, WRONG
from reports.manifest import WORKTREES
from reports.result import ResultError, read

PR_SET_PDEATHSIG = 1
# How a launch is asked to end, and for how long: on the first it writes what it has.
ENDINGS = ((signal.SIGINT, 15.0), (signal.SIGTERM, 3.0), (signal.SIGKILL, None))


class Stop(Exception):
    """The campaign ends here: an exit status, and one sentence."""


def command_line(variant: Variant, out: Path, seed: int, max_time_s: float | None, sizes: Sequence[int]) -> list[str]:
    """The variant's command with what makes it a launch of a campaign; `sizes` in bytes, none: its own."""
    added = ["--out", str(out.resolve()), "--seed", str(seed), "--lean"]
    added += ["--max-time", f"{max_time_s:.1f}"] if max_time_s else []
    # Of an option that stands twice the later counts: of these the command's own, but for the sizes.
    at = bench_at(variant.command) + 2
    wanted = ["--sizes", ",".join(map(str, sizes))] if sizes else []
    return [*variant.command[:at], *added, *variant.command[at:], *wanted]


def run_to_end(command: Sequence[str], at: Path | None, variables: Mapping[str, str],
               limit_s: float | None = None) -> tuple[int, str | None]:
    """Exit status and last line on standard error of a command in folder `at`, None instead of the line where this
    process was interrupted: then so was the command. Nothing of its process group runs on.

    If this process is killed the kernel ends the command with it; a launcher that ends takes its ranks along.
    """
    prctl = ctypes.CDLL(None).prctl
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command, cwd=at, env=variables, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said,
            start_new_session=True, preexec_fn=lambda: prctl(PR_SET_PDEATHSIG, signal.SIGTERM))
        late = None
        try:
            process.wait(limit_s)
        except subprocess.TimeoutExpired:
            late = f"stood for more than {limit_s:.0f} s"
        except KeyboardInterrupt:
            end_group(process)
            return process.returncode, None
        end_group(process)
        said.seek(0)
        lines = [line.strip() for line in said.read().decode(errors="replace").splitlines()]
    last = next(filter(None, reversed(lines)), f"exit status {process.returncode} without a word")
    return process.returncode, late or last


def end_group(process: "subprocess.Popen[bytes]") -> None:
    """Ends the process if it still runs, and then what it left of its group."""
    for number, patience_s in ENDINGS:
        if process.poll() is not None:
            break
        os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience_s)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def reason_against(exit_status: int, last_line: str | None, run: Path | None) -> str | None:
    """Why a launch did not finish, without paths and names of hosts; None where it did. Wrong results are results."""
    reason = last_line
    if reason is None:
        return "interrupted"
    if exit_status in (0, WRONG) and run is not None:
        try:
            if read(run).end:
                return None
        except ResultError as error:
            reason = str(error)
    reason = re.sub(r"\S*[/@\\]\S*|\S+:\S+|\d+\.\d+\.\d+\S*", "<set>", reason)
    return re.sub(rf"\b{re.escape(socket.gethostname())}\b", "<set>", reason)[:300]


def check_out(variant: Variant, folder: Path) -> None:
    """Lays the variant's commit out as a worktree below the campaign's `folder`, with a virtual environment of its own
    where it needs other packages than are here. Raises Stop."""
    at = (folder / WORKTREES / variant.name).resolve()
    remove_worktree(at)
    # In a group of its own, as a launch is: git that runs on would lay files where the next campaign works.
    add = ["git", "worktree", "add", "--quiet", "--force", "--detach", str(at), str(variant.commit)]
    status, last_line = run_to_end(add, None, os.environ)
    if last_line is None:
        raise KeyboardInterrupt
    if status:
        raise Stop(WRONG, f"variant {variant.name}: {last_line}")
    if not (at / "bench").is_dir():  # what is installed here would run in its place
        raise Stop(USAGE, f"variant {variant.name}: its revision has no benchmarks")
    variant.at = at
    locks = [root / "requirements.lock" for root in (at, Path(__file__).parent.parent)]
    theirs, ours = (lock.read_bytes() if lock.is_file() else b"" for lock in locks)
    if theirs not in (b"", ours):
        status, last_line = run_to_end(["make", "setup"], at, variant.variables())
        if last_line is None:
            raise KeyboardInterrupt
        if status:
            raise Stop(WRONG, f"variant {variant.name}: `make setup` of its revision failed: {last_line}")


def remove_worktree(at: Path) -> None:
    """Takes a worktree away, and the folder of all where it was the last; nothing where there is none."""
    git("worktree", "unlock", str(at))  # one whose making was interrupted is locked
    shutil.rmtree(at, ignore_errors=True)
    git("worktree", "prune")
    with suppress(OSError):
        at.parent.rmdir()
