"""Injects faults at random moments of real runs, and checks each run against the promises of
docs/reliability.md.

`python -m tests.reliability.inject_faults COUNT [SEED]` kills and stops random ranks with signals
at any moment after the launch, and makes ranks raise an exception or sleep at random calls
(`fault_ranks.py`). It prints the number of faults of each kind, the longest time from a fault to
the end of the run, and each broken promise with its seed. The arguments `1 SEED` repeat the fault
of a seed. The exit status is 1 if a run has broken a promise.
"""

import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from bench.harness.session import START_S
from bench.harness.watchdog import LONGEST_ALONE
from tests.bench.faulty_runs import (
    PROMISED_S,
    SOON_S,
    SPARING,
    TIMEOUT_S,
    Launch,
    processes,
    said_in,
    show,
    wait_for,
)
from tests.launch import shared_by

LONGEST_S = 6.0  # from the launch to a signal; most runs have ended by then
# The largest call number of a fault at each place; low numbers are drawn more often. Native code
# raises no exceptions.
CALLS = {
    "device": 1,
    "map": 1,
    "plan": 1,
    "block": 40,
    "probe": 80,
    "store": 40,
    "between": 60,
    "results": 1,
}
WORKS_ALONE = ("device", "map", "results")  # in these places a rank may take ten time-outs
NATIVE = {"operation": 5000, "check": 40, "finish": 1}
OUTLIVED_S = 1.0  # a survivor that lives longer has noticed the first death
MOMENTS = {
    "run": "in the run",
    "early": "before other ranks could notice",
    "kept": "after the results were stored",
    "never": "after the end of the run",
}
SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGSTOP": signal.SIGSTOP}


@dataclass
class Injection:
    """A fault that was drawn, and its outcome.

    `when` decides which promises apply: `early` (the rank had no flight record yet, so no other
    rank can notice the fault), `run` (during the run), `kept` (the results were stored) or `never`
    (the run had ended before).
    """

    seed: int
    kind: str = ""
    text: str = ""
    when: str = "run"
    took_s: float = 0.0
    longer_s: float = 0.0  # additional time for a rank that works alone
    spared: bool = False  # the launcher does not kill the survivors
    shared: set[Path] = field(
        default_factory=set
    )  # files in shared memory that were mapped at the fault
    broken: list[str] = field(default_factory=list)


def inject(seed: int) -> Injection:
    """Draws a fault, starts a run, and judges it."""
    draw = random.Random(seed)
    fault = Injection(seed, draw.choices(["SIGKILL", "SIGSTOP", "raise", "sleep"], [3, 3, 1, 1])[0])
    ranks = draw.choice([2, 2, 3])
    victim = draw.randrange(ranks)
    options = [
        "--max-time",
        "8",
        "--algorithm",
        draw.choice(["ring", "library", "one_shot_ll,two_shot", "auto"]),
    ]
    fault.spared = fault.kind == "SIGKILL" and draw.random() < 0.5
    launcher = SPARING if fault.spared else ()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "results"
        if fault.kind in SIGNALS:
            delay_s = draw.uniform(0, LONGEST_S)
            fault.text = f"{fault.kind} of rank {victim} of {ranks} after {delay_s:.2f} s"
            run = Launch(out, *options, ranks=ranks, launcher=launcher)
            time.sleep(delay_s)
            strike(run, victim, fault)
        else:
            calls = CALLS if fault.kind == "raise" else CALLS | NATIVE
            place = draw.choice(sorted(calls))
            call = int(calls[place] ** draw.random())
            if fault.kind == "sleep" and place in WORKS_ALONE:
                fault.longer_s = (LONGEST_ALONE - 1) * TIMEOUT_S
            fault.text = f"{fault.kind} on rank {victim} of {ranks} at {place} {call}"
            program = ["tests/ranks/fault_ranks.py", victim, place, call, fault.kind]
            run = Launch(out, *options, ranks=ranks, program=program)
            run.moment_s = time.monotonic()
        try:
            done = run.end(60)
            wait_for(lambda: not run.ranks(), 10)
        except (subprocess.TimeoutExpired, AssertionError):
            fault.broken.append("the run hangs")
            for pid in processes(out):
                os.kill(pid, signal.SIGKILL)
            return fault
        fault.took_s = time.monotonic() - run.moment_s
        if fault.kind not in SIGNALS:
            struck = re.search(r"struck at ([\d.]+) over (.*)", done.stderr)
            fault.when = "run" if struck else "never"
            fault.took_s = time.time() - float(struck[1]) if struck else 0.0
            fault.shared = {Path(name) for name in struck[2].split()} if struck else set()
        if (
            any(b'"kind":"end"' in path.read_bytes() for path in out.glob("*.jsonl"))
            and fault.when != "never"
        ):
            fault.when = "kept"
        try:
            wait_for(lambda: not processes(out), 5)
        except AssertionError:
            fault.broken.append(f"the run leaves the processes {processes(out)}")
        if left := [str(path) for path in fault.shared if path.exists() and fault.when != "early"]:
            fault.broken.append(f"the run leaves {left}")
        judge(fault, victim, done, out)
    return fault


