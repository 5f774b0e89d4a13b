"""The sides of a comparison: `read_sides` reads them from runs, folders, globs and campaigns;
`find_costs` and `find_ratios` compare their launches within each state of the link."""

import glob
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import compress, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reports.store.case import CASE_KEY, Key, key_of, world_of
from reports.store.manifest import MANIFEST, Manifest, read_manifest
from reports.store.observations import entry_of, table
from reports.store.result import ResultError, places, read
from reports.store.schema import CaseHeader, Result
from reports.tables.sentences import describe, fact, shape_text
from reports.verdicts.verdict import Floats, Integers

if TYPE_CHECKING:
    import pandas as pd

# The facts that must be equal on all sides, by their names in --allow.
COMPARABLE: dict[str, Callable[[Result], Any]] = {
    "machine": lambda result: result.run.machine_id,
    "clock": lambda result: (
        result.run.clock_shared,
        fact(result, "cpu.governor"),
        fact(result, "cpu.turbo"),
    ),
    "world": lambda result: world_of(result.run),
    "type": lambda result: sorted({(case.datatype, case.redop) for case in result.run.cases}),
    "statistic": lambda result: (
        result.run.benchmark,
        result.run.world.get("dispatch", "native"),
        sorted({case.across_ranks for case in result.cases}),
    ),
    "version": lambda result: result.run.version,
}


@dataclass
class Launch:
    """One launch; those of a campaign with equal `pair` ran in turn. `costs` are a case's median
    costs in us by state of the link, if it has enough blocks there."""

    result: Result
    pair: int = 0
    costs: dict[Key, dict[int, float]] = field(default_factory=dict)


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
        cases = (case for launch in self.launches for case in launch.result.run.cases)
        return list({key_of(case): case for case in cases}.values())


def read_sides(arguments: Sequence[str]) -> list[Side]:
    """The sides that the arguments name as in `side_of`, baseline first; a single campaign stands
    for all its variants. Raises ResultError for an argument without runs and below two sides."""
    if len(arguments) == 1 and (Path(arguments[0]) / MANIFEST).is_file():
        manifest = read_manifest(arguments[0])
        names = [variant.name for variant in manifest.campaign.variants]
        variants = [_variant_side(manifest, name) for name in names]
        sides = [side for side in variants if side.launches]
        if sides:
            sides[-1].notes += [
                f"{side.name} has no launch yet: left out" for side in variants if not side.launches
            ]
    else:
        sides = [side_of(argument) for argument in arguments]
    if len(sides) < 2:
        raise ResultError(f"{arguments[0]}: a comparison takes two sides, or a campaign")
    name, count = Counter(side.name for side in sides).most_common(1)[0]
    if count > 1:
        raise ResultError(f"{name} is named twice")
    return sides


def notes_of(sides: Sequence[Side]) -> list[str]:
    """The notes of these sides, each once."""
    return list(dict.fromkeys(note for side in sides for note in side.notes))


def label(side: Side) -> str:
    """A side's name; the last two parts of a path."""
    return "/".join(side.name.split("/")[-2:])


def side_of(argument: str) -> Side:
    """The side that one argument names: a run, a folder of runs, a quoted glob, FOLDER/VARIANT, or
    a campaign's folder for its baseline. Raises ResultError if it names no run."""
    path = Path(argument)
    if (path / MANIFEST).is_file():
        manifest = read_manifest(path)
        return _variant_side(manifest, manifest.campaign.variants[0].name, argument)
    if (path.parent / MANIFEST).is_file() and path.is_dir():
        return _variant_side(read_manifest(path.parent), path.name)
    side = Side(argument, [])
    if path.is_dir():
        files = sorted(path.glob("*.jsonl"))
        empty = [file for file in files if file.is_file() and not file.stat().st_size]
        side.notes += [f"{file} is empty: left out" for file in empty]
        files = [file for file in files if file not in empty]
    else:
        matches = [name for name in glob.glob(str(path)) if name.endswith(".jsonl")]
        files = [path] if path.is_file() else sorted(map(Path, matches))
    for file in files:
        _add_launch(side, file)
    if not side.launches:
        raise ResultError(f"no run file at {argument}")
    order = places(launch.result.run for launch in side.launches)
    side.launches.sort(key=lambda launch: order[launch.result.run.run_id])
    return side


