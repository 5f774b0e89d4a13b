"""Kills runs with SIGKILL at random moments between their start and their end, and checks the files
that they leave.

    python -m tests.reliability.kill_writers COUNT [SEED]

Before each kill the test reads the run's file. After the kill the file must still hold that
content, and every block before the last one in a rank's flight record; only the last line may be
torn. `show` and `dashboard` must accept the file and report it correctly. No half-written file and
no process may remain. If a run ends before its kill, the test starts another one.

Prints a line for each violation; the exit status is 1 if there is one.
"""

import contextlib
import io
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from reports.__main__ import main as reports
from reports.store.result import read
from tests.bench.faulty_runs import Launch, processes, wait_for

SMALL = "-b 16K -e 16K --mode isolated --algorithm ring,library -n 2400"
VICTIMS = ("rank 0", "rank 0", "all ranks", "the launcher's group")
BLOCKS = 24  # in a complete run


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


def refusal(expected, *words):
    """What `python -m reports` says if it does not accept the files, or not as `expected`."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            status = reports(list(map(str, words)))
        except Exception as error:  # noqa: BLE001 - any exception is a fault
            return [f"reports {words[0]}: {type(error).__name__}: {error}"]
    text = output.getvalue()
    if status == 0 and expected in text and "cannot be read" not in text:
        return []
    return [f"reports {words[0]}: status {status}, {text!r}"]


def faults_in(out, seen):
    """Describes each fault in the files of a killed run in `out`. `seen`: the content of its run
    file before the kill."""
    faults = [f"{path.name} is half written" for path in out.rglob("*.part")]
    after = content(out)
    if after is None:
        # A kill after the claim of a name and before the start of the witness may leave an empty
        # folder.
        names = [path.name for path in out.rglob("*") if path.is_file()]
        return faults + [f"no run, but {name}" for name in names] + ["the run is gone"] * bool(seen)
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
    return [*faults, *refusal(word, "show", path)]


def wait_for_blocks(process, out, count):
    """Waits until the run's file has a line and `count` blocks, or the run ends."""
    while (there := content(out)) is None or there.count(b'"kind":"block"') < count:
        if process.poll() is not None:
            return
        time.sleep(0.001)


def strike(out, start_s, rng):
    """Starts a run and kills it: before its first line, after some blocks, or near its end. Returns
    the faults; None if the run ended before the kill."""
    victim = rng.choice(VICTIMS)
    blocks, moment = rng.choice([None, rng.randrange(BLOCKS), BLOCKS]), rng.random()
    process = Launch(out, small=SMALL.split()).process
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
    process.communicate(timeout=60)
    faults = faults_in(out, seen)
    try:
        wait_for(lambda: not processes(out), 10)
    except AssertionError:
        faults.append(f"processes are left: {processes(out)}")
    return [f"{victim} after {blocks or 'no'} blocks: {fault}" for fault in faults]


def campaign(count, seed, say=print):
    """Kills `count` runs and returns the violations."""
    rng, violations = random.Random(seed), []
    with tempfile.TemporaryDirectory(prefix="wiretax-kill-") as name:
        folder = Path(name)
        for number in range(2):  # the first run compiles the kernels
            out, begun_s = folder / f"whole{number}", time.monotonic()
            whole = Launch(out, small=SMALL.split()).process
            wait_for_blocks(whole, out, 0)
            start_s = time.monotonic() - begun_s
            whole.communicate(timeout=120)
            if whole.returncode:
                return ["a run failed without a kill"]
        for number in range(count):
            while (faults := strike(folder / str(number), start_s, rng)) is None:
                shutil.rmtree(folder / str(number))
            violations += [f"run {number}: {fault}" for fault in faults]
        violations += refusal("", "dashboard", folder, "-o", folder / "site")
    say(*violations, f"{count} runs killed, {len(violations)} violations; seed {seed}", sep="\n")
    return violations


if __name__ == "__main__":
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(1 << 30)
    sys.exit(bool(campaign(int(sys.argv[1]), seed)))
