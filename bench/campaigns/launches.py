"""One launch of a campaign, of a benchmark of Wiretax or of another harness: its command line, its
time limit, its outcome."""

import re
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.campaigns import wall_timer
from bench.campaigns.campaign_options import PLACEHOLDER, Stop, Variant, time_text
from bench.campaigns.foreign_output import read_output
from bench.campaigns.open_campaign import OpenCampaign
from bench.campaigns.processes import run_to_end, with_status
from bench.harness.console import CANNOT, FINE, USAGE, WRONG, say
from bench.machine import environment
from reports.imports.runs import content_of_run
from reports.verdicts.verdict import MIN_PAIRS
from wiretax.common.owners import opened
from wiretax.common.untrusted import open_file
from wiretax.record.manifest import Launch
from wiretax.record.result import ResultError, read
from wiretax.record.writing import write_whole

ATTEMPTS = 3
MOST_KEPT, KEPT_BYTES = 5, 64 << 10  # launches of a variant that died; of each of their files
GRACE_S = 60.0
LONGEST_PILOT_S = 3600.0  # without a budget


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
        is_ours = not campaign.options.variants[name].is_foreign
        got = ""
        if is_ours and campaign.launch_s:
            got = f" (each launch got --max-time {campaign.launch_s:.1f} from --budget)"
        raise Stop(
            WRONG,
            f"variant {name} cannot run: it died {ATTEMPTS} times{got}, the last time with: "
            f"{record.reason}{where_output_is(campaign, record)}",
            True,
        )


def where_output_is(campaign: OpenCampaign, record: Launch) -> str:
    return f"; its output is in {campaign.options.folder / record.output}" if record.output else ""


def launch_once(campaign: OpenCampaign, record: Launch) -> None:
    """Makes a launch and records its outcome. Raises Stop where all launches after it would end
    alike."""
    stage = f"pair {record.pair} of {campaign.pairs}" if record.pair else "pilot"
    campaign.progress.show(f"{stage}, {record.variant}")
    launch = launch_own
    if campaign.options.variants[record.variant].is_foreign:
        launch = launch_foreign
    # Nobody else can put a link here while the command writes. Its output can hold a whole
    # environment.
    with tempfile.TemporaryDirectory(prefix="wiretax-") as private:
        launch(campaign, record, Path(private, "launch"))


def launch_own(campaign: OpenCampaign, record: Launch, log: Path) -> None:
    """A launch of a benchmark of Wiretax, which stores its run itself. Raises Stop if it refuses to
    run, stores no run, or ran other code than that of its revision."""
    variant = campaign.options.variants[record.variant]
    folder = campaign.folder_of(variant.name)
    command = [*variant.launcher, "--out", str(folder.resolve())]
    command += ["--seed", seed_of(campaign, record)]
    if campaign.launch_s:
        command += ["--max-time", f"{campaign.launch_s:.1f}"]
    command += variant.arguments  # of two equal options the last one counts: the variant's own
    runs_before = set(folder.glob("*.jsonl"))
    status, last_line = perform(campaign, record, command, log)
    run = next(iter(set(folder.glob("*.jsonl")) - runs_before), None)
    if run is None and status == FINE:
        last_line = "it stored no run"

    reason = failure_of(status, last_line, run)
    is_other_code = run is not None and not reason and not ran_revision(campaign, variant, run)
    if is_other_code:
        reason = "it imported other code than its revision has"
    note_outcome(campaign, record, run, reason, log)
    if is_other_code:
        raise Stop(WRONG, f"variant {variant.name}: {reason}", True)
    check_pilot_time(campaign, record)
    if run is None and status in (FINE, USAGE, CANNOT):
        raise Stop(status or USAGE, f"variant {variant.name}: {last_line}", True)


