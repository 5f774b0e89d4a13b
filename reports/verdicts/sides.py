"""The sides of a comparison: `read_sides` reads them from runs, folders, globs and campaigns, and
`find_costs` finds the cost of each case in each state of the link."""

import glob
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from reports.store.case import CASE_KEY, find_states
from reports.store.manifest import CONTROL, MANIFEST, Manifest, read_manifest
from reports.store.order import places
from reports.store.result import ResultError, read
from reports.store.samples import read_samples
from reports.store.schema import Case, CaseHeader, Result
from reports.tables.rows import MIN_STATE_BLOCKS

Key = tuple[Any, ...]
# The median cost of a case in microseconds by the state of the link, if it has enough blocks there.
Costs = dict[Key, dict[int, float]]


@dataclass
class Launch:
    """One launch of a side. Launches with the same `stage` and `pair` ran next to each other.
    `slow_share` is the share of blocks outside of the link's fastest state."""

    result: Result
    stage: str
    pair: int
    costs: Costs = field(default_factory=dict)
    slow_share: float = 0.0


@dataclass
class Side:
    """Launches of the same thing; `variant` is its name in the `campaign` that paired them."""

    name: str
    launches: list[Launch]
    campaign: Manifest | None = None
    variant: str | None = None

    @property
    def cases(self) -> list[CaseHeader]:
        """The cases that any launch planned, each once."""
        runs = [launch.result.run for launch in self.launches]
        return list({key_of(case): case for run in runs for case in run.cases}.values())


def key_of(case: Case | CaseHeader, without: Sequence[str] = ()) -> Key:
    """The values that identify a case, except for the fields in `without`."""
    values = (getattr(case, name) for name in CASE_KEY if name not in without)
    return tuple(msgspec.json.encode(value).decode() if isinstance(value, dict | list) else value
                 for value in values)


def read_sides(arguments: Sequence[str]) -> tuple[list[Side], list[str]]:
    """The sides that the arguments name, baseline first, and notes on missing or incomplete files.

    A single campaign stands for all its variants. Otherwise each argument is a side: a run, a
    folder of runs, a quoted glob, a campaign's folder for its baseline, or FOLDER/VARIANT. Raises
    ResultError for an argument without runs and for fewer than two sides.
    """
    notes: list[str] = []
    if len(arguments) == 1 and (Path(arguments[0]) / MANIFEST).is_file():
        manifest = read_manifest(arguments[0])
        of_campaign = [_variant_side(manifest, name, notes) for name in _variants(manifest)]
        result = [side for side in of_campaign if side.launches]
        notes += [f"{side.name} has no launch yet: left out" for side in of_campaign
                  if not side.launches]
    else:
        result = [side_of(argument, notes) for argument in arguments]
    if len(result) < 2:
        raise ResultError(f"{arguments[0]}: a comparison takes two sides, or a campaign")
    names = [side.name for side in result]
    if len({*names}) < len(names):
        raise ResultError(f"{max(names, key=names.count)} is named twice")
    return result, list(dict.fromkeys(notes))


def side_of(argument: str, notes: list[str]) -> Side:
    """The side that one argument names; adds to `notes`. Raises ResultError if it names no run."""
    path = Path(argument)
    if (path / MANIFEST).is_file():
        manifest = read_manifest(path)
        return _variant_side(manifest, _variants(manifest)[0], notes, argument)
    if (path.parent / MANIFEST).is_file() and path.is_dir():
        return _variant_side(read_manifest(path.parent), path.name, notes)
    files = _run_files(argument, notes)
    if not files:
        raise ResultError(f"no run file at {argument}")
    launches = _without_copies((Launch(_read(file, notes), "first", 0) for file in files), notes)
    order = places(launch.result.run for launch in launches)
    for launch in launches:
        launch.pair = order[launch.result.run.run_id]
    return Side(argument, sorted(launches, key=lambda launch: launch.pair))


def _run_files(argument: str, notes: list[str]) -> list[Path]:
    path = Path(argument)
    if not path.is_dir():
        names = [name for name in glob.glob(argument) if name.endswith(".jsonl")]
        return [path] if path.is_file() else sorted(map(Path, names))
    runs = sorted(path.glob("*.jsonl"))
    files = [file for file in runs if not file.is_file() or file.stat().st_size]
    notes += [f"{file} is empty: left out" for file in runs if file not in files]
    notes += [f"{file} is not a run file: left out" for file in sorted(path.iterdir())
              if file.is_file() and file.suffix in (".json", ".log", ".txt", ".csv")]
    return files


def _variants(manifest: Manifest) -> list[str]:
    names = [variant.name for variant in manifest.campaign.variants]
    return [*names, CONTROL] if manifest.campaign.control and CONTROL not in names else names


def _variant_side(manifest: Manifest, variant: str, notes: list[str],
                  name: str | None = None) -> Side:
    variants = _variants(manifest)
    if variant not in variants:
        names = ", ".join(variants)
        raise ResultError(f"{manifest.folder} has no variant {variant}, only {names}")
    notes += [f"{path} is not part of this campaign: left out" for path in manifest.foreign]
    launches = (Launch(_read(manifest.folder / str(launch.run), notes), launch.stage, launch.pair)
                for launch in manifest.launches if launch.variant == variant
                and launch.status == "finished" and launch.stage != "pilot")
    return Side(name or variant, _without_copies(launches, notes), manifest, variant)


def _without_copies(launches: Iterable[Launch], notes: list[str]) -> list[Launch]:
    """The launches with different run_ids: copies of a run would agree with each other."""
    unique: dict[str, Launch] = {}
    for launch in launches:
        run_id = launch.result.run.run_id
        if unique.setdefault(run_id, launch) is not launch:
            notes.append(f"{launch.result.path} is a copy of the run {run_id}: left out")
    return list(unique.values())


def _read(path: Path, notes: list[str]) -> Result:
    result = read(path)
    if not result.complete:
        reason = result.end.reason if result.end and result.end.reason else "it was cut off"
        notes.append(f"{path} is incomplete: {reason}; its complete lines count")
    try:
        for case in result.cases:
            read_samples(result, case)
    except ResultError as error:
        notes.append(f"{error}; verdicts do not use single iterations")
    return result


def find_costs(launches: Sequence[Launch], without: Sequence[str]) -> list[float]:
    """Sets `costs` and `slow_share` of every launch; returns the round trip of each state of the
    link in ns, fastest first.

    The states come from all blocks of these launches, so that a state means the same in each. A
    case needs five blocks in a state. Without a probe, or if no two probes agree, all blocks are
    in one state.
    """
    blocks = [block for launch in launches for block in launch.result.blocks]
    states = find_states(blocks, least_share=0.0)
    of_block = iter(states.of_block if states.longest is not None else [0] * len(blocks))
    for launch in launches:
        costs_us: dict[tuple[int, int], list[float]] = defaultdict(list)
        n_slow = 0
        for block in launch.result.blocks:
            state = next(of_block)
            n_slow += state != 0
            if state is not None:
                costs_us[block.case, state].append(block.cost_us)
        launch.slow_share = n_slow / max(len(launch.result.blocks), 1)
        medians: dict[int, dict[int, float]] = defaultdict(dict)
        for (case, state), values_us in costs_us.items():
            median_us = float(np.median(values_us))
            if len(values_us) >= MIN_STATE_BLOCKS and median_us > 0:
                medians[case][state] = median_us
        launch.costs = {key_of(case, without): medians[case.case]
                        for case in launch.result.cases if case.status == "ok"}
    return states.rtt_ns
