"""SPEC.toml of `procure`, and the measurements of its candidates: a figure has a value a launch."""

import datetime
import glob
import re
from collections import defaultdict
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np

from reports.advice.reduce_times import gpus_of, read_times, warnings, wire_factor
from reports.advice.serving import ONE, TENSOR, Split
from reports.advice.specs import BITS, GPUS, LINKS, MODELS, close_names, convert
from reports.imports.imported import Imported, read_any
from reports.store.case import find_states
from reports.store.result import ResultError, content_of
from reports.store.schema import Result
from reports.store.untrusted import printable_in
from reports.tables.rows import default_rows
from reports.tables.sentences import number

SCALES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
# The forms of a requirement by the unit of its limit.
FORMS = {
    "us": r"(\d{1,9})([KMG]?) *<= *(\d{1,12}(?:\.\d+)?) *us",
    "GB/s": r"(\d{1,9})([KMG]?) *>= *(\d{1,12}(?:\.\d+)?) *GB/s",
    "tok/s": r"(\S+)() *>= *(\d{1,12}(?:\.\d+)?) *tok/s",
}
# The first method of any launch counts. A token waits for dependent calls, as a chain does.
METHODS = "ours, chained", "ours, isolated", "library, chained", "library, isolated"
DOES_NOT_FIT = "does not fit"
PER_MILLION = "per million tokens, "
ONE_GPU, DATA_SHEET = "one GPU needs no all-reduce", "data sheet"

Positive = Annotated[float, msgspec.Meta(gt=0, lt=1e15)]
Currency = Annotated[str, msgspec.Meta(pattern="^[A-Z]{3}$")]  # ISO 4217
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=80)]
Key = tuple[str, int | str]  # a figure: ("us", bytes), ("GB/s", bytes) or ("tok/s", model name)


class Table(msgspec.Struct, forbid_unknown_fields=True):
    """A table of the spec."""


class Electricity(Table):
    price_per_kwh: Positive
    currency: Currency


class Price(Table):
    amount: Positive
    currency: Currency
    date: datetime.date


class Model(Table):
    """A model and its weights, named as in `advise`; one stream has `context` cached tokens."""

    model: str
    weights: str
    context: Annotated[int, msgspec.Meta(ge=0, le=10**7)] = 4096


class Candidate(Table):
    """A machine: its GPUs and its runs (paths and globs, in the file relative to it). `power_w` is
    the power of all GPUs in watts; None stands for the data sheet."""

    gpu: str
    gpus: Annotated[int, msgspec.Meta(ge=1, le=1024)]
    price: Price
    runs: list[str] = []
    power_w: Positive | None = None


class Spec(Table):
    """The whole file. `read_spec` converts each candidate, so that an error can name it."""

    candidates: Annotated[dict[Name, Any], msgspec.Meta(min_length=1)]
    electricity: Electricity
    hours_per_year: Annotated[float, msgspec.Meta(gt=0, le=8784)]
    lifetime_years: Positive
    models: dict[Name, Model] = {}
    requirements: list[str] = []


@dataclass
class Figure:
    """A figure of a candidate: its values over launches, their mean and its interval, if there are
    five. `note` has the origin of the values, or why they are missing."""

    name: str
    unit: str
    note: str
    values: list[float] = field(default_factory=list)
    value: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def text(self) -> str:
        """`7.41 us`, then in a line of its own the interval, `[7.2 7.6]`; `-` without a value."""
        if self.value is None:
            return "-"
        interval = "" if self.low is None else f"\n[{number(self.low)} {number(self.high)}]"
        return f"{number(self.value)} {self.unit}{interval}"