def launch_foreign(campaign: OpenCampaign, record: Launch, log: Path) -> None:
    """A launch of another harness's command. What it prints is stored as a run, unless it failed
    without wrong results. Raises Stop if it printed no timings and said nothing of a failure, and
    after a pilot with rows that cannot be read."""
    options, variant = campaign.options, campaign.options.variants[record.variant]
    folder = campaign.folder_of(variant.name)
    values = {"out": f"{log}.file.txt", "seed": seed_of(campaign, record)} | options.settings
    command = [
        PLACEHOLDER.sub(lambda found: values.get(found[1], found[2]), word)
        for word in variant.arguments
    ]
    if options.is_wall:
        command = [sys.executable, "-I", "-S", wall_timer.__file__, options.prepare, *command]
    ticks = environment.cpu_ticks()
    status, last_line = perform(campaign, record, command, log)
    steal_share = environment.steal_share(ticks, environment.cpu_ticks())
    if options.keeps_output:
        keep_output(log.parent, folder / f"launch-{len(campaign.launches) + 1}.output")

    run, unread = None, list[str]()
    try:
        result, unread = read_output(options, variant, log)
        if result.end:
            result.end.elapsed_s, result.end.steal_share = record.elapsed_s, steal_share
        content = content_of_run(result)
    except (ResultError, ValueError) as error:
        if status == FINE:
            last_line = str(error)
    else:
        if status == FINE or any(case.status == "wrong" for case in result.cases):
            run = folder / result.path
            write_whole(run, content)

    note_outcome(campaign, record, run, failure_of(status, last_line, run), log)
    check_pilot_time(campaign, record)
    if record.stage == "pilot" and record.status == "finished" and unread:
        raise Stop(WRONG, f"variant {variant.name}: {'; '.join(unread)}", True)
    if run is None and status == FINE:
        # The folder of a first launch that is refused is removed.
        where = where_output_is(campaign, record) if campaign.finished("pilot") else ""
        raise Stop(USAGE, f"variant {variant.name}: {last_line}{where}", True)


def seed_of(campaign: OpenCampaign, record: Launch) -> str:
    """The seed of a launch, which those of its pair share."""
    return str(campaign.options.head.seed + record.pair)


def limit_of(campaign: OpenCampaign, record: Launch) -> float:
    """The time limit of a launch in seconds. A pilot tells how long the others may take, and may
    take the whole budget. The only pilot of another harness's variant may take as long as the
    fewest pairs of such launches fit beside it; the baseline has three, and the first may be
    cold."""
    options = campaign.options
    if record.stage == "pilot":
        if not options.budget_s:
            return LONGEST_PILOT_S
        names = [*options.variants]
        is_only = options.variants[record.variant].is_foreign and record.variant != names[0]
        return options.budget_s / (1 + min(campaign.pairs, MIN_PAIRS) if is_only else 1)
    return 5 * max(pilot.elapsed_s for pilot in campaign.finished("pilot")) + GRACE_S


def perform(
    campaign: OpenCampaign, record: Launch, command: Sequence[str], log: Path
) -> tuple[int, str]:
    """Runs the command of a launch to its end, and records its exit status and its time. Returns
    the status and its last line."""
    variant, limit_s = campaign.options.variants[record.variant], limit_of(campaign, record)
    tree = campaign.revision_folder(variant)
    started_s = time.monotonic()
    status, last_line = run_to_end(command, tree, variant.environment(tree), limit_s, log)
    record.elapsed_s = time.monotonic() - started_s
    record.exit = status
    return status, last_line


def note_outcome(
    campaign: OpenCampaign, record: Launch, run: Path | None, reason: str | None, log: Path
) -> None:
    """Adds the launch to the manifest: with its run, if there is one; without a reason why it
    failed, it has finished. Keeps the end of the output of one that died."""
    if run is not None:
        record.run = f"{record.variant}/{run.name}"
    record.reason = reason
    record.status = "died" if reason else "finished"
    kept = [each for each in campaign.launches if each.output and each.variant == record.variant]
    if reason and len(kept) < MOST_KEPT:
        name = f"launch-{len(campaign.launches) + 1}.output"
        is_foreign = campaign.options.variants[record.variant].is_foreign
        if not (campaign.options.keeps_output and is_foreign):
            keep_output(log.parent, campaign.folder_of(record.variant) / name, KEPT_BYTES)
        record.output = f"{record.variant}/{name}"
    campaign.record(record)


def check_pilot_time(campaign: OpenCampaign, record: Launch) -> None:
    """Raises Stop for a pilot that took all the time that the budget has for it."""
    budget_s = campaign.options.budget_s
    if record.stage != "pilot" or not budget_s:
        return
    limit_s = limit_of(campaign, record)
    if record.elapsed_s >= limit_s:
        share = "" if limit_s == budget_s else f" of {time_text(budget_s)}"
        raise Stop(
            USAGE,
            f"--budget: variant {record.variant} has not ended in {limit_s:.0f} s{share}: it "
            "hangs, or needs a longer budget",
            True,
        )


def keep_output(private: Path, folder: Path, most_bytes: int | None = None) -> None:
    """Copies what a command wrote, or the end of each file, without following a link in the new
    folder. Raises OSError."""
    with opened(folder) as kept:
        for file in filter(Path.is_file, private.iterdir()):
            with open_file(file) as written, (kept / file.name).open("xb") as copy:
                if most_bytes:
                    written.seek(max(0, file.stat().st_size - most_bytes))
                shutil.copyfileobj(written, copy)


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
