"""The measurements of a candidate from its runs and imported logs: one value per launch."""

from __future__ import annotations

import glob
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from reports.advice import reduce_times, serving, specs
from reports.advice.procure_spec import Candidate, Key, Model, Spec
from reports.advice.reduce_times import Times
from reports.imports.imported import Imported, read_imported
from reports.store.case import LinkStates, find_states
from reports.store.result import ResultError, is_imported, read
from reports.store.schema import Result
from reports.store.stats import STATE_RATIO
from reports.tables.rows import default_rows

# The first method of any launch counts. A token waits for dependent calls, as a chain does.
METHODS = ("ours, chained", "ours, isolated", "library, chained", "library, isolated", "imported")
DOES_NOT_FIT = "does not fit"
Values = dict[str, dict[Key, float]]  # the figures of one launch by method


@dataclass
class Measurements:
    """Values per launch and their method for each figure, the power of all GPUs per launch, runs
    with wrong results, a sentence if the hardware differs, and notes for the reader."""

    launches: int = 0
    imports: int = 0
    values: dict[Key, list[float]] = field(default_factory=dict)
    methods: dict[Key, str] = field(default_factory=dict)
    power_w: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    other_hardware: str | None = None
    notes: list[str] = field(default_factory=list)
    run_ids: list[str] = field(default_factory=list)


def measure(name: str, candidate: Candidate, paths: Sequence[str], spec: Spec) -> Measurements:
    """Reads the runs of a candidate. Raises ResultError without runs, and for runs of
    several kinds of machine."""
    measured, gpu = Measurements(), specs.gpu(candidate.gpu)
    results, logs = _read(name, candidate, paths, measured.notes)
    launches = _launches(name, candidate, results, measured)
    measured.launches, measured.imports = len(launches), len(logs)
    measured.run_ids = [launch.run.run_id for launch in launches]
    measured.run_ids += [log.run.run_id for log in logs]
    measured.other_hardware = reduce_times.other_hardware(launches, gpu)
    readings: list[tuple[Values, Times | None]]
    if launches:
        states = [find_states(launch.blocks) for launch in launches]
        readings = [(_run_values(launch, state), _times(launch, gpu))
                    for launch, state in zip(launches, states, strict=True)]
        measured.power_w = [power for launch in launches for power in _power_w(launch)]
        measured.notes += _launch_notes(launches, states)
        if spec.models:
            measured.notes += _time_notes(launches, [times for _, times in readings], gpu)
        if logs:
            measured.notes.append(f"imported logs, {len(logs)}, beside its own launches: ignored")
    else:
        readings = _log_readings(name, candidate, logs, measured.notes)
    for method in METHODS:
        for values, _ in readings:
            for key, value in values.get(method, {}).items():
                if measured.methods.setdefault(key, method) == method:
                    measured.values.setdefault(key, []).append(value)
    times = [times for _, times in readings if times]
    for label, model in spec.models.items():
        _add_speed(measured, ("tok/s", label), model, candidate, times)
    return measured


def _read(name: str, candidate: Candidate, paths: Sequence[str],
          notes: list[str]) -> tuple[list[Result], list[Imported]]:
    """The runs and the logs of all-reduces, each once; adds to `notes`."""
    results, logs = dict[str, Result](), dict[str, Imported]()
    for path in paths:
        pattern = f"{glob.escape(path)}/*.jsonl" if Path(path).is_dir() else path
        files = sorted(map(Path, glob.glob(pattern)))
        if not files:
            raise ResultError(f"candidate {name}: no run at {path}")
        for file in files:
            if not is_imported(file):
                result = read(file)
                if results.setdefault(result.run.run_id, result) is not result:
                    notes.append(f"{file.name} repeats the run {result.run.run_id}: left out")
                continue
            log = read_imported(file)
            size = log.run.world.get("size")
            if size not in (None, candidate.gpus):
                notes.append(f"{log.run.run_id}, imported, has {size} ranks and not "
                             f"{candidate.gpus}")
            elif any(case.collective == "all_reduce" for case in log.cases):
                logs[log.run.run_id] = log
    if not results and not logs:
        raise ResultError(f"candidate {name} has no run: name some in `runs`, or as {name}=RUN")
    return list(results.values()), list(logs.values())


def _launches(name: str, candidate: Candidate, results: Iterable[Result],
              measured: Measurements) -> list[Result]:
    """The complete runs of `bench.allreduce`. Raises ResultError for several machines and for
    another number of ranks."""
    launches = []
    for result in results:
        run = result.run
        if any(case.n_wrong for case in result.cases):
            measured.wrong.append(f"wrong results in {run.run_id}")
        if not result.complete:
            measured.notes.append(f"{run.run_id} is incomplete: left out")
        elif run.world.get("slowed_percent"):
            measured.notes.append(f"{run.run_id} is slowed on purpose: left out")
        elif run.benchmark == "allreduce":
            launches.append(result)
    machines = sorted({launch.run.machine_id for launch in launches})
    if len(machines) > 1:
        raise ResultError(f"candidate {name} is one kind of machine, and its runs come from "
                          f"{len(machines)} (machine_id {', '.join(machines)})")
    for launch in launches:
        if launch.run.world["size"] != candidate.gpus:
            raise ResultError(f"candidate {name} has {candidate.gpus} GPUs and its run "
                              f"{launch.run.run_id} {launch.run.world['size']} ranks")
    return launches


