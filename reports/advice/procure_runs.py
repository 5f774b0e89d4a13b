"""The measurements of a candidate from its runs and imported logs: one value per launch."""

from __future__ import annotations

import glob
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from reports.advice import specs
from reports.advice.procure_spec import FORMS, Candidate, Key, Model, Spec
from reports.advice.reduce_times import Times, gpus_of, read_times, warnings
from reports.advice.serving import TENSOR, Split, Workload
from reports.imports.imported import Imported, read_imported
from reports.store.case import LinkStates, find_states
from reports.store.result import ResultError, is_imported, read
from reports.store.schema import Result
from reports.store.stats import STATE_RATIO
from reports.tables.rows import default_rows
from reports.tables.sentences import number

# The first method of any launch counts. A token waits for dependent calls, as a chain does.
METHODS = ("ours, chained", "ours, isolated", "library, chained", "library, isolated", "imported")
DOES_NOT_FIT = "does not fit"
Values = dict[str, dict[Key, float]]  # the figures of one launch by method


@dataclass
class Figure:
    """A figure of a candidate: its values over launches, their mean and its interval, if there are
    five. `note` has the origin of the values, or why they are missing."""

    name: str
    unit: str
    values: Sequence[float] = ()
    value: float | None = None
    low: float | None = None
    high: float | None = None
    note: str = ""

    @property
    def is_money(self) -> bool:
        return self.unit not in (*FORMS, "W")

    @property
    def label(self) -> str:
        """`16 KiB, us`; without a currency, in which candidates may differ."""
        return self.name if self.is_money else f"{self.name}, {self.unit}"

    @property
    def text(self) -> str:
        """`7.41`, `5200 EUR`, `-`."""
        return number(self.value) + f" {self.unit}" * (self.is_money and self.value is not None)

    @property
    def interval(self) -> str:
        """`[7.2 7.6]`, or empty."""
        return "" if self.low is None else f"[{number(self.low)} {number(self.high)}]"


@dataclass
class Judgement:
    """A verdict, PASS, FAIL or UNDECIDED, and its reason."""

    requirement: str
    verdict: str
    reason: str


@dataclass
class Machine:
    """A candidate: its complete launches and imported logs, its runs with wrong results, and notes
    for the reader. `samples` has the origin of each figure and its values, one per launch. All
    machines have their figures and judgements in the same order."""

    name: str
    candidate: Candidate
    launches: list[Result] = field(default_factory=list)
    logs: list[Imported] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    samples: dict[Key, tuple[str, list[float]]] = field(default_factory=dict)
    figures: list[Figure] = field(default_factory=list)
    judgements: list[Judgement] = field(default_factory=list)

    @property
    def currency(self) -> str:
        return self.candidate.price.currency

    @property
    def power_w(self) -> list[float]:
        """The median power of all GPUs over the blocks that have it, one value per launch."""
        sums = [[sum(gpu["power_w"] for gpu in block.gpus) for block in launch.blocks if block.gpus
                 and all(isinstance(gpu.get("power_w"), float) for gpu in block.gpus)]
                for launch in self.launches]
        return [float(np.median(of_launch)) for of_launch in sums if of_launch]

    @property
    def runs_text(self) -> str:
        """`6`, `2 imported`."""
        return (f"{len(self.logs)} imported" if self.logs and not self.launches
                else str(len(self.launches)))

    @property
    def run_ids(self) -> list[str]:
        return [*(launch.run.run_id for launch in self.launches),
                *(log.run.run_id for log in self.logs)]


def measure(name: str, candidate: Candidate, spec: Spec) -> Machine:
    """Reads the runs of a candidate. Raises ResultError without runs, and for runs of
    several kinds of machine."""
    machine, gpu = Machine(name, candidate), specs.gpu(candidate.gpu)
    _read(machine)
    launches, logs = machine.launches, machine.logs
    states = [find_states(launch.blocks) for launch in launches]
    machine.notes += _launch_notes(launches, states)
    if launches and logs:
        machine.notes.append(f"imported logs, {len(logs)}, beside its own launches: ignored")
    readings = [_run_values(*pair) for pair in zip(launches, states, strict=True)]
    all_times: list[Times] = []
    notes: dict[str, str] = {}
    for run in launches or logs:
        try:
            times = read_times([run], candidate.gpus, specs.link(gpu.slot))
        except ResultError:
            if isinstance(run, Imported):
                machine.notes.append(f"{run.run.run_id}, imported, failed, had wrong results or "
                                     "none: left out")
            continue
        all_times.append(times)
        if isinstance(run, Imported):
            readings.append(_log_values(run, times))
        if spec.models or not launches:
            # Launches that differ only in the figures share a warning.
            notes |= {warning.partition(", and ")[0]: warning.rstrip(".")
                      for warning in warnings(times, [run], gpu)}
    machine.notes += notes.values()
    for method in METHODS:
        for values in readings:
            for key, value in values.get(method, {}).items():
                first_method, sample = machine.samples.setdefault(key, (method, []))
                if first_method == method:
                    sample.append(value)
    for label, model in spec.models.items():
        machine.samples["tok/s", label] = _speeds(model, candidate, all_times)
    return machine


