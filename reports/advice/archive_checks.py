"""What speaks against the archive of a survey: every reason is a sentence.

Whoever changes every figure of an archive in agreement with all others is not found: nobody signs
archives. What a mistake or a hurried hand leaves is found: figures that their own blocks, steps,
clocks and links contradict."""

import re
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from math import inf
from operator import attrgetter

import numpy as np

from reports.advice.archive_rows import SentArchive
from reports.advice.reduce_times import LEAST_LAUNCHES
from reports.advice.specs import LINKS, link_between, sheet_of
from reports.references.published import FABRIC, PublishedCall
from reports.tables.beside_published import library_of
from reports.tables.sentences import number, shares_places, size_text, some
from reports.verdicts.sides import Side, copies_among, unchecked_all_reduces, wrong_results
from wiretax import __version__
from wiretax.common.untrusted import printable
from wiretax.record.histogram import BINS_PER_OCTAVE, medians_us
from wiretax.record.result import time_of
from wiretax.record.schema import Block, Case, Result
from wiretax.record.summarise import TIME_RAN_OUT, build_cases

WRONG = 1  # the exit status of a survey
SYNTHETIC = "synthetic"  # the machine of archives that tests make
# Texts of rows have no markup, no path, no address that a page would make a link of, and are no
# formula of a spreadsheet.
PLAIN = re.compile(r"(?![=+-]|.*[a-z]\.[a-z])[\w .,()+=-]{0,200}", re.ASCII | re.IGNORECASE)
GPU_NAME = re.compile(r"[A-Za-z0-9 ()+/-]{1,64}")
LEAST_MEMORY = 0.4  # of a data sheet's: some cards of one name have half of it
MACHINE_ID = re.compile("[0-9a-f]{12}")
TIES = re.compile(r"env\.(NCCL|RCCL)_")  # facts of a run
MOST_LETTERS = 500  # of a reason, which may have an archive's words
START = timedelta(minutes=10)  # for what a survey does beside its steps
EQUAL = 1e-6  # a share of two figures from the same blocks, on unlike machines; and rounded us
ROUNDING = 1.01  # of a sum over the time that it took
BIN = 2 ** (1 / BINS_PER_OCTAVE)  # the width of a bin of steps
# A flag may bounce while a card's clocks are down, and a link differs from round to round.
LEAST_HOPS, MOST_OF_LINK = 0.5, 1.1


def reasons_against(
    sent: SentArchive, rows: Sequence[PublishedCall], known: Sequence[PublishedCall]
) -> list[str]:
    """Why these rows of the archive cannot stand beside the contributed ones that are `known`."""
    found = [*of_survey(sent), *of_machine(sent), *of_dates(sent), *of_launches(sent)]
    for name, result in sent.runs.items():
        found += [f"{name}: {reason}" for reason in of_run(sent, result)]
    found += [*of_rows(sent, rows), *of_table(sent, rows, known)]
    return list(dict.fromkeys(printable(reason)[:MOST_LETTERS] for reason in found))


def of_survey(sent: SentArchive) -> Iterator[str]:
    """What `survey.json` says against the survey."""
    contents = sent.contents
    theirs, ours = (re.findall(r"\d{1,9}", text) for text in (contents.version, __version__))
    if [*map(int, theirs)] > [*map(int, ours)]:
        yield f"Wiretax {contents.version[:20]} made it, which is newer than {__version__}: update"
    # An all-reduce that failed would leave the lucky launches.
    steps = {result.path.parent.name for result in sent.all_reduces}
    for step in contents.steps:
        is_lost = step.name in steps and step.status == "failed"
        if is_lost or step.status == "wrong":
            yield f"launch {step.launch} of the step {step.name[:40]}: {step.status}"
    if contents.status == WRONG:
        yield "its survey ended with exit status 1: a result was wrong"
    if not contents.vendor:
        yield "it was measured on CPUs, and the tables have calls of GPUs"
    if unlike := {*sent.runs} ^ {step.run for step in contents.steps if step.run}:
        yield f"{min(unlike)} is a run of no step, or a step's run that is not there"


def of_machine(sent: SentArchive) -> Iterator[str]:
    """Whether all runs are of one machine, which has known cards."""
    runs = [result.run for result in sent.runs.values()]
    cards = [[(rank.get("gpu"), rank.get("pci_bus_id")) for rank in run.ranks] for run in runs]
    software = {result.run.software_id for result in sent.all_reduces}
    if len({*map(str, cards)}) > 1 or len({run.machine_id for run in runs}) > 1:
        yield "its runs are of several machines or sets of cards"
    if len(software) > 1:
        yield "its all-reduces ran with several versions of software"
    for machine_id in {run.machine_id for run in runs}:
        if machine_id == SYNTHETIC:
            yield "it is synthetic: a test made it, and no machine measured it"
        elif not MACHINE_ID.fullmatch(machine_id):
            yield "the id of its machine is not what Wiretax writes, 12 hexadecimal digits"
    memories = [rank.get("memory_bytes") for run in runs for rank in run.ranks]
    memory_gb = [each / 1e9 for each in memories if isinstance(each, int)]
    for model in {gpu for run in runs for gpu in run.gpus}:
        if not GPU_NAME.fullmatch(model):
            yield "the name of its GPU has characters that no driver's name has"
        elif not (sheet := sheet_of(model)):
            yield f"{model!r} is no card of reports/advice/specs.toml: add its data sheet first"
        elif min(memory_gb, default=inf) < LEAST_MEMORY * sheet.memory_gb:
            yield (
                f"its card has {number(min(memory_gb))} GB, and {sheet.name} {sheet.memory_gb:g}: "
                "it is emulated, or a part of a card"
            )


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


