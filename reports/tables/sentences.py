"""The words that tables, pages and messages share: numbers with units, names, and the layout of a
text: 80 columns, in a terminal more. Bold and colour appear only there, without NO_COLOR."""

import io
import math
import re
import shlex
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import replace
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from collectives.build import BuildName
from wiretax.common.grouped import grouped
from wiretax.common.program import REPORTS, RUN, has_colours, on_ranks
from wiretax.common.untrusted import printable
from wiretax.record.case import is_contender, is_own_benchmark, is_own_work
from wiretax.record.result import time_of
from wiretax.record.schema import UNDATED, Case, CaseFields, Result, Run
from wiretax.record.stats import Interval
from wiretax.record.wrong import wrong_share

if TYPE_CHECKING:  # rich takes 20 ms, and ranks that print nothing need these words too
    from rich.table import Column, Table

TOKEN_CALL_SIZE_BYTES = 16384  # an all-reduce of one token: 8192 x 2 bytes
# Of sentences, and of tables, which no reader follows from line to line.
WIDTH = TABLE_WIDTH = 80
if sys.stdout and sys.stdout.isatty():  # None if it is closed
    TABLE_WIDTH = max(WIDTH, shutil.get_terminal_size().columns)
    WIDTH = min(TABLE_WIDTH, 120)
IMPORT = f"{RUN}{REPORTS} import"
UNSTORED = re.compile(r"<(?:path|set)(?: of \w+)?>")  # in a stored command
MOST_HOSTS = 8  # that a line names
MOST_LINES = 40  # that a command prints by default
# Columns of words, which may be folded, but to no less; and those that name a row behind the first.
WORDS = (
    "layer algorithm chosen variant mode place status type sum auto model best fastest case element"
)
LEFT = "", *WORDS.split(), "first wrong element"
LEAST_FOLDED = 18
KEYS = "algorithm", "variant", "mode"
EVEN_RATIO = 1.01  # two costs that differ by less are even
MOST_STEAL_SHARE = 0.01  # below this the margin of a verdict covers the stolen time
# Verdicts in a terminal by their colours: red, green, yellow.
VERDICT_COLOURS = {
    31: "SLOWER|SLOW|WRONG(?: RESULTS)?|FAIL|FAILED|REGRESSION|UNUSABLE|CHANGED|worse",
    32: "FASTER|PASS|better",
    33: "UNDECIDED|INCONCLUSIVE|UNVERIFIED|SUSPECT|INCOMPLETE|suspect|undecided|differs",
}
WAYS = {
    "one_way": "one way",
    "ping_pong": "ping-pong, there and back",
    "dispatch": "dispatch, to the experts",
    "combine": "combine, back from the experts",
    "round_trip": "round trip, dispatch and combine",
}


def size_text(size_bytes: int) -> str:
    """`16 KiB`, `1.5 MiB`, `100 B`."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size_bytes >= unit:
            return f"{size_bytes / unit:.{3 if size_bytes < 100 * unit else 4}g} {name}"

    return f"{size_bytes} B"


def sized(case: CaseFields, name: str) -> str:
    """`16 KiB ring`, or the name alone of work that has no message."""
    return name if is_own_work(case) else f"{size_text(case.size_bytes)} {name}"


def tick_text(size_bytes: int) -> str:
    """`16K`, for an axis."""
    return re.sub(" |i?B", "", size_text(size_bytes))


def number(value: float | None) -> str:
    """Three significant digits or more, in at most seven columns; `-` for None and NaN."""
    if value is None or math.isnan(value):
        return "-"
    if 0 < value < 0.0995:
        return f"{value:.2g}"
    if value >= 9_999_999.5:
        return f"{value:.1e}"

    decimals = sum(abs(value) < limit for limit in (9.995, 99.95))
    return f"{value:.{decimals}f}"


def exact(amount: float) -> str:
    """A price to the cent, as an order states it: `5200`, `1234567.50`."""
    return f"{amount:.2f}".removesuffix(".00")


def interval_text(interval: Interval | None, text_of: Callable[[Any], str] = number) -> str:
    """`5.73 [5.51 5.92]`, or `5.73` without ends; `-` for None. An unknown end is None or NaN."""
    known = (value for value in interval or () if value is not None and not math.isnan(value))
    middle, *ends = [*map(text_of, known)] or ["-"]
    return middle + (f" [{ends[0]} {ends[1]}]" if ends else "")


def capitalised(text: str) -> str:
    """The text with a capital first; unlike `str.capitalize` it keeps all other letters."""
    return text[:1].upper() + text[1:]


def counted(n: int, noun: str) -> str:
    """`1 run`, `2 launches`."""
    if n == 1:
        return f"{n} {noun}"
    return f"{n} {noun}es" if noun.endswith("ch") else f"{n} {noun}s"


def wrong_text(case: Case | None) -> str:
    """The share of a case's elements that are wrong, or their number if the share is unknown; `0`
    if all are right, `-` if nothing was checked."""
    if case is None or case.n_wrong is None:
        return "-"
    share = wrong_share(case)
    if not share:
        return str(case.n_wrong)
    return f"{share:.0%}" if share >= 0.0995 else f"{max(100 * share, 0.001):.2g}%"


def some(names: Sequence[str], most: int = 3) -> str:
    """The first names with commas, and the number of the rest."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def left_out_lines(left_out: Iterable[tuple[Path, str]]) -> list[str]:
    """A sentence for each reason why runs or files are left out, with their first names. An empty
    reason is of what counts."""
    return [
        f"left out, {why}: {len(own)} ({some([printable(path.name) for path, _ in own])})"
        for why, own in grouped(left_out, itemgetter(1)).items()
        if why
    ]


