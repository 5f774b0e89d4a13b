"""What speaks against the archive of a survey: every reason is a sentence.

Whoever changes every figure of an archive in agreement with all others is not found: nobody signs
archives. What a mistake or a hurried hand leaves is found: figures that their own blocks, steps,
clocks and links contradict."""

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta, timezone
from math import inf
from operator import attrgetter
from typing import Any

import numpy as np

from reports.advice.archive_cards import bus_id, of_machine
from reports.advice.archive_rows import ANSWERED, SentArchive, launches_of
from reports.advice.reduce_times import LEAST_LAUNCHES
from reports.advice.specs import SLOTS, link_between, sheet_of
from reports.references.published import FABRIC, PublishedCall
from reports.tables.beside_published import library_of
from reports.tables.sentences import number, shares_places, size_text, some
from reports.verdicts.sides import (
    TELLING_BLOCKS,
    Side,
    copies_among,
    unchecked_all_reduces,
    wrong_results,
)
from wiretax import __version__
from wiretax.common.grouped import grouped
from wiretax.common.untrusted import printable
from wiretax.record.histogram import BINS_PER_OCTAVE, medians_us
from wiretax.record.observations import MIN_BLOCKS
from wiretax.record.result import time_of
from wiretax.record.schema import Block, Case, Result, Run
from wiretax.record.summarise import TIME_RAN_OUT, build_cases

WRONG = 1  # the exit status of a survey
# Texts of rows have no markup, no path, no address that a page would make a link of, and are no
# formula of a spreadsheet.
PLAIN = re.compile(r"(?![=+-]|.*[a-z]\.[a-z])[\w .,()+=-]{0,200}", re.ASCII | re.IGNORECASE)
TIES = re.compile(r"env\.(NCCL|RCCL)_")  # facts of a run
MOST_LETTERS = 500  # of a reason, which may have an archive's words
START = timedelta(minutes=10)  # for what a survey does beside its steps
CLOCK = timedelta(days=1)  # by which a machine's clock may be fast
SINCE = datetime(2026, 11, 1, tzinfo=timezone.utc)  # no Wiretax wrote archives before
EQUAL = 1e-6  # a share of two figures from the same blocks, on unlike machines; and rounded us
ROUNDING = 1.01  # of a sum over the time that it took
BIN = 2 ** (1 / BINS_PER_OCTAVE)  # the width of a bin of steps
# A flag may bounce while a card's clocks are down, and a link differs from round to round. By its
# data sheet it does not.
LEAST_HOPS, MOST_OF_LINK = 0.5, 1.1
MEMORY_OF = {"p2p": "mapped", "host memory": "host_staged"}  # in which the link was measured


def reasons_against(
    sent: SentArchive, rows: Sequence[PublishedCall], known: Sequence[PublishedCall]
) -> list[str]:
    """Why these rows of the archive cannot stand beside the contributed ones that are `known`."""
    if not sent.contents.vendor:  # all else that is said of GPUs would be missing too
        return ["it was measured on CPUs, and the tables have calls of GPUs"]
    found = [*contradictions(sent), *of_machine(sent), *of_settings(sent)]
    found += [*of_rows(sent, rows), *of_table(sent, rows, known)]
    return shortened(found)


def contradictions(sent: SentArchive) -> list[str]:
    """Why nobody should believe the archive's figures, whether or not a table takes them."""
    found = [*of_survey(sent), *of_dates(sent), *of_launches(sent)]
    for name, result in sent.runs.items():
        found += [f"{name}: {reason}" for reason in of_run(sent, result)]
    return shortened([*found, *of_links(sent)])


def shortened(reasons: Iterable[str]) -> list[str]:
    """Each reason once, printable and not too long."""
    return list(dict.fromkeys(printable(reason)[:MOST_LETTERS] for reason in reasons))