def of_run(sent: SentArchive, result: Result) -> Iterator[str]:
    """What a run says against itself."""
    run, end = result.run, result.end
    memories = [*run.memory.values(), *(case.memory for case in run.cases)]
    cards = [rank.get("pci_bus_id") for rank in run.ranks]
    if shares_places(run.ranks) or sent.contents.shares_gpus or "same_device" in memories:
        yield "its ranks shared a GPU: no time of it measures a wire"
    elif not all(cards) or not len(cards) == run.world_size == sent.contents.ranks:
        yield f"it does not name {sent.contents.ranks} GPUs, one for each rank"
    variables = [name.partition(".")[2] for name in run.environment if TIES.match(name)]
    if tied := sorted([*variables, *library_of(run).set_by_file]):
        yield f"{some(tied)} changed what the library does by itself: unset it, and repeat"
    built = build_cases(run, result.counted, result.blocks, result.link_blocks)
    if any(map(_is_edited, result.cases, built)):
        yield "its figures are not those of its blocks"
    if run.benchmark != "allreduce":
        return
    # What time left out has too few blocks to count, or none.
    reason = (end.reason or end.status) if end else "it was cut off"
    if reason != "complete" and not reason.startswith(TIME_RAN_OUT):
        yield f"it did not come to its end: {reason}"
    calls = np.array([run.cases[block.case].calls for block in result.blocks])
    costs_us = np.array([block.cost_us for block in result.blocks])
    if not all(block.steps and _is_alone(block) for block in result.blocks):
        yield "the times of a block contradict each other, or lack their steps"
    elif len(costs_us):
        low_us, high_us = medians_us(result.blocks)
        # Times are rounded, which may be across the edge of a bin.
        if ((calls * costs_us < low_us / BIN) | (calls * costs_us > high_us * BIN)).any():
            yield "the time of a block is not the median of its steps"
    worked_s = float(calls * costs_us @ [block.n for block in result.blocks]) / 1e6
    elapsed_s = (end and end.elapsed_s) or 0.0
    if worked_s > ROUNDING * elapsed_s:
        yield (
            f"its calls add up to {number(worked_s)} s, and it took {number(elapsed_s)} s: its "
            "times are too long, or in another unit"
        )


def of_rows(sent: SentArchive, rows: Sequence[PublishedCall]) -> Iterator[str]:
    """Whether there are rows, in plain words, and possible over the link."""
    if not rows:
        yield (
            f"no all-reduce of NCCL, RCCL or auto has {LEAST_LAUNCHES} launches on equal cards: "
            "give the survey more --max-time"
        )
    for row in rows:
        call = f"{size_text(row.size_bytes or 0)} by {row.library}, {row.mode}"
        texts = (row.machine, row.gpu, row.version, row.variant, row.datatype, row.note)
        if not all(map(PLAIN.fullmatch, texts)) or not re.fullmatch(FABRIC, row.fabric):
            yield "a name in its runs has markup, or letters that no driver or library writes"
        link_gb_s, hop_us = link_of(sent, row)
        if row.gb_s > MOST_OF_LINK * link_gb_s:
            yield (
                f"{call}: {number(row.gb_s)} GB/s are more than the {number(link_gb_s)} GB/s of "
                "the link"
            )
        if row.us < LEAST_HOPS * hop_us:
            yield (
                f"{call}: {number(row.us)} us are less than a flag takes one way, "
                f"{number(hop_us)} us: its times are too short, or in another unit"
            )


def link_of(sent: SentArchive, row: PublishedCall) -> tuple[float, float]:
    """The GB/s that a card can send, by its data sheet and, over slots, as the archive's own run
    of the link measured the same transport; and the least us of a flag one way."""
    sheet, slot = sheet_of(row.gpu), row.fabric.lower().replace(" x", "x").replace(" ", "")
    own = LINKS.get(slot) or (link_between(sheet, row.gpus) if sheet else None)
    gb_s = own.total_gb_s(row.gpus) if own else inf
    memory = "mapped" if row.transport == "p2p" else "host_staged"
    timed = [
        (case, case.time_us.median)
        for result in sent.of("link")
        for case in result.cases
        if case.memory == memory and case.time_us and case.time_us.median
    ]
    moved_gb_s = [case.size_bytes / us / 1e3 for case, us in timed if case.size_bytes]
    if slot in LINKS:
        gb_s = min(gb_s, max(moved_gb_s, default=inf))
    hops_us = [us for case, us in timed if case.algorithm == "ping_pong"]
    # A switch that adds up halves what a card sends.
    return gb_s * (2 if row.transport == "nvls" else 1), min(hops_us, default=0.0)


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


def _is_edited(stored: Case, built: Case) -> bool:
    """Whether what a run stores of a case is not what its blocks give."""
    if "wrong" in (stored.status, built.status):  # which speaks for itself
        return False
    summaries = [(stored.time_us, built.time_us), (stored.total_us, built.total_us)]
    figures = [(one and one.median, other and other.median) for one, other in summaries]
    figures.append((stored.bus_bw_gb_s, built.bus_bw_gb_s))
    return stored.status != built.status or any(
        abs((one or 0.0) - (other or 0.0)) > EQUAL * (other or 0.0) for one, other in figures
    )


def _is_alone(block: Block) -> bool:
    """Whether a block's time without the reading of the result is possible beside that with it."""
    read_us = block.cost_us - block.time_us
    # Half of the times are at least the median, so their mean is at least half of it.
    is_mean = (block.mean_us or 0.0) >= block.time_us / 2
    # The result is read in about `consume_us`, after that time.
    return is_mean and -EQUAL <= read_us <= (block.consume_us or 0.0) + block.cost_us / 2
