"""The text around the default table: the head above it, and the marks and sentences below it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

from reports.store.case import BETWEEN_RANKS, LinkStates, late_us
from reports.store.schema import Result
from reports.store.stats import Interval
from reports.tables.rows import Row, View
from reports.tables.sentences import (
    MARGIN,
    TOKEN_CALL_SIZE_BYTES,
    fact,
    footnotes,
    has_gpus,
    is_on_cpus,
    link_lines,
    machine,
    number,
    shape_words,
    size_text,
    some,
)

PREFLIGHT = "Peer memory"  # the note of a run with the result of its memory probes starts so
LIMITS = {"hop": "the flag hop", "copy_in": "copying to the peer",
          "push": "storing into the peer's memory", "peer_read": "reading the peer's data",
          "memory": "memory traffic", "launch": "launching"}
# One token of a 70B model: it reads 70.6e9 weights (Llama 3 70B) of 4.5 bits (32 weights of 4 bits
# share a scale) once; each of 80 layers has two all-reduces of 8192 x 2 bytes. The card is a Radeon
# AI PRO R9700 with 640 GB/s by AMD's data sheet.
TOKEN_BYTES = 70.6e9 * 4.5 / 8
TOKEN_CALLS = 160
CARD_GB_S = 640.0


def head(result: Result, view: View, states: LinkStates, rows: Sequence[Row]) -> list[str]:
    """The machine, the operation, the library and the units of the first table."""
    size, shape = result.run.world["size"], view[1]
    cases = [case for row in rows for case in (row.ours, row.library) if case]
    lines = [machine(result), *_operation(result, view, rows), *link_lines(states)]
    is_read = any(case.consume_us for case in cases)
    cost = f"us = {'collective + reading its result' if is_read else 'one call'}"
    if late_us(shape) and not result.run.clock_shared:
        lines.append(f"{cost}, the late rank alone")
    elif late_us(shape):
        lines.append(f"{cost}, slowest rank, after the late one has come; "
                     "waits = from the first arrival to the last")
    else:
        bandwidth = "; busbw = collective alone" if is_read and size > 1 else ""
        lines.append(f"{cost}, slowest rank{bandwidth}")
    if any(row.ratio for row in rows):
        lines.append("library/auto: median over pairs of blocks that stood close in time")
    for name in ("library", "auto"):
        variants = dict.fromkeys(case.variant for case in result.cases if case.algorithm == name)
        if len(variants) > 1:
            lines.append(f"{name}: the best of {' and '.join(variants)}, chosen on odd rounds, "
                         "reported on even ones")
    lines += [f"note: {note}" for note in result.run.notes if not note.startswith(PREFLIGHT)]
    types = {name for case in result.cases for name in (case.datatype, case.redop)}
    if cases and types != {cases[0].datatype, cases[0].redop}:
        lines.append("note: other types and operations are in --long")
    if size == 1:
        lines.append("note: busbw means nothing with one rank; start two with mpirun -n 2")
    return lines


def _operation(result: Result, view: View, rows: Sequence[Row]) -> list[str]:
    """`float32 sum, isolated, out of place; against MPICH 5.0.2, funneled; seed 0`."""
    case = next((case for row in rows for case in (row.ours, row.library) if case), None)
    if case is None:
        return []
    operation = case.datatype + f" {case.redop}" * (case.redop != "none")
    words = [operation, view[0], *shape_words(view[1])]
    if case.collective != "sendrecv":
        words.append("in place" if case.in_place else "out of place")
    library, level = _library(rows), _thread_level(result)
    against = f"against {library}" if library else "without the library"
    if library and level:
        against += f", {level}"
    return [f"{', '.join(words)}; {against}; seed {result.run.seed}"]


def _library(rows: Sequence[Row]) -> str | None:
    return next((row.library.library or "the library" for row in rows if row.library), None)


def _thread_level(result: Result) -> str | None:
    """The thread level of MPI; None on GPUs, because NCCL or RCCL is measured there."""
    return None if has_gpus(result) else fact(result, "mpi.thread_level")


def closing(result: Result, rows: Sequence[Row], chained: Sequence[Row]) -> list[str]:
    """The marks of the rows, the footnotes, then at most four sentences."""
    marks = []
    better = [f"{row.better[0]} at {row.label} ({row.better[1]:.2f}x{mode})"
              for group, mode in ((rows, ""), (chained, ", chained"))
              for row in group if row.better]
    if better:
        marks.append("* another variant beat auto by more than 5 %: " + some(better, 4, ""))
    if any(row.ours and row.ours.suspect for row in (*rows, *chained)):
        marks.append("! faster than the bound of the measured parts allows: suspect")
    sentences = [_where_ours_wins(result, rows), _what_limits(rows), _preflight(result, rows),
                 token(result, chained or rows)]
    return [*marks, *footnotes(result), *filter(None, sentences)]


def _where_ours_wins(result: Result, rows: Sequence[Row]) -> str | None:
    groups = _group(rows, lambda row: _verdict(row.ratio) if row.ratio else None)
    parts = []
    for verdict, (members, sizes) in sorted(groups.items(), key=lambda item: item[0] != "faster"):
        ratios = [row.ratio[0] for row in members if row.ratio]
        factors = f" ({_span(f'{min(ratios):.2f}x', f'{max(ratios):.2f}x')})"
        parts.append(f"{verdict} at {sizes}{factors * (verdict in ('faster', 'slower'))}")
    if not parts:
        return None
    level = _thread_level(result)
    at_level = f" at thread level {level} (no other was measured)" if level else ""
    skew_us = next((late_us(row.ours.shape) for row in rows if row.ours), 0)
    late = f", with a rank late by {skew_us:g} us" if skew_us else ""
    return (f"Against {_library(rows)}{at_level}, in this one launch{late}, {_ours_name(rows)} is "
            f"{'; '.join(parts)}.")


def _verdict(ratio: Interval) -> str:
    """The verdict on a ratio of costs, library over ours, with its interval."""
    middle, low, high = ratio
    if low is None or high is None:
        return "not clearly different (too few blocks)"
    if low > 1 and middle > MARGIN:
        return "faster"
    if high < 1 and middle * MARGIN < 1:
        return "slower"
    return "even" if low * MARGIN >= 1 and high <= MARGIN else "not clearly different"


def _what_limits(rows: Sequence[Row]) -> str | None:
    groups = _group(rows, _largest_part)
    shares = [row.ours.share_of_bound for row in rows
              if row.ours and row.ours.share_of_bound is not None]
    if not groups or not shares:
        return None
    limits = "; ".join(f"{name} at {sizes}" for name, (_, sizes) in groups.items())
    return (f"The bound of the machine's measured parts comes from {limits}; {_ours_name(rows)} "
            f"reaches {_span(f'{min(shares):.0%}', f'{max(shares):.0%}')} of it.")


def _largest_part(row: Row) -> str | None:
    """The part of the machine that takes most of the bound of a row."""
    parts = row.ours.bound_parts_us if row.ours else None
    if not parts or not any(parts.values()):
        return None
    # Memory traffic and transfers between ranks overlap: the slower one counts.
    is_memory = parts.get("memory", 0.0) > sum(parts.get(name, 0.0) for name in BETWEEN_RANKS)
    names = ["hop", "launch", *(["memory"] if is_memory else BETWEEN_RANKS)]
    return LIMITS[max(names, key=lambda name: parts.get(name, 0.0))]


def _preflight(result: Result, rows: Sequence[Row]) -> str | None:
    note = next((note for note in result.run.notes if note.startswith(PREFLIGHT)), None)
    kinds = sorted({row.ours.memory for row in rows if row.ours})
    return note or (f"Peer memory is {', '.join(kinds)}." if kinds else None)


def _ours_name(rows: Sequence[Row]) -> str:
    is_auto = all(row.ours is None or row.ours.algorithm == "auto" for row in rows)
    return "auto" if is_auto else "the best of ours"


def _group(rows: Sequence[Row],
           name_of: Callable[[Row], str | None]) -> dict[str, tuple[list[Row], str]]:
    """Rows by their name, with their sizes in words: `16 KiB to 128 KiB, 4 MiB`."""
    groups: dict[str, tuple[list[Row], str]] = {}
    for name, neighbours in groupby(rows, name_of):
        if name is not None:
            part = list(neighbours)
            members, sizes = groups.get(name, ([], ""))
            span = _span(part[0].label, part[-1].label)
            groups[name] = [*members, *part], f"{sizes}, {span}" if sizes else span
    return groups


def _span(low: str, high: str) -> str:
    return low if low == high else f"{low} to {high}"


def token(result: Result, rows: Sequence[Row]) -> str | None:
    """The time of a token's all-reduces, and the time that splitting the weights saves."""
    row = next((row for row in rows if row.size_bytes == TOKEN_CALL_SIZE_BYTES), None)
    n = result.run.world["size"]
    if n == 1 or row is None or row.ours is None or row.ours_us is None:
        return None
    if row.ours.collective != "all_reduce" or late_us(row.ours.shape):
        return None
    saved_us = TOKEN_BYTES / CARD_GB_S / 1e3 * (1 - 1 / n)
    total_ms, flips_us = TOKEN_CALLS * row.ours_us / 1e3, saved_us / TOKEN_CALLS
    caveat = "arithmetic about GPUs that were not measured here; " if is_on_cpus(result) else ""
    return (f"A 70B 4-bit token at TP {n}: {TOKEN_CALLS} x {number(row.ours_us)} us "
            f"({row.ours.mode}, {size_text(row.size_bytes)}) = {number(total_ms)} ms; flips at "
            f"{number(flips_us)} us ({caveat}weights read at {CARD_GB_S:.0f} GB/s, an R9700's).")