def of_survey(sent: SentArchive) -> Iterator[str]:
    """What `survey.json` says against the survey."""
    contents = sent.contents
    theirs, ours = (re.findall(r"\d{1,9}", text) for text in (contents.version, __version__))
    if [*map(int, theirs)] > [*map(int, ours)]:
        yield f"Wiretax {contents.version[:20]} made it, which is newer than {__version__}: update"
    # An all-reduce that failed would leave the lucky launches.
    steps = {result.path.parent.name for result in sent.all_reduces}
    timed_out = {name for name, result in sent.runs.items() if _ran_out_of_time(result)}
    for step in contents.steps:
        is_lost = step.name in steps and step.status in ("failed", "interrupted")
        if (is_lost and step.run not in timed_out) or step.status == "wrong":
            name, why = step.name[:40], step.sentence[:200]
            yield f"launch {step.launch} of the step {name} is {step.status}: {why}"
    if contents.status == WRONG:
        yield "its survey ended with exit status 1: a result was wrong"
    if unlike := {*sent.runs} ^ {step.run for step in contents.steps if step.run}:
        yield f"{min(unlike)} is a run of no step, or a step's run that is not there"


def of_dates(sent: SentArchive) -> Iterator[str]:
    """Whether each run has a name of its own, and began during the survey."""
    took_s = sum(step.elapsed_s for step in sent.contents.steps)
    try:
        made = datetime.fromisoformat(sent.contents.made.replace("Z", "+00:00"))
        began = made - timedelta(seconds=took_s) - START
        times = {each.run.run_id: time_of(each.run.run_id) for each in sent.runs.values()}
        outside = [name for name, at in times.items() if not at or not began <= at <= made]
    except (ValueError, OverflowError, TypeError):  # TypeError: without a time zone
        yield "survey.json does not say in UTC when the survey was made"
        return
    if made > datetime.now(timezone.utc) + CLOCK or began < SINCE:
        yield f"it says that it was made on {made:%Y-%m-%d}: the machine's clock was wrong"
    if len(times) < len(sent.runs):
        yield "two of its runs have one run_id"
    for run_id in outside:
        yield f"the run {run_id[:60]} began outside of the survey, which ended {sent.contents.made}"


def of_launches(sent: SentArchive) -> Iterator[str]:
    """Whether all results are right, and each launch is one of its own that came to its end."""
    others = [each for each in sent.runs.values() if each.run.benchmark != "allreduce"]
    side = Side("its all-reduces", sent.all_reduces)
    yield from [*wrong_results(side), *unchecked_all_reduces(side)]
    yield from wrong_results(Side("its other runs", others))
    if copies_among(sent.all_reduces):
        yield "two of its launches have the same times: one is a copy"
    elif len({*map(_probes_of, sent.all_reduces)}) < len(sent.all_reduces):
        yield "two of its launches have the same round trips of flags: one is a copy"


def of_run(sent: SentArchive, result: Result) -> Iterator[str]:
    """What a run says against itself."""
    run, end = result.run, result.end
    memories = [*run.memory.values(), *(case.memory for case in run.cases)]
    cards = {found[1] for rank in run.ranks if (found := bus_id(rank))}
    if shares_places(run.ranks) or sent.contents.shares_gpus or "same_device" in memories:
        yield "its ranks shared a GPU: no time of it measures a wire"
    elif not len(run.ranks) == len(cards) == run.world_size == sent.contents.ranks:
        yield f"it does not name {sent.contents.ranks} GPUs by their bus ids, a card for each rank"
    built = build_cases(run, result.counted, result.blocks, result.link_blocks)
    if any(map(_is_edited, result.cases, built)):
        yield "its figures are not those of its blocks"
    if run.imported_from:
        yield "another harness measured it, and no survey"
    if run.benchmark != "allreduce":
        return
    # What time left out has too few blocks to count, or none.
    reason = (end.reason or end.status) if end else "it was cut off"
    if reason != "complete" and not _ran_out_of_time(result):
        yield f"it did not come to its end: {reason}"
    libraries = {case.library for case in run.cases if case.algorithm == "library"}
    if (named := _library_name(run)) and libraries - {named}:
        yield "its cases are of another library than the run names"
    calls = np.array([run.cases[block.case].calls for block in result.blocks])
    costs_us = np.array([block.cost_us for block in result.blocks])
    by_case = grouped(result.blocks, attrgetter("case"))
    are_alone = all(_are_alone(own, run.cases[case].mode) for case, own in by_case.items())
    if not are_alone or not all(block.steps for block in result.blocks):
        yield "the times of a block contradict each other, or lack their steps"
    elif len(costs_us):
        low_us, high_us = medians_us(result.blocks)
        # Times are rounded, which may be across the edge of a bin.
        if ((calls * costs_us < low_us / BIN) | (calls * costs_us > high_us * BIN)).any():
            yield "the time of a block is not the median of its steps"
    worked_s = float(calls * costs_us @ [block.n for block in result.blocks]) / 1e6
    elapsed_s = (end and end.elapsed_s) or 0.0
    if end and worked_s > ROUNDING * elapsed_s:
        yield (
            f"its calls add up to {number(worked_s)} s, and it took {number(elapsed_s)} s: its "
            "times are too long, or in another unit"
        )