def strike(run: Launch, victim: int, fault: Injection) -> None:
    """Send the signal to the victim as soon as it exists; record whether it had a flight record."""
    pid = wait_for(lambda: run.ranks().get(victim) or run.process.poll() is not None)
    fault.when = "run" if list(run.out.glob(f"*.flight/rank-{victim}")) else "early"
    run.moment_s = time.monotonic()
    try:
        if run.process.poll() is None:
            fault.shared = shared_by(pid)
            run.signal(pid, SIGNALS[fault.kind])
        else:
            fault.when = "never"
    except (ProcessLookupError, FileNotFoundError):
        fault.when = "never"


def judge(
    fault: Injection, victim: int, done: "subprocess.CompletedProcess[str]", out: Path
) -> None:
    """Add the promises that a run with this fault has broken."""
    sentences, tracebacks, killed = (
        said_in(done),
        done.stderr.count("Traceback"),
        fault.kind == "SIGKILL",
    )
    place, runs = rf"wiretax: rank {victim} .*step .*, epoch \d+", list(out.glob("*.jsonl"))
    status = {
        "never": [0],
        "run": range(1, 256) if killed else [1],
        "early": range(1, 256),
        "kept": range(256),
    }
    wants: dict[str, object] = {
        f"status {done.returncode}": done.returncode in status[fault.when],
        f"{tracebacks} tracebacks": tracebacks <= (fault.kind == "raise"),
        f"{fault.took_s:.1f} s": fault.took_s
        < fault.longer_s + SOON_S + (START_S if fault.when == "early" else 0),
        "an unfinished file is left": not list(out.rglob("*.part")),
        "a flight record is left": not list(out.glob("*.flight")) or (fault.when == "run" and runs),
    }
    if fault.when == "run":
        outlived = fault.spared and fault.took_s > OUTLIVED_S
        fewest = 1 if outlived or not killed else 0
        wants["the ranks do not print one sentence"] = fewest <= len(sentences) <= 1
        wants["the ranks print another sentence"] = all(
            re.match(place, sentence) for sentence in sentences
        )
        if runs:
            wants["the run is shown as complete"] = "INCOMPLETE" in show(out)
            wants["the fault's place is not shown"] = re.search(
                rf"stopped first: rank {victim}, .*epoch \d", show(out)
            )
    broken = [failure for failure, holds in wants.items() if not holds]
    if broken:
        fault.broken += [*broken, done.stderr[-600:]]


def main(count: int, seed: int) -> int:
    """Inject `count` faults, print a summary, and return the number of broken promises."""
    faults = []
    for number in range(seed, seed + count):
        faults.append(inject(number))
        for failure in faults[-1].broken:
            print(f"seed {number}, {faults[-1].text}: {failure}", flush=True)
    kinds = Counter(f"{each.kind} {MOMENTS[each.when]}" for each in faults)
    print(
        f"{count} faults from seed {seed} on:",
        *(f"{n} {kind}" for kind, n in kinds.items()),
        sep="\n",
    )
    took_s = [each.took_s - each.longer_s for each in faults if each.when in ("run", "kept")]
    late = sum(each > PROMISED_S for each in took_s)
    print(
        f"{late} of {len(took_s)} took longer than the promised {PROMISED_S} s; "
        f"longest {max(took_s, default=0):.2f} s"
    )
    broken = sum(bool(each.broken) for each in faults)
    print(f"{broken} of {count} broke a promise")
    return broken


if __name__ == "__main__":
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(1 << 30)
    sys.exit(main(int(sys.argv[1]), seed) > 0)
