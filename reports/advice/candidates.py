"""The measurements of a candidate from its runs and imported logs: one value per launch."""

import glob
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from reports.advice.procure_spec import Candidate, Key, Spec
from reports.advice.reduce_times import Times, gpus_of, read_times, warnings
from reports.advice.serving import Split
from reports.advice.specs import BITS, GPUS, LINKS, MODELS
from reports.imports.imported import Imported, read_imported
from reports.store.case import find_states
from reports.store.result import ResultError, is_imported, read
from reports.store.schema import Result
from reports.store.stats import STATE_RATIO
from reports.tables.rows import default_rows
from reports.tables.sentences import number

# The first method of any launch counts. A token waits for dependent calls, as a chain does.
METHODS = "ours, chained", "ours, isolated", "library, chained", "library, isolated"
DOES_NOT_FIT = "does not fit"


@dataclass
class Figure:
    """A figure of a candidate: its values over launches, their mean and its interval, if there are
    five. `note` has the origin of the values, or why they are missing. Money has no unit."""

    name: str
    unit: str = ""
    currency: str = ""
    values: Sequence[float] = ()
    value: float | None = None
    low: float | None = None
    high: float | None = None
    note: str = ""

    @property
    def label(self) -> str:
        """`16 KiB, us`; without a currency, in which candidates may differ."""
        return f"{self.name}, {self.unit}" if self.unit else self.name

    @property
    def text(self) -> str:
        """`7.41`, `5200 EUR`, `-`."""
        return "-" if self.value is None else f"{number(self.value)} {self.currency}".rstrip()

    @property
    def interval(self) -> str:
        """`[7.2 7.6]`, or empty."""
        return "" if self.low is None else f"[{number(self.low)} {number(self.high)}]"


class Judgement(NamedTuple):
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
    def runs_text(self) -> str:
        """`6`, `2 imported`."""
        has_logs_alone = self.logs and not self.launches
        return f"{len(self.logs)} imported" if has_logs_alone else str(len(self.launches))

    @property
    def run_ids(self) -> list[str]:
        return [*(launch.run.run_id for launch in self.launches),
                *(log.run.run_id for log in self.logs)]


def measure(name: str, candidate: Candidate, spec: Spec) -> Machine:
    """Reads the runs of a candidate. Raises ResultError without runs, and for runs of several kinds
    of machine."""
    machine, gpu, gpus = _read_runs(name, candidate), GPUS.find(candidate.gpu), candidate.gpus
    _sample_launches(machine)
    link, all_times, notes = LINKS[gpu.slot], list[Times](), dict[str, str]()
    runs: Sequence[Result | Imported] = machine.launches or machine.logs
    for run in runs:
        try:
            times = read_times([run], gpus, link)
        except ResultError:
            if isinstance(run, Imported):
                machine.notes.append(f"{run.run.run_id}, imported, failed, had wrong results or "
                                     "none: left out")
            continue
        all_times.append(times)
        if isinstance(run, Imported):
            _sample_log(run, times, machine)
        if spec.models or not machine.launches:
            # Launches that differ only in the figures share a warning.
            notes |= {warning.partition(", and ")[0]: warning.rstrip(".")
                      for warning in warnings(times, [run], gpu)}
    machine.notes += notes.values()
    for label, named in spec.models.items():
        model, bits = MODELS.find(named.model), BITS.find(named.weights)
        split = Split(model, gpu, gpus, named.weights, model.parameters * bits / 8,
                      read_times([], gpus, link), named.context)
        if split.spare_bytes < 0:
            machine.samples["tok/s", label] = DOES_NOT_FIT, []
        elif all_times:
            machine.samples["tok/s", label] = "arithmetic", [
                replace(split, times=times).figures["rate"][0] for times in all_times]
    return machine


