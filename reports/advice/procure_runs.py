"""What the runs and the imported logs of a candidate say: of each figure a value a launch."""

from __future__ import annotations

import glob
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from reports.advice import serving, specs
from reports.advice.procure_spec import Candidate, Key, Model, Spec
from reports.advice.reduce_times import Times, from_log, from_runs, gpus_of, other_hardware, warnings
from reports.imports.imported import Imported, read_imported
from reports.store.case import LinkStates, find_states
from reports.store.result import ResultError, is_imported, read
from reports.store.schema import Result
from reports.store.stats import STATE_RATIO
from reports.tables.rows import default_rows

# How a figure was measured; the first that any launch has counts. A token waits for dependent calls: a chain's.
HOWS = ("ours, chained", "ours, isolated", "library, chained", "library, isolated", "imported")
Values = dict[str, dict[Key, float]]  # of one launch: how, which figure, its value


@dataclass
class Found:
    """Of each figure the launches' values, and how they were measured; what the GPUs drew; the runs with wrong results;
    and sentences."""

    launches: int = 0
    imports: int = 0
    values: dict[Key, list[float]] = field(default_factory=lambda: defaultdict(list))
    how: dict[Key, str] = field(default_factory=dict)
    power_w: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    other: str | None = None
    notes: list[str] = field(default_factory=list)
    run_ids: list[str] = field(default_factory=list)


def find(name: str, candidate: Candidate, given: Sequence[str], spec: Spec) -> Found:
    """Reads the runs of a candidate. Raises ResultError where there is none, or one is of another kind of machine."""
    found, results, imports = Found(), dict[str, Result](), dict[str, Imported]()
    for where in given:
        files = sorted(Path(where).glob("*.jsonl")) if Path(where).is_dir() else sorted(map(Path, glob.glob(where)))
        if not files:
            raise ResultError(f"candidate {name}: no run at {where}")
        for file in files:
            if is_imported(file):
                imported = read_imported(file)
                size = imported.run.world.get("size")
                if size not in (None, candidate.gpus):
                    found.notes.append(f"{imported.run.run_id}, imported, has {size} ranks and not {candidate.gpus}")
                elif any(case.collective == "all_reduce" for case in imported.cases):
                    imports[imported.run.run_id] = imported
                continue
            result = read(file)
            if results.setdefault(result.run.run_id, result) is not result:
                found.notes.append(f"{file.name} is the run {result.run.run_id} once more: left out")
    if not results and not imports:
        raise ResultError(f"candidate {name} has no run: name some in `runs`, or as {name}=RUN")
    launches, gpu = _launches(name, results.values(), found), specs.gpu(candidate.gpu)
    for launch in launches:
        if launch.run.world["size"] != candidate.gpus:
            raise ResultError(f"candidate {name} has {candidate.gpus} GPUs and its run {launch.run.run_id} "
                              f"{launch.run.world['size']} ranks")
    found.launches, found.imports = len(launches), len(imports)
    found.other = other_hardware(launches, gpu)
    found.run_ids = [*(launch.run.run_id for launch in launches), *imports]
    each: Sequence[tuple[Values, Times | None]]
    if launches:
        states = [find_states(launch.blocks) for launch in launches]
        each = [(_of_run(launch, its), _times(launch, gpu)) for launch, its in zip(launches, states, strict=True)]
        _notes_of(launches, states, [times for _, times in each if spec.models], gpu, found)
        if imports:
            found.notes.append(f"imported logs, {len(imports)}, beside its own launches: not counted")
    else:
        if len(kinds := sorted({", ".join(set(gpus_of([imported]))) for imported in imports.values()} - {""})) > 1:
            raise ResultError(f"candidate {name} is one kind of machine, and its logs are of {' and of '.join(kinds)}")
        each = [said for log in imports.values() if (said := _of_import(log, candidate.gpus, gpu, found.notes))]
    for how in HOWS:
        of_launches = [values.get(how, {}) for values, _ in each]
        for key in {key for values in of_launches for key in values} - found.how.keys():
            found.values[key], found.how[key] = [values[key] for values in of_launches if key in values], how
    for model, of in spec.models.items():
        steps = [serving.tensor_step_us(_served(of, gpu), candidate.gpus, 1, times) for _, times in each
                 if times and times.spans]
        found.values["tok/s", model], found.how["tok/s", model] = [step.rate(1).value for step in steps], "arithmetic"
    return found