def _read(machine: Machine) -> None:
    """Sorts the runs and the logs of all-reduces into `machine`, each once."""
    name, gpus, runs = machine.name, machine.candidate.gpus, dict[str, Result | Imported]()
    for path in machine.candidate.runs:
        pattern = f"{glob.escape(path)}/*.jsonl" if Path(path).is_dir() else path
        files = sorted(map(Path, glob.glob(pattern)))
        if not files:
            raise ResultError(f"candidate {name}: no run at {path}")
        for file in files:
            run = read_imported(file) if is_imported(file) else read(file)
            if runs.setdefault(run.run.run_id, run) is not run:
                machine.notes.append(f"{file.name} repeats the run {run.run.run_id}: left out")
    for run in runs.values():
        if isinstance(run, Result):
            _add_launch(machine, run)
        elif run.run.world["size"] not in (None, gpus):
            machine.notes.append(f"{run.run.run_id}, imported, has {run.run.world['size']} ranks "
                                 f"and not {gpus}")
        elif any(case.collective == "all_reduce" for case in run.cases):
            machine.logs.append(run)
    if not machine.logs and not any(isinstance(run, Result) for run in runs.values()):
        raise ResultError(f"candidate {name} has no run: name some in `runs`, or as {name}=RUN")
    kinds = {f"machine_id {launch.run.machine_id}" for launch in machine.launches}
    kinds = kinds or {", ".join(sorted(set(gpus_of([log])))) for log in machine.logs} - {""}
    if len(kinds) > 1:
        raise ResultError(f"candidate {name} is one kind of machine, and its runs come from "
                          f"{' and from '.join(sorted(kinds))}")


def _add_launch(machine: Machine, run: Result) -> None:
    """Adds a complete run of `bench.allreduce`, and a note about any other."""
    run_id, size = run.run.run_id, run.run.world["size"]
    if any(case.n_wrong for case in run.cases):
        machine.wrong.append(f"wrong results in {run_id}")
    if not run.complete:
        machine.notes.append(f"{run_id} is incomplete: left out")
    elif run.run.world.get("slowed_percent"):
        machine.notes.append(f"{run_id} is slowed on purpose: left out")
    elif run.run.benchmark == "allreduce":
        machine.launches.append(run)
        if size != machine.candidate.gpus:
            raise ResultError(f"candidate {machine.name} has {machine.candidate.gpus} GPUs and its "
                              f"run {run_id} {size} ranks")


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


def _log_values(log: Imported, times: Times) -> Values:
    """The printed figures, out of place first."""
    figures: dict[Key, float] = {("us", size): span[0] for size, span in times.spans.items()}
    for case in sorted(log.cases, key=lambda case: case.in_place):
        if case.size_bytes in times.spans and case.bus_bw_gb_s and not case.suspect:
            figures.setdefault(("GB/s", case.size_bytes), case.bus_bw_gb_s)
    return {"imported": figures}


def _speeds(model: Model, candidate: Candidate,
            launches: Sequence[Times]) -> tuple[str, list[float]]:
    """Tokens per second of one stream of a model that is split by tensor over all GPUs."""
    gpu, spec, n = specs.gpu(candidate.gpu), specs.model(model.model), candidate.gpus
    weights_bytes = spec.parameters * specs.bits(model.weights) / 8
    load = Workload(spec, gpu, n, model.weights, weights_bytes,
                    read_times([], n, specs.link(gpu.slot)), model.context)
    if Split(load, TENSOR, n).spare_bytes < 0:
        return DOES_NOT_FIT, []
    splits = [Split(replace(load, times=times), TENSOR, n) for times in launches]
    return "arithmetic" if splits else "not in its runs", [split.rate[0] for split in splits]
