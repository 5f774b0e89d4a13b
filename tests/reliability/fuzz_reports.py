"""Feeds damaged files to `python -m reports`, which may refuse a file but must not fail on it.

    python -m tests.reliability.fuzz_reports SECONDS [SEED]

Hypothesis draws one of the files that a command reads, and its damage. It flips, cuts or repeats
bytes of any file. In JSON it puts values of another type, huge or negative numbers, duplicate names
and very long lists, and drops or swaps lines. In text it replaces words and numbers. In run files
it also replaces or removes a field, in one line or in all lines of a kind. Each input runs in one
process, forked from a process that has imported everything. The limits are 10 s of processor time,
60 s of wall time, and 1 GB of memory. The process must end with a documented status, without a
traceback or a warning, and must explain each refusal in one sentence on standard error.

Prints the number of inputs of each command, the failures, and the largest memory and time of an
input. After a failure the status is 1, and the input's files are kept.
"""

from __future__ import annotations

import contextlib
import io
import json
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
from pathlib import Path
from typing import NoReturn
from unittest import mock

os.environ |= {"OPENBLAS_NUM_THREADS": "1", "COLUMNS": "80"}  # a forked process has only one thread

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from reports import __main__ as program
from tests.reports.damage import change_field, changed
from tests.reports.imports.test_import_damage import GATHER, HALF, IMB, OSU, REPORT
from tests.reports.imports.test_import_formats import WHOLE
from tests.reports.synthetic_benchmarks import BENCHMARKS, write_benchmark
from tests.reports.synthetic_campaign import (
    no_effect,
    slower,
    write_campaign,
    write_launch,
    write_launches,
)
from tests.reports.synthetic_run import write_run
from tests.reports.synthetic_site import LOG

MOST_BYTES = 10**9
MOST_MAPPED_BYTES = 4 * MOST_BYTES  # a guard for the machine; most of it is never touched
EXAMPLES = 12  # per batch of one command
MOST_CPU_S, MOST_WALL_S = 10, 60
SIZES = [16384, 1 << 20]
MODEL = """{"architectures": ["LlamaForCausalLM"], "hidden_size": 4096, "intermediate_size": 14336,
"vocab_size": 128256, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
"head_dim": 128, "torch_dtype": "bfloat16"}"""
SPEC = """hours_per_year = 6000
lifetime_years = 4
electricity = {price_per_kwh = 0.30, currency = "EUR"}
requirements = ["16K <= 8 us", "32M >= 6 GB/s"]
[candidates.box]
runs = ["*.jsonl"]
gpu = "r9700"
gpus = 2
price = {amount = 5200, currency = "EUR", date = 2026-11-01}
"""
FLIGHT = b"""{"steps": 9, "rank": 1, "case": 1, "block": 3, "text": "x", "step": "block",
"time": 1.5, "noted_s": 2.0, "same_turn": 9}"""
ENDED = '{"rank": 1, "why": "ended without a word", "by": "witness", "status": 1, "leave_s": 0}'
EXPLAINED = frozenset({0, 2, 4})  # a status of 2 or 4 comes with one sentence


@dataclass(frozen=True)
class Target:
    """A command and its files; `damaged` matches the files below `folder` that a stranger may have
    written."""

    argv: str
    folder: str
    damaged: str
    statuses: frozenset[int] = EXPLAINED


def targets(table: str) -> list[Target]:
    """A line: folder, damaged files, highest status (`-`: those of EXPLAINED), and the command."""
    made = []
    for line in table.strip().splitlines():
        folder, damaged, most, argv = line.split(maxsplit=3)
        statuses = EXPLAINED if most == "-" else frozenset(range(int(most) + 1))
        made.append(Target(argv.replace("LLAMA", ADVISE), folder, damaged, statuses))
    return made


