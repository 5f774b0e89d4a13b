"""Candidate machines side by side, and against what is required of them: the acceptance test at delivery.

A launch of `bench.allreduce` is one value of each figure; its interval is Student's over the values' logarithms.
With m verdicts in a table each interval has a confidence of 1 - 0.05/m (Bonferroni): a verdict is wrong where one end
of its interval is, so the chance that any of them is, however they hang together, is at most 2.5 %.
"""

from __future__ import annotations

import glob
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import numpy as np
from scipy.special import stdtrit

from reports import serving, specs
from reports.case import find_states
from reports.imported import Imported, read_imported
from reports.procure_spec import Candidate, Key, Model, Requirement, Spec, read_spec
from reports.result import ResultError, is_imported, read
from reports.rows import default_rows
from reports.schema import Result
from reports.sentences import number, size_text
from reports.stats import STATE_RATIO
from reports.verdict import FAMILY_P, POWER

LEAST_LAUNCHES = 5
MOST_LAUNCHES = 10_000  # beyond, no number of launches is named
PER_MILLION = "per million tokens, "
DOES_NOT_FIT = "does not fit"
BY = ("ours", "the library")  # whose all-reduce, the first that was run
MODES = ("chained", "isolated")
SHOWN: list[Key] = [("us", 16384), ("GB/s", 33554432)]  # a token of a 70B model, a chunk of 2,048 tokens


@dataclass
class Figure:
    """A figure of a candidate in `unit`: the value over `n` launches with its interval, None below five. Where the
    value is None, `note` says why; else where it is from."""

    name: str
    unit: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    note: str = ""

    @property
    def is_money(self) -> bool:
        """Whether the unit is a currency."""
        return self.unit not in ("us", "GB/s", "tok/s", "W")

    @property
    def label(self) -> str:
        """`16 KiB, us`; of money without the unit, in which candidates may differ."""
        return self.name if self.is_money else f"{self.name}, {self.unit}"

    @property
    def text(self) -> str:
        """`7.41`, `5200 EUR`, `-`."""
        return number(self.value) + f" {self.unit}" * (self.is_money and self.value is not None)

    @property
    def interval(self) -> str:
        """`[7.2 7.6]`, empty where there is none."""
        return "" if self.low is None else f"[{number(self.low)} {number(self.high)}]"


@dataclass
class Judged:
    """A requirement's verdict, PASS, FAIL or UNDECIDED, and why."""

    requirement: str
    verdict: str
    reason: str


@dataclass
class Machine:
    """A candidate as it was found. `figures` and `judged` stand in the same order in each machine of a table."""

    name: str
    launches: int
    imports: int
    currency: str
    figures: list[Figure]
    judged: list[Judged]
    run_ids: list[str]

    @property
    def runs_text(self) -> str:
        """`6`, `2 imported`."""
        return str(self.launches) if self.launches else f"{self.imports} imported"


@dataclass
class Procurement:
    """All that a page says; its strings are printable, and otherwise as foreign as they were. `confidence` (0.95: 95 %)
    is that of each interval."""

    title: str
    machines: list[Machine]
    confidence: float
    sentences: list[str]

    @property
    def verdicts(self) -> Counter[str]:
        """How often each verdict was given."""
        return Counter(judged.verdict for machine in self.machines for judged in machine.judged)

    @property
    def status(self) -> int:
        """The exit status: 1 where a requirement fails, else 3 where one is undecided, else 0."""
        return 1 if self.verdicts["FAIL"] else 3 if self.verdicts["UNDECIDED"] else 0

    @property
    def headline(self) -> str:
        """How many verdicts of each kind."""
        counts = ", ".join(f"{self.verdicts[word]} {word}" for word in ("PASS", "FAIL", "UNDECIDED"))
        return f"{len(self.machines)} candidates: {counts if self.verdicts else 'nothing is required'}"


@dataclass
class Found:
    """What the runs of a candidate say: of each figure the launches' values, and how they were measured."""

    launches: int = 0
    imports: int = 0
    values: dict[Key, list[float]] = field(default_factory=lambda: defaultdict(list))
    how: dict[Key, str] = field(default_factory=dict)
    power_w: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    run_ids: list[str] = field(default_factory=list)

    def add(self, key: Key, value: float, how: str) -> None:
        """One more launch's value of a figure."""
        self.values[key].append(value)
        self.how[key] = how


