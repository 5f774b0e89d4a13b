"""Kills runs with SIGKILL at random moments between their start and their end, and checks the files
that they leave.

    python -m tests.reliability.kill_writers COUNT [SEED]

Before each kill the test reads the run's file. After the kill the file must still hold that
content, and every block before the last one in a rank's flight record; only the last line may be
torn. `show`, `compare`, `history` and `dashboard` must accept the file and report it correctly. No
half-written file and no process may remain.

If a run ends before its kill, the test starts another one, at most TRIES in a row. Prints a line
for each violation; the exit status is 1 if there is one.
"""

import contextlib
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from reports.__main__ import main as reports
from reports.store.result import read
from tests.bench.faulty_runs import processes
from tests.launch import MPIRUN, ROOT

SMALL = "-b 16K -e 16K --mode isolated --algorithm ring,library -n 2400"
VICTIMS = ("rank 0", "rank 0", "all ranks", "the launcher's group")
BLOCKS = 24  # in a complete run
TRIES = 20  # in a row; a single run may end before its kill


def launch(out):
    """Starts a run in the background, as the leader of a process group."""
    program = [sys.executable, "-m", "bench.allreduce", *SMALL.split(), "--out", str(out)]
    return subprocess.Popen(
        [str(MPIRUN), "-n", "2", *program],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def content(out):
    """The bytes of the run's file, as a reader sees them; None before the file exists."""
    return next((path.read_bytes() for path in out.glob("*.jsonl")), None)


def kill(there, victim, process):
    ranks = {rank: pid for pid, rank in there.items() if rank is not None}
    with contextlib.suppress(ProcessLookupError):
        if victim == "the launcher's group":
            os.killpg(process.pid, signal.SIGKILL)
        for rank, pid in ranks.items():
            if rank == "0" or victim != "rank 0":
                os.kill(pid, signal.SIGKILL)


def ask(*words):
    """Returns exit status and output of `python -m reports`. An exception gives None: users would
    see a traceback."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            status = reports(list(map(str, words)))
        except Exception as error:  # noqa: BLE001 - any exception is a fault
            return None, f"{type(error).__name__}: {error}"
    return status, output.getvalue()


def faults_in(out, seen, whole):
    """Describes each fault in the files of a killed run in `out`. `seen`: the content of its run
    file before the kill; `whole`: a run that was not killed."""
    names = sorted(path.name for path in out.iterdir()) if out.exists() else []
    faults = [f"{path.name} is half written" for path in out.rglob("*.part")]
    after = content(out)
    if after is None:
        # A kill after the claim of a name and before the start of the witness may leave an empty
        # folder.
        names = [name for name in names if (out / name).is_file() or any((out / name).iterdir())]
        return (
            faults
            + ([f"no run, but {', '.join(names)}"] if names else [])
            + (["the run is gone"] if seen else [])
        )
    if not after.startswith(seen or b""):
        faults.append("the file has lost content that it had before the kill")
    [path] = out.glob("*.jsonl")
    result = read(path)
    lines = after.split(b"\n")[:-1]
    stored = [line for line in lines if line.startswith(b'{"kind":"block"')]
    if len(result.blocks) != len(stored):
        faults.append(f"{len(stored)} whole blocks in the file, {len(result.blocks)} are read")
    blocks = {(block.case, block.block) for block in result.blocks}
    # A rank begins a block only after rank 0 has stored the earlier blocks, so only the block in
    # flight may be missing.
    for rank, record in (result.flight.ranks if result.flight else {}).items():
        case, block = record.get("case"), record.get("block")
        if case is not None and case >= 0 and block is not None and record["step"] != "finished":
            faults += [
                f"rank {rank} was in block {block} of case {case}, and block {earlier} is missing"
                for earlier in range(block)
                if (case, earlier) not in blocks
            ]
    word = "busbw" if result.complete else "INCOMPLETE: the run was cut off."
    runs = "runs 2" if result.complete else "incomplete: 1"
    for words, statuses, expected in (
        (("show", path), (0,), word),
        (("compare", whole, path), (0, 2), ""),
        (("history", path.parent.parent), (0,), runs),
    ):
        status, text = ask(*words)
        if status not in statuses or expected not in text or "Traceback" in text:
            faults.append(f"reports {words[0]}: status {status}, {text!r}")
    return faults


def wait_for_blocks(process, out, count):
    """Waits until the run's file has a line and `count` blocks, or the run ends."""
    while (there := content(out)) is None or there.count(b'"kind":"block"') < count:
        if process.poll() is not None:
            return
        time.sleep(0.001)


def strike(folder, whole, start_s, rng):
    """Starts a run and kills it: before its first line, after some blocks, or near its end. Returns
    the faults; None if the run ended before the kill."""
    out, victim = folder / "killed", rng.choice(VICTIMS)
    blocks, moment = rng.choice([None, rng.randrange(BLOCKS), BLOCKS]), rng.random()
    process = launch(out)
    if blocks is None:
        time.sleep(moment * start_s)
        there = processes(out)
    else:  # lists the processes first, because that takes longer than a block
        wait_for_blocks(process, out, 0)
        there = processes(out)
        wait_for_blocks(process, out, blocks)
        time.sleep(0.01 * moment)
    seen = content(out)
    if process.poll() is not None:
        return None
    kill(there, victim, process)
    process.wait(60)
    late_s = time.monotonic() + 10
    while (left := processes(out)) and time.monotonic() < late_s:
        time.sleep(0.02)
    faults = faults_in(out, seen, whole) + ([f"processes are left: {left}"] if left else [])
    return [f"{victim} after {blocks or 'no'} blocks: {fault}" for fault in faults]


def strike_running(trial, whole, start_s, rng):
    for _ in range(TRIES):
        faults = strike(trial, whole, start_s, rng)
        if faults is not None:
            return faults
        shutil.rmtree(trial / "killed", ignore_errors=True)
    return [f"{TRIES} runs in a row ended before they could be killed"]


def campaign(count, seed, say=print):
    """Kills `count` runs and returns the violations. One folder collects the files of all runs for
    the dashboard."""
    rng, violations = random.Random(seed), []
    with tempfile.TemporaryDirectory(prefix="wiretax-kill-") as name:
        folder = Path(name)
        for number in range(2):  # the first run compiles the kernels
            out, begun_s = folder / f"whole{number}", time.monotonic()
            process = launch(out)
            wait_for_blocks(process, out, 0)
            start_s = time.monotonic() - begun_s
            if process.wait(120):
                return ["a run failed without a kill"]
        [whole] = out.glob("*.jsonl")
        (folder / "all").mkdir()
        for number in range(count):
            trial = folder / str(number)
            trial.mkdir()
            os.link(whole, trial / whole.name)
            faults = strike_running(trial, whole, start_s, rng)
            violations += [f"run {number}: {fault}" for fault in faults]
            if (trial / "killed").exists():
                (trial / "killed").rename(folder / "all" / str(number))
        if any((folder / "all").rglob("*.jsonl")):
            status, text = ask("dashboard", folder / "all", "-o", folder / "site")
            if status != 0 or "cannot be" in text:
                violations.append(f"reports dashboard: status {status}, {text!r}")
    say(*violations, f"{count} runs killed, {len(violations)} violations; seed {seed}", sep="\n")
    return violations


if __name__ == "__main__":
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(1 << 30)
    sys.exit(bool(campaign(int(sys.argv[1]), seed)))
