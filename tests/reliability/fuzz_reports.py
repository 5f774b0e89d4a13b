"""Feeds damaged files to `python -m reports`, which may refuse a file but must not fail on it.

    python -m tests.reliability.fuzz_reports SECONDS [SEED]

Hypothesis draws some of the files that a command reads, and their damage. It flips, cuts or repeats
bytes of any file. In JSON it puts values of another type, huge or negative numbers, duplicate names
and very long lists, and drops or swaps lines. In text it replaces words and numbers. In the run
files of every benchmark it also replaces or removes a field, in one line or in all lines of a kind.
Each input runs in one process, forked from a process that has imported everything. The limits are
10 s of processor time, 30 s of wall time, and an address space that keeps the process below 1 GB of
memory. The process must end with a documented status, without a traceback or a warning, and must
explain each refusal in one sentence on standard error.

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
from typing import Any, NoReturn
from unittest import mock

os.environ |= {"OPENBLAS_NUM_THREADS": "1", "COLUMNS": "80"}  # a forked process has only one thread

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from reports import __main__ as program
from tests.launch import ROOT
from tests.reports.damage import change_field, changed
from tests.reports.imports.test_import_damage import GATHER, HALF, IMB, OSU, REPORT
from tests.reports.imports.test_import_formats import WHOLE
from tests.reports.synthetic_benchmarks import BENCHMARKS, write_benchmark, write_validation
from tests.reports.synthetic_campaign import (
    no_effect,
    slower,
    write_campaign,
    write_launch,
    write_launches,
)
from tests.reports.synthetic_run import write_run
from tests.reports.synthetic_site import LOG
from tests.reports.synthetic_together import FUSED, THEN, Made, always, steps

MOST_BYTES = 10**9
EXAMPLES = 12  # per batch of one command
MOST_CPU_S, MOST_WALL_S = 10, 30
SIZES = [16384, 1 << 20]
LOGS = ROOT.parent / "shared/logs"
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
FLIGHT = b"""{"turn": 9, "rank": 1, "case": 1, "block": 3, "text": "x", "step": "block",
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
    run        *           -  show run.jsonl
    run        *           -  show --long run.jsonl
    run        *           -  show --format=csv run.jsonl
    run        *           -  show --format=nccl-tests run.jsonl
    run        *           -  show --plot o.svg run.jsonl
    run        *           -  card run.jsonl card.png
    run        *           -  advise LLAMA
    run        run.jsonl   -  export --csv run.jsonl
    run        run.jsonl   -  export --openmetrics run.jsonl
    cut        *           -  show run.jsonl
    cut        *           -  show --long run.jsonl
    cut        *           -  show --format=csv run.jsonl
    layer      run.jsonl   -  show --long run.jsonl
    layer      run.jsonl   -  show --plot o.svg run.jsonl
    step       run.jsonl   -  show --long run.jsonl
    tune       run.jsonl   -  show --long run.jsonl
    link       run.jsonl   -  show --long run.jsonl
    link       run.jsonl   -  show --format=csv run.jsonl
    imported   run.jsonl   -  show run.jsonl
    imported   *           -  card run.jsonl card.png
    imported   *           -  advise LLAMA
    imported   run.jsonl   -  export --csv run.jsonl
    logs       *           -  import LOG
    runs       */*.jsonl   -  compare base new
    runs       */*.jsonl   -  compare --format=markdown base new
    runs       */*.jsonl   -  compare --format=csv base new
    runs       **/*.jsonl  -  history .
    runs       **/*.jsonl  -  history --json .
    runs       base/*      -  fit base
    runs       base/*      -  fit --out f.jsonl base
    runs       **/*.jsonl  5  regress --baseline base --current new --markdown m --junit j --html h
    runs       new/*.jsonl 5  accept --baseline kept --current new --reason x
    campaigns  **/*.jsonl  -  compare campaign
    campaigns  **/*.jsonl  -  compare --plot o.svg campaign
    campaigns  **/*.jsonl  -  peers campaign
    site       **/*        -  dashboard . -o site
    models     *           -  advise --gpu r9700 --gpus 2 --weights q4 --config config.json
    boxes      *           2  dashboard --spec SPEC.toml . -o site
    boxes      *.toml      3  procure SPEC.toml
    boxes      *           3  procure --html h --csv c SPEC.toml
""")
# Every command over the runs of every benchmark; `fuzz` leaves out a command that refuses the
# undamaged run.
COMMANDS = """
    -  show run.jsonl
    -  show --long run.jsonl
    -  show --format=csv run.jsonl
    -  show --format=nccl-tests run.jsonl
    -  show --plot o.svg run.jsonl
    -  show --json run.jsonl
    -  card run.jsonl card.png
    -  advise LLAMA
    5  export --openmetrics run.jsonl
    5  fit --json run.jsonl
    5  fit --plot o.svg run.jsonl
    5  fit run.jsonl other.jsonl
    5  history --json .
    5  history .
    5  dashboard . -o site
    5  compare other.jsonl run.jsonl
    5  compare --format=csv run.jsonl other.jsonl
    5  regress --baseline other.jsonl --current run.jsonl --html h
"""
FIELD_TARGETS = [
    target
    for folder in (*(f"every/{name}" for name in BENCHMARKS), "imported", "cut")
    for target in targets(COMMANDS.replace("    ", f"    {folder} run.jsonl "))
] + targets("""
    every/validation *.jsonl     5  advise --validate run.jsonl --run reduces.jsonl link.jsonl
    campaigns        **/*.jsonl  5  compare --plot o.svg campaign
    campaigns        **/*.jsonl  5  peers campaign
    campaigns        **/*.jsonl  5  dashboard . -o site
    campaigns        **/*.jsonl  5  history .
    campaigns        **/*.jsonl 5 regress --baseline campaign/main --current campaign/new --junit j
    campaigns        **/*.jsonl  5  accept --baseline kept --current campaign/new --reason x
    boxes            *.jsonl     5  procure --html h SPEC.toml
""")


def write_corpus(root: Path) -> None:
    """Writes small files of every kind that the product writes or reads."""
    small: dict[str, Any] = {"sizes": SIZES, "algorithms": ["library", "auto", "ring"], "n": 3}

    def rename_run(folder: str, path: Path) -> None:
        for made in path.parent.iterdir():
            made.rename(made.with_name(made.name.replace(path.stem, "run")))
        assert (root / folder / "run.jsonl").exists()

    rename_run("run", write_run(root / "run", n_blocks=6, fast_rounds=[2], **small).path)
    rename_run("cut", write_run(root / "cut", n_blocks=4, finish=False, **small).path)
    flight = root / "cut" / "run.flight"
    flight.mkdir()
    (flight / "rank-1").write_bytes(FLIGHT.ljust(4096, b"\0"))
    (flight / "ended").write_text(ENDED)
    made = Made(root / "layer", rounds=8)
    rename_run(
        "layer", made.run({"compute": always(10.0), FUSED: always(11.0), THEN: always(15.0)}).path
    )
    rename_run("step", steps(root / "step", 10.0, 12.0, 20.0).path)
    rename_run("tune", write_run(root / "tune", modes=["isolated"], n_blocks=6, **small).path)
    tuned = root / "tune" / "run.jsonl"
    tuned.write_bytes(tuned.read_bytes().replace(b'"benchmark":"allreduce"', b'"benchmark":"tune"'))
    from tests.bench.synthetic_link import made_up

    rename_run("link", made_up(root / "link", 3, lambda *_: 5.0, blocks=6).path)
    for number in range(12):
        write_launch(root / "runs" / ("base", "new")[number % 2], number, sizes=SIZES, n_blocks=4)
    write_campaign(
        root / "campaigns" / "campaign",
        {"main": no_effect, "new": slower(5)},
        pairs=3,
        sizes=[16384],
    )
    site = root / "site"
    shutil.copytree(root / "run", site)
    for folder in ("cut", "layer", "step", "campaigns"):
        shutil.copytree(root / folder, site / folder)
    logs = root / "logs"
    logs.mkdir()
    results = {"size": 8, "count": 2, "out_of_place": HALF, "in_place": HALF}
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
    for path in sorted(LOGS.glob("*.log")):
        shutil.copy(path, logs)
    with contextlib.redirect_stdout(io.StringIO()):
        assert program.main(["import", "--out", str(root / "imported"), str(logs / "nccl")]) == 0
    rename_run("imported", next((root / "imported").iterdir()))
    (root / "models").mkdir()
    (root / "models" / "config.json").write_text(MODEL)
    write_launches(root / "boxes", 2, sizes=[16384, 32 << 20], n_blocks=4)
    (root / "boxes" / "SPEC.toml").write_text(SPEC)


@st.composite
def damages(draw: st.DrawFn, root: Path, target: Target) -> dict[str, bytes]:
    """Draws new content for some of the files that a command reads."""
    files = sorted(path for path in (root / target.folder).glob(target.damaged) if path.is_file())
    if target.damaged == "*":  # also the folders beside the run: samples and flight record
        files += sorted(path for path in (root / target.folder).glob("run.*/*"))
    made: dict[str, bytes] = {}
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        path = draw(st.sampled_from(files))
        name = path.relative_to(root / target.folder).as_posix()
        made[name] = changed(draw, made.get(name) or path.read_bytes())
    return made


# One input, in its own process


@dataclass
class Tally:
    """The inputs, the failures, and the largest memory and time."""

    root: Path
    out: Path
    tried: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    failures: dict[str, str] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)  # failures, with N for each number
    times_failed: int = 0
    accepts: dict[Target, bool] = field(default_factory=dict)
    peak_mb: float = 0.0
    slowest: tuple[float, str] = (0.0, "")

    def lines(self) -> list[str]:
        each = [
            f"{name}: {count} inputs, {self.refused[name]} refused"
            for name, count in sorted(self.tried.items())
        ]
        return [
            *each,
            f"{self.tried.total()} inputs, {len(self.failures)} found; peak {self.peak_mb:.0f} MB; "
            f"the longest took {self.slowest[0]:.1f} s ({self.slowest[1]}); "
            f"{self.times_failed} failed",
            *(f"found: {failure}\n  {at}" for failure, at in self.failures.items()),
        ]