def algorithm_of(case: Any) -> str:
    """The algorithm of a case or a fit: `ring`, or `ring over host_staged`, as a run may have it
    over both kinds of memory, or a contender with its version. `auto` names in `chosen` the memory
    that it took."""
    if is_contender(case):
        return str(case.library)

    is_staged = case.memory == "host_staged" and case.algorithm != "auto"
    memory = case.memory if is_staged else None
    return str(BuildName.parse(case.algorithm)._replace(memory=memory))


def without_version(library: str | None) -> str:
    """`MPICH` of `MPICH 5.0.2`, `mine` of `mine a1b2c3d`, a contender's file."""
    return re.sub(r" \S*\d.*", "", library or "the library")


def describe(case: CaseFields) -> str:
    """`one_shot_push registered 64 KiB isolated`."""
    place = "in place" if case.in_place else ""
    size = () if is_own_work(case) else (size_text(case.size_bytes), case.mode)
    words = with_variant(case), *size, shape_of(case), place
    return " ".join(filter(None, words))


def shape_of(case: CaseFields) -> str:
    """The rest of a case's name; a program's own work has shapes that nobody else names: `m 128,
    n 64`."""
    words = [word.removeprefix("metric ") for word in shape_words(case.shape)]
    return ", ".join(words) if is_own_benchmark(case) else shape_text(case.shape)


def with_variant(case: CaseFields) -> str:
    """The algorithm with its variant, unless that is the usual one."""
    variant = "" if case.variant in ("copied", "plain") else f" {case.variant}"
    return algorithm_of(case) + variant


def type_text(case: Any) -> str:
    """`float32 sum`, or the datatype alone of a collective without an operation."""
    return f"{case.datatype} {case.redop}".removesuffix(" none")


def shape_text(shape: Any) -> str:
    """The rest of a case's name: `one_way 5us late`, `rank 0 to rank 1`; empty without a shape."""
    shape = shape or {}
    if "dst" in shape:
        return " to ".join(f"rank {n}" for n in dict.fromkeys((shape["src"], shape["dst"])))
    return " ".join(
        f"{value:g}us late" if name == "arrival_skew_us" else str(value)
        for name, value in shape.items()
    )


def shape_words(shape: Any) -> list[str]:
    """The same for readers without knowledge of the run."""
    terms = WAYS | {"gemm": "beside a matmul", "cold": "cold caches"}
    return [
        f"one rank late by {value:g} us"
        if name == "arrival_skew_us"
        else terms.get(str(value), f"{name} {value}")
        for name, value in (shape or {}).items()
    ]


