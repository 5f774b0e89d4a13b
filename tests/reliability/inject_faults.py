"""Faults at random moments of real runs, and whether each run kept what docs/reliability.md promises.

`python -m tests.reliability.inject_faults COUNT [SEED]` kills and stops random ranks from outside, at any moment from
the launch on, and has ranks fail or come late at random calls from within (`fault_ranks.py`). It prints how long each
run took to end, how many faults there were of each kind, and each broken promise with the seed that draws it again:
`1 SEED`. Exit status 1 if there was any.
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
from tests.bench.faulty_runs import PROMISED_S, SOON_S, SPARING, TIMEOUT_S, Launch, processes, said_in, show, wait_for
from tests.launch import shared_by

LONGEST_S = 6.0  # from the launch to a fault from outside; most runs are over by then
# From within: the most calls before a fault; low numbers are drawn more often. Native code raises no exceptions.
CALLS = {"device": 1, "map": 1, "plan": 1, "block": 40, "probe": 80, "store": 40, "between": 60, "results": 1}
WORKS_ALONE = ("device", "map", "results")  # there a rank may take ten time-outs
NATIVE = {"operation": 5000, "check": 40, "finish": 1}
EDGES_S = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 10.0, 20.0, 30.0)
OUTLIVED_S = 1.0  # a survivor that lives longer has seen the first death
SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGSTOP": signal.SIGSTOP}


@dataclass
class Injection:
    """A fault that was drawn, and its outcome.

    `when` decides what must hold: `early` (the rank had no flight record yet, so no other rank can know of the fault),
    in the `run`, when the results were `kept`, or `never`.
    """

    seed: int
    kind: str = ""
    text: str = ""
    when: str = "run"
    took_s: float = 0.0
    longer_s: float = 0.0  # more time for a rank that works alone
    spared: bool = False  # the launcher should spare survivors
    shared: set[Path] = field(default_factory=set)  # files in shared memory that were mapped then
    broken: list[str] = field(default_factory=list)


def inject(seed: int) -> Injection:
    """Draws a fault, starts a run, and judges it."""
    draw = random.Random(seed)
    found = Injection(seed, draw.choices(["SIGKILL", "SIGSTOP", "raise", "sleep"], [3, 3, 1, 1])[0])
    ranks = draw.choice([2, 2, 3])
    victim = draw.randrange(ranks)
    options = ["--max-time", "8", "--algorithm", draw.choice(["ring", "library", "one_shot_ll,two_shot", "auto"])]
    found.spared = found.kind == "SIGKILL" and draw.random() < 0.5
    launcher = SPARING if found.spared else ()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "results"
        if found.kind in SIGNALS:
            delay_s = draw.uniform(0, LONGEST_S)
            found.text = f"{found.kind} of rank {victim} of {ranks} after {delay_s:.2f} s"
            run = Launch(out, *options, ranks=ranks, launcher=launcher)
            time.sleep(delay_s)
            strike(run, victim, found)
        else:
            calls = CALLS if found.kind == "raise" else CALLS | NATIVE
            where = draw.choice(sorted(calls))
            call = int(calls[where] ** draw.random())
            if found.kind == "sleep" and where in WORKS_ALONE:
                found.longer_s = (LONGEST_ALONE - 1) * TIMEOUT_S
            found.text = f"{found.kind} on rank {victim} of {ranks} at {where} {call}"
            program = ["tests/ranks/fault_ranks.py", victim, where, call, found.kind]
            run = Launch(out, *options, ranks=ranks, program=program)
            run.moment_s = time.monotonic()
        try:
            done = run.end(60)
            wait_for(lambda: not run.ranks(), 10)
        except (subprocess.TimeoutExpired, AssertionError):
            found.broken.append("it hangs")
            for pid in processes(out):
                os.kill(pid, signal.SIGKILL)
            return found
        found.took_s = time.monotonic() - run.moment_s
        if found.kind not in SIGNALS:
            struck = re.search(r"struck at ([\d.]+) over (.*)", done.stderr)
            found.when = "run" if struck else "never"
            found.took_s = time.time() - float(struck[1]) if struck else 0.0
            found.shared = {Path(name) for name in struck[2].split()} if struck else set()
        if any(b'"kind":"end"' in path.read_bytes() for path in out.glob("*.jsonl")) and found.when != "never":
            found.when = "kept"
        try:
            wait_for(lambda: not processes(out), 5)
        except AssertionError:
            found.broken.append(f"it leaves {processes(out)}")
        if left := [str(path) for path in found.shared if path.exists() and found.when != "early"]:
            found.broken.append(f"it leaves {left}")
        judge(found, victim, done, out)
    return found


def strike(run: Launch, victim: int, found: Injection) -> None:
    """Send the signal to the victim as soon as it exists; record whether it had a flight record."""
    pid = wait_for(lambda: run.ranks().get(victim) or run.process.poll() is not None)
    found.when = "run" if list(run.out.glob(f"*.flight/rank-{victim}")) else "early"
    run.moment_s = time.monotonic()
    try:
        if run.process.poll() is None:
            found.shared = shared_by(pid)
            run.signal(pid, SIGNALS[found.kind])
        else:
            found.when = "never"
    except (ProcessLookupError, FileNotFoundError):
        found.when = "never"


def judge(found: Injection, victim: int, done: "subprocess.CompletedProcess[str]", out: Path) -> None:
    """Add the promises that a run with this fault has broken."""
    said, tracebacks, killed = said_in(done), done.stderr.count("Traceback"), found.kind == "SIGKILL"
    place, runs = rf"wiretax: rank {victim} .*step .*, epoch \d+", list(out.glob("*.jsonl"))
    status = {"never": [0], "run": range(1, 256) if killed else [1], "early": range(1, 256), "kept": range(256)}
    wants: dict[str, object] = {
        f"status {done.returncode}": done.returncode in status[found.when],
        f"{tracebacks} tracebacks": tracebacks <= (found.kind == "raise"),
        f"{found.took_s:.1f} s": found.took_s < found.longer_s + SOON_S + (START_S if found.when == "early" else 0),
        "something unfinished is left": not list(out.rglob("*.part")),
        "a flight record is left": not list(out.glob("*.flight")) or (found.when == "run" and runs),
    }
    if found.when == "run":
        outlived = found.spared and found.took_s > OUTLIVED_S
        wants["it does not say one sentence"] = len(said) == 1 if outlived or not killed else len(said) <= 1
        wants["it says another sentence"] = all(re.match(place, sentence) for sentence in said)
        if runs:
            wants["it is shown as complete"] = "INCOMPLETE" in show(out)
            wants["it is shown without its place"] = re.search(rf"stopped first: rank {victim}, .*epoch \d", show(out))
    broken = [what for what, holds in wants.items() if not holds]
    if broken:
        found.broken += [*broken, done.stderr[-600:]]


def histogram(took_s: list[float]) -> list[str]:
    """Return a line for each range of seconds in which a run ended."""
    lines = []
    for low, high in zip(EDGES_S, (*EDGES_S[1:], float("inf")), strict=True):
        if n := sum(low <= each < high for each in took_s):
            lines.append(f"{low:5.1f} s on {n:4d} {'#' * min(n, 100)}")
    return lines


def main(count: int, seed: int) -> int:
    """Inject `count` faults, print a summary, and return the number of broken promises."""
    found = []
    for number in range(seed, seed + count):
        found.append(inject(number))
        for what in found[-1].broken:
            print(f"seed {number}, {found[-1].text}: {what}", flush=True)
    kinds, moments = (Counter(getattr(each, name) for each in found) for name in ("kind", "when"))
    print(f"{count} faults from seed {seed} on: {', '.join(f'{n} {kind}' for kind, n in sorted(kinds.items()))}")
    print(f"{moments['run']} in the run, {moments['early']} before any rank can know of another, "
          f"{moments['kept']} when the results were kept, {moments['never']} never, as the run had ended")
    for text, moment in (("in the run or after", ("run", "kept")), ("early", ("early",))):
        if took_s := [each.took_s for each in found if each.when in moment]:
            print("\n".join([f"from a fault {text} to the end of all ranks:", *histogram(took_s)]))
            print(f"longest {max(took_s):.2f} s")
            if text != "early":
                late = sum(each.took_s > PROMISED_S + each.longer_s for each in found if each.when in moment)
                print(f"{late} of {len(took_s)} took longer than promised, {PROMISED_S} s where no rank works alone")
    broken = sum(bool(each.broken) for each in found)
    print(f"{broken} of {count} broke a promise")
    return broken


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(1 << 30)) > 0)
