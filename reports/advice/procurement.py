"""Candidate machines side by side, and against what is required of them: the acceptance test at delivery.

A launch of `bench.allreduce` is one value of each figure; its interval is Student's over the values' logarithms.
With m verdicts in a table each interval has a confidence of 1 - 0.05/m (Bonferroni): a verdict is wrong where one end
of its interval is, so the chance that any of them is, however they hang together, is at most 2.5 %.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
from scipy.special import stdtrit

from reports.advice import specs
from reports.advice.procure_runs import Found, find, fits
from reports.advice.procure_spec import Candidate, Key, Requirement, Spec, read_spec
from reports.store.result import ResultError
from reports.tables.sentences import number, size_text
from reports.verdicts.verdict import FAMILY_P, POWER

LEAST_LAUNCHES = 5
MOST_LAUNCHES = 10_000  # beyond, no number of launches is named
PER_MILLION = "per million tokens, "
DOES_NOT_FIT = "does not fit"
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
        return f"{self.imports} imported" if self.imports and not self.launches else str(self.launches)


@dataclass
class Procurement:
    """All that a page says; its strings are printable, and otherwise as foreign as they were."""

    title: str
    machines: list[Machine]
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
        who = self.machines[0].name if len(self.machines) == 1 else f"{len(self.machines)} candidates"
        return f"{who}: {counts if self.verdicts else 'nothing is required'}"


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
        found = find(name, candidate, given[name], spec)
        machines.append(_machine(name, candidate, found, spec, keys, requirements, confidence))
        sentences += [f"{name}: {note}." for note in found.notes]
    return Procurement(path.name, machines, [*_method(spec, verdicts, confidence), *_ranked(spec, machines),
                                             *sentences])


def _machine(name: str, candidate: Candidate, found: Found, spec: Spec, keys: Sequence[Key],
             requirements: Sequence[Requirement], confidence: float) -> Machine:
    figures = {key: _figure(key, found, confidence) for key in keys}
    price, hours = candidate.price, spec.hours_per_year * spec.lifetime_years
    for model in spec.models:
        if not fits(spec.models[model], candidate):
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
    logs, n = np.log(values), len(values) if found.launches else 0
    middle = float(np.mean(logs))
    figure = Figure(name, unit, float(np.exp(middle)), n=n, note=found.how.get(key, ""))
    if n >= LEAST_LAUNCHES:
        half = float(stdtrit(n - 1, (1 + confidence) / 2) * np.std(logs, ddof=1) / np.sqrt(n))
        figure.low, figure.high = float(np.exp(middle - half)), float(np.exp(middle + half))
    return figure


def _judge(requirement: Requirement, figure: Figure, found: Found, confidence: float) -> Judged:
    """PASS where the whole interval meets the requirement, FAIL where all of it misses it, or a result was wrong."""
    judged = partial(Judged, requirement.text)
    if found.wrong:
        return judged("FAIL", "; ".join(found.wrong))
    if figure.value is None and figure.note == DOES_NOT_FIT:
        return judged("FAIL", "the model does not fit into the GPUs' memory")
    if figure.value is None:
        return judged("UNDECIDED", figure.note)
    if not found.launches:
        return judged("UNDECIDED", "imported, never judged")
    if found.other:
        return judged("UNDECIDED", found.other.partition(":")[0].rstrip("."))
    if figure.low is None or figure.high is None:
        return judged("UNDECIDED", f"{figure.n} launch{'es' * (figure.n != 1)}; {LEAST_LAUNCHES} are needed")
    at_most, limit = requirement.key[0] == "us", requirement.limit
    met = [end <= limit if at_most else end >= limit for end in (figure.low, figure.high)]
    spans = f"{number(figure.low)} to {number(figure.high)} {figure.unit} over {figure.n} launches"
    if met[0] and requirement.key[0] == "tok/s":
        spans += ", a ceiling by data sheets"
    if met[0] == met[1]:
        return judged("PASS" if met[0] else "FAIL", spans)
    needed = _launches_needed(found.values[requirement.key], limit, confidence)
    settles = f"about {needed} would settle it" if needed else "no number of launches in reach would settle it"
    return judged("UNDECIDED", f"{spans}; {settles}")


def _launches_needed(values: Sequence[float], limit: float, confidence: float) -> int | None:
    """The least number of launches whose interval leaves out `limit` four times in five, if they go on like these."""
    logs, n = np.log(values), np.unique(np.geomspace(len(values) + 1, MOST_LAUNCHES, 300).astype(int))
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