def _variant_side(manifest: Manifest, variant: str, name: str | None = None) -> Side:
    names = [each.name for each in manifest.campaign.variants]
    if variant not in names:
        raise ResultError(f"{manifest.folder} has no variant {variant}, only {', '.join(names)}")
    side = Side(name or variant, [], manifest, variant)
    side.notes += [f"{path} is not part of this campaign: left out" for path in manifest.foreign]
    if any(launch.stage == "fresh" for launch in manifest.launches):
        side.notes.append(
            f"{manifest.folder} is a campaign of an older version: its pairs of all sizes decide, "
            "its fresh launches do not count"
        )
    for launch in manifest.launches:
        is_judged = launch.status == "finished" and launch.stage == "first"
        if launch.variant == variant and is_judged:
            _add_launch(side, manifest.folder / str(launch.run), launch.pair)
    return side


def _add_launch(side: Side, path: Path, pair: int = 0) -> None:
    """Adds the run, unless it is a copy: copies of a run would agree with each other."""
    result = read(path)
    if not result.complete:
        reason = (result.end and result.end.reason) or "it was cut off"
        side.notes.append(f"{path} is incomplete: {reason}; its complete lines count")
    run_id = result.run.run_id
    if any(launch.result.run.run_id == run_id for launch in side.launches):
        side.notes.append(f"{path} is a copy of the run {run_id}: left out")
    else:
        side.launches.append(Launch(result, pair))


def faults_of(side: Side) -> list[tuple[str, str]]:
    """(name, sentence) of each wrong case, incomplete run or campaign, and unfinished pair."""
    faults, name = [], side.name
    results = [launch.result for launch in side.launches]
    if side.campaign:
        if not side.campaign.end:
            faults.append((name, f"the campaign of {name} is incomplete: run its command again"))
        launches = [launch for launch in side.campaign.launches if launch.variant == side.variant]
        died, finished = (
            {(launch.stage, launch.pair) for launch in launches if launch.status == status}
            for status in ("died", "finished")
        )
        if lost := len(died - finished):
            faults.append((name, f"no launch of {name} finished in {lost} of its pairs"))
        results += [
            read(side.campaign.folder / str(launch.run))
            for launch in launches
            if launch.status == "finished" and launch.stage != "first"
        ]
    for result in results:
        if not result.complete:
            faults.append((result.run.run_id, f"{result.path} is incomplete"))
        faults += [
            (describe(case), f"{describe(case)} is wrong in {result.path}: {case.reason}")
            for case in result.cases
            if case.status == "wrong"
        ]
    return faults


def find_costs(launches: Sequence[Launch], without: Sequence[str]) -> list[float]:
    """Sets `costs` of every launch; returns the round trip of each state of the link in ns, fastest
    first, of none without probes. The launches share the states."""
    rows, keys, rtt_ns = table([entry_of(launch.result) for launch in launches], without)
    for launch in launches:
        ok_cases = (case for case in launch.result.cases if case.status == "ok")
        launch.costs = {key_of(case, without): {} for case in ok_cases}
    figures = (rows[name].tolist() for name in ("run", "key", "state", "cost_us"))
    for run, key, state, cost_us in zip(*figures, strict=True):
        launches[run].costs[keys[key]][state] = cost_us
    return rtt_ns


def log_costs(launches: Sequence[Launch]) -> "pd.DataFrame":
    """A row with the log of the cost for each launch (its index), case and state of the link."""
    import pandas as pd  # takes 0.3 s, which a history does not need

    find_costs(launches, ())
    return pd.DataFrame(
        [
            (number, str(key), key[CASE_KEY.index("size_bytes")], state, np.log(cost_us))
            for number, launch in enumerate(launches)
            for key, costs_us in launch.costs.items()
            for state, cost_us in costs_us.items()
        ],
        columns=["launch", "case", "size", "state", "log"],
    )


