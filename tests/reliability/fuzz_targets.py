"""What the fuzzer feeds: the kinds of files that commands read, with small ones of each kind, and
the commands that read them.

`corpus/` has files as programs or users write them, and in `regressions.toml` each file that once
made a command fail. Files that follow the schema of runs are made anew."""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import wiretax
from bench.harness import tuned
from bench.harness.console import CANNOT, print_out, say
from bench.harness.head import Machine
from collectives.operation import ChoiceRow
from reports import __main__ as program
from reports.site.dashboard import MARKER
from tests.reports.imports.test_import_damage import GATHER, IMB, OSU
from tests.reports.imports.test_import_formats import WHOLE
from tests.reports.synthetic_benchmarks import BENCHMARKS, write_benchmark
from tests.reports.synthetic_bits import write_bits, write_layers
from tests.reports.synthetic_campaign import (
    no_effect,
    slower,
    write_box,
    write_campaign,
    write_launch,
)
from tests.reports.synthetic_run import write_run
from tests.reports.synthetic_site import LOG
from wiretax.record.flight_records import COUNTERS_OFFSET, PAGE_BYTES
from wiretax.record.result import ResultError

CORPUS = Path(__file__).parent / "corpus"
SIZES = [4096, 16384, 1 << 20]
MACHINE = Machine({}, [], None, "a1b2c3", "d4e5f6")  # of corpus/tuned.toml
EXPLAINED = frozenset({0, 2, 4})  # a status of 2 or 4 comes with one sentence
PLACE = "place"  # the folder of each input
WORDS = {
    "SIDES": "--baseline campaign/main --current campaign/new",
    "MACHINE": "--gpu r9700 --gpus 2 --weights q4",
    "LLAMA": "--gpu r9700 --gpus 2 --weights q4 --model llama-3.1-70b --run run.jsonl",
}


@dataclass(frozen=True)
class Target:
    """A kind of file and a command that reads it; `damaged` matches the files of this kind below
    `folder`, which a stranger may have written."""

    kind: str
    argv: str
    folder: str
    damaged: str
    statuses: frozenset[int] = EXPLAINED


def targets(table: str) -> list[Target]:
    """A line: kind, folder, damaged files, highest status (`-`: those of EXPLAINED), command."""
    made = []
    for line in table.strip().splitlines():
        kind, folder, damaged, most, argv = line.split(maxsplit=4)
        statuses = EXPLAINED if most == "-" else frozenset(range(int(most) + 1))
        argv = " ".join(WORDS.get(word, word) for word in argv.split())
        made.append(Target(kind.replace("_", " "), argv, folder, damaged, statuses))
    return made


TARGETS = targets("""
    run             cut        *.jsonl       -  show --long run.jsonl
    run             cut        *.jsonl       -  export --csv run.jsonl
    run             runs       */*.jsonl     -  compare base new
    run             runs       */*.jsonl     -  compare base new
    run             runs       **/*.jsonl    -  history --json .
    run             runs       base/*        -  fit --json base
    run             runs       **/*.jsonl    5  regress --baseline base --current new --html h
    run             runs       new/*.jsonl   5  accept --baseline kept --current new --reason x
    run             campaigns  */*/*.jsonl   4  libraries campaign
    run             campaigns  */*/*.jsonl   5  regress SIDES
    run             site       **/[2r]*.jsonl -  dashboard . -o site
    flight_record   cut        run.flight/*  -  show --long run.jsonl
    flight_record   site       cut/run.f*/*  -  dashboard . -o site
    imported_run    imported   *             -  show run.jsonl
    log             logs       *             -  import LOG
    manifest        campaigns  */*.jsonl     -  compare campaign
    manifest        campaigns  */*.jsonl     4  libraries campaign
    manifest        campaigns  */*.jsonl     5  regress SIDES
    manifest        site       */*/c*.jsonl  -  dashboard . -o site
    baseline        kept       kept/*.jsonl  5  regress --baseline kept --current new --junit j
    baseline        kept       kept/*.jsonl  5  accept --baseline kept --current new --reason x
    bits            bits       new/*         4  bits new --baseline old --require size --html h
    bits            layers     new/*         4  bits new --baseline old --require tp,batch --html h
    mark_of_a_site  site       site/.*       -  dashboard . -o site
    config          models     *             -  advise MACHINE --config config.json
    specification   boxes      *.toml        3  procure --html h SPEC.toml
    run             boxes      *.jsonl       3  procure --html h SPEC.toml
    run             runs       **/*.jsonl    -  wiretax.load .
    tuning_table    tables     tuned.toml    3  bench.tune --table tuned.toml
""")
# Every command over the runs of every benchmark; `fuzz` leaves out a command that refuses the
# undamaged run.
COMMANDS = """
    -  show --long run.jsonl
    -  show --plot o.svg run.jsonl
    -  show --json run.jsonl
    -  advise LLAMA
    -  export --csv run.jsonl
    5  export --openmetrics run.jsonl
    5  fit run.jsonl
    5  fit run.jsonl other.jsonl
    5  history .
    5  dashboard . -o site
    5  compare --json run.jsonl other.jsonl
    5  regress --baseline other.jsonl --current run.jsonl --html h
"""
OF_BENCHMARKS = [
    target
    for name in BENCHMARKS
    for target in targets(COMMANDS.replace("    ", f"    run every/{name} run.jsonl "))
]