def _launches(name: str, results: Iterable[Result], found: Found) -> list[Result]:
    """The runs that count, of one kind of machine."""
    launches = []
    for result in results:
        run = result.run
        if any(case.n_wrong for case in result.cases):
            found.wrong.append(f"wrong results in {run.run_id}")
        if not result.complete or run.world.get("slowed_percent"):
            found.notes.append(f"{run.run_id} is {'slowed on purpose' if result.complete else 'incomplete'}: left out")
        elif run.benchmark == "allreduce":
            launches.append(result)
    if len(machines := sorted({launch.run.machine_id for launch in launches})) > 1:
        raise ResultError(f"candidate {name} is one kind of machine, and its runs are of {len(machines)} (machine_id "
                          f"{', '.join(machines)})")
    return launches


def _notes_of(launches: Sequence[Result], states: Sequence[LinkStates], times: Sequence[Times | None],
              gpu: specs.Gpu, found: Found) -> None:
    """Adds what their GPUs drew, and sentences on what differs between launches and on what the advisor doubts."""
    for launch in launches:
        draws = [sum(one["power_w"] for one in block.gpus) for block in launch.blocks
                 if block.gpus and all(isinstance(one.get("power_w"), float) for one in block.gpus)]
        found.power_w += [float(np.median(draws))] if draws else []
    if len(software := sorted({launch.run.software_id for launch in launches})) > 1:
        found.notes.append(f"its runs are of {len(software)} kinds of software (software_id {', '.join(software)})")
    trips_ns = [its.rtt_ns[its.longest] for its in states if its.longest is not None and its.rtt_ns]
    if trips_ns and max(trips_ns) > STATE_RATIO * min(trips_ns):
        found.notes.append(f"the link was not in one state in all launches (flag round trip {min(trips_ns):.0f} to "
                           f"{max(trips_ns):.0f} ns), which widens the intervals")
    said = [doubt.rstrip(".") for launch, its in zip(launches, times, strict=False) if its
            for doubt in warnings(its, [launch], gpu)]
    found.notes += {doubt.partition(", and ")[0]: doubt for doubt in said}.values()  # the figures of one launch will do


def _of_run(result: Result, states: LinkStates) -> Values:
    found: Values = defaultdict(dict)
    for mode in ("chained", "isolated"):
        for row in default_rows(result, (mode, None), states):
            case, us, by = (row.ours, row.ours_us, "ours") if row.ours else (row.library, row.library_us, "library")
            if case and us and case.collective == "all_reduce":
                found[f"{by}, {mode}"]["us", row.size_bytes] = us
                if mode == "isolated" and case.bus_bw_gb_s:
                    found[f"{by}, {mode}"]["GB/s", row.size_bytes] = case.bus_bw_gb_s
    return found


def _times(launch: Result, gpu: specs.Gpu) -> Times | None:
    """The advisor's reading of a launch, None where there is nothing in it for the advisor."""
    try:
        return from_runs([launch], launch.run.world["size"], specs.link(gpu.slot))
    except ResultError:
        return None


def _of_import(imported: Imported, gpus: int, gpu: specs.Gpu, notes: list[str]) -> tuple[Values, Times] | None:
    """What is printed: of a size the first case, out of place where there is one. Adds to `notes`; None for a log whose
    times say nothing."""
    try:
        times = from_log(imported, gpus, specs.link(gpu.slot))
    except ResultError:
        notes.append(f"{imported.run.run_id}, imported, failed, had wrong results or none: left out")
        return None
    notes += [f"{imported.run.run_id}, imported: {doubt.rstrip('.')}" for doubt in warnings(times, [imported], gpu)]
    found: dict[Key, float] = {("us", size): us.value for size, us in times.spans.items()}
    for case in sorted(imported.cases, key=lambda case: case.in_place):
        if case.size_bytes in times.spans and case.bus_bw_gb_s and not case.suspect:
            found.setdefault(("GB/s", case.size_bytes), case.bus_bw_gb_s)
    return {"imported": found}, times


def _served(of: Model, gpu: specs.Gpu) -> serving.Workload:
    model = specs.model(of.model)
    weights_bytes = serving.weights_bytes(model, specs.bits(of.weights))
    return serving.Workload(model, weights_bytes, gpu.bandwidth_gb_s, context=of.context)


def fits(of: Model, candidate: Candidate) -> bool:
    """Whether the GPUs hold the model, split by tensor over all of them, with one stream."""
    gpu = specs.gpu(candidate.gpu)
    held = serving.memory_bytes(_served(of, gpu), serving.TENSOR, candidate.gpus, 1, serving.CHUNK_TOKENS)
    return sum(held.values()) <= serving.usable_bytes(gpu.memory_gb * 1e9)