def evaluate(path: Path, runs: Sequence[str] = (), only: str | None = None) -> Procurement:
    """The table of the spec at `path`. Each of `runs` is NAME=RUN, a candidate and one more run (or folder, or glob) of
    it, or RUN alone where there is one candidate; `only` names the one that is judged. Raises ResultError for a spec
    or a run that cannot be used."""
    spec, candidates, requirements = read_spec(path)
    if only is not None:
        if only not in candidates:
            raise ResultError(f"{path} has no candidate {only}: it has {', '.join(candidates)}")
        candidates = {only: candidates[only]}
    given = {name: [str(path.parent / run) for run in candidate.runs] for name, candidate in candidates.items()}
    for run in runs:
        name = next((name for name in sorted(given, key=len, reverse=True) if run.startswith(f"{name}=")), None)
        if name is None and len(given) > 1:
            raise ResultError(f"{run}: whose run is it? Say NAME={run}, with NAME one of {', '.join(given)}")
        given[name or next(iter(given))].append(run.removeprefix(f"{name}="))
    keys = list(dict.fromkeys([*SHOWN, *(("tok/s", name) for name in spec.models), *(one.key for one in requirements)]))
    keys.sort(key=lambda key: ("us", "GB/s", "tok/s").index(key[0]))
    verdicts = len(requirements) * len(candidates)
    confidence = 1 - 2 * FAMILY_P / max(verdicts, 1)
    machines, sentences = [], []
    for name, candidate in candidates.items():
        found = _find(name, candidate, given[name], spec)
        machines.append(_machine(name, candidate, found, spec, keys, requirements, confidence))
        sentences += [f"{name}: {note}." for note in found.notes]
    return Procurement(path.name, machines, confidence, [
        *_method(spec, verdicts, confidence), *_ranked(spec, machines), *sentences])


def _find(name: str, candidate: Candidate, given: Sequence[str], spec: Spec) -> Found:
    """Reads the runs of a candidate. Raises ResultError where there is none, or one is of another kind of machine."""
    found, results, imports = Found(), dict[str, Result](), dict[str, Imported]()
    for where in given:
        whole = Path(where)
        files = sorted(map(str, whole.glob("*.jsonl"))) if whole.is_dir() else sorted(glob.glob(where))
        if not files:
            raise ResultError(f"candidate {name}: no run at {where}")
        for file in files:
            if is_imported(file):
                imported = read_imported(file)
                imports[imported.run.run_id] = imported
                continue
            result = read(file)
            if results.setdefault(result.run.run_id, result) is not result:
                found.notes.append(f"{Path(file).name} is the run {result.run.run_id} once more: left out")
    if not results and not imports:
        raise ResultError(f"candidate {name} has no run: name some in `runs`, or as {name}=RUN")
    launches = []
    for result in results.values():
        run = result.run
        found.wrong += [f"wrong results in {run.run_id}"] if any(case.n_wrong for case in result.cases) else []
        if not result.complete or run.world.get("slowed_percent"):
            found.notes.append(f"{run.run_id} is {'slowed on purpose' if result.complete else 'incomplete'}: left out")
        elif run.benchmark == "allreduce":
            if run.world["size"] != candidate.gpus:
                raise ResultError(f"candidate {name} has {candidate.gpus} GPUs and its run {run.run_id} "
                                        f"{run.world['size']} ranks")
            launches.append(result)
    for what, of in (("machines (machine_id)", "machine_id"), ("kinds of software (software_id)", "software_id")):
        if len(several := sorted({str(getattr(launch.run, of)) for launch in launches})) > 1:
            said = f"its runs are of {len(several)} {what}: {', '.join(several)}"
            if of == "machine_id":
                raise ResultError(f"candidate {name}: {said}; a candidate is one kind of machine")
            found.notes.append(said)
    found.run_ids = [launch.run.run_id for launch in launches] + [*imports]
    found.launches, found.imports = len(launches), len(imports)
    _measure(launches, candidate, spec, found)
    if launches and imports:
        found.notes.append(f"{len(imports)} imported logs stand beside its own launches and count for nothing")
    elif imports:
        _take_over(list(imports.values()), candidate, spec, found)
    return found


