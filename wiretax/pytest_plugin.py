"""A plugin of pytest: collectives as rows of pytest-benchmark, and our verdict as a test's outcome.

`pytest --wiretax "allreduce -b 16K -e 1M -f 8"` adds a test that launches this command, or one of
another harness, such as nccl-tests. Tests of your own launch one with the fixture `wiretax`. An
installed wiretax is a plugin of every pytest; in a checkout `-p wiretax.pytest_plugin` loads it. At
its top it imports nothing of ours, because importing `bench` changes the environment, and only what
pytest has imported anyway."""

import os
import re
import shutil
import tempfile
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from shlex import split
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, cast

import pytest

if TYPE_CHECKING:
    import pandas as pd


LAUNCHES_OF_A_VERDICT = 6  # with fewer no cell has a verdict
QUIET = {"WIRETAX_QUIET": "1"}  # standard error has sentences alone
LINES = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    option = parser.getgroup("wiretax").addoption
    option(
        "--wiretax",
        metavar="COMMAND",
        action="append",
        default=[],
        help='launch this as a test: "allreduce -b 16K -e 1M -f 8"; may be repeated',
    )
    option(
        "--wiretax-baseline",
        metavar="FOLDER",
        help="fail if the launches are slower than these: a folder of `accept`, or of runs",
    )
    option(
        "--wiretax-min-effect",
        metavar="PERCENT",
        type=slowdown,
        help="the slowdown that fails, and that a pass excludes in every case (1 fails, a pass "
        "excludes 5)",
    )
    option(
        "--wiretax-launches",
        metavar="N",
        type=launch_count,
        help=f"launches of a command (1; {LAUNCHES_OF_A_VERDICT} with a baseline)",
    )


def launch_count(text: str) -> int:
    """The number of launches. Raises pytest.UsageError, which ends pytest with one sentence."""
    if not re.fullmatch("[1-9][0-9]{0,3}", text):
        raise pytest.UsageError(
            f"--wiretax-launches: {text!r} is not a whole number from 1 to 9999"
        )
    return int(text)


def slowdown(text: str) -> float:
    """A share from a percentage. Raises pytest.UsageError."""
    from wiretax.common.arguments import percent

    try:
        return percent(text)
    except ArgumentTypeError as error:
        raise pytest.UsageError(f"--wiretax-min-effect: {error}") from None


def fail(sentence: str) -> NoReturn:
    """Fails the test with this sentence alone."""
    raise pytest.fail.Exception(sentence, pytrace=False) from None


@pytest.hookimpl(tryfirst=True)  # so that -k and --benchmark-only see these tests
def pytest_collection_modifyitems(
    session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
) -> None:
    items += [
        LaunchedItem.from_parent(
            session, name=f"wiretax {command}", nodeid=f"wiretax::{command}", command=command
        )
        for command in config.getoption("wiretax")
    ]


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if lines := config.stash.get(LINES, []):
        terminalreporter.section("wiretax")
        terminalreporter.write("".join(f"{line}\n" for line in lines))


@pytest.fixture
def wiretax(request: pytest.FixtureRequest) -> "Callable[..., pd.DataFrame]":
    """`cases = wiretax("allreduce -b 16K", baseline="baselines")` in a test: see `measure`."""
    return partial(measure, request.node)


class LaunchedItem(pytest.Item):
    """The test of one `--wiretax`."""

    def __init__(self, *, command: str, **options: Any) -> None:
        super().__init__(**options)
        self.command = command
        self.fixturenames = ["benchmark"]  # by which pytest-benchmark knows a benchmark

    def runtest(self) -> None:
        measure(self, self.command)

    def reportinfo(self) -> tuple[str, int, str]:
        return "wiretax", 0, self.command  # a skipped test needs a line


