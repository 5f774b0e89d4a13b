"""What is compared: runs, folders, globs and campaigns become sides, each of launches that stand for one thing; and the
costs of their cases in the states of the link that they share.
"""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from reports.store.case import CASE_KEY, find_states
from reports.store.manifest import CONTROL, MANIFEST, Manifest, read_manifest
from reports.store.order import places
from reports.store.result import ResultError, read
from reports.store.samples import check_samples
from reports.store.schema import Case, CaseHeader, Result
from reports.tables.rows import MIN_STATE_BLOCKS

Key = tuple[Any, ...]
# The median cost in microseconds of a launch's case in each state of the link that it has enough blocks in.
Costs = dict[Key, dict[int, float]]


@dataclass
class Launch:
    """One launch of a side. Two launches with the same `stage` and `pair` stood next to each other in time.
    `slow_share` is the part of its blocks in other than the fastest state of the link."""

    result: Result
    stage: str
    pair: int
    costs: Costs = field(default_factory=dict)
    slow_share: float = 0.0


@dataclass
class Side:
    """Launches of one thing. Where a campaign made and paired them, `variant` is its name there."""

    name: str
    launches: list[Launch]
    campaign: Manifest | None = None
    variant: str | None = None

    @property
    def cases(self) -> list[CaseHeader]:
        """The cases that any of its launches planned, each once."""
        planned = {key_of(case): case for launch in self.launches for case in launch.result.run.cases}
        return list(planned.values())


def key_of(case: Case | CaseHeader, without: Sequence[str] = ()) -> Key:
    """What makes a case a case, apart from the fields in `without`."""
    values = (getattr(case, name) for name in CASE_KEY if name not in without)
    return tuple(msgspec.json.encode(value).decode() if isinstance(value, dict | list) else value for value in values)


def sides(arguments: Sequence[str]) -> tuple[list[Side], list[str]]:
    """The sides that the arguments name, the baseline first, and sentences on what was left out or is not whole.

    One campaign alone stands for all its variants; else each argument is a side: a run, a folder of runs, a quoted
    glob, a campaign's folder for its baseline or FOLDER/VARIANT for one of its variants. Raises ResultError for what
    names no run, and for fewer than two sides.
    """
    notes: list[str] = []
    if len(arguments) == 1 and (Path(arguments[0]) / MANIFEST).is_file():
        manifest = read_manifest(arguments[0])
        names = [variant.name for variant in manifest.campaign.variants]
        found = [_of_campaign(manifest, name, notes) for name in names]
        if manifest.campaign.control and CONTROL not in names:
            found.append(_of_campaign(manifest, CONTROL, notes))
        notes += [f"{side.name} has no launch yet: left out" for side in found if not side.launches]
        found = [side for side in found if side.launches]
    else:
        found = [side_of(argument, notes) for argument in arguments]
    if len(found) < 2:
        raise ResultError(f"{arguments[0]}: a comparison takes two sides, or a campaign")
    if twice := {side.name for side in found if [other.name for other in found].count(side.name) > 1}:
        raise ResultError(f"{min(twice)} is named twice")
    return found, list(dict.fromkeys(notes))


def side_of(argument: str, notes: list[str]) -> Side:
    """The side that one argument names; adds to `notes`. Raises ResultError where it names no run."""
    path = Path(argument)
    if (path / MANIFEST).is_file():
        manifest = read_manifest(path)
        return _of_campaign(manifest, manifest.campaign.variants[0].name, notes, argument)
    if (path.parent / MANIFEST).is_file() and path.is_dir():
        return _of_campaign(read_manifest(path.parent), path.name, notes)
    if path.is_dir():
        found = sorted(path.glob("*.jsonl"))
        files = [file for file in found if not file.is_file() or file.stat().st_size]
        notes += [f"{file} is empty: left out" for file in found if file not in files]
        notes += [f"{other} is no run file: left out" for other in sorted(path.iterdir())
                  if other.is_file() and other.suffix in (".json", ".log", ".txt", ".csv")]
    elif path.is_file():
        files = [path]
    else:
        files = sorted(Path(name) for name in glob.glob(argument) if name.endswith(".jsonl"))
    if not files:
        raise ResultError(f"no run file at {argument}")
    results: dict[str, Result] = {}
    for file in files:
        result = _read(file, notes)
        if results.setdefault(result.run.run_id, result) is not result:
            notes.append(f"{file} is the run {result.run.run_id} once more: left out")
    order = places(result.run for result in results.values())
    return Side(argument, [Launch(results[run_id], "first", place) for run_id, place in order.items()])


def _of_campaign(manifest: Manifest, variant: str, notes: list[str], name: str | None = None) -> Side:
    known = [one.name for one in manifest.campaign.variants] + [CONTROL] * manifest.campaign.control
    if variant not in known:
        raise ResultError(f"{manifest.folder} has no variant {variant}: it has {', '.join(known)}")
    notes += [f"{path} is not of this campaign: left out" for path in manifest.foreign]
    finished = [launch for launch in manifest.launches
                if launch.variant == variant and launch.status == "finished" and launch.stage != "pilot"]
    seen: dict[str, Launch] = {}
    for made in finished:
        path = manifest.folder / str(made.run)
        launch = Launch(_read(path, notes), made.stage, made.pair)
        if seen.setdefault(launch.result.run.run_id, launch) is not launch:
            notes.append(f"{path} is the run {launch.result.run.run_id} once more: left out")
    return Side(name or variant, list(seen.values()), manifest, variant)


def _read(path: Path, notes: list[str]) -> Result:
    """The run; notes what is missing of it."""
    result = read(path)
    if not result.complete:
        reason = result.end.reason if result.end and result.end.reason else "it was cut off"
        notes.append(f"{path} is incomplete: {reason}; what is whole of it counts")
    try:
        for case in result.cases:
            check_samples(result, case)
    except ResultError as error:
        notes.append(f"{error}; verdicts do not use single iterations")
    return result


def find_costs(launches: Sequence[Launch], without: Sequence[str]) -> list[float]:
    """Fills in the costs of every launch and returns the round trip of each state of the link, in ns, fastest first.

    The states are those of all these launches together, so that a state means the same in each. A case counts in a
    state with five blocks there; where the link has no probe, or no two probes agree, all blocks are one state.
    """
    blocks = [block for launch in launches for block in launch.result.blocks]
    states = find_states(blocks, least_share=0.0)
    labels = iter(states.of_block if states.longest is not None else [0] * len(blocks))
    for launch in launches:
        by_case: dict[int, dict[int, list[float]]] = {}
        slow = 0
        for block in launch.result.blocks:
            state = next(labels)
            slow += state != 0
            if state is not None:
                cost_us = block.time_us if block.total_us is None else block.total_us
                by_case.setdefault(block.case, {}).setdefault(state, []).append(cost_us)
        launch.slow_share = slow / max(len(launch.result.blocks), 1)
        launch.costs = {}
        for case in launch.result.cases:
            medians = {state: float(np.median(costs_us)) for state, costs_us in by_case.get(case.case, {}).items()
                       if len(costs_us) >= MIN_STATE_BLOCKS and np.median(costs_us) > 0}
            if case.status == "ok":
                launch.costs[key_of(case, without)] = medians
    return states.rtt_ns
