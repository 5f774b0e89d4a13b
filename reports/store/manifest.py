"""Reads the manifest of a campaign: its plan, its launches, and the end of each.

`campaign.jsonl` is in the campaign's folder, beside a folder of run files for each variant. It
starts with the `campaign` line, gets a `launch` line after each launch and a `stage` line before
each stage that judges, and finishes with `end`. Lines are only added: a launch that no longer
counts gets a second line, with status `orphaned`.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from reports.store.result import ResultError, of_kind, read_lines

MANIFEST = "campaign.jsonl"
SCHEMA = 1
CONTROL = "control"
WORKTREES = "worktrees"
BESIDE_A_RUN = {".samples", ".flight"}
REPORTS = {"", ".png", ".svg", ".html", ".md", ".xml", ".csv"}  # output of reports on a campaign


class Variant(msgspec.Struct, kw_only=True):
    """The command of a variant. Possible secrets are removed from `argv` and `environment`, so they
    are for reading only."""

    name: str
    argv: list[str]
    revision: str | None = None
    environment: dict[str, str] = msgspec.field(default_factory=dict)


class Campaign(msgspec.Struct, kw_only=True, tag="campaign", tag_field="kind"):
    """The head. The first variant is the baseline; `margin` is a fraction, 0.01 for 1 %. `plan` is
    a hash of the command line."""

    schema: int = SCHEMA
    campaign_id: str
    plan: str
    version: str
    seed: int
    design: Literal["two-stage", "grow"]
    pairs: Annotated[int, msgspec.Meta(ge=1)]
    fresh: int
    margin: Annotated[float, msgspec.Meta(gt=0, lt=1)]
    control: bool
    variants: Annotated[list[Variant], msgspec.Meta(min_length=1)]


class Launch(msgspec.Struct, kw_only=True, tag="launch", tag_field="kind"):
    """One launch. Launches with the same `stage` and `pair` ran one after the other. `run` is the
    run's file, relative to the campaign's folder; None if the launch left no file."""

    stage: Literal["pilot", "first", "fresh"]
    pair: int
    place: int
    variant: str
    attempt: int
    status: Literal["finished", "died", "orphaned"]
    exit: int | None = None
    elapsed_s: float
    run: str | None = None
    reason: str | None = None


class Stage(msgspec.Struct, kw_only=True, tag="stage", tag_field="kind"):
    """A stage that starts now: its sizes in bytes (all if empty), the smallest effect that it
    should detect (a fraction, None if unknown), and the longest expected time."""

    stage: Literal["first", "fresh"]
    sizes: list[int] = msgspec.field(default_factory=list)
    visible_effect: float | None = None
    expected_s: float | None = None


class End(msgspec.Struct, kw_only=True, tag="end", tag_field="kind"):
    """The last line; a campaign without it was interrupted and can continue."""

    status: str


@dataclass
class Manifest:
    """A campaign in memory. `foreign` are the files in its folder that it did not write."""

    folder: Path
    campaign: Campaign
    launches: list[Launch] = field(default_factory=list)
    stages: list[Stage] = field(default_factory=list)
    end: End | None = None
    foreign: list[Path] = field(default_factory=list)

    def add(self, record: msgspec.Struct) -> None:
        """Adds the next line; an orphaned launch replaces its earlier line."""
        if isinstance(record, Launch):
            if record.status == "orphaned" and record.run is not None:
                self.launches = [launch for launch in self.launches if launch.run != record.run]
            self.launches.append(record)
        elif isinstance(record, Stage):
            self.stages.append(record)
        elif isinstance(record, End):
            self.end = record


KINDS: dict[str, type[msgspec.Struct]] = {
    "campaign": Campaign, "launch": Launch, "stage": Stage, "end": End}


def read_manifest(folder: Path | str) -> Manifest:
    """The campaign in `folder`.

    Drops an incomplete last line. Raises ResultError for a file that is no manifest, that is
    damaged before its last line, that has a newer schema, or that names a missing run file.
    """
    path = Path(folder) / MANIFEST
    records = read_lines(path, "manifest", KINDS, SCHEMA)
    manifest = Manifest(path.parent, of_kind(Campaign, records)[0])
    for record in records:
        if isinstance(record, Launch) and record.run is not None:
            problem = _problem_with(Path(record.run), record, manifest)
            if problem:
                raise ResultError(f"{path}: the run {record.run} {problem}")
        manifest.add(record)
    manifest.foreign = _foreign(manifest)
    return manifest


def _problem_with(run: Path, launch: Launch, manifest: Manifest) -> str | None:
    if run.is_absolute() or ".." in run.parts:
        return "is outside the campaign"
    if not (manifest.folder / run).is_file():
        return "is not there"
    is_taken = any(other.run == launch.run for other in manifest.launches)
    return "belongs to another launch" if launch.status == "finished" and is_taken else None


def _foreign(manifest: Manifest) -> list[Path]:
    own = {MANIFEST, *(launch.run for launch in manifest.launches)}
    tops = [top for top in manifest.folder.iterdir() if top.name != WORKTREES]
    files = [path for top in tops for path in (top, *top.rglob("*")) if path.is_file()]
    foreign = []
    for path in sorted(files):
        inside = path.relative_to(manifest.folder)
        is_beside_run = any(parent.suffix in BESIDE_A_RUN for parent in inside.parents)
        if inside.as_posix() not in own and inside.suffix not in REPORTS and not is_beside_run:
            foreign.append(path)
    return foreign


def run_files(folder: Path) -> Iterator[tuple[Path, str]]:
    """Each file of JSON lines below `folder`, with an empty string, and each link, which is not
    followed, and each folder that cannot be read, with these words. A manifest is such a file."""
    closed: list[OSError] = []
    for parent, folders, files in os.walk(folder, onerror=closed.append):
        folders[:] = sorted(name for name in folders if name != WORKTREES
                            and Path(name).suffix not in BESIDE_A_RUN)
        for name in sorted([*folders, *files]):
            path = Path(parent, name)
            if os.path.islink(path):
                yield path, "a link, which is not followed"
            elif name in files and name.endswith(".jsonl"):
                yield path, ""
    for error in closed:
        yield Path(error.filename), "a folder that cannot be read"
