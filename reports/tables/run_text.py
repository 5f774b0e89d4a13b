"""The text of a run: its warnings and its headline, what ran where, its tables, and what limits
its figures."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from math import ceil
from typing import Any

from rich.table import Table

from reports.tables.sentences import (
    MOST_LINES,
    MOST_STEAL_SHARE,
    describe,
    environment_of,
    lay_out,
    machine,
    plain_table,
    some,
    that_fit,
    type_text,
    with_variant,
    wrapped,
    wrong_text,
)
from wiretax.common.grouped import grouped
from wiretax.common.program import REPORTS, RUN, typed
from wiretax.record.case import is_contender
from wiretax.record.flight_records import read_flight, sentence_on
from wiretax.record.schema import Case, Result
from wiretax.record.stats import MIN_PRECISE_BLOCKS
from wiretax.record.wrong import first_place, worst_first

# What the variables begin with that set a library.
GPU_LIBRARIES, MPI_LIBRARIES = ("NCCL_", "RCCL_"), ("MPIR_CVAR_", "OMPI_MCA_", "I_MPI_")
MOST_WRONG = 5  # cases, of which each takes up to three lines


def opening(result: Result) -> list[str]:
    """Warnings to read first: an incomplete run, the rank that stopped first."""
    lines = []
    if not result.complete:
        reason = result.end.reason if result.end else None
        lines.append(f"INCOMPLETE: {reason or 'the run was cut off'}.")

    flight = read_flight(result.path.with_suffix(".flight"))
    rank = flight.ended.get("rank")
    if not result.complete and isinstance(rank, int):
        said = f"rank {rank} {flight.ended.get('why', 'ended')}"
        with suppress(KeyError, IndexError, TypeError):
            said = sentence_on(flight.ranks[rank], flight.ended["why"])
        lines.append(f"stopped first: {said}")

    return lines


def wrong_tables(cases: Iterable[Case], most: int = MOST_WRONG) -> list[tuple[str, Table]]:
    """The table of the wrong cases, the worst first, with its title; none if all are right."""
    rows = [
        (f"{describe(case)} {type_text(case)}", wrong_text(case), first_place(case))
        for case in worst_first(cases)
    ]
    if not rows:
        return []
    more = [f"and {len(rows) - most} more: with --long"] if len(rows) > most else []
    headings = "case", "#wrong", "first wrong element"
    table = plain_table(headings, rows[:most], more)
    for column in table.columns:
        column.vertical = "top"  # a row takes several lines
    return [("wrong results, the worst first", table)]


def link_lines(result: Result) -> list[str]:
    """The state of the link during the run, and how many blocks were in others."""
    counted = result.counted
    if not counted.is_settled:
        return ["link: its flag round trip never settled; every block is used"]
    if not counted.rtt_ns:
        return []

    line = f"link: flag round trip {counted.rtt_ns:.0f} ns"
    if counted.left_out:
        share = counted.left_out / len(result.blocks)
        line += f"; {share:.0%} of the blocks were in another state, and are left out"
    return [line]


def gpu_lines(result: Result) -> list[str]:
    """The clocks and the power of the GPUs from start to end, each GPU once."""
    if not result.end:
        return []
    gpus, said = result.end.cards(result.run), list[str]()
    for unit, name in (("MHz", "clocks_mhz"), ("W", "power_w")):
        ends = []
        for when in ("start", "end"):
            values = [getattr(getattr(gpu, when), name) for gpu in gpus]
            known = [
                f"{v:.0f}" if isinstance(v, float) else str(v) for v in values if v is not None
            ]
            ends.append(some(list(dict.fromkeys(known))))
        if all(ends):
            said.append(f"{ends[0]} {unit} at the start, {ends[1]} {unit} at the end")
    if power_w := result.end.power_w(result.run):
        low, middle, high = power_w
        said.append(f"{middle:.0f} W [{low:.0f} {high:.0f}] in all after a round")
    return [f"GPUs: {'; '.join(said)}"] if said else []


def library_lines(result: Result) -> list[str]:
    """The library's variables that are not its defaults, and who set them; and its settings that
    were none, since a variable outweighed them: runs before 2026-12 could hold some."""
    run = result.run
    timed = [case for case in result.cases if case.time_us and case.library]
    names = [case.library for case in timed if not is_contender(case)]
    if not names or run.imported_from:
        return []

    own = _mapping(run.world.get("library"))
    prefixes = GPU_LIBRARIES if run.gpus else MPI_LIBRARIES
    facts = {key.removeprefix("env."): text for key, text in environment_of(run).items()}
    ours, of_file = _mapping(own.get("set_by_wiretax")), _mapping(own.get("set_by_file"))
    of_user = {
        name: text for name, text in facts.items() if name.startswith(prefixes) and name not in ours
    }
    said = [
        f"{' '.join(f'{name}={text}' for name, text in sorted(variables.items()))}, set by {who}"
        for who, variables in (
            ("the user", of_user),
            ("its configuration file", of_file),
            ("Wiretax", ours),
        )
        if variables
    ]
    lines = [f"{names[0]} ran with {'; '.join(said)}"] if said else []
    if untrue := untrue_labels(_mapping(own.get("channels"))):
        lines.append(
            f"`tuned` also tried settings that {names[0]} did not follow, by its channels: "
            f"{some(untrue, 4)}"
        )
    return lines


def _mapping(value: Any) -> Mapping[str, Any]:
    """The value, or nothing if a file holds something else there."""
    return value if isinstance(value, dict) else {}


def untrue_labels(channels: Mapping[str, Any]) -> list[str]:
    """The labels such as `CTAs=4` whose communicator had another number: `CTAs=4 (32)`."""
    found = []
    for label, counts in channels.items():
        asked, have = re.search(r"\bCTAs=(\d+)", label), _mapping(counts).get("coll")
        if asked and have is not None and str(have) != asked[1]:
            found.append(f"{label} ({have})")
    return found


def throttled_lines(result: Result) -> list[str]:
    """A sentence on each GPU that its driver slowed down during the run."""
    lines = []
    for gpu in result.end.cards(result.run) if result.end else ():
        whys = [f"{name} for {s:.3g} s" for name, s in sorted(gpu.throttled_s.items())]
        whys += [
            f"{name} in {n} of {gpu.looks} looks"
            for name, n in sorted(gpu.throttled_looks.items())
            if name not in gpu.throttled_s
        ]
        if whys:
            lines.append(
                f"GPU {gpu.bus_id} of rank {gpu.rank} was throttled during the run "
                f"({', '.join(whys)}): other runs may be faster"
            )
    return lines


def footnotes(result: Result, unsettled: Sequence[Case] | None = None) -> list[str]:
    """The conditions that limit the figures. `unsettled` are the cases in the tables without a
    clear ratio, where ratios are what these show."""
    notes = []
    what = "cases" if unsettled is None else "cases in these tables without a clear ratio"
    cases = result.cases if unsettled is None else unsettled
    asked = [case for case in cases if case.time_us or case.status == "not measured"]
    blocks = Counter(block.case for block in result.blocks)
    few = [n for n in (blocks[case.case] for case in asked) if n < MIN_PRECISE_BLOCKS]
    if few and (more := more_time(result, few)):
        notes.append(
            f"time ran out: {len(few)} of {len(asked)} {what} have fewer than "
            f"{MIN_PRECISE_BLOCKS} blocks{more}"
        )

    if result.run.method.get("checks") == 0:
        notes.append("results were not checked: -c 0")

    stolen = result.end.steal_share if result.end else None
    if stolen and stolen > MOST_STEAL_SHARE:
        notes.append(f"the hypervisor withheld {stolen:.1%} of the ranks' CPU time")

    if result.end and result.end.note:
        notes.append(result.end.note)

    return [*notes, *throttled_lines(result)]


def unmeasured_lines(result: Result) -> list[str]:
    """The cases that were not measured, and why."""
    unmeasured = [case for case in result.cases if case.status not in ("ok", "wrong")]
    alike = grouped(unmeasured, lambda case: (case.status, case.reason or case.status))
    return [
        f"- {status}: {', '.join(sorted({*map(with_variant, cases)}))}: {reason}"
        for (status, reason), cases in alike.items()
    ]


def more_time(result: Result, n_blocks: Sequence[int] = (MIN_PRECISE_BLOCKS,)) -> str:
    """The option that makes a run half as long again, `: --max-time 90`, or as long as cases with
    so many blocks need at its pace for MIN_PRECISE_BLOCKS each; no number if they have none.
    Nothing for a run that did not come to its end, and for another harness's."""
    end = result.end
    if not end or end.reason == "interrupted" or result.run.imported_from:
        return ""
    if not any(n_blocks):
        return ": give it more --max-time"
    counted_s = (end.elapsed_s or 60.0) - end.compile_s
    times = max(1.5, MIN_PRECISE_BLOCKS * len(n_blocks) / sum(n_blocks))
    return f": {typed('--max-time', 10 * ceil(0.1 * times * counted_s))}"


