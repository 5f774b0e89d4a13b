"""The sides of a comparison, read from runs, folders, globs and campaigns, and the pairs of their
launches."""

import argparse
import glob
import os
import shlex
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pandas as pd

from reports.tables.sentences import fact, shape_of, sized, some, type_text
from wiretax.common.grouped import grouped
from wiretax.common.owners import shown
from wiretax.record import packed
from wiretax.record.case import CASE_KEY, is_own_benchmark, key_of
from wiretax.record.manifest import (
    MANIFEST,
    Launch,
    Manifest,
    VariantRecord,
    read_manifest,
    runs_by_time,
)
from wiretax.record.observations import Entry, method_of, table, world_of
from wiretax.record.result import ResultError, by_time, read
from wiretax.record.schema import Case, CaseFields, Result
from wiretax.record.wrong import how_wrong

# The facts that must be equal on all sides, by their names in --allow.
COMPARABLE: dict[str, Callable[[Result], Any]] = {
    "machine": lambda result: result.run.machine_id,
    "clock": lambda result: (
        f"{'one' if result.run.clock_shared else 'one a rank'}, governor "
        f"{fact(result.run, 'cpu.governor')}, turbo {fact(result.run, 'cpu.turbo')}"
    ),
    "world": lambda result: world_of(result.run),
    "type": lambda result: " and ".join(sorted({*map(type_text, result.run.cases)})),
    "statistic": lambda result: (
        "slowest" if "slowest" in str(result.run.method.get("statistic", "slowest")) else "mean"
    ),
    "method": lambda result: method_of(result.run) or "default",
    "version": lambda result: result.run.version,
}
ACCEPTED = "accepted.jsonl"  # of a folder of `accept`, whose runs are in folders of machines
TELLING_BLOCKS = 5  # times of two decimals do not all agree by chance
UNNAMED = "size_bytes", "algorithm", "library"  # fields of a case that its name leaves to others


class Side(msgspec.Struct):
    """Launches of the same thing, a run each. `name` is that of the variant in the `campaign` that
    paired them, and `of_pair` has its launches by the number of the pair; `others` has the runs of
    its pilots and of launches that died, which are not judged, by their paths and what they were;
    `notes` are sentences on missing, incomplete and foreign runs. Its `label` is the name, or the
    last two parts of a path, unless `tell_apart` has given it a longer one."""

    name: str
    launches: list[Result]
    campaign: Manifest | None = None
    of_pair: dict[int, Result] = {}
    others: dict[str, Result] = {}
    notes: list[str] = []
    label: str = ""

    def __post_init__(self) -> None:
        self.label = self.label or "/".join(self.name.split("/")[-2:])

    @property
    def cases(self) -> list[Case]:
        """The cases that any launch measured, each once."""
        cases = [case for launch in self.launches for case in launch.cases]
        measured = [case for case in cases if case.status in ("ok", "wrong")]
        return list({key_of(case): case for case in measured}.values())

    @property
    def wrong_cases(self) -> list["WrongCase"]:
        """The wrong cases of all launches, judged or not."""
        runs = {str(launch.path): launch for launch in self.launches} | self.others
        return [
            WrongCase(name, case)
            for name, run in runs.items()
            for case in run.cases
            if case.status == "wrong"
        ]

    @property
    def died(self) -> list[Launch]:
        """The launches of the campaign that died, and were repeated."""
        return [launch for launch in self.attempts if launch.status == "died"]

    @property
    def attempts(self) -> list[Launch]:
        """All its launches of the campaign."""
        launches = self.campaign.launches if self.campaign else []
        return [launch for launch in launches if launch.variant == self.name]

    @property
    def command(self) -> VariantRecord:
        """The campaign's record of its command; an empty one outside of a campaign."""
        variants = self.campaign.campaign.variants if self.campaign else []
        none = VariantRecord(name=self.name, argv=[])
        return next((each for each in variants if each.name == self.name), none)

    @property
    def commit(self) -> str:
        """The commit that its campaign ran it from; "" for the code as it was there."""
        return self.command.revision or ""

    @property
    def source(self) -> str:
        """Its commit and its branch, such as `1a2b3c4d5e6f (main)`; "" where nobody named any."""
        return source_text(self.command)

    @property
    def typed(self) -> str:
        """Its variables and its command as a shell takes them; "" outside of a campaign."""
        variables = map("=".join, self.command.environment.items())
        return shlex.join([*variables, *self.command.argv])

    @property
    def place(self) -> str:
        """What to type for it."""
        return str(self.campaign.folder / self.name) if self.campaign else self.name


def source_text(record: VariantRecord) -> str:
    """The commit and the branch of a variant, as far as they are known."""
    commit = record.known_commit[:12]
    branch = f"({record.branch})" if commit and record.branch else record.branch
    return " ".join(filter(None, [commit, branch]))


