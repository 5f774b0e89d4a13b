"""Reads `campaign.jsonl` in a campaign's folder, which bench.campaign writes. Lines are only
added."""

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from wiretax.record import packed
from wiretax.record.result import ResultError, by_time, read_lines
from wiretax.record.schema import Line, Positive

SCHEMA = 1
MANIFEST = "campaign.jsonl"
BESIDE_A_RUN = {".flight", ".output"}


class VariantRecord(msgspec.Struct, kw_only=True):
    """The command of a variant, for reading only: possible secrets are removed. Its code is that of
    `revision`, which the campaign checked out, or else of the `commit` and the `branch` that a
    pipeline names."""

    name: str
    argv: list[str]
    revision: str | None = None
    environment: dict[str, str] = {}
    commit: str = ""
    branch: str = ""

    @property
    def known_commit(self) -> str:
        """The commit of its code; "" where nobody named one."""
        return self.revision or self.commit


class Campaign(Line, kw_only=True):
    schema: int = SCHEMA
    campaign_id: str
    version: str
    seed: int
    pairs: Positive
    margin: Annotated[float, msgspec.Meta(gt=0, lt=1)]  # 0.01 is 1 %
    quantile: Annotated[float, msgspec.Meta(ge=0.5, lt=1)] | None = None  # judged; None: medians
    wall: bool = False  # whole processes were timed
    variants: Annotated[
        list[VariantRecord], msgspec.Meta(min_length=1)
    ]  # the first is the baseline


class Launch(Line, kw_only=True):
    stage: Literal["pilot", "first"]
    pair: int  # of launches that ran one after the other
    place: int
    variant: str
    attempt: int
    status: Literal["finished", "died"]
    exit: int | None = None
    elapsed_s: float
    run: str | None = None  # the run's file, relative to the campaign's folder, if there is one
    reason: str | None = None
    output: str | None = None  # the folder with the end of what it printed, of one that died


class CampaignEnd(Line, kw_only=True, tag="end"):
    status: str


@dataclass
class Manifest:
    folder: Path
    campaign: Campaign
    launches: list[Launch]
    end: CampaignEnd | None  # without it, the campaign was interrupted
    foreign: list[Path]  # runs and links that it did not write


def read_manifest(folder: Path | str) -> Manifest:
    """The campaign in `folder`, without an incomplete last line. Raises ResultError for a file that
    is no manifest, is damaged earlier, has a newer schema or names a missing run file."""
    path = Path(folder) / MANIFEST
    records = read_lines(path, "manifest", (Campaign, Launch, CampaignEnd), SCHEMA)

    [campaign], launches, own = records[Campaign], records[Launch], {path}
    for launch in launches:
        if launch.run is not None:
            run, problem = path.parent / launch.run, None
            if Path(launch.run).is_absolute() or ".." in Path(launch.run).parts:
                problem = "is outside the campaign"
            elif not run.is_file():
                problem = "is not there"
            elif run in own:
                problem = "belongs to another launch"
            if problem:
                raise ResultError(f"{path}: the run {launch.run} {problem}")
            own.add(run)

    foreign = [file for file, _ in run_files(path.parent) if file not in own]
    end = next(iter(records[CampaignEnd]), None)
    return Manifest(path.parent, campaign, launches, end, foreign)


def death_of(path: Path) -> str:
    """Why the campaign of this manifest ended early, if a launch that died ended it; "" otherwise,
    as for one that is running. Raises ResultError for a damaged manifest."""
    records = read_lines(path, "manifest", (Campaign, Launch, CampaignEnd), SCHEMA)
    last = next(reversed(records[Launch]), None)
    if records[CampaignEnd] or last is None or last.status != "died":
        return ""
    return f"ended early, {last.variant} died: {last.reason}"


def run_files(folder: Path) -> Iterator[tuple[Path, str]]:
    """Each file of JSON lines below `folder`, with an empty string, and each link, which is not
    followed, and each folder that cannot be read, with these words. A manifest is such a file.
    Benchmarks may remove folders meanwhile. Raises ResultError for a damaged archive."""
    if packed.archive_of(folder):
        yield from ((file, "") for file in packed.files_below(folder) if file.suffix == ".jsonl")
        return
    closed: list[OSError] = []
    for parent, folders, files in os.walk(folder, onerror=closed.append):
        folders[:] = sorted(name for name in folders if Path(name).suffix not in BESIDE_A_RUN)
        for name in sorted([*folders, *files]):
            path = Path(parent, name)
            if os.path.islink(path):
                yield path, "a link, which is not followed"
            elif name in files and name.endswith(".jsonl"):
                yield path, ""

    for error in closed:
        yield Path(error.filename), "a folder that cannot be read"


def runs_by_time(folder: Path) -> list[Path]:
    """The files of runs below a folder or in an archive, by the time in the name. Raises
    ResultError for a damaged archive."""
    files = [path for path, problem in run_files(folder) if not problem and path.name != MANIFEST]
    return sorted(files, key=lambda path: by_time(path.name))


def files_of(name: str | Path) -> list[Path]:
    """The run of this name, those below this folder or in this archive, or those that a glob finds.
    Raises ResultError without one."""
    path = Path(name)
    found = [path]
    if not packed.is_folder(path):
        found = sorted(map(Path, glob.glob(str(name)))) or packed.files_named(path)
    files = [
        file
        for each in found
        for file in (runs_by_time(each) if packed.is_folder(each) else [each])
    ]

    if not files:
        raise ResultError(f"no run at {name}")

    return files