def growth_allowed() -> int:
    """The limit of the address space, in bytes, that keeps this process below 1 GB of memory."""
    pages, resident = (
        int(word) * resource.getpagesize()
        for word in Path("/proc/self/statm").read_text().split()[:2]
    )
    return pages + MOST_BYTES - resident


def run_forked(argv: list[str], folder: Path) -> tuple[int, resource.struct_rusage, float]:
    """Runs the command in a fork of this process, in `folder`. Returns its exit status (negative:
    the signal), its resource usage and its seconds."""
    child = os.fork()
    if not child:
        run_to_its_end(argv, folder)
    began_s = time.monotonic()
    while True:
        ended, status, used = os.wait4(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status), used, time.monotonic() - began_s
        if time.monotonic() - began_s > MOST_WALL_S:
            os.killpg(child, signal.SIGKILL)
        time.sleep(0.002)


def run_to_its_end(argv: list[str], folder: Path) -> NoReturn:
    """Runs the command as this process, within the limits; its output goes to `.1` and `.2` in
    `folder`."""
    status = 70
    try:
        os.setsid()
        os.chdir(folder)
        for number in (1, 2):
            os.dup2(os.open(f".{number}", os.O_WRONLY | os.O_CREAT), number)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
        resource.setrlimit(resource.RLIMIT_CPU, (MOST_CPU_S, MOST_CPU_S + 1))
        resource.setrlimit(resource.RLIMIT_AS, (growth_allowed(), resource.RLIM_INFINITY))
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


