"""A campaign's folder with its manifest, and one launch: command line, time limits, outcome."""

import fcntl
import os
import re
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from msgspec.structs import replace

from bench import VERSION
from bench.campaigns.options import CampaignOptions
from bench.campaigns.processes import Stop, run_to_end, say, time_text
from bench.campaigns.variants import Variant, benchmark_start
from bench.harness.options import CANNOT, USAGE, WRONG
from reports.manifest import MANIFEST, WORKTREES, Campaign, Launch, Manifest, read_manifest
from reports.result import ResultError, read
from reports.schema import Record, to_line

ATTEMPTS = 3
MORE_PILOTS = 2  # of the first variant: three launches of one variant have a spread
LEAST_LAUNCH_S = 4.0
FRESH_SHARE = 0.5  # of the time of other launches: a fresh launch has fewer sizes
GRACE_S = 60.0
LONGEST_PILOT_S = 3600.0  # without a budget
StageName = Literal["pilot", "first", "fresh"]


@dataclass
class OpenCampaign:
    """A campaign in progress. `ready_for` is the variant that the machine is set up for."""

    options: CampaignOptions
    folder: Path
    manifest: Manifest
    file: BinaryIO
    ready_for: Variant | None = None

    def record(self, line: Record) -> None:
        """Adds a line to the manifest."""
        append(self.file, line)
        self.manifest.add(line)

    def finished(self, *stages: str) -> list[Launch]:
        """The finished launches of these stages; without arguments, of all stages."""
        return [launch for launch in self.manifest.launches if launch.status == "finished"
                and (not stages or launch.stage in stages)]

    def worktree(self, variant: Variant) -> Path:
        """The folder of the variant's revision."""
        return (self.folder / WORKTREES / variant.name).resolve()


def append(file: BinaryIO, line: Record) -> None:
    """Adds a line to a manifest; returns when it is on disk."""
    file.write(to_line(line))
    file.flush()
    os.fsync(file.fileno())


