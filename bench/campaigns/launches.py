"""A campaign's folder with its manifest, and one launch: command line, time limits, outcome. What
another harness prints, such as nccl-tests or a user's script, becomes an ordinary run.

No process that a launch starts outlives it."""

import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, NoReturn, TextIO, cast

import msgspec

from bench.campaigns import launch_guard
from bench.campaigns.campaign_options import PLACEHOLDER, CampaignOptions, Stop, Variant
from bench.harness.console import CANNOT, FINE, INTERRUPTED, SIGNALS, USAGE, WRONG, say
from bench.harness.progress import Progress
from bench.machine import environment, node
from reports.__main__ import open_closed_streams
from reports.imports.runs import content_of_run, find_tests, run_of
from wiretax.common.owners import open_folder, opened, shown
from wiretax.common.program import typed
from wiretax.record.manifest import MANIFEST, Launch
from wiretax.record.result import ResultError, content_of, read
from wiretax.record.schema import End, Result
from wiretax.record.writing import to_line, write_whole

ATTEMPTS = 3
GRACE_S = 60.0
LONGEST_PILOT_S = 3600.0  # without a budget
LAST_WORDS_BYTES = 1 << 20  # of a command's errors, in which its last line is found
# MPICH's line that names a signal, below its banner, stays.
MPIRUN_ADDS = re.compile(
    r"(?ms)^-{20,}\nprterun (detected|noticed).*?(\n-{20,}|\Z)"
    r"|^={20,}\n=   BAD TERMINATION.*?(\n={20,}|\Z)"
    r"|^This typically refers to a problem with your application\.\n.*?suggestions$"
)
TIMED_OUT = 124  # the status of a command that exits with 0 when it is ended, as of `timeout`
# The signals that end a command, and the patience after each. On SIGINT a run writes its results.
ENDINGS = ((signal.SIGINT, 15.0), (signal.SIGTERM, 3.0))
FAILURES = (Stop, ResultError, OSError, MemoryError, KeyboardInterrupt)


def interrupt(*_: Any) -> NoReturn:
    """Ends the command in order. Later signals are ignored: they would cut the ending short."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


@contextmanager
def signals_wait() -> Iterator[None]:
    """Delays `interrupt` to the end of the block: Python drops what a signal raises within a fork,
    and the signals after it would be ignored. Blocking them in this thread is not enough: other
    threads of the process would take them, and Python would raise here all the same."""
    waiting: list[int] = []
    delayed = [number for number in SIGNALS if signal.getsignal(number) is interrupt]
    for number in delayed:
        signal.signal(number, lambda number, _: waiting.append(number))
    try:
        yield
    finally:
        for number in delayed:
            signal.signal(number, interrupt)
        if waiting:
            interrupt()


def run_command(
    name: str, run: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None = None
) -> int:
    """Runs a command that starts launches on its command line, and returns its exit status; a
    failure is one sentence."""
    open_closed_streams()
    for number in SIGNALS:
        signal.signal(number, interrupt)
    try:
        return run(argv)
    except FAILURES as error:
        status, sentence = ending_of(error)
    say(name, sentence)
    return status


def ending_of(error: BaseException) -> tuple[int, str]:
    """The exit status and the sentence of a command that one of FAILURES ends."""
    if isinstance(error, (Stop, ResultError)):
        return error.exit_status, shown(str(error))
    if isinstance(error, OSError):  # of an open file it has no name
        return USAGE, shown(
            f"{error.filename or 'the results cannot be written'}: {error.strerror}"
        )
    if isinstance(error, MemoryError):
        return USAGE, "the memory is full"
    return INTERRUPTED, "interrupted; finished launches are kept"


def check_new(path: Path, beside: Container[str] = ()) -> None:
    """Raises Stop if anything but an empty folder is at the path, or one with files `beside`."""
    if path.exists() and not (
        path.is_dir() and all(file.name in beside for file in path.iterdir())
    ):
        another = typed("--out", f"{path}-2")
        raise Stop(USAGE, f"{path} is there already: remove it, or name a new folder: {another}")


class OpenCampaign:
    """A campaign in its new folder, whose names are those of `open_folder`. Raises OSError."""

    def __init__(self, options: CampaignOptions, command: str = "campaign") -> None:
        self.options, self.pairs = options, options.head.pairs
        self.started_s = time.monotonic()
        self.progress = Progress(command, options.quiet)
        self.revisions = ""  # the folder of their files, while there are any
        self.programs = dict[str, str]()  # of variants with a revision, the digest of its code
        self.folder = open_folder(options.folder)
        self.folder_of = cache(lambda variant_name: open_folder(self.folder / variant_name))
        self.file = (self.folder / MANIFEST).open("xb")
        self.launches = list[Launch]()
        self.record(options.head)

    def record(self, line: msgspec.Struct) -> None:
        """Adds a line to the manifest; returns when it is on disk."""
        self.file.write(to_line(line))
        self.file.flush()
        os.fsync(self.file.fileno())
        if isinstance(line, Launch):
            self.launches.append(line)

    def discard(self) -> None:
        """Removes what it wrote: it was refused, and may be typed again."""
        self.file.close()
        for name in self.options.variants:
            shutil.rmtree(self.options.folder / name, ignore_errors=True)
        (self.folder / MANIFEST).unlink()
        with suppress(OSError):  # a gate's answer is there
            self.options.folder.rmdir()

    def finished(self, stage: str) -> list[Launch]:
        """The finished launches of this stage."""
        return [
            launch
            for launch in self.launches
            if launch.status == "finished" and launch.stage == stage
        ]

    def revision_folder(self, variant: Variant) -> Path | None:
        """The folder with the files of the variant's revision, if it has one."""
        return Path(self.revisions, variant.name) if variant.commit else None


