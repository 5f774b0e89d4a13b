"""Kills and stops ranks at random moments of real runs, and checks each run, and the files that it
leaves, against the promises of docs/reliability.md. tests/bench/test_faults.py has exceptions and
delays at named places.

`python -m tests.reliability.inject_faults COUNT [SEED]` prints the longest time from a fault to the
end of the run, and each broken promise with its seed. The arguments `1 SEED` repeat the fault of a
seed. The exit status is 1 if a run has broken a promise.
"""

import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from bench.harness.session import START_S
from tests.bench.faulty_runs import (
    PROMISED_S,
    SOON_S,
    SPARING,
    Launch,
    processes,
    said_in,
    show,
    wait_for,
)
from wiretax.record.result import read

LONGEST_S = 6.0  # from the launch to a signal; most runs have ended by then
SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGSTOP": signal.SIGSTOP}
ALL = "SIGKILL of all"  # of the launcher's group and of all ranks


@dataclass
class Injection:
    """A fault that was drawn, and its outcome.

    `when` decides which promises apply: `early` (the rank had no flight record yet, so no other
    rank can notice the fault), `run` (during the run), `kept` (the results were stored), `all` (no
    rank is left to tell) or `never` (the run had ended before). `seen` is the run's file before.
    """

    seed: int
    kind: str = ""
    text: str = ""
    when: str = "run"
    took_s: float = 0.0
    spared: bool = False  # the launcher does not kill the survivors
    seen: bytes = b""
    broken: list[str] = field(default_factory=list)


def inject(seed: int) -> Injection:
    """Draws a fault, starts a run, and judges it."""
    draw = random.Random(seed)
    fault = Injection(seed, draw.choice([*SIGNALS, ALL]))
    ranks = draw.choice([2, 2, 3])
    victim = draw.randrange(ranks)
    algorithm = draw.choice(["ring", "library", "one_shot_ll,two_shot", "auto"])
    options = "--max-time", "8", "--algorithm", algorithm
    fault.spared = fault.kind == "SIGKILL" and draw.random() < 0.5
    launcher = SPARING if fault.spared else ()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "results"
        delay_s = draw.uniform(0, LONGEST_S)
        fault.text = f"{fault.kind} of rank {victim} of {ranks} after {delay_s:.2f} s"
        run = Launch(out, *options, ranks=ranks, launcher=launcher)
        time.sleep(delay_s)
        strike(run, victim, fault)
        try:
            done = run.end(60)
            wait_for(lambda: not run.ranks(), 10)
        except (subprocess.TimeoutExpired, AssertionError):
            fault.broken.append("the run hangs")
            for pid in processes(out):
                os.kill(pid, signal.SIGKILL)
            return fault
        fault.took_s = time.monotonic() - run.moment_s
        if b'"kind":"end"' in content(out) and fault.when not in ("never", "all"):
            fault.when = "kept"
        try:
            wait_for(lambda: not processes(out), 10)
        except AssertionError:
            fault.broken.append(f"the run leaves the processes {processes(out)}")
        judge(fault, victim, done, out)
        fault.broken += faults_in(out, fault.seen)
    return fault


def content(out: Path) -> bytes:
    """The run's file, as a reader sees it; empty before it exists."""
    return b"".join(path.read_bytes() for path in out.glob("*.jsonl"))


def strike(run: Launch, victim: int, fault: Injection) -> None:
    """Send the signal to the victim as soon as it exists; record whether it had a flight record."""
    pid = wait_for(lambda: run.ranks().get(victim) or run.process.poll() is not None)
    fault.when = "run" if list(run.out.glob(f"*.flight/rank-{victim}")) else "early"
    everybody, fault.seen = run.ranks().values(), content(run.out)
    run.moment_s = time.monotonic()
    try:
        if run.process.poll() is not None:
            fault.when = "never"
        elif fault.kind == ALL:
            fault.when = "all"
            for each in everybody:
                os.kill(each, signal.SIGKILL)
            os.killpg(run.process.pid, signal.SIGKILL)
        else:
            run.signal(pid, SIGNALS[fault.kind])
    except (ProcessLookupError, FileNotFoundError):
        fault.when = "never"


def judge(
    fault: Injection, victim: int, done: "subprocess.CompletedProcess[str]", out: Path
) -> None:
    """Add the promises that a run with this fault has broken."""
    sentences = said_in(done)
    place, runs = rf"wiretax: rank {victim} .*step .*, epoch \d+", list(out.glob("*.jsonl"))
    status = {"never": [0], "run": [1], "early": range(1, 256), "kept": range(256)}
    wants: dict[str, object] = {
        f"status {done.returncode}": done.returncode in status.get(fault.when, range(-255, 256)),
        "a traceback": "Traceback" not in done.stderr,
        f"{fault.took_s:.1f} s": fault.took_s < SOON_S + (START_S if fault.when == "early" else 0),
        "an unfinished file is left": not list(out.rglob("*.part")),
        "a flight record is left": not list(out.glob("*.flight"))
        or fault.when == "all"
        or (fault.when == "run" and runs),
    }
    if fault.when == "run":
        wants["the ranks do not print one sentence"] = len(sentences) == 1
        wants["the ranks print another sentence"] = all(
            re.match(place, sentence) for sentence in sentences
        )
        wants["the run is not shown as cut off by the rank"] = not runs or re.search(
            rf"(?s)INCOMPLETE.*stopped first: rank {victim} .*epoch \d", show(out)
        )
    broken = [failure for failure, holds in wants.items() if not holds]
    if broken:
        fault.broken += [*broken, done.stderr[-600:]]


def faults_in(out: Path, seen: bytes) -> list[str]:
    """Describes each fault in the files of a run that had `seen` in its file before it was struck:
    no content is lost, and of the blocks only the one in flight."""
    if not (after := content(out)):
        # A kill of all before the start of the witness leaves the flight records.
        files = [path for path in out.rglob("*") if path.is_file()]
        return [f"no run, but {path}" for path in files if path.parent.suffix != ".flight"]
    faults = [] if after.startswith(seen) else ["the file has lost content that it had"]
    [path] = out.glob("*.jsonl")
    result = read(path)
    stored = [line for line in after.split(b"\n")[:-1] if line.startswith(b'{"kind":"block"')]
    if len(result.blocks) != len(stored):
        faults.append(f"{len(stored)} whole blocks in the file, {len(result.blocks)} are read")
    if ("busbw" if result.complete else "INCOMPLETE: the run was cut off.") not in show(out):
        faults.append("reports show does not tell whether the run is complete")
    return faults


def main(count: int, seed: int) -> int:
    """Inject `count` faults, print a summary, and return the number of broken promises."""
    faults = []
    for number in range(seed, seed + count):
        faults.append(inject(number))
        for failure in faults[-1].broken:
            print(f"seed {number}, {faults[-1].text}: {failure}", flush=True)
    took_s = [each.took_s for each in faults if each.when in ("run", "kept")]
    late = sum(each > PROMISED_S for each in took_s)
    print(
        f"{late} of {len(took_s)} took longer than the promised {PROMISED_S} s; "
        f"longest {max(took_s, default=0):.2f} s"
    )
    broken = sum(bool(each.broken) for each in faults)
    print(f"{broken} of {count} faults from seed {seed} on broke a promise")
    return broken


if __name__ == "__main__":
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(1 << 30)
    sys.exit(main(int(sys.argv[1]), seed) > 0)