ADVISE = "--gpu r9700 --gpus 2 --weights q4 --model llama-3.1-70b --run run.jsonl"
TARGETS = targets("""
    cut        **/*        -  show --long run.jsonl
    cut        **/*        -  show --format=csv run.jsonl
    imported   *           -  show run.jsonl
    logs       *           -  import LOG
    runs       */*.jsonl   -  compare base new
    runs       */*.jsonl   -  compare --format=markdown base new
    runs       **/*.jsonl  -  history --json .
    runs       base/*      -  fit --json base
    runs       **/*.jsonl  5  regress --baseline base --current new --markdown m --junit j --html h
    runs       new/*.jsonl 5  accept --baseline kept --current new --reason x
    campaigns  **/*.jsonl  -  compare --plot o.svg campaign
    campaigns  **/*.jsonl  -  peers campaign
    campaigns  **/*.jsonl  5  regress --baseline campaign/main --current campaign/new --junit j
    site       **/*        -  dashboard . -o site
    models     *           -  advise --gpu r9700 --gpus 2 --weights q4 --config config.json
    boxes      *           -  dashboard . -o site
    boxes      *           3  procure --html h SPEC.toml
""")
# Every command over the runs of every benchmark; `fuzz` leaves out a command that refuses the
# undamaged run.
COMMANDS = """
    -  show --long run.jsonl
    -  show --format=csv run.jsonl
    -  show --format=nccl-tests run.jsonl
    -  show --plot o.svg run.jsonl
    -  show --json run.jsonl
    -  advise LLAMA
    -  export --csv run.jsonl
    5  export --openmetrics run.jsonl
    5  fit --plot o.svg run.jsonl
    5  fit run.jsonl other.jsonl
    5  history .
    5  dashboard . -o site
    5  compare --json run.jsonl other.jsonl
    5  regress --baseline other.jsonl --current run.jsonl --html h
"""
OF_BENCHMARKS = [
    target
    for name in BENCHMARKS
    for target in targets(COMMANDS.replace("    ", f"    every/{name} run.jsonl "))
]


def write_corpus(root: Path) -> None:
    """Writes small files of every kind that the product writes or reads."""

    def rename_run(folder: Path, stem: str) -> None:
        for made in folder.iterdir():
            made.rename(made.with_name(made.name.replace(stem, "run")))

    for name in BENCHMARKS:
        write_benchmark(root / "every" / name, name)
    cut = write_run(root / "cut", sizes=SIZES, n=3, n_blocks=4, finish=False).path
    rename_run(root / "cut", cut.stem)
    flight = root / "cut" / "run.flight"
    flight.mkdir()
    (flight / "rank-1").write_bytes(FLIGHT.ljust(4096, b"\0"))
    (flight / "ended").write_text(ENDED)
    for number in range(12):
        write_launch(root / "runs" / ("base", "new")[number % 2], number, sizes=SIZES, n_blocks=4)
    variants = {"main": no_effect, "new": slower(5)}
    write_campaign(root / "campaigns" / "campaign", variants, pairs=3, sizes=[16384])
    for folder in ("cut", "campaigns", "every/decode"):
        shutil.copytree(root / folder, root / "site" / folder)
    logs = root / "logs"
    logs.mkdir()
    kind = {"type": "float", "redop": "sum", "root": "-1"}
    results = {"size": 8, "count": 2, "out_of_place": HALF, "in_place": HALF} | kind
    texts = {
        "nccl": WHOLE,
        "gather": GATHER,
        "rccl": LOG,
        "osu": OSU + "4 20.05\n8 9.02\n",
        "imb": IMB + "4 1000 1.5\n8 1000 1.6\n",
        "json": json.dumps(REPORT | {"results": [results] * 2}),
    }
    for name, text in texts.items():
        (logs / name).write_text(text)
    with contextlib.redirect_stdout(io.StringIO()):
        assert program.main(["import", "--out", str(root / "imported"), str(logs / "nccl")]) == 0
    rename_run(root / "imported", next((root / "imported").iterdir()).stem)
    (root / "models").mkdir()
    (root / "models" / "config.json").write_text(MODEL)
    write_launches(root / "boxes", 2, sizes=[16384, 32 << 20], n_blocks=5)
    (root / "boxes" / "SPEC.toml").write_text(SPEC)


# One input, in its own process


@dataclass
class Tally:
    """The inputs, the failures, and the largest memory and time."""

    root: Path
    out: Path
    tried: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    failures: dict[str, str] = field(default_factory=dict)  # by sentence, with N for each number
    peak_mb: float = 0.0
    slowest: tuple[float, str] = (0.0, "")

    def lines(self) -> list[str]:
        return [
            *(
                f"{name}: {self.tried[name]} inputs, {self.refused[name]} refused"
                for name in self.tried
            ),
            f"{self.tried.total()} inputs, {len(self.failures)} found; peak {self.peak_mb:.0f} MB; "
            f"the longest took {self.slowest[0]:.1f} s ({self.slowest[1]})",
            *self.failures.values(),
        ]


