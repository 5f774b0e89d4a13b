"""The manifest of a campaign: which launches it planned, which it made, and how each ended; records and reading.

`campaign.jsonl` lies in the campaign's folder beside a folder of ordinary run files for each variant. It opens with the
`campaign` line, grows by a `launch` line after each launch and a `stage` line before each stage that judges, and
closes with `end`. Lines are only ever added: a launch that no longer counts has a second line, `orphaned`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from reports.store.result import ResultError, read_lines
from reports.store.schema import Record

MANIFEST = "campaign.jsonl"
SCHEMA = 1
CONTROL = "control"
WORKTREES = "worktrees"
BESIDE_A_RUN = {".samples", ".flight"}
REPORTS = {"", ".png", ".svg", ".html", ".md", ".xml", ".csv"}  # what reads a campaign may leave these in its folder


class Variant(Record, kw_only=True):
    """What stands behind a name. `argv` and `environment` are without what could be a secret: nothing runs them."""

    name: str
    argv: list[str]
    revision: str | None = None
    environment: dict[str, str] = msgspec.field(default_factory=dict)


class Campaign(Record, kw_only=True, tag="campaign", tag_field="kind"):
    """The head. The first variant is the baseline; `margin` is a fraction, 0.01 for 1 %. `plan` is a hash of the
    command that was given."""

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


class Launch(Record, kw_only=True, tag="launch", tag_field="kind"):
    """One launch. Two with the same `stage` and `pair` stood next to each other in time; `run` is the run's file,
    relative to the campaign's folder, None where it left none."""

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


class Stage(Record, kw_only=True, tag="stage", tag_field="kind"):
    """A stage that is about to start: its sizes in bytes (none named: all), the smallest effect that it is expected to
    see (a fraction, None where unknown), and how long it is expected to take at most."""

    stage: Literal["first", "fresh"]
    sizes: list[int] = msgspec.field(default_factory=list)
    visible_effect: float | None = None
    expected_s: float | None = None


class End(Record, kw_only=True, tag="end", tag_field="kind"):
    """The last line. Without one, the campaign was interrupted and can be gone on with."""

    status: str


@dataclass
class Manifest:
    """A campaign as it is read back. `foreign` are the files in its folder that are none of its own."""

    folder: Path
    campaign: Campaign
    launches: list[Launch] = field(default_factory=list)
    stages: list[Stage] = field(default_factory=list)
    end: End | None = None
    foreign: list[Path] = field(default_factory=list)

    def add(self, record: Record) -> None:
        """Takes the next line in: a launch that is orphaned takes the place of its earlier line."""
        if isinstance(record, Launch):
            if record.status == "orphaned" and record.run is not None:
                self.launches = [launch for launch in self.launches if launch.run != record.run]
            self.launches.append(record)
        elif isinstance(record, Stage):
            self.stages.append(record)
        elif isinstance(record, End):
            self.end = record


KINDS: dict[str, type[Record]] = {"campaign": Campaign, "launch": Launch, "stage": Stage, "end": End}


def read_manifest(folder: Path | str) -> Manifest:
    """The campaign that is kept in `folder`.

    A last line that was cut off is dropped. Raises ResultError, with the file and the line, for what is not a manifest,
    is damaged further up, was written by a newer schema, or names a run file that is not there.
    """
    folder = Path(folder)
    manifest: Manifest | None = None
    for where, record in read_lines(folder / MANIFEST, "manifest", KINDS, SCHEMA):
        if isinstance(record, Campaign):
            manifest = Manifest(folder, record)
            continue
        assert manifest
        if isinstance(record, Launch) and record.run is not None:
            if Path(record.run).is_absolute() or ".." in Path(record.run).parts:
                raise ResultError(f"{where}: the run file {record.run} lies outside the campaign")
            if not (folder / record.run).is_file():
                raise ResultError(f"{where}: the run file {record.run} is not there")
            if record.status == "finished" and record.run in {made.run for made in manifest.launches}:
                raise ResultError(f"{where}: the run {record.run} is that of another launch")
        manifest.add(record)
    assert manifest
    manifest.foreign = _foreign(manifest)
    return manifest


def _foreign(manifest: Manifest) -> list[Path]:
    own = {MANIFEST, *(launch.run for launch in manifest.launches)}
    tops = [top for top in manifest.folder.iterdir() if top.name != WORKTREES]
    found = []
    for path in sorted(path for top in tops for path in [top, *top.rglob("*")] if path.is_file()):
        inside = path.relative_to(manifest.folder)
        if not (inside.as_posix() in own or inside.suffix in REPORTS
                or any(parent.suffix in BESIDE_A_RUN for parent in inside.parents)):
            found.append(path)
    return found