def open_campaign(options: CampaignOptions) -> OpenCampaign:
    """Starts the campaign in its folder, or continues it there. Raises Stop if another campaign or
    a running one uses the folder, ResultError for a damaged manifest."""
    folder = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / MANIFEST
    file = path.open("a+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Stop(USAGE, f"a campaign is running in {folder}") from None
    content = path.read_bytes()
    if not content.startswith(b'{"kind":"campaign"'[: len(content)]):
        raise Stop(USAGE, f"{path} is not the manifest of a campaign")
    complete = content.rfind(b"\n") + 1
    file.truncate(complete)  # a killed campaign may have left half a line
    if not complete:
        started = time.strftime("%Y-%m-%dT%H-%M-%SZ", time.gmtime())
        append(file, Campaign(
            campaign_id=f"{started}-campaign-{options.plan[:8]}", plan=options.plan,
            version=VERSION, seed=options.seed, design="grow" if options.grow else "two-stage",
            pairs=options.pairs, fresh=options.fresh, margin=options.margin,
            control=options.control, variants=[each.recorded() for each in options.variants]))
    manifest = read_manifest(folder)
    if manifest.campaign.plan != options.plan:
        raise Stop(
            USAGE, f"{folder} holds another campaign: remove it, or name another folder with --out")
    return OpenCampaign(options, folder, manifest, file)


def launch_budget_s(options: CampaignOptions, stage: StageName = "first") -> float | None:
    """The seconds for a launch, None without a budget. Raises Stop if the budget is too small."""
    if options.budget_s is None:
        return None
    variants = len(options.variants)
    launches = variants + MORE_PILOTS + options.most_pairs * (variants + options.control)
    weight = launches + options.fresh * variants * FRESH_SHARE
    least_s = LEAST_LAUNCH_S * weight
    if options.budget_s < least_s:
        raise Stop(USAGE, f"--budget: {weight:.0f} launches need at least {time_text(least_s)}")
    launch_s = options.budget_s / weight
    return launch_s if stage != "fresh" else max(launch_s * FRESH_SHARE, LEAST_LAUNCH_S)


def command_line(variant: Variant, folder: Path, seed: int, max_time_s: float | None,
                 sizes: Sequence[int]) -> list[str]:
    """The variant's command with the options of a launch; `sizes` in bytes, or the command's.

    The last of two equal options counts: the command's own one, except for the sizes.
    """
    start = benchmark_start(variant.command) + 2
    added = ["--out", str(folder.resolve()), "--seed", str(seed), "--lean"]
    added += ["--max-time", f"{max_time_s:.1f}"] if max_time_s else []
    own = variant.command[start:] + (["--sizes", ",".join(map(str, sizes))] if sizes else [])
    return [*variant.command[:start], *added, *own]


def reason_against(status: int, last_line: str | None, run: Path | None) -> str | None:
    """Why a launch did not finish, without paths and host names; None if it did. A launch with
    wrong results finished."""
    reason = last_line
    if reason is None:
        return "interrupted"
    if status in (0, WRONG) and run is not None:
        try:
            if read(run).end:
                return None
        except ResultError as error:
            reason = str(error)
    reason = re.sub(r"\S*[/@\\]\S*|\S+:\S+|\d+\.\d+\.\d+\S*", "<set>", reason)
    return re.sub(rf"\b{re.escape(socket.gethostname())}\b", "<set>", reason)[:300]


def retry_launch(campaign: OpenCampaign, stage: StageName, pair: int, place: int, name: str,
                 sizes: Sequence[int] = ()) -> bool:
    """Launches a variant until a launch finishes, at most three times; whether one finished."""
    for attempt in range(1, ATTEMPTS + 1):
        planned = Launch(stage=stage, pair=pair, place=place, variant=name, attempt=attempt,
                         status="died", elapsed_s=0.0)
        record_orphans(campaign, planned)
        launch = launch_once(campaign, planned, sizes)
        if launch.status == "finished":
            return True
        say(f"{name}, attempt {attempt}: {launch.reason}")
    return False


def record_orphans(campaign: OpenCampaign, planned: Launch) -> None:
    """Records run files of a launch that was running when an earlier session was killed."""
    for path in campaign.manifest.foreign:
        if path.suffix == ".jsonl" and path.parent.name in campaign.options.by_name:
            campaign.record(replace(
                planned, variant=path.parent.name, run=str(path.relative_to(campaign.folder)),
                status="orphaned", reason="the campaign was killed during the launch"))
    campaign.manifest.foreign = []


def launch_once(campaign: OpenCampaign, planned: Launch, sizes: Sequence[int]) -> Launch:
    """Makes a planned launch and records it. Raises Stop if the benchmark refuses its command line
    or this machine, KeyboardInterrupt if a signal ends the campaign."""
    options, variant = campaign.options, campaign.options.by_name[planned.variant]
    if options.pause and variant is not campaign.ready_for:
        say(f"next: {variant.name}; press Enter when the machine is set up for it")
        if not sys.stdin.readline():
            raise KeyboardInterrupt
    campaign.ready_for = variant
    folder = campaign.folder / planned.variant
    folder.mkdir(exist_ok=True)
    runs_before = set(folder.glob("*.jsonl"))
    limit_s = options.budget_s or LONGEST_PILOT_S
    if planned.stage != "pilot":
        limit_s = 5 * max(pilot.elapsed_s for pilot in campaign.finished("pilot")) + GRACE_S
    max_time_s = launch_budget_s(options, planned.stage)
    command = command_line(variant, folder, options.seed + planned.pair, max_time_s, sizes)
    worktree = campaign.worktree(variant) if variant.commit else None
    started_s = time.monotonic()
    status, last_line = run_to_end(command, worktree, variant.environment(worktree), limit_s)
    elapsed_s = time.monotonic() - started_s
    run = next(iter(set(folder.glob("*.jsonl")) - runs_before), None)
    reason = reason_against(status, last_line, run)
    launch = replace(
        planned, exit=status, elapsed_s=elapsed_s, reason=reason,
        run=str(run.relative_to(campaign.folder)) if run else None,
        status="orphaned" if last_line is None else "died" if reason else "finished")
    campaign.record(launch)
    if last_line is None:
        raise KeyboardInterrupt
    if status in (USAGE, CANNOT) and run is None:
        raise Stop(status, f"variant {variant.name}: {last_line}")
    return launch
