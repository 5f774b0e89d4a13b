"""What a table says in words: its head, what to know before believing it, and at most four sentences below it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from reports.store.case import BETWEEN_RANKS, LinkStates, late_us, where_wrong
from reports.store.schema import Case, Result
from reports.store.stats import MIN_PRECISE_BLOCKS
from reports.tables.rows import MARGIN, Flip, Row, View

# One token of a 70B model: 70.6e9 weights (Llama 3 70B) of 4.5 bits (a scale to every 32 of 4), all read once; 80
# layers with two all-reduces of 8192 x 2 bytes each. The card is a Radeon AI PRO R9700, 640 GB/s by AMD's data sheet.
TOKEN_BYTES = 70.6e9 * 4.5 / 8
TOKEN_CALLS = 160
TOKEN_CALL_SIZE_BYTES = 16384
CARD_GB_S = 640.0

MOST_STEAL_SHARE = 0.01  # what a verdict's margin hides

PREFLIGHT = "Peer memory"  # so begins the note of a run that says what the probes of it found
LIMITS = {"hop": "the flag hop", "copy_in": "copying to the peer", "push": "storing into the peer's memory",
          "peer_read": "reading the peer's data", "memory": "memory traffic", "launch": "launching"}


def size_text(size_bytes: int) -> str:
    """`16 KiB`, `1.5 MiB`, `100 B`."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size_bytes >= unit:
            return f"{size_bytes / unit:.{3 if size_bytes < 100 * unit else 4}g} {name}"
    return f"{size_bytes} B"


def tick_text(size_bytes: int) -> str:
    """`16K`: there is little room along an axis."""
    return re.sub(" |i?B", "", size_text(size_bytes))


def label(row: Row | Flip) -> str:
    """What a row is about: its skew, else its size."""
    return row.skew or size_text(row.size_bytes)


def number(value: float | None) -> str:
    """Three significant digits or all digits before the point, in at most seven columns; `-` for None."""
    if value is None:
        return "-"
    if 0 < value < 0.0995:
        return f"{value:.2g}"
    if value >= 9_999_999.5:
        return f"{value:.1e}"
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}"


def opening(result: Result) -> list[str]:
    """What must be read before the figures: that the run is not whole, and which results were wrong."""
    lines = []
    if not result.complete:
        reason = result.end.reason if result.end and result.end.reason else "the run was cut off"
        lines.append(f"INCOMPLETE: {reason}.")
    wrong = [case for case in result.cases if case.status == "wrong"]
    if wrong:
        more = f" and {len(wrong) - 3} more cases" if len(wrong) > 3 else ""
        named = ", ".join(f"{describe(case)} ({case.n_wrong} elements)" for case in wrong[:3])
        lines.append(f"WRONG RESULTS: {named}{more}.")
        if found := where_wrong(result.blocks):
            lines.append(f"First in case {found[0]}, {found[1]}.")
    return lines


def describe(case: Case) -> str:
    """`one_shot_push 64 KiB isolated`."""
    place = " in place" if case.in_place else ""
    shape = f" {shape_text(case.shape)}" if case.shape else ""
    return f"{case.algorithm} {size_text(case.size_bytes)} {case.mode}{shape}{place}"


def shape_text(shape: Any) -> str:
    """What else makes a case a case, to tell it from others: `one_way 5us late`; empty where there is nothing."""
    return " ".join(f"{said:g}us late" if name == "arrival_skew_us" else f"beside {said}" if name == "beside"
                    else str(said) for name, said in (shape or {}).items())


def shape_words(shape: Any) -> list[str]:
    """The same for somebody who sees it for the first time."""
    known = WAYS | {"gemm": "beside a matmul"}
    return [f"one rank late by {said:g} us" if name == "arrival_skew_us" else known.get(str(said), f"{name} {said}")
            for name, said in (shape or {}).items()]