def attempt(tally: Tally, target: Target, damaged: dict[str, bytes]) -> int:
    """Runs the command on the damaged files and returns its exit status."""
    folder = Path(tempfile.mkdtemp(dir=tally.root.parent))
    place = folder / "place"
    shutil.copytree(tally.root / target.folder, place)
    for name, content in damaged.items():
        (place / name).write_bytes(content)
    argv = target.argv.replace("LOG", next(iter(damaged))).split()
    status, used, took_s = run_forked(argv, place)
    stderr = (place / ".2").read_text(errors="replace")
    tally.tried[argv[0]] += 1
    tally.refused[argv[0]] += status in (2, 4)
    tally.peak_mb = max(tally.peak_mb, used.ru_maxrss / 1e3)
    tally.slowest = max(tally.slowest, (took_s, target.argv))
    if used.ru_maxrss * 1024 > MOST_BYTES:
        status, stderr = -signal.SIGKILL, stderr + f"{used.ru_maxrss / 1e6:.1f} GB"
    wrong = complaint(target, status, stderr)
    tally.times_failed += wrong is not None
    if wrong and (kind := re.sub(r"\d+", "N", wrong)) not in tally.seen:
        tally.seen.add(kind)
        at = tally.out / f"{len(tally.failures)}"
        shutil.copytree(place, at, dirs_exist_ok=True)
        (at / "argv").write_text(target.argv)
        tally.failures[wrong] = f"{' '.join(argv)} in {at}, {', '.join(damaged)}"
        print(f"found: {wrong}\n  {tally.failures[wrong]}", file=sys.stderr, flush=True)
    shutil.rmtree(folder)
    return status


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
        for target in dict.fromkeys(TARGETS):  # commands accept undamaged files
            first = next(
                path
                for path in sorted((root / target.folder).glob(target.damaged))
                if path.is_file()
            )
            attempt(
                tally,
                target,
                {first.relative_to(root / target.folder).as_posix(): first.read_bytes()},
            )
        assert not tally.refused.total(), f"undamaged files are refused: {tally.refused}"
        order = random.Random(number)
        while time.monotonic() < ends_s:
            try_some(tally, order.choice(TARGETS), order.getrandbits(32), ends_s)
            try_fields(tally, order.choice(FIELD_TARGETS), order, ends_s)
        return tally