def _take_over(imports: Sequence[Imported], candidate: Candidate, spec: Spec, found: Found) -> None:
    """Fills in what imported logs print: of each the first all-reduce of a size, out of place where it has that."""
    for imported in imports:
        size = imported.run.world.get("size")
        if size not in (None, candidate.gpus):
            raise ResultError(f"a candidate with {candidate.gpus} GPUs has the imported log {imported.run.run_id} of "
                              f"{size} ranks")
        cases = [case for case in imported.cases if case.collective == "all_reduce" and case.size_bytes]
        times_us: dict[int, float] = {}
        for case in sorted(cases, key=lambda case: case.in_place):
            if case.size_bytes and case.status == "ok" and not case.suspect and case.time_us and case.time_us.mean:
                if times_us.setdefault(case.size_bytes, case.time_us.mean) is case.time_us.mean and case.bus_bw_gb_s:
                    found.add(("GB/s", case.size_bytes), case.bus_bw_gb_s, "imported")
        for size_bytes, us in times_us.items():
            found.add(("us", size_bytes), us, "imported")
        for name, model in spec.models.items():
            if (speed := _tokens_per_s(model, candidate, times_us)) is not None:
                found.add(("tok/s", name), speed, "imported")
        if any(case.status == "wrong" for case in imported.cases):
            found.notes.append(f"the imported log {imported.run.run_id} has wrong results")


def _measure(launches: Sequence[Result], candidate: Candidate, spec: Spec, found: Found) -> None:
    """Fills in the launches' values. A token waits for dependent calls, so times are those of chains where a run has
    them, per call; bandwidth is that of the collective alone."""
    trips_ns = []
    times_us: dict[str, list[dict[int, float]]] = {f"{by}, {mode}": [] for by, mode in product(BY, MODES)}
    for launch in launches:
        states = find_states(launch.blocks)
        trips_ns += [] if states.longest is None or not states.rtt_ns else [states.rtt_ns[states.longest]]
        for mode in MODES:
            of_launch: dict[str, dict[int, float]] = {by: {} for by in BY}
            for row in default_rows(launch, (mode, None), states):
                case, us, by = (row.ours, row.ours_us, BY[0]) if row.ours else (row.library, row.library_us, BY[1])
                if case is not None and us is not None and case.collective == "all_reduce":
                    of_launch[by][row.size_bytes] = us
                    if mode == "isolated" and case.bus_bw_gb_s is not None:
                        found.add(("GB/s", row.size_bytes), case.bus_bw_gb_s, by)
            for by in BY:
                times_us[f"{by}, {mode}"].append(of_launch[by])
        draws = [sum(gpu["power_w"] for gpu in block.gpus) for block in launch.blocks
                 if block.gpus and all("power_w" in gpu for gpu in block.gpus)]
        found.power_w += [float(np.median(draws))] if draws else []
    for how, curves in times_us.items():
        for size in {size for curve in curves for size in curve if ("us", size) not in found.how}:
            for curve in curves:
                if size in curve:
                    found.add(("us", size), curve[size], how)
        for name in spec.models:
            if ("tok/s", name) not in found.how:
                for speed in (_tokens_per_s(spec.models[name], candidate, curve) for curve in curves):
                    if speed is not None:
                        found.add(("tok/s", name), speed, how)
    ranks = [rank for launch in launches for rank in launch.run.world.get("ranks", [])]
    if spec.models and any(rank.get("device") == "cpu" for rank in ranks):
        found.notes.append(f"tok/s are arithmetic about {candidate.gpu}: its all-reduces were measured on CPU cores")
    if trips_ns and max(trips_ns) > STATE_RATIO * min(trips_ns):
        found.notes.append(f"the link was not in one state in all launches (flag round trip {min(trips_ns):.0f} to "
                           f"{max(trips_ns):.0f} ns), which widens the intervals")