def stopped_first(result: Result) -> str | None:
    """Which rank ended a run that was cut off and where it was then, as far as its flight record tells."""
    flight = result.flight
    if result.complete or flight is None or flight.ended is None or not isinstance(flight.ended.get("rank"), int):
        return None
    rank = flight.ended["rank"]
    page = flight.ranks.get(rank, {})
    said = [f"rank {rank}"]
    number = page.get("case")
    if isinstance(number, int) and 0 <= number < len(result.cases):
        said.append(f"case {number} ({describe(result.cases[number])})")
    if page.get("block") is not None:
        said.append(f"block {page['block']}")
    if page.get("step"):
        said.append(f"step {page['step']}")
    if "epoch" in page.get("counters", {}):
        said.append(f"epoch {page['counters']['epoch']}")
    why = f" ({flight.ended['why']})" if flight.ended.get("why") else ""
    return f"stopped first: {', '.join(said)}{why}"


WAYS = {"one_way": "one way", "ping_pong": "ping-pong, there and back", "dispatch": "dispatch, to the experts",
        "combine": "combine, back from the experts", "round_trip": "round trip, dispatch and combine"}


def machine(result: Result) -> str:
    """What was run on how many ranks of what: `allreduce: 2 ranks on AMD EPYC, cores 0 1`."""
    run, size = result.run, result.run.world["size"]
    ranks = run.world.get("ranks", [])
    device = ranks[0].get("device", "") if ranks else ""
    # Such as `NVIDIA H200 (sm_90)`, each kind once.
    gpus = dict.fromkeys(f"{rank.get('gpu') or rank.get('device')} ({rank.get('arch')})" for rank in ranks)
    model = _fact(result, "cpu.model") if device == "cpu" else " and ".join(gpus)
    cpus = [rank.get("cpus") or [] for rank in ranks]
    pinned = all(len(of_rank) == 1 for of_rank in cpus)
    cores = f", cores {' '.join(str(of_rank[0]) for of_rank in cpus)}" if pinned and cpus else ", not pinned"
    hosts = f" on {run.world['hosts']} hosts," if run.world.get("hosts", 1) != 1 else ""
    return f"{run.benchmark}: {size} {'rank' if size == 1 else 'ranks'}{hosts} on {model or device}{cores}"


def head(result: Result, view: View, states: LinkStates, rows: Sequence[Row]) -> list[str]:
    """What was run, on what, against what, and what the link did meanwhile."""
    run, size = result.run, result.run.world["size"]
    lines = [machine(result)]

    first = next((case for row in rows for case in (row.ours, row.library) if case), None)
    library = _library(rows)
    level = _thread_level(result)
    against = f"against {library}" + (f", {level}" if level else "") if library else "without the library"
    if first:
        what = first.datatype + f" {first.redop}" * (first.redop != "none")
        how = [view[0], *shape_words(view[1])]
        how += [] if first.collective == "sendrecv" else ["in place" if first.in_place else "out of place"]
        lines.append(f"{what}, {', '.join(how)}; {against}; seed {run.seed}")
    lines += link_lines(states)
    consumed = any(case.consume_us for row in rows for case in (row.ours, row.library) if case)
    cost = "us = collective + reading its result, slowest rank" if consumed else "us = one call, slowest rank"
    if late_us(view[1]) and not run.clock_shared:
        cost = cost.replace("slowest rank", "the late rank alone")
    elif late_us(view[1]):
        cost += ", after the late one has come; waits = from the first arrival to the last"
    elif consumed and size > 1:
        cost += "; busbw = collective alone"
    lines.append(cost)
    if any(row.ratio for row in rows):
        lines.append("library/auto: median over pairs of blocks that stood close in time")
    for name in ("library", "auto"):
        variants = list(dict.fromkeys(case.variant for case in result.cases if case.algorithm == name))
        if len(variants) > 1:
            lines.append(f"{name}: the best of {' and '.join(variants)}, chosen on odd rounds, reported on even ones")
    lines += [f"note: {note}" for note in run.notes if not note.startswith(PREFLIGHT)]
    others = {case.datatype for case in result.cases} | {case.redop for case in result.cases}
    if first and others != {first.datatype, first.redop}:
        lines.append("note: other types and operations are in --long")
    if size == 1:
        lines.append("note: busbw means nothing with one rank; start two with mpirun -n 2")
    return lines


