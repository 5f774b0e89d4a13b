"""The sides of a comparison: `read_sides` reads them from runs, folders, globs and campaigns, and
`find_costs` finds the cost of each case in each state of the link."""

import glob
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from reports.store.case import CASE_KEY, find_states
from reports.store.manifest import CONTROL, MANIFEST, Manifest, read_manifest
from reports.store.result import ResultError, places, read, read_samples
from reports.store.schema import Case, CaseHeader, Result
from reports.tables.rows import MIN_STATE_BLOCKS

Key = tuple[Any, ...]


@dataclass
class Launch:
    """One launch of a side. Launches with the same `stage` and `pair` ran next to each other.
    `costs` has the median cost of a case in microseconds by the state of the link, if it has enough
    blocks there; `slow_share` is the share of blocks outside of the link's fastest state."""

    result: Result
    stage: str
    pair: int
    costs: dict[Key, dict[int, float]] = field(default_factory=dict)
    slow_share: float = 0.0


@dataclass
class Side:
    """Launches of the same thing; `variant` is its name in the `campaign` that paired them; `notes`
    are sentences on missing, incomplete and foreign files."""

    name: str
    launches: list[Launch]
    campaign: Manifest | None = None
    variant: str | None = None
    notes: list[str] = field(default_factory=list)

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


def read_sides(arguments: Sequence[str]) -> list[Side]:
    """The sides that the arguments name, baseline first.

    A single campaign stands for all its variants. Otherwise each argument is a side: a run, a
    folder of runs, a quoted glob, a campaign's folder for its baseline, or FOLDER/VARIANT. Raises
    ResultError for an argument without runs and for fewer than two sides.
    """
    if len(arguments) == 1 and (Path(arguments[0]) / MANIFEST).is_file():
        manifest = read_manifest(arguments[0])
        variants = [_variant_side(manifest, name) for name in _variants(manifest)]
        sides = [side for side in variants if side.launches]
        lost = [side.name for side in variants if not side.launches]
    else:
        sides, lost = [side_of(argument) for argument in arguments], []
    if len(sides) < 2:
        raise ResultError(f"{arguments[0]}: a comparison takes two sides, or a campaign")
    names = [side.name for side in sides]
    if len({*names}) < len(names):
        raise ResultError(f"{max(names, key=names.count)} is named twice")
    sides[-1].notes += [f"{name} has no launch yet: left out" for name in lost]
    return sides


def notes_of(sides: Sequence[Side]) -> list[str]:
    """The notes of these sides, each once."""
    return list(dict.fromkeys(note for side in sides for note in side.notes))


def side_of(argument: str) -> Side:
    """The side that one argument names. Raises ResultError if it names no run."""
    path = Path(argument)
    if (path / MANIFEST).is_file():
        manifest = read_manifest(path)
        return _variant_side(manifest, _variants(manifest)[0], argument)
    if (path.parent / MANIFEST).is_file() and path.is_dir():
        return _variant_side(read_manifest(path.parent), path.name)
    side = Side(argument, [])
    for file in _run_files(path, side.notes):
        _add_launch(side, file, "first", 0)
    if not side.launches:
        raise ResultError(f"no run file at {argument}")
    order = places(launch.result.run for launch in side.launches)
    for launch in side.launches:
        launch.pair = order[launch.result.run.run_id]
    side.launches.sort(key=lambda launch: launch.pair)
    return side


def _run_files(path: Path, notes: list[str]) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        return sorted(Path(name) for name in glob.glob(str(path)) if name.endswith(".jsonl"))
    runs = sorted(path.glob("*.jsonl"))
    files = [file for file in runs if not file.is_file() or file.stat().st_size]
    notes += [f"{file} is empty: left out" for file in runs if file not in files]
    notes += [f"{file} is not a run file: left out" for file in sorted(path.iterdir())
              if file.is_file() and file.suffix in (".json", ".log", ".txt", ".csv")]
    return files


def _variants(manifest: Manifest) -> list[str]:
    names = [variant.name for variant in manifest.campaign.variants]
    return [*names, CONTROL] if manifest.campaign.control and CONTROL not in names else names


def _variant_side(manifest: Manifest, variant: str, name: str | None = None) -> Side:
    variants = _variants(manifest)
    if variant not in variants:
        names = ", ".join(variants)
        raise ResultError(f"{manifest.folder} has no variant {variant}, only {names}")
    side = Side(name or variant, [], manifest, variant)
    side.notes += [f"{path} is not part of this campaign: left out" for path in manifest.foreign]
    for launch in manifest.launches:
        is_judged = launch.status == "finished" and launch.stage != "pilot"
        if launch.variant == variant and is_judged:
            _add_launch(side, manifest.folder / str(launch.run), launch.stage, launch.pair)
    return side


def _add_launch(side: Side, path: Path, stage: str, pair: int) -> None:
    """Adds the run, unless it is a copy: copies of a run would agree with each other."""
    result = read(path)
    if not result.complete:
        reason = result.end.reason if result.end and result.end.reason else "it was cut off"
        side.notes.append(f"{path} is incomplete: {reason}; its complete lines count")
    try:
        for case in result.cases:
            read_samples(result, case)
    except ResultError as error:
        side.notes.append(f"{error}; verdicts do not use single iterations")
    run_id = result.run.run_id
    if any(launch.result.run.run_id == run_id for launch in side.launches):
        side.notes.append(f"{path} is a copy of the run {run_id}: left out")
    else:
        side.launches.append(Launch(result, stage, pair))


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
        costs_us: dict[int, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
        n_slow = 0
        for block, state in zip(launch.result.blocks, of_block, strict=False):
            n_slow += state != 0
            if state is not None:
                costs_us[block.case][state].append(block.cost_us)
        launch.slow_share = n_slow / max(len(launch.result.blocks), 1)
        launch.costs = {
            key_of(case, without): {
                state: float(np.median(times)) for state, times in costs_us[case.case].items()
                if len(times) >= MIN_STATE_BLOCKS and np.median(times) > 0}
            for case in launch.result.cases if case.status == "ok"}
    return states.rtt_ns