def _read_runs(name: str, candidate: Candidate) -> Machine:
    machine, gpus, runs = Machine(name, candidate), candidate.gpus, dict[str, Result | Imported]()
    for path in candidate.runs:
        pattern = f"{glob.escape(path)}/*.jsonl" if Path(path).is_dir() else path
        files = sorted(map(Path, glob.glob(pattern)))
        if not files:
            raise ResultError(f"candidate {name}: no run at {path}")
        for file in files:
            run = read_imported(file) if is_imported(file) else read(file)
            if runs.setdefault(run.run.run_id, run) is not run:
                machine.notes.append(f"{file.name} repeats the run {run.run.run_id}: left out")
    for run_id, run in runs.items():
        size = run.run.world["size"]
        if isinstance(run, Imported):
            if size not in (None, gpus):
                machine.notes.append(f"{run_id}, imported, has {size} ranks and not {gpus}")
            elif any(case.collective == "all_reduce" for case in run.cases):
                machine.logs.append(run)
            continue
        if any(case.n_wrong for case in run.cases):
            machine.wrong.append(f"wrong results in {run_id}")
        if not run.complete:
            machine.notes.append(f"{run_id} is incomplete: left out")
        elif run.run.world.get("slowed_percent"):
            machine.notes.append(f"{run_id} is slowed on purpose: left out")
        elif run.run.benchmark == "allreduce" and size != gpus:
            raise ResultError(f"candidate {name} has {gpus} GPUs and its run {run_id} {size} ranks")
        elif run.run.benchmark == "allreduce":
            machine.launches.append(run)
    if not machine.logs and not any(isinstance(run, Result) for run in runs.values()):
        raise ResultError(f"candidate {name} has no run: name some in `runs`, or as {name}=RUN")
    kinds = {f"machine_id {launch.run.machine_id}" for launch in machine.launches}
    kinds = kinds or {", ".join(sorted(set(gpus_of([log])))) for log in machine.logs} - {""}
    if len(kinds) > 1:
        raise ResultError(f"candidate {name} is one kind of machine, and its runs come from "
                          f"{' and from '.join(sorted(kinds))}")
    return machine


def _sample_launches(machine: Machine) -> None:
    """Adds the samples, by the first of METHODS that any launch has, and differences as notes."""
    by_method: dict[Key, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    trips_ns = []
    for launch in machine.launches:
        states = find_states(launch.blocks)
        if states.longest is not None and states.rtt_ns:
            trips_ns.append(states.rtt_ns[states.longest])
        for mode in ("chained", "isolated"):
            for row in default_rows(launch, (mode, None), states):
                case, time_us, method = row.ours, row.ours_us, f"ours, {mode}"
                if case is None:
                    case, time_us, method = row.library, row.library_us, f"library, {mode}"
                if case and time_us and case.collective == "all_reduce":
                    by_method["us", row.size_bytes][method].append(time_us)
                    if mode == "isolated" and case.bus_bw_gb_s:
                        by_method["GB/s", row.size_bytes][method].append(case.bus_bw_gb_s)
    for key, values in by_method.items():
        method = min(values, key=METHODS.index)
        machine.samples[key] = method, values[method]
    software = sorted({launch.run.software_id for launch in machine.launches})
    if len(software) > 1:
        machine.notes.append(f"its runs have {len(software)} kinds of software (software_id "
                             f"{', '.join(software)})")
    if trips_ns and max(trips_ns) > STATE_RATIO * min(trips_ns):
        machine.notes.append(
            f"the link changed its state between launches (flag round trip {min(trips_ns):.0f} to "
            f"{max(trips_ns):.0f} ns), which widens the intervals")
    if machine.launches and machine.logs:
        machine.notes.append(f"imported logs, {len(machine.logs)}, beside its own launches: "
                             "ignored")


def _sample_log(log: Imported, times: Times, machine: Machine) -> None:
    """Adds the printed figures, out of place first."""
    figures: dict[Key, float] = {("us", size): us for size, (us, *_) in times.spans.items()}
    for case in sorted(log.cases, key=lambda case: case.in_place):
        if case.size_bytes in times.spans and case.bus_bw_gb_s and not case.suspect:
            figures.setdefault(("GB/s", case.size_bytes), case.bus_bw_gb_s)
    for key, value in figures.items():
        machine.samples.setdefault(key, ("imported", []))[1].append(value)
