"""What speaks against the archive of a survey: every reason is a sentence.

Whoever changes every figure of an archive in agreement with all others is not found: files are
signed by nobody. What a mistake or a hurried hand leaves is found: figures that their own blocks,
steps, clocks and links contradict."""

import re
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta, timezone

import numpy as np

from reports.advice.archive_rows import SentArchive
from reports.advice.reduce_times import LEAST_LAUNCHES
from reports.advice.specs import link_between, link_by_name, sheet_of
from reports.references.published import PublishedCall
from reports.tables.beside_published import library_of
from reports.tables.sentences import environment_of, number, shares_places, size_text, some
from reports.verdicts.sides import Side, copies_among, unchecked_all_reduces, wrong_results
from wiretax import __version__
from wiretax.record import histogram
from wiretax.record.result import time_of
from wiretax.record.schema import Case, Result
from wiretax.record.summarise import TIME_RAN_OUT, build_cases

SYNTHETIC = "synthetic"  # the machine of archives that tests make
# Texts of rows have no markup, no path and no address that a page would make a link of.
PLAIN = re.compile(r"(?!.*[a-z]\.[a-z])[\w .,()+=-]{0,200}", re.ASCII | re.IGNORECASE)
NAMES = re.compile(r"[A-Za-z0-9 ()+/-]{1,64}")
MACHINE_ID = re.compile("[0-9a-f]{12}")
START = timedelta(minutes=10)  # for what a survey does beside its steps, such as compiling
EQUAL = 1e-6  # of two figures from the same blocks, on unlike machines
BIN = 2 ** (1 / histogram.BINS_PER_OCTAVE)  # width of a bin of steps
# A flag may bounce with a card's clocks down, and links differ from round to round.
LEAST_HOPS, MOST_OF_LINK = 0.5, 1.1


def reasons_against(
    sent: SentArchive, rows: Sequence[PublishedCall], known: Sequence[PublishedCall]
) -> list[str]:
    """Why these rows of the archive cannot stand beside the contributed ones that are `known`."""
    found = [*of_survey(sent), *of_machine(sent)]
    for name, result in sent.runs.items():
        found += [f"{name}: {reason}" for reason in of_run(sent, result)]
    found += [*of_launches(sent), *of_rows(sent, rows), *of_table(sent, rows, known)]
    return list(dict.fromkeys(found))


def of_survey(sent: SentArchive) -> Iterator[str]:
    """What `survey.json` says of the survey itself."""
    contents, statuses = sent.contents, {step.status for step in sent.contents.steps}
    if _version(contents.version) > _version(__version__):
        yield (
            f"it was made by Wiretax {contents.version[:20]}, which is newer than this "
            f"{__version__}: update"
        )
    if contents.status == 1 or "wrong" in statuses:
        yield "a step of the survey had a wrong result"
    elif contents.status not in (0, 3, 130):
        yield f"the survey ended with exit status {contents.status}, which leaves no archive"
    if contents.status == 0 and statuses - {"done", "incomplete"}:
        yield "the survey ended with exit status 0, and one of its steps did not"
    failed = [
        step
        for step in contents.steps
        if step.name in _steps_with_rows(sent) and step.status not in ("done", "incomplete")
    ]
    for step in failed[:1]:
        yield f"launch {step.launch} of its step {step.name} is {step.status}: {step.sentence}"
    if not contents.vendor:
        yield "it was measured on CPUs, and the tables have calls of GPUs"
    if contents.shares_gpus:
        yield "its ranks shared a GPU: no time of it measures a wire between cards"
    unlike = {*sent.runs} ^ {step.run for step in contents.steps if step.run}
    if unlike:
        yield f"{min(unlike)} is a run of no step, or a step's run that is not there"