# The files


def write_corpus(root: Path) -> None:
    """Writes small files of every kind that the product writes or reads."""
    for name in BENCHMARKS:
        write_benchmark(root / "every" / name, name)
    cut = write_run(
        root / "cut",
        sizes=SIZES,
        n=3,
        n_blocks=4,
        finish=False,
    ).path
    rename_run(root / "cut", cut.stem)
    flight = root / "cut" / "run.flight"
    flight.mkdir()
    page = (CORPUS / "rank-1").read_bytes().ljust(COUNTERS_OFFSET, b"\0")
    (flight / "rank-1").write_bytes((page + bytes(range(32))).ljust(PAGE_BYTES, b"\0"))
    shutil.copy(CORPUS / "ended", flight)
    for number in range(12):
        write_launch(root / "runs" / ("base", "new")[number % 2], number, sizes=SIZES, n_blocks=5)
    variants = {"main": no_effect, "new": slower(5)}
    write_campaign(root / "campaigns" / "campaign", variants, pairs=3, sizes=[16384])
    write_logs(root)
    (root / "models").mkdir()
    shutil.copy(CORPUS / "config.json", root / "models")
    write_box(root / "boxes")
    shutil.copy(CORPUS / "SPEC.toml", root / "boxes")
    (root / "tables").mkdir()
    shutil.copy(CORPUS / "tuned.toml", root / "tables")
    write_stores(root)


def rename_run(folder: Path, stem: str) -> None:
    for made in folder.iterdir():
        made.rename(made.with_name(made.name.replace(stem, "run")))


def write_logs(root: Path) -> None:
    """Writes logs of other benchmarks, and imports one."""
    logs = root / "logs"
    logs.mkdir()
    texts = {
        "nccl": WHOLE,
        "gather": GATHER,
        "rccl": LOG,
        "osu": OSU + "4 20.05\n8 9.02\n",
        "imb": IMB + "4 1000 1.5\n8 1000 1.6\n",
        "lines": '{"size_bytes": 8, "time_us": [5.0, 6], "ranks": 2, "shape": {"a": 1}}\n' * 2
        + '{"size_bytes": 8, "time_us": 5, "ranks": 2, "n_wrong": 0, "host": "a"}\n',
    }
    for name, text in texts.items():
        (logs / name).write_text(text)
    report("import", "--out", root / "imported", logs / "nccl")
    rename_run(root / "imported", next((root / "imported").iterdir()).stem)


def write_stores(root: Path) -> None:
    """Writes what commands leave for later ones: a baseline and pages."""
    shutil.copytree(root / "runs" / "new", root / "kept" / "new")
    kept = root / "kept" / "kept"
    report("accept", "--baseline", kept, "--current", root / "runs" / "base", "--reason", "first")
    write_bits(root / "bits" / "new")
    write_bits(root / "bits" / "old", ("0+1+2", "0+1+2"))
    write_layers(root / "layers" / "new")
    write_layers(root / "layers" / "old", (1,))
    for folder in ("cut", "campaigns", "every/decode"):
        shutil.copytree(root / folder, root / "site" / folder)
    (root / "site" / "site").mkdir()
    (root / "site" / "site" / MARKER).write_text('["index.html", "former.html"]')


def report(*words: object) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        assert program.main(list(map(str, words))) == 0, words


# The commands: those of reports, and those parts of the others that read files


def load(argv: list[str]) -> int:
    """What a program of the user's gets."""
    try:
        print_out(str(len(wiretax.load(argv[0]))))
    except ValueError as error:
        say("reports", str(error))
        return 2
    return 0


def add_to_table(argv: list[str]) -> int:
    """What bench.tune does with the table of an earlier run."""
    head = tuned.Head("a1b2c3", "d4e5f6", "now", "0.1.0 (1a2b3c4)")
    ring = ChoiceRow("all_reduce", "ring", (4096, 4096), {"ranks": 2})
    try:
        with mock.patch.object(tuned, "write_named"):  # it waits for the reader of a pipe
            tuned.add(Path(argv[1]), head, [ring])
        tuned.load(Path(argv[1]), tuned.read(Path(argv[1]), MACHINE)[1])
    except ResultError as error:
        say("bench.tune", str(error))
        return CANNOT
    return 0


COMMANDS_OF_BENCH: dict[str, Callable[[list[str]], int]] = {
    "wiretax.load": load,
    "bench.tune": add_to_table,
}


def perform(argv: list[str]) -> int:
    """Runs a command of a target in the current folder; its exit status."""
    command = COMMANDS_OF_BENCH.get(argv[0])
    return command(argv[1:]) if command else program.main(argv)