def run_to_end(
    command: Sequence[str],
    folder: Path | None,
    variables: Mapping[str, str],
    limit_s: float | None = None,
    log: Path | None = None,
) -> tuple[int, str]:
    """The exit status of a command in `folder`, not 0 if its time ran out, and its last line on
    standard error, without those that mpirun adds, or else on standard output, where IMB writes
    what is wrong. `log` keeps its output, in `log`.out.txt and `log`.err.txt.

    Nothing that the command starts keeps running: its guard ends it, also if a signal raises
    KeyboardInterrupt here or kills this process."""
    with open_output(log, "out") as output, open_output(log, "err") as errors:
        reason = None
        with ExitStack() as ending:
            with signals_wait():
                process = subprocess.Popen(
                    [sys.executable, "-I", "-S", launch_guard.__file__, *command],
                    cwd=folder,
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=errors,
                    start_new_session=True,
                )
                assert process.stdin
                ending.callback(process.wait)  # last
                ending.callback(process.stdin.close)  # has the guard end the command
                process.stdin.write(json.dumps([{**variables}, ENDINGS]).encode() + b"\n")
                process.stdin.flush()
            try:
                process.wait(limit_s)
            except subprocess.TimeoutExpired:
                reason = f"took longer than {limit_s:.0f} s"
        lines = last_lines(errors) or last_lines(output) or ["it printed nothing"]
    return process.returncode or (TIMED_OUT if reason else FINE), reason or lines[-1].strip()


def with_status(sentence: str, status: int) -> str:
    """The sentence and how its command ended: `no device (exit status 2)`, `killed by SIGSEGV: no
    device`. Shells and launchers report a signal as 128 more."""
    with suppress(ValueError):  # no signal
        number = signal.Signals(-status if status < 0 else status - 128)
        return f"killed by {number.name}: {sentence}"
    return f"{sentence} (exit status {status})"


def last_lines(file: TextIO) -> list[str]:
    """The last lines with a word of a command's output."""
    file.seek(max(0, file.seek(0, os.SEEK_END) - LAST_WORDS_BYTES))
    said = MPIRUN_ADDS.sub("", file.read())
    return [line for line in said.splitlines() if re.search(r"\w", line)]