def of_settings(sent: SentArchive) -> Iterator[str]:
    """Whether the library ran as it does by itself."""
    for name, result in sent.runs.items():
        run = result.run
        variables = [fact.partition(".")[2] for fact in run.environment if TIES.match(fact)]
        if tied := sorted([*variables, *library_of(run).set_by_file]):
            yield (
                f"{name}: {some(tied)} changed what the library does by itself: unset it, and "
                "repeat"
            )


def of_rows(sent: SentArchive, rows: Sequence[PublishedCall]) -> Iterator[str]:
    """Whether there are rows, in plain words."""
    if not rows:
        yield (
            f"no all-reduce of NCCL, RCCL or auto has {LEAST_LAUNCHES} launches of {MIN_BLOCKS} "
            "blocks or more: give the survey more --max-time"
        )
    for row in rows:
        texts = (row.machine, row.gpu, row.version, row.variant, row.datatype, row.note)
        if not all(map(PLAIN.fullmatch, texts)) or not re.fullmatch(FABRIC, row.fabric):
            yield "a name in its runs has markup, or letters that no driver or library writes"


def of_links(sent: SentArchive) -> Iterator[str]:
    """Whether its calls are possible over the link."""
    # Of each launch: the mean over launches hides one in another unit.
    every = [each for result in sent.all_reduces for each in launches_of(result)]
    for own in grouped(every, ANSWERED).values():
        yield from _of_fastest(sent, min((each.row for each in own), key=attrgetter("us")))


def _of_fastest(sent: SentArchive, call: PublishedCall) -> Iterator[str]:
    """Whether a launch's call is possible over the link."""
    name = f"{size_text(call.size_bytes or 0)} by {call.library}, {call.mode}"
    link_gb_s, hop_us = link_of(sent, call)
    if call.gb_s > ROUNDING * link_gb_s:
        yield (
            f"{name}: {number(call.gb_s)} GB/s are more than the {number(link_gb_s)} GB/s that "
            "its link can carry"
        )
    if call.us < LEAST_HOPS * hop_us:
        yield (
            f"{name}: {number(call.us)} us are less than a flag takes one way, "
            f"{number(hop_us)} us: its times are too short, or in another unit"
        )