def _tokens_per_s(of: Model, candidate: Candidate, times_us: Mapping[int, float]) -> float | None:
    """One stream's, by the advisor's arithmetic from a launch's times by size: between two sizes on the straight line
    of their logarithms, below the smallest as long as that. None beyond the largest."""
    model, gpu = specs.model(of.model), specs.gpu(candidate.gpu)
    size, sizes = serving.all_reduce_bytes(model, 1), sorted(times_us)
    if not sizes or size > sizes[-1]:
        return None
    call_us = float(np.exp(np.interp(np.log(size), np.log(sizes), np.log([times_us[one] for one in sizes]))))
    weights = serving.weights_bytes(model, specs.bits(of.weights))
    return serving.decode_tokens_per_s(model, weights, gpu.bandwidth_gb_s, candidate.gpus, serving.sure(call_us),
                                       context=of.context).value


def _fits(of: Model, candidate: Candidate) -> bool:
    model, gpu = specs.model(of.model), specs.gpu(candidate.gpu)
    held = serving.Serving(model, serving.weights_bytes(model, specs.bits(of.weights)), gpu.bandwidth_gb_s,
                           context=of.context)
    parts = serving.memory_bytes(held, serving.TENSOR, candidate.gpus, 1, serving.CHUNK_TOKENS)
    return sum(parts.values()) <= serving.usable_bytes(gpu.memory_gb * 1e9)


def _machine(name: str, candidate: Candidate, found: Found, spec: Spec, keys: Sequence[Key],
             requirements: Sequence[Requirement], confidence: float) -> Machine:
    figures = {key: _figure(key, found, confidence) for key in keys}
    price, hours = candidate.price, spec.hours_per_year * spec.lifetime_years
    for model in spec.models:
        if not _fits(spec.models[model], candidate):
            figures["tok/s", model] = Figure(model, "tok/s", note=DOES_NOT_FIT)
    by_data_sheet_w = candidate.power_w or candidate.gpus * specs.gpu(candidate.gpu).tdp_w
    power_w = float(np.median(found.power_w)) if found.power_w else by_data_sheet_w
    currency = price.currency
    money = [Figure("price", currency, price.amount, note=price.date.isoformat()),
             Figure("power of the GPUs", "W", power_w, note="measured" if found.power_w else "data sheet")]
    hourly = None
    if spec.electricity.currency == price.currency:
        hourly = price.amount / hours + power_w / 1e3 * spec.electricity.price_per_kwh
    for model in spec.models:
        speed = figures["tok/s", model]
        money += [_cost(f"per tok/s, {model}", currency, price.amount, speed),
                  _cost(f"{PER_MILLION}{model}", currency, hourly and hourly / 3600 * 1e6, speed)]
    judged = [_judge(requirement, figures[requirement.key], found, confidence) for requirement in requirements]
    return Machine(name, found.launches, found.imports, currency, [*figures.values(), *money], judged,
                   found.run_ids)


def _cost(name: str, currency: str, amount: float | None, speed: Figure) -> Figure:
    """`amount` over a speed, whose interval turns round."""
    if amount is None:
        return Figure(name, currency, note="electricity is in another currency")
    value, high, low = (amount / end if end else None for end in (speed.value, speed.low, speed.high))
    return Figure(name, currency, value, low, high, speed.n, speed.note)


def _figure(key: Key, found: Found, confidence: float) -> Figure:
    unit, what = key
    name = what if isinstance(what, str) else size_text(what) + (" busbw" if unit == "GB/s" else "")
    values = found.values.get(key, [])
    if not values:
        return Figure(name, unit, note="not in its runs")
    logs, n = np.log(values), 0 if found.imports else len(values)
    middle = float(np.mean(logs))
    if n < LEAST_LAUNCHES:
        return Figure(name, unit, float(np.exp(middle)), n=n, note=found.how.get(key, ""))
    half = float(stdtrit(n - 1, (1 + confidence) / 2) * np.std(logs, ddof=1) / np.sqrt(n))
    value, low, high = (float(np.exp(middle + by)) for by in (0.0, -half, half))
    return Figure(name, unit, value, low, high, n, found.how.get(key, ""))