def link_lines(states: LinkStates) -> list[str]:
    """What the link did meanwhile."""
    held, mixed = states.longest, states.of_block.count(None)
    if held is None and mixed:
        return ["link: its flag round trip never settled; every block counts"]
    if held is None or not states.rtt_ns:
        return []
    line = f"link: flag round trip {states.rtt_ns[held]:.0f} ns, held {states.share(held):.0%} of the blocks"
    others = [f"{rtt:.0f} ns {states.share(state):.0%}" for state, rtt in enumerate(states.rtt_ns) if state != held]
    if mixed:
        others.append(f"changing {mixed / len(states.of_block):.0%}")
    return [line + (f" ({', '.join(others)})" if others else "")]


def _fact(result: Result, name: str) -> str | None:
    fact = result.run.environment.get(name)
    value = fact.get("value") if isinstance(fact, dict) else None
    return None if value is None else str(value)


def _library(rows: Sequence[Row]) -> str | None:
    return next((row.library.library or "the library" for row in rows if row.library), None)


def _thread_level(result: Result) -> str | None:
    """That of the MPI library, where it is what is measured."""
    on_gpus = any(rank.get("gpu") for rank in result.run.world.get("ranks", []))
    return None if on_gpus else _fact(result, "mpi.thread_level")


def closing(result: Result, rows: Sequence[Row], chained: Sequence[Row]) -> list[str]:
    """The footnotes that the rows call for, then at most four sentences."""
    found = [_where_ours_wins(result, rows), _what_limits(rows), _preflight(result, rows),
             token(result, chained) if result.run.world["size"] > 1 else None]
    return [*footnotes(result, rows, chained), *filter(None, found)]


def footnotes(result: Result, rows: Sequence[Row], chained: Sequence[Row]) -> list[str]:
    """What the rows call for, and what the run has not measured."""
    notes = []
    apart = [] if chained is rows else chained
    everything = [*rows, *apart]
    better = [f"{row.better[0]} at {label(row)} ({row.better[1]:.2f}x{', chained' * (row in apart)})"
              for row in everything if row.better]
    if better:
        more = f" and at {len(better) - 4} more" if len(better) > 4 else ""
        notes.append(f"* another variant beat auto by more than 5 %: {', '.join(better[:4])}{more}")
    if any(row.ours and row.ours.suspect for row in everything):
        notes.append("! faster than the bound of the measured parts allows: suspect")
    measured = [case for case in result.cases if case.time_us]
    elsewhere = [describe(case) for case in measured if case.state != "run"]
    if 0 < len(elsewhere) < len(measured):
        more = f" and {len(elsewhere) - 3} more" if len(elsewhere) > 3 else ""
        notes.append(f"measured in another state of the link than the rest: {', '.join(elsewhere[:3])}{more}")
    n_blocks = Counter(block.case for block in result.blocks)
    if few := sum(n_blocks[case.case] < MIN_PRECISE_BLOCKS for case in measured):
        notes.append(f"time ran out: {few} of {len(measured)} cases have fewer than {MIN_PRECISE_BLOCKS} blocks")
    if result.end and (stolen := result.end.steal_share or 0) > MOST_STEAL_SHARE:
        notes.append(f"the hypervisor withheld {stolen:.1%} of the ranks' CPU time while they measured")
    reasons: dict[str, list[Case]] = {}
    for case in result.cases:
        if case.status not in ("ok", "wrong"):
            reasons.setdefault(case.reason or case.status, []).append(case)
    for reason, cases in reasons.items():
        names = sorted({case.algorithm for case in cases})
        notes.append(f"- {cases[0].status}: {', '.join(names)}: {reason}")
    return notes


def _where_ours_wins(result: Result, rows: Sequence[Row]) -> str | None:
    def verdict(row: Row) -> str | None:
        if row.ratio is None:
            return None
        ratio, low, high = row.ratio
        if low is None or high is None:
            return "not told apart from it (too few blocks)"
        if low > 1 and ratio > MARGIN:
            return "faster"
        if high < 1 and ratio * MARGIN < 1:
            return "slower"
        return "even" if low * MARGIN >= 1 and high <= MARGIN else "not told apart from it"

    groups = _grouped(rows, verdict)
    if not groups:
        return None
    said = []
    for name, (members, where) in sorted(groups.items(), key=lambda item: item[0] != "faster"):
        ratios = [row.ratio[0] for row in members if row.ratio]
        times = f" ({_span(f'{min(ratios):.2f}x', f'{max(ratios):.2f}x')})"
        said.append(f"{name} at {where}{times if name in ('faster', 'slower') else ''}")
    level = _thread_level(result)
    against = f"{_library(rows)}" + (f" at thread level {level} (no other was measured)" if level else "")
    late = next((late_us(row.ours.shape) for row in rows if row.ours), 0)
    where = "in this one launch" + f", with a rank late by {late:g} us" * bool(late)
    return f"Against {against}, {where}, {_ours_name(rows)} is {'; '.join(said)}."