def try_fields(tally: Tally, target: Target, order: random.Random, ends_s: float) -> None:
    """Damages fields of the run files of a command, unless it refuses undamaged ones."""
    folder = tally.root / target.folder
    if not folder.exists():
        with mock.patch("os.fsync"):
            write_validation(folder) if folder.name == "validation" else write_benchmark(
                folder, folder.name
            )
    files = sorted(folder.glob(target.damaged))
    contents = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
    if target not in tally.accepts:
        tally.accepts[target] = attempt(
            tally, target, dict([next(iter(contents.items()))])
        ) not in (2, 4)
    for _ in range(EXAMPLES if tally.accepts[target] else 0):
        name = order.choice(sorted(contents))
        if time.monotonic() < ends_s:
            attempt(tally, target, {name: change_field(order, contents[name])})


def try_some(tally: Tally, target: Target, number: int, ends_s: float) -> None:
    """Tries a few inputs of one command."""

    @seed(number)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(damages(tally.root, target))
    def attempt_drawn(damaged: dict[str, bytes]) -> None:
        if time.monotonic() < ends_s:
            attempt(tally, target, damaged)

    attempt_drawn()


if __name__ == "__main__":
    seconds, number = float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1
    failures = Path(tempfile.mkdtemp(prefix="fuzz-reports-"))
    result = fuzz(seconds, number, failures)
    if not result.failures:
        failures.rmdir()
    print(*result.lines(), sep="\n")
    sys.exit(bool(result.failures))