def _judge(requirement: Requirement, figure: Figure, found: Found, confidence: float) -> Judged:
    """PASS where the whole interval meets the requirement, FAIL where all of it misses it, or a result was wrong."""
    if found.wrong and not found.imports:
        return Judged(requirement.text, "FAIL", "; ".join(found.wrong))
    if figure.value is None and figure.note == DOES_NOT_FIT:
        return Judged(requirement.text, "FAIL", "the model does not fit into the GPUs' memory")
    if figure.value is None:
        return Judged(requirement.text, "UNDECIDED", figure.note)
    if found.imports:
        return Judged(requirement.text, "UNDECIDED", "imported, never judged")
    if figure.low is None or figure.high is None:
        launches = f"{figure.n} launch{'es' * (figure.n != 1)}"
        return Judged(requirement.text, "UNDECIDED", f"{launches}; {LEAST_LAUNCHES} are needed")
    at_most, limit = requirement.key[0] == "us", requirement.limit
    met = [end <= limit if at_most else end >= limit for end in (figure.low, figure.high)]
    spans = f"{number(figure.low)} to {number(figure.high)} {figure.unit} over {figure.n} launches"
    if met[0] == met[1]:
        return Judged(requirement.text, "PASS" if met[0] else "FAIL", spans)
    needed = _launches_needed(found.values[requirement.key], limit, confidence)
    settles = f"about {needed} would settle it" if needed else "no number of launches in reach would settle it"
    return Judged(requirement.text, "UNDECIDED", f"{spans}; {settles}")


def _launches_needed(values: Sequence[float], limit: float, confidence: float) -> int | None:
    """The least number of launches whose interval leaves out `limit` four times in five, if they go on like these."""
    logs, n = np.log(values), np.arange(len(values) + 1, MOST_LAUNCHES)
    reach = (stdtrit(n - 1, (1 + confidence) / 2) + stdtrit(n - 1, POWER)) * np.std(logs, ddof=1) / np.sqrt(n)
    enough = n[reach <= abs(np.mean(logs) - np.log(limit))]
    return int(enough[0]) if len(enough) else None


def _method(spec: Spec, verdicts: int, confidence: float) -> list[str]:
    """What the figures are, and how sure the verdicts."""
    said = [f"Figures are geometric means over launches, their intervals Student's at {confidence:.2%}; "
            f"below {LEAST_LAUNCHES} launches there is none.",
            "us: an all-reduce, per call of a chain of dependent ones (isolated: one alone, and the reading of its "
            "result). busbw: nccl-tests', of the collective alone; GB = 1e9 bytes."]
    if verdicts:
        said.append(f"PASS: the whole interval meets the requirement; FAIL: all of it misses it. The chance that any "
                    f"of the {verdicts} verdicts is wrong is at most {FAMILY_P:.1%} (Bonferroni).")
    if spec.models:
        said.append(f"Money: price over {spec.lifetime_years:g} years of {spec.hours_per_year:g} h, and "
                    f"{spec.electricity.price_per_kwh:g} {spec.electricity.currency} a kWh for what the GPUs draw; the "
                    "host's power is left out.")
        said += [f"{name}: {model.model}, {model.weights}, one stream with {model.context} tokens cached, split by "
                 "tensor over all GPUs: the advisor's arithmetic from data sheets and the measured all-reduce."
                 for name, model in spec.models.items()]
    return said


def _ranked(spec: Spec, machines: Sequence[Machine]) -> list[str]:
    """Who is cheapest, within a currency, as far as intervals tell them apart."""
    said = []
    currencies = sorted({machine.currency for machine in machines})
    if len(currencies) > 1:
        said.append(f"Prices are in {' and '.join(currencies)}: nothing is converted, and candidates in different "
                    "currencies are not ranked against each other.")
    for model, currency in product(spec.models, currencies):
        costs = [(figure, machine.name) for machine in machines if machine.currency == currency
                 for figure in machine.figures if figure.name == f"{PER_MILLION}{model}" and figure.high is not None]
        words, reached = "", 0.0
        for figure, name in sorted(costs, key=lambda cost: cost[0].value or 0.0):
            assert figure.low is not None
            assert figure.high is not None
            words += (", then " if figure.low > reached else " or (not told apart) ") * bool(words) + name
            reached = max(reached, figure.high)
        if len(costs) > 1:
            said.append(f"Cheapest first, {PER_MILLION}{model} in {currency}: {words}.")
    return said