def _what_limits(rows: Sequence[Row]) -> str | None:
    def largest(row: Row) -> str | None:
        parts = row.ours.bound_parts_us if row.ours else None
        if not parts or not any(parts.values()):
            return None
        between_ranks = sum(parts.get(name, 0.0) for name in BETWEEN_RANKS)
        by_memory = parts.get("memory", 0.0) > between_ranks
        counted = ["hop", "launch", *(["memory"] if by_memory else BETWEEN_RANKS)]
        return LIMITS[max(counted, key=lambda name: parts.get(name, 0.0))]

    groups = _grouped(rows, largest)
    shares = [row.ours.share_of_bound for row in rows if row.ours and row.ours.share_of_bound is not None]
    if not groups or not shares:
        return None
    limits = "; ".join(f"{name} at {where}" for name, (_, where) in groups.items())
    reached = _span(f"{min(shares):.0%}", f"{max(shares):.0%}")
    return f"What the machine's own parts allow is set by {limits}; {_ours_name(rows)} reaches {reached} of it."


def _span(low: str, high: str) -> str:
    return low if low == high else f"{low} to {high}"


def _preflight(result: Result, rows: Sequence[Row]) -> str | None:
    said = next((note for note in result.run.notes if note.startswith(PREFLIGHT)), None)
    kinds = sorted({row.ours.memory for row in rows if row.ours})
    return said or (f"Peer memory is {', '.join(kinds)}." if kinds else None)


def token(result: Result, rows: Sequence[Row]) -> str | None:
    """What the sums of one token cost against what splitting its weights saves."""
    row = next((row for row in rows if row.size_bytes == TOKEN_CALL_SIZE_BYTES), None)
    if row is None or row.ours is None or row.ours_us is None:
        return None
    if row.ours.collective != "all_reduce" or late_us(row.ours.shape):
        return None
    n = result.run.world["size"]
    saved_us = TOKEN_BYTES / CARD_GB_S / 1e3 * (1 - 1 / n)
    total_ms, flips_us = TOKEN_CALLS * row.ours_us / 1e3, saved_us / TOKEN_CALLS
    on_cpu = any(rank.get("device") == "cpu" for rank in result.run.world.get("ranks", []))
    caveat = "arithmetic about GPUs that were not measured here; " if on_cpu else ""
    return (f"A 70B 4-bit token at TP {n}: {TOKEN_CALLS} x {number(row.ours_us)} us ({row.ours.mode}, "
            f"{size_text(row.size_bytes)}) = {number(total_ms)} ms; flips at {number(flips_us)} us ({caveat}"
            f"weights read at {CARD_GB_S:.0f} GB/s, an R9700's).")


def _ours_name(rows: Sequence[Row]) -> str:
    return "auto" if all(row.ours is None or row.ours.algorithm == "auto" for row in rows) else "the best of ours"


def _grouped(rows: Sequence[Row], said_of: Callable[[Row], str | None]) -> dict[str, tuple[list[Row], str]]:
    """Rows by what is said of them with their sizes in words, neighbours joined: `16 KiB to 128 KiB, 4 MiB`."""
    runs: dict[str, list[list[Row]]] = {}
    last = None
    for row in rows:
        name = said_of(row)
        if name is not None:
            if name != last:
                runs.setdefault(name, []).append([])
            runs[name][-1].append(row)
        last = name
    return {name: ([row for part in parts for row in part],
                   ", ".join(_span(label(part[0]), label(part[-1])) for part in parts))
            for name, parts in runs.items()}
