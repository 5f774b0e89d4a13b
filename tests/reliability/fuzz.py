"""Feeds damaged files to the commands that read them, which may refuse a file but must not fail.

    python -m tests.reliability.fuzz SECONDS [SEED]

First come the files that made a command fail once (`corpus/regressions.toml`). Then Hypothesis
draws a file of one of the kinds in `fuzz_targets.py`, and its damage. It flips, cuts or repeats
bytes of any file. In JSON it puts values of another type, huge or negative numbers, duplicate names
and very long lists, and drops or swaps lines. In text it replaces words and numbers. A pipe, a
folder or a link can lie in the file's place. Each input runs in one process, forked from a process
that has imported everything. The limits are 10 s of processor time, 20 s of wall time, and 1 GB of
memory. The process must end with a documented status, without a traceback or a warning, and must
explain each refusal in one sentence on standard error; what it prints controls no terminal.

Prints the number of inputs of each kind of file, and the failures. After a failure the status is 1,
and the input's files are kept.
"""

from __future__ import annotations

import itertools
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NoReturn
from unittest import mock

os.environ |= {"OPENBLAS_NUM_THREADS": "1", "COLUMNS": "80"}  # a forked process has only one thread

import msgspec
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from bench.harness.console import CANNOT
from reports import __main__ as program
from tests.reliability.damage import FORMS, changed, put_form
from tests.reliability.fuzz_targets import (
    CORPUS,
    EXPLAINED,
    OF_BENCHMARKS,
    PLACE,
    TARGETS,
    Target,
    perform,
    write_corpus,
)
from wiretax.common.untrusted import UNPRINTABLE

MOST_BYTES = 10**9
MOST_MAPPED_BYTES = 4 * MOST_BYTES  # a guard for the machine; most of it is never touched
EXAMPLES = 4  # per batch of one command
MOST_CPU_S, MOST_WALL_S = 10, 20
OURS = re.compile(r'  File ".*/(bench|collectives|reports)/')
SPEAKER = re.compile(r"(reports|bench\.\w+): ")


# One input, in its own process


@dataclass
class Tally:
    """The inputs by kind of file, and the failures."""

    root: Path
    out: Path
    tried: Counter[str] = field(default_factory=Counter)
    failures: dict[str, str] = field(default_factory=dict)  # by sentence, with N for each number

    def lines(self) -> list[str]:
        tried = sorted(self.tried.items())
        return [
            *(f"{kind}: {n} inputs" for kind, n in tried),
            f"{self.tried.total()} inputs, {len(self.failures)} found",
            *self.failures.values(),
        ]


def run_forked(argv: list[str], folder: Path) -> tuple[int, int]:
    """Runs the command in a fork of this process, in `folder`. Returns its exit status (negative:
    the signal), and the most memory that it took, in KiB."""
    child = os.fork()
    if not child:
        run_to_its_end(argv, folder)
    _, status, used = os.wait4(child, 0)
    return os.waitstatus_to_exitcode(status), used.ru_maxrss


def run_to_its_end(argv: list[str], folder: Path) -> NoReturn:
    """Runs the command as this process, within the limits; its output goes to `.1` and `.2` in
    `folder`."""
    status = 70
    try:
        os.chdir(folder)
        for number in (1, 2):
            os.dup2(os.open(f".{number}", os.O_WRONLY | os.O_CREAT), number)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
        signal.alarm(MOST_WALL_S)
        resource.setrlimit(resource.RLIMIT_CPU, (MOST_CPU_S, MOST_CPU_S + 1))
        resource.setrlimit(resource.RLIMIT_AS, (MOST_MAPPED_BYTES, resource.RLIM_INFINITY))
        status = perform(argv)
        sys.stdout.flush()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001 - print it as Python would
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def complaint(target: Target, status: int, out: str, err: str) -> str | None:
    """Describes the failure of a command; None if the command ended as documented."""
    lines = err.splitlines()
    if status < 0:
        return f"ended by {signal.Signals(-status).name}, out of time"
    if "Traceback" in err:
        frames = [line.strip() for line in lines if OURS.match(line)]
        return f"{lines[-1][:160]} {frames[-1] if frames else ''}"
    if status not in target.statuses:
        return f"status {status}"
    if controls := UNPRINTABLE.search(re.sub("[\n\t]", "", out)):
        return f"prints {controls[0]!r}"
    strange = [line for line in lines if not SPEAKER.match(line) or UNPRINTABLE.search(line)]
    if strange:
        return f"says {strange[0][:160]!r}"
    is_explained = bool(lines) and (len(lines) == 1 or target.argv.startswith("import"))
    if status in (2, 4) and target.statuses == EXPLAINED and not is_explained:
        return f"says {len(lines)} sentences with status {status}"
    return None