def link_of(sent: SentArchive, call: PublishedCall) -> tuple[float, float]:
    """The GB/s that a card can send at the most, by its data sheet and, over slots, as the
    archive's own run of the link measured the same transport with messages that are no shorter; and
    the least us of a flag one way."""
    sheet, slot = sheet_of(call.gpu), call.fabric.lower().replace(" x", "x").replace(" ", "")
    own = SLOTS.get(slot) or (link_between(sheet, call.gpus) if sheet else None)
    gb_s = own.total_gb_s(call.gpus) if own else inf
    memory = MEMORY_OF.get(call.transport, "")  # "": any
    timed = [
        (case, case.time_us.median)
        for result in sent.of("link")
        for case in result.cases
        if memory in ("", case.memory) and case.time_us and case.time_us.median
    ]
    moved_gb_s = [
        case.size_bytes / us / 1e3
        for case, us in timed
        if case.size_bytes >= max(call.size_bytes or 0, 1)
    ]
    if slot in SLOTS:
        gb_s = min(gb_s, MOST_OF_LINK * max(moved_gb_s, default=inf))
    hops_us = [us for case, us in timed if case.algorithm == "ping_pong"]
    # A switch that adds up halves what a card sends.
    return gb_s * (2 if call.transport == "nvls" else 1), min(hops_us, default=0.0)


def of_table(
    sent: SentArchive, rows: Sequence[PublishedCall], known: Sequence[PublishedCall]
) -> Iterator[str]:
    """Whether the table has this archive, or its runs in another one."""
    figures = attrgetter("gpu", "size_bytes", "mode", "kind", "time_us", "time_low_us")
    ours = {*map(figures, rows)}
    for row in known:
        if row.archive == sent.sha256 or figures(row) in ours:
            said = f", and withdrawn: {row.withdrawn}" if row.withdrawn else ""
            yield f"its runs are in the table already, as {row.source} of {row.date}{said}"
            return
    # Of its launches others may be left: a machine that was repaired has another day.
    days = {(row.machine, row.date) for row in rows}
    for row in known:
        if row.withdrawn and (row.machine, row.date) in days:
            yield f"{row.source} of such a machine and day was withdrawn: {row.withdrawn}"
            return


def _is_edited(stored: Case, built: Case) -> bool:
    """Whether what a run stores of a case is not what its blocks give."""
    if "wrong" in (stored.status, built.status):  # which speaks for itself
        return False
    summaries = [(stored.time_us, built.time_us), (stored.total_us, built.total_us)]
    figures = [(one and one.median, other and other.median) for one, other in summaries]
    figures.append((stored.bus_bw_gb_s, built.bus_bw_gb_s))
    facts = [(each.status, each.n_wrong) for each in (stored, built)]
    return facts[0] != facts[1] or any(
        abs((one or 0.0) - (other or 0.0)) > EQUAL * (other or 0.0) for one, other in figures
    )


def _are_alone(blocks: Sequence[Block], mode: str) -> bool:
    """Whether the times of a case's blocks without the reading of the result are possible beside
    those with it: of single calls, as nobody reads the result of a chain. The median block tells:
    one of three calls may have any times on a busy machine."""
    if any((block.consume_us is None) != (mode == "chained") for block in blocks):
        return False
    times_us = [
        (block.time_us, block.cost_us, block.mean_us or 0.0, block.consume_us or 0.0)
        for block in blocks
    ]
    time_us, cost_us, mean_us, consume_us = np.maximum(times_us, 0.0).T
    read_us = cost_us - time_us
    # Half of the times are at least the median, so their mean is at least half of it; and the
    # result is read in about `consume_us`, after that time.
    return bool(
        np.median(mean_us - time_us / 2) >= -EQUAL
        and np.median(read_us) >= -EQUAL
        and np.median(read_us - consume_us - cost_us / 2) <= EQUAL
    )


def _ran_out_of_time(result: Result) -> bool:
    """Whether it came to its end with the time that it was given."""
    return bool(result.end and (result.end.reason or "").startswith(TIME_RAN_OUT))


def _probes_of(launch: Result) -> Any:
    """The round trips of flags around its blocks, which a copy with other times still has; of few
    ones, which may agree by chance, its name."""
    trips = sorted(block.link_rtt_ns for block in launch.blocks if block.link_rtt_ns)
    return tuple(trips) if len({*trips}) >= TELLING_BLOCKS else launch.run.run_id


def _library_name(run: Run) -> Any:
    library = run.world.get("library")
    name = library.get("library") if isinstance(library, dict) else None
    return name if isinstance(name, str) else None