def lay_out_run(
    result: Result,
    headline: str,
    head: Sequence[str],
    tables: Iterable[tuple[str, Table]],
    conclusions: Iterable[str],
    brief: bool = False,
    unsettled: Sequence[Case] | None = None,
) -> str:
    """The whole text; or `brief` in MOST_LINES with the two lines of the paths: the first table
    with its parts that have no title, what was not measured, the footnotes (with `unsettled`, as
    there), and as much as fits of the other tables, the conclusions and the notes."""
    bold, head = [*opening(result), headline], [machine(result), *head]
    tables = [*wrong_tables(result.cases), *tables]
    head += [*library_lines(result), *link_lines(result), *gpu_lines(result)]
    notes = [f"note: {note}" for note in result.run.notes]
    sentences, below = [*unmeasured_lines(result), *footnotes(result, unsettled)], list(conclusions)
    if not brief:
        return lay_out(bold, [*head, *notes], tables, [*sentences, *below])

    room = MOST_LINES - 4 - len(wrapped([*bold, *head, *sentences]))
    shown, is_shown = list[tuple[str, Table]](), True

    for title, table in tables:
        # With a blank line, the title, two lines of headings, and the footnotes.
        lines = table.row_count + 4 + len(wrapped(str(table.caption or "").splitlines()))
        if shown and title:  # a part without a title belongs to the table above it
            is_shown = lines <= room
        if is_shown:
            shown.append((title, table))
            room -= lines

    sentences += that_fit([*below, *notes], room)
    pointer = f"More notes and tables: {RUN}{REPORTS} show RUN; every case: with --long."
    return lay_out(bold, head, shown, [*sentences, pointer])