def run_forked(argv: list[str], folder: Path) -> tuple[int, resource.struct_rusage, float]:
    """Runs the command in a fork of this process, in `folder`. Returns its exit status (negative:
    the signal), its resource usage and its seconds."""
    child = os.fork()
    if not child:
        run_to_its_end(argv, folder)
    began_s = time.monotonic()
    _, status, used = os.wait4(child, 0)
    return os.waitstatus_to_exitcode(status), used, time.monotonic() - began_s


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
        status = program.main(argv)
        sys.stdout.flush()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001 - print it as Python would
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def complaint(target: Target, status: int, stderr: str) -> str | None:
    """Describes the failure of a command; None if the command ended as documented."""
    lines = stderr.splitlines()
    if status < 0:
        return f"ended by {signal.Signals(-status).name}, out of time"
    if "Traceback" in stderr:
        frames = [
            line.strip() for line in lines if line.startswith("  File") and "/reports/" in line
        ]
        return f"{lines[-1][:160]} {frames[-1] if frames else ''}"
    if status not in target.statuses:
        return f"status {status}"
    strange = [line for line in lines if not line.startswith("reports: ") or not line.isprintable()]
    if strange:
        return f"says {strange[0][:160]!r}"
    is_explained = bool(lines) and (len(lines) == 1 or target.argv.startswith("import"))
    if status in (2, 4) and target.statuses == EXPLAINED and not is_explained:
        return f"says {len(lines)} sentences with status {status}"
    return None


def attempt(tally: Tally, target: Target, name: str, content: bytes) -> bool:
    """Runs the command with this content of one file; whether it took the file."""
    folder = Path(tempfile.mkdtemp(dir=tally.root.parent))
    place = folder / "place"
    shutil.copytree(tally.root / target.folder, place)
    (place / name).write_bytes(content)
    argv = target.argv.replace("LOG", name).split()
    status, used, took_s = run_forked(argv, place)
    stderr = (place / ".2").read_text(errors="replace")
    tally.tried[argv[0]] += 1
    tally.refused[argv[0]] += status in (2, 4)
    tally.peak_mb = max(tally.peak_mb, used.ru_maxrss / 1e3)
    tally.slowest = max(tally.slowest, (took_s, target.argv))
    wrong = complaint(target, status, stderr)
    if used.ru_maxrss * 1024 > MOST_BYTES:
        wrong = f"takes {used.ru_maxrss / 1e6:.1f} GB"
    kind = re.sub(r"\d+", "N", wrong or "")
    if wrong and kind not in tally.failures:
        at = tally.out / f"{len(tally.failures)}"
        shutil.copytree(place, at, dirs_exist_ok=True)
        tally.failures[kind] = f"{' '.join(argv)} in {at}, {name}: {wrong}"
        print(f"found: {tally.failures[kind]}", file=sys.stderr, flush=True)
    shutil.rmtree(folder)
    return status not in (2, 4)


def fuzz(seconds: float, number: int, out: Path) -> Tally:
    """Tries inputs for `seconds`, from seed `number` on, and copies the files of each failure to
    `out`."""

    for module, _, _ in program.COMMANDS.values():
        __import__(f"reports.{module}")
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "corpus"
        root.mkdir()
        with mock.patch("os.fsync"):
            write_corpus(root)
        tally, ends_s = Tally(root, out), time.monotonic() + seconds

        def files(target: Target) -> dict[str, bytes]:
            folder = root / target.folder
            found = sorted(path for path in folder.glob(target.damaged) if path.is_file())
            return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}

        def takes(target: Target) -> bool:
            return attempt(tally, target, *next(iter(files(target).items())))

        assert all(map(takes, TARGETS)), f"undamaged files are refused: {tally.refused}"
        order, refusing = random.Random(number), set[Target]()
        while time.monotonic() < ends_s:
            target = order.choice(order.choice([TARGETS, OF_BENCHMARKS]))
            if target in refusing or (target in OF_BENCHMARKS and not takes(target)):
                refusing.add(target)
            else:
                try_some(tally, target, files(target), order.getrandbits(32), ends_s)
        return tally


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
        name = data.draw(st.sampled_from(sorted(files)))
        if name.endswith("run.jsonl") and data.draw(st.booleans()):
            draw = random.Random(data.draw(st.integers(0, 1 << 32)))
            damaged = change_field(draw, files[name])
        else:
            damaged = changed(data.draw, files[name])
        if time.monotonic() < ends_s:
            attempt(tally, target, name, damaged)

    attempt_drawn()


if __name__ == "__main__":
    seconds, number = float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1
    failures = Path(tempfile.mkdtemp(prefix="fuzz-reports-"))
    result = fuzz(seconds, number, failures)
    if not result.failures:
        failures.rmdir()
    print(*result.lines(), sep="\n")
    sys.exit(bool(result.failures))