def measure(node: pytest.Item, command: str, baseline: str | None = None) -> "pd.DataFrame":
    """Launches the command line, adds a row to pytest-benchmark for each measured case, and returns
    the cases as `wiretax.load` does. Fails the test in one sentence if a launch fails, a run is
    wrong or incomplete, or the verdict beside the baseline (by default `--wiretax-baseline`) is a
    regression.
    Skips the test if there is too little data for a verdict, or if benchmarks are off."""
    config = node.config
    session = config.pluginmanager.get_plugin("pytest-benchmark")
    if session is None:
        fail("wiretax needs pytest-benchmark: pip install pytest-benchmark")
    if session.disabled or session.skip:
        pytest.skip("pytest-benchmark is disabled or runs beside other tests: nothing is launched")
    baseline = baseline or config.getoption("wiretax_baseline")
    launches = config.getoption("wiretax_launches") or (LAUNCHES_OF_A_VERDICT if baseline else 1)
    from reports.verdicts.sides import ACCEPTED, side_of
    from wiretax.record.result import ResultError

    if baseline and not (Path(baseline) / ACCEPTED).exists():
        try:  # before minutes of launches
            side_of(baseline)
        except ResultError as error:
            fail(f"--wiretax-baseline: {error}")
    try:
        lines = config.stash.setdefault(LINES, [])
        folder = launch(command, launches, lines)
    except (OSError, ValueError) as error:  # an unwritable folder, an open quotation mark
        fail(f"wiretax {command}: {error}")
    session.benchmarks += rows_of(node, folder)
    if baseline:
        judge(folder, baseline, lines, config.getoption("wiretax_min_effect"))
    from wiretax import load

    return load(folder)


def launch(command: str, launches: int, lines: list[str]) -> Path:
    """Launches the command line as often, and returns the folder of its runs, below its `--out`.
    Adds `lines` to pytest's summary. Fails the test if a launch fails."""
    from reports.__main__ import COMMANDS, FORMER_NAMES
    from wiretax.__main__ import BENCHMARKS, STARTERS
    from wiretax.common.interpreter import module_command

    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--out", type=Path, default=Path("results"))
    options, words = parser.parse_known_args(split(command))
    if not words or words[0] in ("doctor", *STARTERS, *COMMANDS, *FORMER_NAMES):
        raise ValueError("a test launches a benchmark that stores a run, such as allreduce")
    options.out.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="pytest-", dir=options.out))
    is_foreign = words[0] not in BENCHMARKS and shutil.which(words[0])
    program, into = module_command("wiretax"), ("--out", str(folder))
    for _ in range(launches):
        with tempfile.TemporaryDirectory() as private:  # where nobody can put a link
            if is_foreign:
                output = Path(private, "0")
                run_step(split(command), output)
                lines += store_output(output.with_suffix(".out.txt"), split(command), folder)
            else:
                run_step([*program, *words, *into], Path(private, "0"))
    if not any(folder.glob("*.jsonl")):
        fail(f"wiretax {command} stored no run")
    return folder


def run_step(words: Sequence[str], log: Path) -> None:
    """Runs a command to its end, with its output in `log`.out.txt and `log`.err.txt, and prints it:
    pytest shows it if the test fails. Fails the test if the command does."""
    from bench.campaigns.processes import run_to_end, with_status
    from wiretax.common.untrusted import read_bytes

    status, last_line = run_to_end(words, None, os.environ | QUIET, log=log)
    output, errors = (read_bytes(log.with_suffix(suffix)) for suffix in (".out.txt", ".err.txt"))
    print((output + errors).decode(errors="replace"), end="")
    if status:
        fail(with_status(last_line, status))


def store_output(output: Path, words: list[str], folder: Path) -> list[str]:
    """Stores what a command of another harness has just printed: a run with the facts of this
    machine for each number of ranks. Returns the sentence on a last row that is cut. Fails the test
    for a row that cannot be read, because it could be a wrong one."""
    from bench.campaigns.campaign_options import Variant
    from bench.campaigns.foreign_output import run_here
    from reports.imports.runs import content_of_run, find_tests
    from reports.imports.timing_lines import CUT
    from wiretax.common.grouped import grouped
    from wiretax.record.result import ResultError, content_of
    from wiretax.record.writing import write_whole

    try:
        tests = find_tests(Path("its output"), content_of(output))
        if lines := sorted(line for test in tests for line in test.unread):
            said = (word for test in tests for word in (test.refusal, *test.notes) if word)
            where = f"{len(lines)}, the first in line {lines[0]}"
            fail(f"rows that could not be read: {where}: {'; '.join(said)}")
        for of_world in grouped(tests, lambda test: test.world_size).values():
            run = run_here(of_world, Variant("program", [], words))
            write_whole(folder / run.path, content_of_run(run))
    except ResultError as error:
        fail(str(error))
    return [note for test in tests for note in test.notes if note.endswith(CUT)]


def rows_of(node: pytest.Item, folder: Path) -> list[Any]:
    """A row of pytest-benchmark for each measured case, which several launches of it share. Fails
    the test if a run says that it is wrong or incomplete, as that of a command may which ended with
    status 0, or if a contender ran in no case."""
    from reports.tables.show import headline_of
    from reports.verdicts.sides import side_of

    side = side_of(str(folder))
    if faults := launch_faults(side):
        fail("\n".join([*side.notes, *faults]))
    lines = node.config.stash.setdefault(LINES, [])
    lines += [headline_of(*side.launches), f"  runs: {folder}"]
    return [row_of(node, launches) for launches in measured_cases(side.launches)]