def open_output(log: Path | None, stream: str) -> TextIO:
    """A file for a stream of a command's output: beside `log`, or one that nobody sees."""
    if log is None:
        return cast(TextIO, tempfile.TemporaryFile("w+", errors="replace"))
    return log.with_suffix(f".{stream}.txt").open("x+", errors="replace")  # never through a link


def failure_of(status: int, last_line: str, run: Path | None) -> str | None:
    """Why a launch did not finish, without paths and hosts; None if it did, with any results."""
    reason = last_line
    if status in (FINE, WRONG) and run is not None:
        try:
            if read(run).end:
                return None
        except ResultError as error:
            reason = str(error)
    places = rf"\S*[/@\\]\S*|\S+:\S+|\d+(\.\d+){{3}}\S*|\b{re.escape(socket.gethostname())}\b"
    # The time grows with the square of the letters.
    return with_status(re.sub(places, "<set>", reason[:1000])[:300], status)


def ran_revision(campaign: OpenCampaign, variant: Variant, run: Path) -> bool:
    """Whether the code that a run names is that of the variant's revision, if it has one. Older
    code names none."""
    expected = campaign.programs.get(variant.name)
    return not expected or read(run).run.program in ("", expected)


def retry_launch(campaign: OpenCampaign, pair: int, place: int, name: str) -> None:
    """Launches a variant until a launch finishes, at most three times. The pilot is pair 0. Raises
    Stop for a variant whose pilot cannot run."""
    for attempt in range(1, ATTEMPTS + 1):
        record = Launch(
            stage="first" if pair else "pilot",
            pair=pair,
            place=place,
            variant=name,
            attempt=attempt,
            status="died",
            elapsed_s=0.0,
        )
        launch_once(campaign, record)
        if record.status == "finished":
            return
        say(f"{name}, attempt {attempt}", str(record.reason))
    if not pair:
        raise Stop(
            WRONG,
            f"variant {name} cannot run: it died {ATTEMPTS} times, the last time with: "
            f"{record.reason}",
            True,
        )


def launch_once(campaign: OpenCampaign, record: Launch) -> None:
    """Makes a launch and records its outcome. Raises Stop if it refuses to run, stores no run, or
    is a pilot that takes the whole budget or prints rows that cannot be read, as all launches after
    it would."""
    options, variant = campaign.options, campaign.options.variants[record.variant]
    folder, tree = campaign.folder_of(variant.name), campaign.revision_folder(variant)
    stage, limit_s = "pilot", options.budget_s or LONGEST_PILOT_S
    is_pilot = not record.pair
    if not is_pilot:
        stage = f"pair {record.pair} of {campaign.pairs}"
        limit_s = 5 * max(pilot.elapsed_s for pilot in campaign.finished("pilot")) + GRACE_S
    campaign.progress.show(f"{stage}, {variant.name}")
    seed, why, unread = str(options.head.seed + record.pair), "it stored no run", list[str]()
    runs_before = set(folder.glob("*.jsonl"))
    # Nobody else can put a link here while the command writes. Its output can hold a whole
    # environment.
    with tempfile.TemporaryDirectory(prefix="wiretax-") as private:
        log = Path(private, "launch")
        if variant.is_foreign:
            values = {"out": f"{log}.file.txt", "seed": seed} | options.settings
            command = [
                PLACEHOLDER.sub(lambda found: values.get(found[1], found[2]), word)
                for word in variant.arguments
            ]
        else:  # the last of two equal options counts: the command's own one
            command = [*variant.launcher, "--out", str(folder.resolve()), "--seed", seed]
            command += ["--max-time", f"{options.launch_s:.1f}"] if options.launch_s else []
            command += variant.arguments
        ticks, started_s = environment.cpu_ticks(), time.monotonic()
        record.exit, last_line = run_to_end(command, tree, variant.environment(tree), limit_s, log)
        record.elapsed_s = time.monotonic() - started_s
        if variant.is_foreign:
            steal = environment.steal_share(ticks, environment.cpu_ticks())
            why, unread = import_output(campaign, record, log, steal)
    run = next(iter(set(folder.glob("*.jsonl")) - runs_before), None)
    if not (record.exit or run):
        last_line = why
    record.run = f"{variant.name}/{run.name}" if run else None
    record.reason = failure_of(record.exit, last_line, run)
    is_other_code = not (record.reason or run is None or ran_revision(campaign, variant, run))
    if is_other_code:
        record.reason = "it imported other code than its revision has"
    record.status = "died" if record.reason else "finished"
    campaign.record(record)
    if is_other_code:
        raise Stop(WRONG, f"variant {variant.name}: {record.reason}", True)
    if is_pilot and options.budget_s and record.elapsed_s >= limit_s:
        raise Stop(
            USAGE,
            f"--budget: variant {variant.name} has not ended in {limit_s:.0f} s: it hangs, or "
            "needs a longer budget",
            True,
        )
    if is_pilot and record.status == "finished" and unread:
        raise Stop(WRONG, f"variant {variant.name}: {'; '.join(unread)}", True)
    is_refused = not variant.is_foreign and record.exit in (USAGE, CANNOT)
    if not run and (is_refused or record.exit == FINE):
        raise Stop(record.exit or USAGE, f"variant {variant.name}: {last_line}", True)