def launched_text(record: VariantRecord) -> str:
    """`base: 1a2b3c4d5e6f (main): mpirun -n 2 ...`, without what may be secret."""
    variables = map("=".join, record.environment.items())
    command = shlex.join([*variables, *record.argv])
    return ": ".join(filter(None, [record.name, source_text(record), command]))


class WrongCase(NamedTuple):
    """A wrong case, and the run that has it: its path, and what it was if it is not judged."""

    run: str
    case: Case


class Pair(NamedTuple):
    """A launch of each side; of one campaign they ran one after the other."""

    baseline: Result
    variant: Result


def tell_apart(sides: Sequence[Side]) -> list[Side]:
    """The sides, labelled by their places below the folder of all if two have the same label. A
    side that is this folder keeps its own."""
    if len({side.label for side in sides}) == len(sides):
        return [*sides]

    folder = os.path.commonpath([os.path.abspath(side.place) for side in sides])
    told_apart = list[Side]()
    for side in sides:
        below = os.path.relpath(side.place, folder)
        label = side.label if below == "." else below
        told_apart.append(msgspec.structs.replace(side, label=label))
    return told_apart


def add_allow(parser: argparse.ArgumentParser) -> None:
    """Adds the option that permits a difference in a fact that must be equal."""
    parser.add_argument(
        "--allow",
        metavar="KEY",
        action="append",
        default=[],
        choices=COMPARABLE,
        help=f"compare although this differs: {', '.join(COMPARABLE)}; may be repeated",
    )


def read_sides(arguments: Sequence[str]) -> list[Side]:
    """The sides that the arguments name as in `side_of`, baseline first; a single campaign stands
    for all its variants with launches. Raises ResultError for an argument without runs and below
    two sides."""
    if len(arguments) == 1 and (Path(arguments[0]) / MANIFEST).is_file():
        manifest = read_manifest(arguments[0])
        variants = [_variant_side(manifest, each.name) for each in manifest.campaign.variants]
        sides, deaths = [side for side in variants if side.launches], deaths_of(variants)
    else:
        sides, deaths = [side_of(argument) for argument in arguments], []

    if len(sides) < 2:
        sentence = "a comparison takes two sides, or a campaign, with launches that finished"
        raise ResultError("; ".join([f"{arguments[0]}: {sentence}", *deaths]))

    return sides


def notes_of(sides: Sequence[Side]) -> list[str]:
    """The notes of these sides, each once."""
    partial = [
        f"{fault}; complete lines count" for side in sides for fault in incomplete_runs(side)
    ]
    return list(dict.fromkeys([*(note for side in sides for note in side.notes), *partial]))


def side_of(argument: str) -> Side:
    """The side that one argument names: a run, a folder of runs, a quoted glob or FOLDER/VARIANT of
    a campaign. Raises ResultError if it names no run."""
    path = Path(argument)
    if (path.parent / MANIFEST).is_file() and path.is_dir():
        return _variant_side(read_manifest(path.parent), path.name)

    side = Side(argument, [])
    for file in _files_named(argument):
        if file.is_symlink() and file != path:
            side.notes.append(f"{file} is a link, which is not followed: left out")
        else:
            _add_launch(side, file)

    if not side.launches:
        deeper = (file.parent for file in runs_by_time(path) if file.name != ACCEPTED)
        below = next(deeper, None)
        elsewhere = f"; the folder {below} has one" if below else ""
        raise ResultError(f"no run file at {argument}{elsewhere}")

    side.launches.sort(key=lambda launch: by_time(launch.run.run_id))
    return side


def _files_named(argument: str) -> list[Path]:
    """The run of this name, or those in this folder, also of an archive, or those that this glob
    finds. Raises ResultError for a damaged archive."""
    path = Path(argument)
    if packed.archive_of(path):
        return packed.files_named(path) or packed.files_named(path / "*.jsonl")
    if path.is_file():
        return [path]
    if inside := [file for file in path.glob("*.jsonl") if file.name != ACCEPTED]:
        return sorted(inside)
    return sorted(Path(name) for name in glob.glob(argument) if name.endswith(".jsonl"))


def _variant_side(manifest: Manifest, variant: str) -> Side:
    side = Side(variant, [], manifest)
    side.notes += [f"{path} is not part of this campaign: left out" for path in manifest.foreign]

    for launch in side.attempts:
        path = manifest.folder / str(launch.run)
        if launch.status == "finished" and launch.stage == "first":
            _add_launch(side, path, launch.pair)
        elif launch.run:
            with suppress(ResultError):  # what is damaged died of it
                what = "which died" if launch.status == "died" else "a pilot"
                side.others[f"{path}, {what}"] = read(path)

    return side