def of_machine(sent: SentArchive) -> Iterator[str]:
    """Whether all runs are of one machine with a card a rank, and in the time of the survey."""
    runs = [result.run for result in sent.runs.values()]
    ids = {(run.machine_id, str([_card(rank) for rank in run.ranks])) for run in runs}
    if len(ids) > 1 or len({run.software_id for run in runs if run.benchmark == "allreduce"}) > 1:
        yield "its runs are of several machines, sets of cards or versions of software"
    for machine_id in sorted({run.machine_id for run in runs}):
        if machine_id == SYNTHETIC:
            yield "it is synthetic: a test made it, and no machine measured it"
        elif not MACHINE_ID.fullmatch(machine_id):
            yield "the id of its machine is not what Wiretax writes, 12 hexadecimal digits"
    for model in sorted({gpu for run in runs for gpu in run.gpus}):
        if not NAMES.fullmatch(model):
            yield "the name of its GPU has characters that no driver's name has"
        elif not sheet_of(model):
            yield f"{model!r} is no card of reports/advice/specs.toml: add its data sheet first"
    run_ids = [run.run_id for run in runs]
    if len({*run_ids}) < len(run_ids):
        yield "two of its runs have one run_id"
    try:
        made = datetime.fromisoformat(sent.contents.made.replace("Z", "+00:00"))
        made = made.astimezone(timezone.utc)
    except (ValueError, OverflowError):
        yield "survey.json does not say when the survey was made"
        return
    took = timedelta(seconds=min(1e6, sum(step.elapsed_s for step in sent.contents.steps)))
    for run_id in run_ids:
        began = time_of(run_id)
        if not began or not made - took - START <= began <= made:
            yield f"the run {run_id} began outside of the survey, which ended {made:%Y-%m-%d %H:%M}"


def of_run(sent: SentArchive, result: Result) -> Iterator[str]:
    """What a run says against itself."""
    run, library = result.run, library_of(result.run)
    if run.imported_from:
        yield "it is another harness's log"
    if result.path.stem != run.run_id:
        yield "its file does not have the name of its run"
    cards = [rank.get("pci_bus_id") for rank in run.ranks]
    is_shared = shares_places(run.ranks) or "--ranks-share-gpus" in run.argv
    if is_shared or "same_device" in {case.memory for case in run.cases} | {*run.memory.values()}:
        yield "its ranks shared a GPU"
    elif not all(cards) or len(cards) != run.world_size or run.world_size != sent.contents.ranks:
        yield f"it does not name {sent.contents.ranks} GPUs, one for each rank"
    if run.hosts != 1:
        yield "its ranks were not on one host"
    names = [name for name in environment_of(run) if re.match(r"env\.(NCCL|RCCL)_", name)]
    if tied := [*(name.removeprefix("env.") for name in names), *library.set_by_file]:
        yield f"{some(sorted(tied))} changed what the library does by itself: unset it, and repeat"
    if any(map(_is_edited, result.cases, _built(result))):
        yield "its figures are not those of its blocks: somebody changed them"
    if run.benchmark != "allreduce":
        return
    if _contradict_steps(result):
        yield "the time of a block is not the median of its steps"
    worked_s = (
        sum(
            block.cost_us * block.n * calls
            for block, calls in zip(result.blocks, _calls_of(result), strict=True)
        )
        / 1e6
    )
    elapsed_s = (result.end and result.end.elapsed_s) or 0.0
    if worked_s > 1.01 * elapsed_s:
        yield (
            f"its calls add up to {number(worked_s)} s, and it took {number(elapsed_s)} s: its "
            "times are too long, or in another unit"
        )


def of_launches(sent: SentArchive) -> Iterator[str]:
    launches = sent.of("allreduce")
    others = [result for result in sent.runs.values() if result not in launches]
    yield from wrong_results(Side("its other runs", others))
    side = Side("its all-reduces", launches)
    yield from [*wrong_results(side), *unchecked_all_reduces(side)]
    ended = [result.end and (result.end.reason or result.end.status) for result in launches]
    for how in ended:
        # What time left out has too few blocks to count, or none.
        if how != "complete" and not (how or "").startswith(TIME_RAN_OUT):
            yield f"one of its all-reduces did not end: {how or 'it was cut off'}"
    if copies_among(launches):
        yield "two of its launches have the same times: one is a copy"


def of_rows(sent: SentArchive, rows: Sequence[PublishedCall]) -> Iterator[str]:
    """Whether the rows are plain, and possible over the link."""
    if not rows:
        yield (
            f"no all-reduce of its library or of auto was measured in {LEAST_LAUNCHES} launches: "
            "give the survey more --max-time"
        )
    for row in rows:
        call = f"{size_text(row.size_bytes or 0)} by {row.library}, {row.mode}"
        texts = (row.machine, row.gpu, row.library, row.version, row.variant, row.note)
        if not all(map(PLAIN.fullmatch, texts)):
            yield "a name in its runs has markup, or letters that no driver or library writes"
        link_gb_s, hop_us = measured_link(sent, row)
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