def machine(result: Result) -> str:
    """The benchmark, its ranks and their hardware: `allreduce: 2 ranks on AMD EPYC, cores 0 1`."""
    run, size = result.run, result.run.world_size
    ranks = run.ranks
    # Such as `NVIDIA H200 (sm_90)`, each kind once.
    gpus = dict.fromkeys(
        rank["gpu"] + (f" ({rank['arch']})" if "arch" in rank else "")
        for rank in ranks
        if rank.get("gpu")
    )
    model = " and ".join(gpus) or fact(run, "cpu.model") or f"machine {run.machine_id}"
    cpus = [rank.get("cpus") or [] for rank in ranks]
    is_pinned = cpus and all(len(of_rank) == 1 for of_rank in cpus)
    cores = f"cores {' '.join(str(of_rank[0]) for of_rank in cpus)}" if is_pinned else "not pinned"
    hosts = f" on {hosts_text(run)}," if run.hosts not in (1, None) else ""
    count = counted(size, "rank") if size else "an unknown number of ranks"
    sentence = f"{run.benchmark}: {count}{hosts} on {model}"
    return sentence if run.imported_from else f"{sentence}, {cores}"


def hosts_text(run: Run) -> str:
    """`2 hosts (node-3f: 0 1, node-a2: 2 3)`, each with its ranks, if the run says where they were:
    by its name, its label, or as `host 1`."""
    named = [
        (rank.get("hostname") or rank.get("node") or f"host {rank['host'] + 1}", str(number))
        for number, rank in enumerate(run.ranks)
        if rank.get("host") is not None
    ]
    texts = [
        f"{name}: {' '.join(number for _, number in own)}"
        for name, own in grouped(named, itemgetter(0)).items()
    ]
    hosts = f"{run.hosts} hosts"
    return f"{hosts} ({some(texts, MOST_HOSTS)})" if texts else hosts


def shares_places(ranks: Sequence[Any]) -> bool:
    """Whether ranks share a GPU or a core."""
    places = set()
    for rank_number, rank in enumerate(ranks):
        gpu, cores = rank.get("pci_bus_id"), rank.get("cpus") or [rank_number]
        places |= {(rank.get("host"), place) for place in ([gpu] if gpu else cores)}

    return len(places) < len(ranks)


def fact(run: Run, name: str) -> str | None:
    """A fact about the environment of a run; None if the run does not have it."""
    return environment_of(run).get(name)


def environment_of(run: Run) -> dict[str, str]:
    """The facts of a run's environment as text, by name, without those that it lacks."""
    values = {
        name: fact.get("value") if isinstance(fact, dict) else fact
        for name, fact in run.environment.items()
    }
    return {name: str(value) for name, value in values.items() if value is not None}


def recorded_facts(run: Run) -> dict[str, str]:
    """The facts on a run's software, machine, command and environment, as text, by name."""
    ids = {name: getattr(run, name) for name in ("software_id", "version", "machine_id")}
    return ids | {"command": command_of(run, "--seed", "--out")} | environment_of(run)


def machine_name(run: Run) -> str:
    """The machine's model and id: `AMD EPYC (1a2b3c4d)`, or `machine rack-7` for a log without."""
    model = some([*dict.fromkeys(run.gpus)]) or fact(run, "cpu.model")
    return f"{model} ({run.machine_id})" if model else f"machine {run.machine_id}"


def command_of(run: Run, *without: str) -> str:
    """The command that made the run, without these options and their values; its file has each path
    as `<path>`, and hosts are the user's to name."""
    words = run.argv
    if not run.imported_from:
        words = [*shlex.split(on_ranks(run.world_size, shlex.quote(run.benchmark))), *words]
    elif not words:
        words = [*shlex.split(IMPORT), run.imported_from]

    pairs = zip(["", *words], words, strict=False)
    return shlex.join(word for before, word in pairs if {before, word}.isdisjoint(without))


def to_repeat(run: Run, what: str, *without: str) -> tuple[str, str]:
    """Words on how to repeat a run, which begin with `what`, and what to type, without these
    options. Only another harness's program can print its log again."""
    if run.imported_from and not run.argv:
        return f"{what}: run what printed {run.imported_from} again, then", f"{IMPORT} LOG"
    command = command_of(run, *without)
    return before_command(what, command), command


def before_command(what: str, command: str) -> str:
    """The words before a command, which name what the reader must put back: files hold neither
    paths nor addresses."""
    if lost := " and ".join(dict.fromkeys(UNSTORED.findall(command))):
        return f"{what}, with your own values for {lost}:"
    return f"{what}:"


def start_time(run: Run) -> str:
    """When a run started, by its run_id, and its log: `2026-11-20 06:15 UTC, a.log`."""
    time = time_of(run.run_id)
    text = f"{time:%Y-%m-%d %H:%M} UTC" if time else "an unknown time"
    if UNDATED in run.notes:
        text = f"undated, file of {text}"
    return f"{text}, {run.imported_from}" if run.imported_from else text