def attempt(tally: Tally, target: Target, name: str, content: bytes | str) -> bool:
    """Runs the command with this content of one file, or with what `put_form` puts there; whether
    it took the file."""
    place = tally.root.parent / PLACE
    shutil.copytree(tally.root / target.folder, place)
    if isinstance(content, bytes):
        (place / name).write_bytes(content)
    else:
        put_form(place / name, content)
    argv = target.argv.replace("LOG", name).split()
    status, peak_kib = run_forked(argv, place)
    out, err = ((place / f".{number}").read_text(errors="replace") for number in (1, 2))
    tally.tried[target.kind] += 1
    wrong = complaint(target, status, out, err)
    if peak_kib * 1024 > MOST_BYTES:
        wrong = f"takes {peak_kib / 1e6:.1f} GB"
    kind = re.sub(r"\d+", "N", wrong or "")
    if wrong and kind not in tally.failures:
        at = tally.out / f"{len(tally.failures)}"
        shutil.move(place, at)
        tally.failures[kind] = f"{' '.join(argv)} in {at}, {name}: {wrong}"
        print(f"found: {tally.failures[kind]}", file=sys.stderr, flush=True)
    else:
        shutil.rmtree(place)
    return status not in (2, 4) and not (status == CANNOT and argv[0].startswith("bench"))


# All inputs


def fuzz(seconds: float, number: int, out: Path) -> Tally:
    """Tries the former defects, and then inputs for `seconds`, from seed `number` on. Copies the
    files of each failure to `out`."""
    for module, _, _ in program.COMMANDS.values():
        __import__(f"reports.{module}")
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "corpus"
        root.mkdir()
        with mock.patch("os.fsync"):
            write_corpus(root)
        tally = Tally(root, out)

        def takes(target: Target) -> bool:
            return attempt(tally, target, *next(iter(files_of(root, target).items())))

        refused = [target.argv for target in TARGETS if not takes(target)]
        assert not refused, f"undamaged files are refused: {refused}"
        try_former_defects(tally)
        order, refusing, ends_s = random.Random(number), set[Target](), time.monotonic() + seconds
        kinds = sorted({target.kind for target in TARGETS})
        for kind in itertools.cycle(kind for each in kinds for kind in (each, "run")):
            if time.monotonic() > ends_s:
                break
            of_kind = [target for target in TARGETS if target.kind == kind]
            of_benchmarks = OF_BENCHMARKS if kind == "run" else of_kind
            target = order.choice(order.choice([of_kind, of_benchmarks]))
            if target in refusing or (target in OF_BENCHMARKS and not takes(target)):
                refusing.add(target)
            else:
                files = files_of(root, target)
                try_some(tally, target, files, order.getrandbits(32), ends_s)
        return tally


def files_of(root: Path, target: Target) -> dict[str, bytes]:
    """The content of the target's files that are to be damaged, by their names in its folder."""
    folder = root / target.folder
    found = sorted(path for path in folder.glob(target.damaged) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def try_former_defects(tally: Tally) -> None:
    """Tries each file of `regressions.toml` with every command that reads its kind."""
    for defect in msgspec.toml.decode((CORPUS / "regressions.toml").read_bytes())["file"]:
        for target in TARGETS:
            if defect["kind"] in ("any", target.kind):
                name, content = next(iter(files_of(tally.root, target).items()))
                attempt(tally, target, name, former(defect, content))


def former(defect: dict[str, Any], content: bytes) -> bytes | str:
    """What lies in the place of a file with this content: a form, the content with a change, or
    `parts`, each a text or `parts`, and how often it stands there, with its number for {n}."""
    if "form" in defect:
        return str(defect["form"])
    if "old" in defect:
        changed = re.sub(defect["old"], lambda _: defect["new"], content.decode(), count=1)
        assert changed.encode() != content, (defect, content[:300])
        return changed.encode()
    return joined(defect["parts"]).encode(defect.get("encoding", "utf-8"))


def joined(parts: list[Any]) -> str:
    return "".join(
        repeated(part if isinstance(part, str) else joined(part), times) for part, times in parts
    )


@cache
def repeated(text: str, times: int) -> str:
    if "{n}" not in text:
        return text * times
    return "".join(text.replace("{n}", str(number)) for number in range(times))


def try_some(
    tally: Tally, target: Target, files: dict[str, bytes], number: int, ends_s: float
) -> None:
    """Tries a few inputs of one command."""

    @seed(number)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def attempt_drawn(data: st.DataObject) -> None:
        name, choice = data.draw(st.sampled_from(sorted(files))), data.draw(st.integers(0, 19))
        damaged: bytes | str
        if choice == 0:
            damaged = data.draw(st.sampled_from(FORMS))
        else:
            damaged = changed(data.draw, files[name])
        if time.monotonic() < ends_s:
            attempt(tally, target, name, damaged)

    attempt_drawn()


if __name__ == "__main__":
    seconds, number = float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1
    failures = Path(tempfile.mkdtemp(prefix="fuzz-"))
    result = fuzz(seconds, number, failures)
    if not result.failures:
        failures.rmdir()
    print(*result.lines(), sep="\n")
    sys.exit(bool(result.failures))