def find_ratios(
    pairs: Sequence[tuple[Launch, Launch]], keys: Sequence[Key], without: Sequence[str]
) -> tuple[Floats, "pd.DataFrame"]:
    """The log ratio of each case and pair, (keys, pairs), NaN without a common state of the link
    and for an unknown key; and `states`, `baseline_us` and `variant_us` of the cells."""
    import pandas as pd

    rtt_ns = find_costs([launch for pair in pairs for launch in pair], without)
    # By cell, side (baseline first), pair and state of the link.
    costs_us = np.full((len(keys), 2, len(pairs), max(len(rtt_ns), 1)), np.nan)
    for (row, key), (column, pair), side in product(enumerate(keys), enumerate(pairs), (0, 1)):
        for state, cost_us in pair[side].costs.get(key, {}).items():
            costs_us[row, side, column, state] = cost_us
    log_ratios, states = within_one_state(np.log(costs_us[:, 1] / costs_us[:, 0]))
    times = []
    for of_cell, of_pairs in zip(costs_us, states, strict=True):
        counts = Counter(of_pairs[of_pairs >= 0].tolist()).most_common()
        trips = [(rtt_ns[state], count) for state, count in counts] if rtt_ns else []
        most = counts[0][0] if counts else 0
        times.append((trips, *pd.DataFrame(of_cell[:, of_pairs == most, most]).median(axis=1)))
    return log_ratios, pd.DataFrame(times, columns=["states", "baseline_us", "variant_us"])


def within_one_state(log_ratios: Floats) -> tuple[Floats, Integers]:
    """The log ratio of each pair within one state that both launches have, and that state; NaN and
    -1 without one. `log_ratios` are (..., pairs, states). Takes the state that most pairs share,
    of these the fastest, so that without a difference ratios stay symmetric."""
    has_state = np.isfinite(log_ratios)
    n_states = log_ratios.shape[-1]
    rank = np.sum(has_state, axis=-2, keepdims=True) - np.arange(n_states) / n_states
    states = np.argmax(np.where(has_state, rank, -1.0), axis=-1)
    ratios = np.take_along_axis(log_ratios, states[..., None], axis=-1)[..., 0]
    return ratios, np.where(np.isfinite(ratios), states, -1)


def pair_by_node(
    baseline: Sequence[Launch], variant: Sequence[Launch]
) -> list[tuple[Launch, Launch]]:
    """The newest launches of two sides in pairs. Sides with several nodes are paired on each node
    that both have, because nodes with equal hardware differ too."""
    by_node: list[dict[str | None, list[Launch]]] = [defaultdict(list), defaultdict(list)]
    for of_side, launches in zip(by_node, (baseline, variant), strict=True):
        for launch in launches:
            of_side[launch.result.run.node].append(launch)
    common = [node for node in by_node[0] if node in by_node[1]]
    if not common or min(map(len, by_node)) < 2:
        common, by_node = [None], [{None: [*baseline]}, {None: [*variant]}]
    pairs = list[tuple[Launch, Launch]]()
    for node in common:
        ours, theirs = (of_side[node] for of_side in by_node)
        n = min(len(ours), len(theirs))
        pairs += zip(ours[len(ours) - n :], theirs[len(theirs) - n :], strict=True)
    return pairs


def case_names(cases: Sequence[CaseHeader]) -> list[str]:
    """Each case's algorithm, and the fields in which the algorithm's cases differ, without size."""
    fields = [name for name in CASE_KEY if name not in ("size_bytes", "algorithm", "library")]
    forms: dict[str, Any] = {
        "shape": shape_text,
        "in_place": lambda value: ("out of place", "in place")[value],
    }
    texts = [[forms.get(name, str)(getattr(case, name)) for name in fields] for case in cases]
    by_algorithm: dict[str, list[list[str]]] = defaultdict(list)
    for case, text in zip(cases, texts, strict=True):
        by_algorithm[case.algorithm].append(text)
    differs = {
        algorithm: [len({*column}) > 1 for column in zip(*rows, strict=True)]
        for algorithm, rows in by_algorithm.items()
    }
    return [
        " ".join(filter(None, [case.algorithm, *compress(text, differs[case.algorithm])]))
        for case, text in zip(cases, texts, strict=True)
    ]