def _power_w(launch: Result) -> list[float]:
    """The median power of all GPUs over the blocks; empty if no block has the power of all."""
    sums = [sum(gpu["power_w"] for gpu in block.gpus) for block in launch.blocks
            if block.gpus and all(isinstance(gpu.get("power_w"), float) for gpu in block.gpus)]
    return [float(np.median(sums))] if sums else []


def _launch_notes(launches: Sequence[Result], states: Sequence[LinkStates]) -> list[str]:
    """The differences between launches."""
    notes = []
    software = sorted({launch.run.software_id for launch in launches})
    if len(software) > 1:
        notes.append(f"its runs have {len(software)} kinds of software (software_id "
                     f"{', '.join(software)})")
    trips_ns = [state.rtt_ns[state.longest] for state in states
                if state.longest is not None and state.rtt_ns]
    if trips_ns and max(trips_ns) > STATE_RATIO * min(trips_ns):
        notes.append("the link changed its state between launches (flag round trip "
                     f"{min(trips_ns):.0f} to {max(trips_ns):.0f} ns), which widens the intervals")
    return notes


def _time_notes(launches: Sequence[Result], times: Sequence[Times | None],
                gpu: specs.Gpu) -> list[str]:
    """The warnings of `advise`; launches that differ only in the figures share one."""
    notes = {}
    for launch, of_launch in zip(launches, times, strict=True):
        for warning in reduce_times.warnings(of_launch, [launch], gpu) if of_launch else ():
            notes[warning.partition(", and ")[0]] = warning.rstrip(".")
    return list(notes.values())


def _run_values(result: Result, states: LinkStates) -> Values:
    values: Values = defaultdict(dict)
    for mode in ("chained", "isolated"):
        for row in default_rows(result, (mode, None), states):
            case, time_us, algorithm = row.ours, row.ours_us, "ours"
            if case is None:
                case, time_us, algorithm = row.library, row.library_us, "library"
            if case and time_us and case.collective == "all_reduce":
                figures = values[f"{algorithm}, {mode}"]
                figures["us", row.size_bytes] = time_us
                if mode == "isolated" and case.bus_bw_gb_s:
                    figures["GB/s", row.size_bytes] = case.bus_bw_gb_s
    return values


def _times(launch: Result, gpu: specs.Gpu) -> Times | None:
    """The all-reduce times of a launch for `serving`; None if it has no usable times."""
    try:
        times = reduce_times.from_runs([launch], launch.run.world["size"], specs.link(gpu.slot))
    except ResultError:
        return None
    return times if times.spans else None


def _log_readings(name: str, candidate: Candidate, logs: Sequence[Imported],
                  notes: list[str]) -> list[tuple[Values, Times | None]]:
    """The printed figures of each log, out of place first; adds to `notes`. Raises ResultError for
    logs of several GPUs."""
    gpu = specs.gpu(candidate.gpu)
    kinds = sorted({", ".join(set(reduce_times.gpus_of([log]))) for log in logs} - {""})
    if len(kinds) > 1:
        raise ResultError(f"candidate {name} is one kind of machine, and its logs come from "
                          f"{' and from '.join(kinds)}")
    readings: list[tuple[Values, Times | None]] = []
    for log in logs:
        try:
            times = reduce_times.from_log(log, candidate.gpus, specs.link(gpu.slot))
        except ResultError:
            notes.append(f"{log.run.run_id}, imported, failed, had wrong results or none: left out")
            continue
        notes += [f"{log.run.run_id}, imported: {warning.rstrip('.')}"
                  for warning in reduce_times.warnings(times, [log], gpu)]
        figures: dict[Key, float] = {("us", size): us.value for size, us in times.spans.items()}
        for case in sorted(log.cases, key=lambda case: case.in_place):
            if case.size_bytes in times.spans and case.bus_bw_gb_s and not case.suspect:
                figures.setdefault(("GB/s", case.size_bytes), case.bus_bw_gb_s)
        readings.append(({"imported": figures}, times))
    return readings


def _add_speed(measured: Measurements, key: Key, model: Model, candidate: Candidate,
               launches: Sequence[Times]) -> None:
    """Tokens per second of one stream of a model that is split by tensor over all GPUs."""
    gpu, spec = specs.gpu(candidate.gpu), specs.model(model.model)
    workload = serving.Workload(spec, serving.weights_bytes(spec, specs.bits(model.weights)),
                                gpu.bandwidth_gb_s, context=model.context)
    parts = serving.memory_bytes(workload, serving.TENSOR, candidate.gpus, 1,
                                 serving.CHUNK_TOKENS)
    if sum(parts.values()) > serving.usable_bytes(gpu.memory_gb * 1e9):
        measured.methods[key] = DOES_NOT_FIT
    elif launches:
        steps = [serving.tensor_step_us(workload, candidate.gpus, 1, times) for times in launches]
        measured.values[key] = [step.rate(1).value for step in steps]
        measured.methods[key] = "arithmetic"