def _add_launch(side: Side, path: Path, pair: int = 0) -> None:
    """Adds the run, unless it is a copy: copies of a run would agree with each other."""
    result = read(path)
    if result.run.run_id in {launch.run.run_id for launch in side.launches}:
        side.notes.append(f"{path} is a copy of the run {result.run.run_id}: left out")
        return

    side.launches.append(result)
    side.of_pair[pair] = result


def faults_between(baseline: Side, variant: Side) -> list[str]:
    """Why no gate can judge: faults of the variant, wrong results of the baseline, and launches of
    one side that died more often than those of the other."""
    differ = len(variant.died) != len(baseline.died)
    deaths = deaths_of([variant, baseline]) if differ else []
    return [*faults_of(variant), *wrong_results(baseline), *deaths]


def deaths_of(sides: Sequence[Side]) -> list[str]:
    """A sentence on each side of which launches died."""
    return [
        f"{side.label} died in {len(side.died)} of {len(side.attempts)} launches, the last time "
        f"with: {side.died[-1].reason}{_kept_output(side)}"
        for side in sides
        if side.died
    ]


def _kept_output(side: Side) -> str:
    """Where the output is of the newest launch that died and whose output was kept."""
    kept = [launch.output for launch in side.died if launch.output]
    return f"; output of such a launch: {kept[-1]}" if kept else ""


def faults_of(side: Side) -> list[str]:
    """Sentences on each wrong case, incomplete run or campaign, unfinished pair, and case that some
    launches of a campaign lack."""
    faults = wrong_results(side)
    if side.campaign:
        if not side.campaign.end:
            faults.append(
                f"the campaign of {side.label} is incomplete: run its command with a new --out"
            )
        finished = {launch.pair for launch in side.attempts if launch.status == "finished"}
        if lost := {launch.pair for launch in side.died} - finished:
            faults.append(f"no launch of {side.label} finished in {len(lost)} of its pairs")
        faults += uneven_cases(side)

    return faults + incomplete_runs(side)


def incomplete_runs(side: Side) -> list[str]:
    """A sentence on each reason why launches without wrong results are incomplete, with the first
    such run."""
    runs = [
        run
        for run in side.launches
        if not run.complete and all(case.status != "wrong" for case in run.cases)
    ]
    alike = grouped(runs, lambda run: (run.end and run.end.reason) or "it was cut off")
    return [
        f"{side.label} is incomplete in {len(own)} of {len(side.launches)} launches: {why} "
        f"(the first: {shown(str(own[0].path))})"
        for why, own in alike.items()
    ]


def faults_of_runs(results: Sequence[Result], name: str) -> list[str]:
    """Why these runs, of this name, cannot vouch for what they measured: what `faults_of` finds in
    them and in the campaigns that they belong to, launches that died there, and all-reduces that
    nobody checked."""
    ordered = sorted(results, key=lambda result: result.complete)
    runs = {result.run.run_id: result for result in ordered}.values()  # of copies a complete one
    folders = dict.fromkeys(result.path.parent for result in results)
    campaigns = [folder for folder in folders if (folder.parent / MANIFEST).is_file()]
    others = Side(name, [result for result in runs if result.path.parent not in campaigns])
    faults = list[str]()
    for side in [others, *(side_of(str(folder)) for folder in campaigns)]:
        faults += [*faults_of(side), *deaths_of([side]), *unchecked_all_reduces(side)]
    return faults


def unchecked_all_reduces(side: Side) -> list[str]:
    """A sentence on launches that did not check the results of an all-reduce."""
    unchecked = [
        launch
        for launch in side.launches
        if any(
            case.collective == "all_reduce" and case.status == "ok" and case.n_wrong is None
            for case in launch.cases
        )
    ]
    return [
        f"{side.label} did not check its results in {len(unchecked)} of {len(side.launches)} "
        f"launches (the first: {shown(str(launch.path))})"
        for launch in unchecked[:1]
    ]


def copies_among(launches: Sequence[Result]) -> list[list[Result]]:
    """Launches with the same times in each block of each case: one run under several ids. The few
    rounded times of another harness may agree by chance."""
    telling = [
        launch
        for launch in launches
        if len(launch.blocks) >= (TELLING_BLOCKS if launch.run.imported_from else 1)
    ]
    return [own for own in grouped(telling, _times_of).values() if len(own) > 1]


def _times_of(launch: Result) -> Any:
    """The times of each case in the order of its blocks. Of few different times, which may agree by
    chance, everything that the blocks store."""
    if len({block.time_us for block in launch.blocks}) < TELLING_BLOCKS:
        return str(launch.blocks)

    by_case = grouped(launch.blocks, lambda block: block.case)
    return frozenset(
        (key_of(launch.run.cases[number]), tuple(block.time_us for block in own))
        for number, own in by_case.items()
    )