def wrapped(sentences: Sequence[str]) -> list[str]:
    """The sentences in lines of WIDTH columns; a longer path is not broken."""
    wrapper = textwrap.TextWrapper(WIDTH, break_on_hyphens=False, break_long_words=False)
    return [line for sentence in sentences for line in wrapper.wrap(sentence)]


def that_fit(sentences: Iterable[str], room: int) -> list[str]:
    """As many of the sentences as fit into this number of lines, the first ones first."""
    shown = list[str]()
    for sentence in sentences:
        lines = len(wrapped([sentence]))
        if lines <= room:
            shown.append(sentence)
            room -= lines

    return shown


def plain_table(
    headings: Iterable[str],
    rows: Iterable[Iterable[str]],
    footnotes: Iterable[str] = (),
) -> "Table":
    """A table without lines from the headings, the cells of each row, also by their headings, and
    the footnotes of its marks. The columns of words, whose headings end with one of LEFT, are
    left-aligned."""
    from rich.table import Table

    table = Table(
        box=None,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        header_style="bold",
        caption="\n".join(footnotes) or None,
        caption_style="",
        caption_justify="left",
    )
    for heading in headings:
        is_of_words = heading.strip().rpartition("\n")[2] in LEFT
        table.add_column(
            heading,
            justify="left" if is_of_words else "right",
            no_wrap=not is_of_words,
            overflow="fold",
            vertical="bottom",
        )

    for cells in rows:
        table.add_row(*(cells.values() if isinstance(cells, dict) else cells))

    return table


def fitting(table: "Table") -> "list[Table]":
    """The table, or as many as it takes for none to be wider than TABLE_WIDTH once its words are
    folded, each behind the columns that name a row. A figure is never cut."""
    columns, n_keys = table.columns, 1
    while n_keys < len(columns) and columns[n_keys].header in KEYS:
        n_keys += 1
    keys = columns[:n_keys]
    parts = [keys]
    for column in columns[n_keys:]:
        least = sum(map(_least_width, [*parts[-1], column])) + len(parts[-1])
        if least > TABLE_WIDTH and parts[-1] is not keys:
            parts.append(keys)
        parts[-1] = [*parts[-1], column]

    tables = [copy(table) for _ in parts]
    for part, own in zip(tables, parts, strict=True):
        part.caption = table.caption if part is tables[-1] else None
        part.columns = [replace(column, _index=place) for place, column in enumerate(own)]

    return tables


def _least_width(column: "Column") -> int:
    """The least width of a column, by its longest word if it may be folded."""
    text = "\n".join(map(str, (column.header, *column.cells)))
    most = max(map(len, text.split("\n")))
    words = [] if column.no_wrap else text.split()
    return min(most, max([LEAST_FOLDED, *map(len, words)])) if words else most


def painted(text: str) -> str:
    """The text with its verdicts in colour, for a terminal."""
    if not has_colours():
        return text
    for code, words in VERDICT_COLOURS.items():
        # A word may follow the beginning of bold letters, and stays bold.
        text = re.sub(rf"(?:(?<=\[1m)|\b)(?:{words})\b", f"\x1b[{code}m\\g<0>\x1b[39m", text)
    return text


def lay_out(
    bold: Iterable[str],
    head: Iterable[str],
    tables: "Iterable[tuple[str, Table]]",
    sentences: Iterable[str],
) -> str:
    """A text: the warnings and the headline in bold, the head, each table under its title, and the
    sentences; ends with a newline."""
    from rich.console import Console

    text = io.StringIO()
    console = Console(
        file=text,
        width=TABLE_WIDTH,
        force_terminal=has_colours(),
        highlight=False,
        markup=False,
        emoji=False,
    )

    for line in bold:
        # Scripts search for the rank that stopped first: its line stays whole.
        is_whole = line.startswith("stopped first")
        console.print(line, style="bold", soft_wrap=is_whole, width=WIDTH)

    for line in head:
        console.print(line, width=WIDTH)

    for title, table in tables:
        for part in fitting(table):
            console.print(f"\n{title}" if title else "")
            console.print(part)
            title = ""

    console.print()
    for line in sentences:
        console.print(line, width=WIDTH)

    laid = "\n".join(line.rstrip() for line in text.getvalue().splitlines()).strip("\n")
    return painted(laid) + "\n"