def measured_link(sent: SentArchive, row: PublishedCall) -> tuple[float, float]:
    """The GB/s that a card can send, by the fabric's data sheet and as the archive's own run of the
    link measured the same transport; and the least us of a flag one way."""
    sheet = sheet_of(row.gpu)
    gb_s = float("inf")
    if row.fabric.startswith("PCIe"):
        slot = row.fabric.partition(" + ")[0]
        gb_s = link_by_name(slot if " x" in slot else f"{slot} x16").gb_s
    elif sheet:
        gb_s = link_between(sheet, row.gpus).total_gb_s(row.gpus)
    memory = "mapped" if row.transport == "p2p" else "host_staged"
    cases = [case for run in sent.of("link") for case in run.cases if case.memory == memory]
    timed = [(case, case.time_us.median) for case in cases if case.time_us and case.time_us.median]
    hops_us = [us for case, us in timed if case.algorithm == "ping_pong"]
    moved = [case.size_bytes / us / 1e3 for case, us in timed if case.size_bytes]
    if row.fabric.startswith("PCIe") and moved:
        gb_s = min(gb_s, max(moved))
    # A switch that adds up halves what a card sends.
    return gb_s * (2 if row.transport == "nvls" else 1), min(hops_us, default=0.0)


def of_table(
    sent: SentArchive, rows: Sequence[PublishedCall], known: Sequence[PublishedCall]
) -> Iterator[str]:
    """Whether the table has this archive, or its runs in another one."""

    def figures(row: PublishedCall) -> tuple[object, ...]:
        return row.gpu, row.size_bytes, row.mode, row.kind, row.time_us, row.time_low_us

    ours = {*map(figures, rows)}
    for row in known:
        if row.archive == sent.sha256 or figures(row) in ours:
            what = "this archive is" if row.archive == sent.sha256 else "its runs are"
            said = f", and withdrawn: {row.withdrawn}" if row.withdrawn else ""
            yield f"{what} in the table already, as {row.source} of {row.date}{said}"
            return


def _steps_with_rows(sent: SentArchive) -> set[str]:
    return {
        step.name
        for step in sent.contents.steps
        if step.run and sent.runs[step.run].run.benchmark == "allreduce"
    }


def _version(text: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d{1,9}", text)[:3]]


def _card(rank: dict[str, object]) -> tuple[object, ...]:
    return rank.get("gpu"), rank.get("pci_bus_id"), rank.get("node")


def _built(result: Result) -> list[Case]:
    return build_cases(result.run, result.counted, result.blocks, result.link_blocks)


def _is_edited(stored: Case, built: Case) -> bool:
    """Whether what a run stores of a case is not what its blocks give."""
    if stored.status == "wrong" or built.status == "wrong":
        return False  # which speaks for itself
    figures = [
        [
            case.time_us and case.time_us.median,
            case.total_us and case.total_us.median,
            case.time_us and case.time_us.n_blocks,
            case.bus_bw_gb_s,
        ]
        for case in (stored, built)
    ]
    pairs = zip(*figures, strict=True)
    return stored.status != built.status or any(
        abs((one or 0.0) - (other or 0.0)) > EQUAL * (other or 0.0) for one, other in pairs
    )


def _calls_of(result: Result) -> list[int]:
    return [result.run.cases[block.case].calls for block in result.blocks]


def _contradict_steps(result: Result) -> bool:
    """Whether the time of a block until the result is read is not the median of its steps, or the
    time alone is longer than that, or than the mean of such times allows."""
    blocks = result.blocks
    if not blocks or not all(block.steps for block in blocks):
        return bool(blocks)  # every version stores them
    medians_us = np.array([block.cost_us for block in blocks]) * _calls_of(result)
    low_us, high_us = histogram.medians_us(blocks)
    # Times are rounded, which may be across the edge of a bin.
    if ((medians_us < low_us / BIN) | (medians_us > high_us * BIN)).any():
        return True
    return any(
        block.time_us > block.cost_us * BIN
        # Half of the times are at least the median, so their mean is at least half of it.
        or (block.mean_us or 0.0) < block.time_us / 2
        # The result is read in about `consume_us`, after the time alone.
        or block.cost_us - block.time_us > (block.consume_us or 0.0) + block.cost_us / 2
        for block in blocks
    )