def copies_told(launches: Sequence[Result]) -> list[str]:
    """A sentence on each run that is among these launches under several ids."""
    return [
        f"{some([copy.run.run_id for copy in copies])} have the same times in each block: copies "
        "of a run agree with each other"
        for copies in copies_among(launches)
    ]


def uneven_cases(side: Side) -> list[str]:
    """A sentence on each case that some launches lack: they may have ended early."""
    have = grouped((case for launch in side.launches for case in launch.cases), key_of).values()
    titles = titles_of([own[-1] for own in have])
    return [
        f"{title} is in {len(own)} of {len(side.launches)} launches of {side.label}"
        for title, own in zip(titles, have, strict=True)
        if len(own) < len(side.launches)
    ]


def wrong_results(side: Side) -> list[str]:
    """A sentence on each wrong case of all launches, the worst first, with the first such run and
    what it got: the seed changes the values."""
    wrong = side.wrong_cases
    # A title names a case among all of the side's.
    titles = titles_of([*(each.case for each in wrong), *side.cases])
    by_title: dict[str, list[WrongCase]] = {}
    for title, each in zip(titles, wrong, strict=False):
        by_title.setdefault(title, []).append(each)

    total = len(side.launches) + len(side.others)

    def most_wrong(title: str) -> tuple[float, int]:
        return max(how_wrong(each.case) for each in by_title[title])

    return [
        f"{title} is wrong in {len(by_title[title])} of {total} launches of {side.label}: "
        f"{by_title[title][0].case.reason} (the first: {by_title[title][0].run})"
        for title in sorted(by_title, key=most_wrong, reverse=True)
    ]


def titles_of(cases: Sequence[CaseFields]) -> list[str]:
    """The title of each case: its size and its name among these cases."""
    return list(map(sized, cases, case_names(cases)))


def case_names(cases: Sequence[CaseFields]) -> list[str]:
    """Each case's algorithm, and the fields in which the algorithm's cases differ, without size."""
    algorithms = [
        f"{case.collective} {case.algorithm}" if is_own_benchmark(case) else case.algorithm
        for case in cases
    ]
    fields_of = [naming_fields(case) for case in cases]
    texts_of: dict[tuple[str, str], set[str]] = {}  # by algorithm and field
    for algorithm, fields in zip(algorithms, fields_of, strict=True):
        for field, text in fields.items():
            texts_of.setdefault((algorithm, field), set()).add(text)

    names = []
    for algorithm, fields in zip(algorithms, fields_of, strict=True):
        telling = [
            text for field, text in fields.items() if text and len(texts_of[algorithm, field]) > 1
        ]
        names.append(" ".join([algorithm, *telling]))
    return names


def naming_fields(case: CaseFields) -> dict[str, str]:
    """The texts that can tell a case from others of its algorithm, by its fields."""
    fields = {name: getattr(case, name) for name in CASE_KEY if name not in UNNAMED}
    place = "in place" if case.in_place else "out of place"
    return fields | {"shape": shape_of(case), "in_place": place}


def is_interleaved(baseline: Side, variant: Side) -> bool:
    """Whether the sides are of one campaign, whose launches ran in turn."""
    campaigns = [side.campaign for side in (baseline, variant) if side.campaign]
    return len({each.campaign.campaign_id for each in campaigns}) < len(campaigns)


def pairs_of(baseline: Side, variant: Side) -> list[Pair]:
    """The launches that ran in turn. Without a common campaign the newest launches on each node
    that both sides have, because nodes with equal hardware differ too."""
    if is_interleaved(baseline, variant):
        numbers = sorted(baseline.of_pair.keys() & variant.of_pair.keys())
        return [Pair(baseline.of_pair[number], variant.of_pair[number]) for number in numbers]

    theirs, ours = baseline.launches[::-1], variant.launches[::-1]  # the newest first
    theirs_on, ours_on = (grouped(own, lambda launch: launch.run.node) for own in (theirs, ours))
    nodes = sorted(node for node in theirs_on.keys() & ours_on.keys() if node)
    if not nodes:
        return [*map(Pair, theirs, ours)]
    return [pair for node in nodes for pair in map(Pair, theirs_on[node], ours_on[node])]


def log_costs(entries: Sequence[Entry]) -> pd.DataFrame:
    """The rows of `table`, with the case's `size_bytes` and the log of its cost."""
    rows, planned = table(entries)
    size_bytes = [case.size_bytes for case in planned.values()]
    return rows.assign(size_bytes=np.array(size_bytes)[rows.key], log_cost=np.log(rows.cost_us))