def read_output(options: CampaignOptions, variant: Variant, log: Path) -> tuple[Result, list[str]]:
    """The run that a launch's output describes: its file {out}, or else its standard output; and
    sentences on rows that could not be read. Raises ResultError without timings or without the
    number of ranks, ValueError for a bad name of this node."""
    files = [log.with_suffix(suffix) for suffix in (".file.txt", ".out.txt")]
    content = content_of(files[not files[0].is_file()])
    found = find_tests(Path("its output"), content)
    tests = [test for test in found if test.rows]
    if not tests:
        raise ResultError("its output has no timings, only the head of a table")
    for test in tests:
        test.world_size = test.world_size or options.ranks
        if not test.world_size:
            raise ResultError("its output names no number of ranks: say how many: --ranks N")

    facts, started = environment.describe(), time.strftime("%Y-%m-%dT%H-%M-%SZ", time.gmtime())
    library = f"{tests[0].format} {tests[0].library}"
    machine_id, software_id = environment.identities(facts, library, "")
    result = run_of(
        tests,
        f"{started}-{variant.name}-{secrets.token_hex(3)}",
        "its output",
        machine_id=machine_id,
        software_id=software_id,
        environment=facts,
        argv=variant.recorded().argv,
        imported_from=f"variant {variant.name}",
    )
    if result.run.hosts in (None, 1):
        label = node.chosen_name() or node.host_label()
        for rank in result.run.ranks:
            rank["node"] = label
    lacks, unread = [str(test.reason) for test in found if test.status == "failed"], list[str]()
    if lines := sorted(line for test in found for line in test.unread):
        many = f"rows that could not be read: {len(lines)}, the first in line {lines[0]}"
        lacks.append(many)  # a wrong one would be among them
        unread = [many, *result.run.notes[1:]]  # the first note is on its clock
    if lacks and result.complete:
        result.end = End(status="incomplete", reason=lacks[0])
    return result, unread


def import_output(
    campaign: OpenCampaign, record: Launch, log: Path, steal_share: float | None
) -> tuple[str, list[str]]:
    """Stores what another harness's command printed as a run, unless it failed without wrong
    results. Returns why there is no run, and sentences on rows that could not be read."""
    options, folder = campaign.options, campaign.folder_of(record.variant)
    if options.keeps_output:
        number = len(campaign.launches) + 1
        with opened(folder / f"launch-{number}.output") as kept:
            for file in filter(Path.is_file, log.parent.iterdir()):
                with (kept / file.name).open("xb") as copy:
                    shutil.copyfile(file, f"/proc/self/fd/{copy.fileno()}")
    try:
        result, unread = read_output(options, options.variants[record.variant], log)
        if result.end:
            result.end.elapsed_s, result.end.steal_share = record.elapsed_s, steal_share
        content = content_of_run(result)
    except (ResultError, ValueError) as error:
        return str(error), []
    if not record.exit or any(case.status == "wrong" for case in result.cases):
        write_whole(folder / result.path, content)
    return "", unread