def launch_faults(side: Any) -> list[str]:
    """Why the launches of this side do not count."""
    from reports.verdicts.sides import Side, faults_of, uneven_cases
    from wiretax.common.grouped import grouped
    from wiretax.record.case import is_contender

    measured_names = {case.algorithm for case in side.cases}
    absent = {
        f"{case.algorithm} was not measured: {case.reason}"
        for case in side.launches[0].cases
        if is_contender(case) and case.algorithm not in measured_names
    }
    for own in grouped(side.launches, lambda launch: launch.run.world_size).values():
        absent |= {*uneven_cases(Side(side.name, own))}  # a launch stores a run of each
    return [*faults_of(side), *sorted(absent)]


class Measured(NamedTuple):
    """A case that a launch measured, its name among the cases of its run, the iterations of a block
    and the cost of each block in us."""

    case: Any
    name: str
    iterations: int
    costs_us: Sequence[float]
    result: Any


def measured_cases(results: Sequence[Any]) -> list[list[Measured]]:
    """The launches of each case that has blocks."""
    from reports.verdicts.sides import case_names
    from wiretax.common.grouped import grouped
    from wiretax.record.case import key_of

    measured: dict[Any, list[Measured]] = {}
    for result in results:
        run = result.run
        # A run of another harness has all collectives, and each row names its own.
        collective_of = (lambda case: case.collective) if run.imported_from else (lambda case: None)
        for cases in grouped(result.cases, collective_of).values():
            for case, name in zip(cases, case_names(cases), strict=True):
                if blocks := result.counted.by_case.get(case.case):
                    key = run.benchmark, run.world_size, key_of(case)
                    costs_us = [*result.counted.costs_us[case.case].values()]
                    launch = Measured(case, name, blocks[0].n, costs_us, result)
                    measured.setdefault(key, []).append(launch)
    return [*measured.values()]


def row_of(node: pytest.Item, launches: Sequence[Measured]) -> Any:
    """The row of a case. A round is a block; its time is the collective's with reading its result,
    as in our table, and the same blocks count."""
    from pytest_benchmark import stats

    from reports.tables.sentences import size_text

    case, name, iterations, _, result = launches[-1]
    benchmark, ranks = result.run.benchmark, result.run.world_size
    if result.run.imported_from:  # a run of all collectives that the command printed
        benchmark = re.sub("^all_", "all", case.collective)
    test = benchmark if isinstance(node, LaunchedItem) else node.name
    size = size_text(case.size_bytes)
    title = f"{size} {name}"
    metadata = cast(Any, stats.Metadata)  # without types
    row = metadata(
        SimpleNamespace(
            name=f"{test}[{title}]",
            fullname=f"{node.nodeid}[{title}]",
            param=title,
            group=f"{benchmark} {size} {case.mode}, {ranks} ranks",
            params={
                "size_bytes": case.size_bytes,
                "algorithm": case.algorithm,
                "mode": case.mode,
                "ranks": ranks,
            },
            extra_info={
                "bus_bw_gb_s": [each.case.bus_bw_gb_s for each in launches],
                "n_wrong": [each.case.n_wrong for each in launches],
                "runs": [str(each.result.path) for each in launches],
            },
            cprofile_stats=None,
            has_error=False,
        ),
        iterations=iterations,
        options={"timer": "wiretax"},
    )
    for us in chain(*(each.costs_us for each in launches)):
        row.stats.update(us / 1e6)
    return row


def judge(folder: Path, baseline: str, lines: list[str], min_effect: float | None = None) -> None:
    """Fails the test with the verdict of `regress`, or skips it if that is not enough data. Adds
    its headline to `lines` of pytest's summary, which `pytest -q` hides of a skipped test."""
    from reports.verdicts import regress
    from reports.verdicts.gate_rule import INCONCLUSIVE, PASS
    from wiretax.record.result import ResultError

    try:
        outcome = regress.judge(baseline, str(folder), min_effect=min_effect)
    except ResultError as error:
        fail(str(error))
    lines.append(f"  {outcome.headline}")
    sentence = "\n".join([outcome.headline, *outcome.findings])
    if outcome.status == INCONCLUSIVE:
        pytest.skip(sentence)
    if outcome.status != PASS:
        fail(sentence)