@dataclass
class Machine:
    """A candidate, its complete launches and its imported logs; the origin and the values of each
    figure; a verdict and its reason by requirement. All machines have the same figures."""

    name: str
    candidate: Candidate
    launches: list[Result] = field(default_factory=list)
    logs: list[Imported] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    samples: dict[Key, tuple[str, list[float]]] = field(default_factory=dict)
    figures: list[Figure] = field(default_factory=list)
    verdicts: dict[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def run_ids(self) -> list[str]:
        return [run.run.run_id for run in self.launches] + [log.run.run_id for log in self.logs]


def read_spec(path: Path) -> tuple[Spec, dict[str, Machine], dict[str, tuple[Key, float]]]:
    """The spec, its candidates by name, and the figure and the limit of each requirement: the most
    for a time, the least for other figures. Raises ResultError."""
    try:
        tables = printable_in(msgspec.toml.decode(content_of(path, most_bytes=1 << 20)))
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise ResultError(f"{path} is not TOML ({error})") from error
    spec = convert(tables, Spec, str(path))
    machines = {}
    for name, table in spec.candidates.items():
        candidate = convert(table, Candidate, f"{path}, candidate {name}")
        candidate.runs = [str(path.parent / run) for run in candidate.runs]
        machines[name] = Machine(name, candidate)
    requirements: dict[str, tuple[Key, float]] = {}
    for text in spec.requirements:
        unit = next((unit for unit in FORMS if text.strip().endswith(unit)), "us")
        match = re.fullmatch(FORMS[unit], text.strip())
        if match is None or float(match[3]) <= 0:
            raise ResultError(
                f"{path}: the requirement {text!r} has none of the three forms: "
                "16K <= 8 us, 32M >= 50 GB/s (busbw), MODEL >= 25 tok/s"
            )
        name, scale, limit = match.groups()
        if unit == "tok/s" and name not in spec.models:
            hint = close_names(name, spec.models)
            raise ResultError(f"{path}: [models] lacks the model of {text!r}{hint}")
        label = name if unit == "tok/s" else int(name) * SCALES[scale]
        requirements[text] = (unit, label), float(limit)
    return spec, machines, requirements


def measure(machine: Machine, spec: Spec) -> None:
    """Reads the runs of a candidate and adds its samples. Raises ResultError without runs, and for
    runs of several kinds of machine. One GPU needs none: its data sheet gives its tokens."""
    gpu, gpus, samples = GPUS.find(machine.candidate.gpu), machine.candidate.gpus, machine.samples
    read_runs(machine)
    _sample_launches(machine)
    link, all_times, notes = LINKS[gpu.slot], [], dict[str, str]()
    for run in machine.launches or machine.logs:
        try:
            times = read_times([run], gpus, link)
        except ResultError:
            machine.notes.append(f"{run.run.run_id} has no all-reduce that the arithmetic can use")
            continue
        all_times.append(times)
        if isinstance(run, Imported):
            for size, (us, *_) in times.spans.items():
                for unit, value in (("us", us), ("GB/s", wire_factor(gpus) * size / us / 1e3)):
                    samples.setdefault((unit, size), ("imported", []))[1].append(value)
        if spec.models or not machine.launches:
            # Launches that differ only in the figures share a warning.
            notes |= {
                warning.partition(", and ")[0]: warning.rstrip(".")
                for warning in warnings(times, [run], gpu)
            }
    machine.notes += notes.values()
    for label, named in spec.models.items():
        model, bits = MODELS.find(named.model), BITS.find(named.weights)
        split = Split(
            model,
            gpu,
            gpus,
            named.weights,
            model.parameters * bits / 8,
            read_times([], gpus, link),
            named.context,
            kind=ONE if gpus == 1 else TENSOR,
        )
        if split.spare_bytes < 0:
            samples["tok/s", label] = DOES_NOT_FIT, []
        elif gpus == 1:
            samples["tok/s", label] = DATA_SHEET, [split.figures["rate"][0]]
        elif all_times:
            speeds = [replace(split, times=times).figures["rate"][0] for times in all_times]
            origin = "arithmetic" if machine.launches else "arithmetic, imported"
            samples["tok/s", label] = origin, speeds


def read_runs(machine: Machine) -> None:
    """Sorts the launches and the logs of all-reduces into `machine`, each once."""
    name, gpus, notes = machine.name, machine.candidate.gpus, machine.notes
    runs: dict[str, Result | Imported] = {}
    for path in machine.candidate.runs:
        pattern = f"{glob.escape(path)}/*.jsonl" if Path(path).is_dir() else path
        files = sorted(map(Path, glob.glob(pattern)))
        if not files:
            raise ResultError(f"candidate {name}: no run at {path}")
        for file in files:
            run = read_any(file)
            if runs.setdefault(run.run.run_id, run) is not run:
                notes.append(f"{file.name} repeats the run {run.run.run_id}: left out")
    for run_id, run in runs.items():
        size = run.run.world["size"]
        if isinstance(run, Imported):
            if any(case.status == "wrong" for case in run.cases):
                machine.wrong.append(f"wrong results in {run_id}, imported")
            if size not in (None, gpus):
                notes.append(f"{run_id}, imported, has {size} ranks and not {gpus}")
            elif any(case.collective == "all_reduce" for case in run.cases):
                machine.logs.append(run)
            elif not all(case.collective for case in run.cases):
                notes.append(f"{run_id}, imported, does not name its collective: left out")
            continue
        if any(case.n_wrong for case in run.cases):
            machine.wrong.append(f"wrong results in {run_id}")
        if not run.complete or run.run.world.get("slowed_percent"):
            reason = "slowed on purpose" if run.complete else "incomplete"
            notes.append(f"{run_id} is {reason}: left out")
        elif run.run.benchmark == "allreduce" and size != gpus:
            raise ResultError(
                f"candidate {name} has {gpus} GPU{'s' * (gpus > 1)} and its run "
                f"{run_id} {size} ranks"
            )
        elif run.run.benchmark == "allreduce":
            machine.launches.append(run)
    if not runs and gpus > 1:
        raise ResultError(f"candidate {name} has no run: name some in `runs`, or as {name}=RUN")
    kinds = {f"machine_id {launch.run.machine_id}" for launch in machine.launches}
    kinds = kinds or {", ".join(sorted(set(gpus_of([log])))) for log in machine.logs} - {""}
    if len(kinds) > 1:
        raise ResultError(
            f"candidate {name} is one kind of machine, and its runs come from "
            f"{' and from '.join(sorted(kinds))}"
        )


def _sample_launches(machine: Machine) -> None:
    by_method: dict[Key, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for launch in machine.launches:
        states = find_states(launch.blocks)
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
        machine.notes.append(f"its runs differ in software (software_id {', '.join(software)})")
    if machine.launches and machine.logs:
        machine.notes.append(f"{len(machine.logs)} imported logs beside its own launches: ignored")


def money(machine: Machine, spec: Spec, figures: dict[Key, Figure]) -> list[Figure]:
    """The price, the power, and the cost of a rate and of a million tokens of each model."""
    candidate, price = machine.candidate, machine.candidate.price
    # The median over the blocks with the power of all GPUs, then over launches.
    sums = [
        [
            sum(gpu["power_w"] for gpu in block.gpus)
            for block in launch.blocks
            if block.gpus and all(isinstance(gpu.get("power_w"), float) for gpu in block.gpus)
        ]
        for launch in machine.launches
    ]
    medians = [np.median(of_launch) for of_launch in sums if of_launch]
    data_sheet_w = candidate.power_w or candidate.gpus * GPUS.find(candidate.gpu).tdp_w
    power_w = float(np.median(medians)) if medians else data_sheet_w
    costs = [
        Figure("price", price.currency, price.date.isoformat(), value=price.amount),
        Figure("power of the GPUs", "W", "measured" if medians else "data sheet", value=power_w),
    ]
    hourly = (
        price.amount / (spec.hours_per_year * spec.lifetime_years)
        + power_w / 1e3 * spec.electricity.price_per_kwh
    )
    is_payable = spec.electricity.currency == price.currency
    amounts = {
        "per tok/s, ": price.amount,
        PER_MILLION: hourly / 3600 * 1e6 if is_payable else None,
    }
    for model, (name, amount) in product(spec.models, amounts.items()):
        speed = figures["tok/s", model]  # the fastest speed gives the lowest cost
        value, high, low = (
            amount / end if amount and end else None for end in (speed.value, speed.low, speed.high)
        )
        note = speed.note if amount else "electricity is in another currency"
        costs.append(Figure(name + model, price.currency, note, speed.values, value, low, high))
    return costs
