"""The comparison of candidate machines, and their acceptance test against requirements.

A launch gives one value of each figure; the interval is Student's over the logarithms. With m
verdicts each interval has a confidence of 1 - 0.05/m (Bonferroni). A verdict is wrong only if one
end of its interval is, so the chance of any wrong verdict is at most 2.5 %, independent or not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from scipy.special import stdtrit

from reports.advice import specs
from reports.advice.procure_runs import DOES_NOT_FIT, Figure, Judgement, Machine, measure
from reports.advice.procure_spec import FORMS, Key, Requirement, Spec, read_spec
from reports.advice.reduce_times import other_hardware
from reports.store.result import ResultError
from reports.tables.sentences import number, size_text
from reports.verdicts.verdict import FAMILY_P, POWER

LEAST_LAUNCHES = 5
MOST_LAUNCHES = 10_000  # the search for the number of launches needed ends here
PER_MILLION = "per million tokens, "
# All-reduces of one token and of a chunk of 2,048 tokens of a 70B model.
SHOWN: list[Key] = [("us", 16384), ("GB/s", 33554432)]


@dataclass
class Procurement:
    """The content of the table, the page and the spreadsheet; its strings are printable."""

    title: str
    machines: list[Machine]
    sentences: list[str]

    @property
    def verdicts(self) -> Counter[str]:
        return Counter(judgement.verdict for machine in self.machines
                       for judgement in machine.judgements)

    @property
    def headline(self) -> str:
        words = "PASS", "FAIL", "UNDECIDED"
        counts = ", ".join(f"{self.verdicts[word]} {word}" for word in words)
        name = (self.machines[0].name if len(self.machines) == 1
                else f"{len(self.machines)} candidates")
        return f"{name}: {counts if self.verdicts else 'nothing is required'}"


def evaluate(path: Path, runs: Sequence[str] = (), only: str | None = None) -> Procurement:
    """Judges the candidates of the spec at `path`, or `only` one. Each of `runs` is NAME=RUN, which
    adds a run, folder or glob to a candidate, or RUN if there is one candidate. Raises ResultError
    for an unusable spec or run."""
    spec, candidates, requirements = read_spec(path)
    if only is not None:
        if only not in candidates:
            raise ResultError(f"{path} has no candidate {only}: it has {', '.join(candidates)}")
        candidates = {only: candidates[only]}
    for run in runs:
        names = [name for name in candidates if run.startswith(f"{name}=")]
        if not names and len(candidates) > 1:
            raise ResultError(f"{run}: which candidate? Use NAME={run} with NAME one of "
                              f"{', '.join(candidates)}")
        name = max(names or candidates, key=len)
        candidates[name].runs.append(run.removeprefix(f"{name}="))
    keys = [*SHOWN, *(("tok/s", name) for name in spec.models),
            *(requirement.key for requirement in requirements)]
    keys = sorted(dict.fromkeys(keys), key=lambda key: list(FORMS).index(key[0]))
    n_verdicts = len(requirements) * len(candidates)
    confidence = 1 - 2 * FAMILY_P / max(n_verdicts, 1)
    machines, notes = [], []
    for name, candidate in candidates.items():
        machine = measure(name, candidate, spec)
        figures = {key: make_figure(key, machine, confidence) for key in keys}
        machine.judgements = [judge(requirement, figures[requirement.key], machine, confidence)
                              for requirement in requirements]
        machine.figures = [*figures.values(), *_money(machine, spec, figures)]
        machines.append(machine)
        notes += [f"{name}: {note}." for note in machine.notes]
    return Procurement(path.name, machines, [*_method(spec, n_verdicts, confidence),
                                             *_ranking(spec, machines), *notes])


def make_figure(key: Key, machine: Machine, confidence: float) -> Figure:
    """The geometric mean over launches, with Student's interval from five launches on."""
    unit, label = key
    name = label if isinstance(label, str) else size_text(label) + " busbw" * (unit == "GB/s")
    note, values = machine.samples.get(key, ("not in its runs", []))
    figure = Figure(name, unit, values, note=note)
    if values:
        logs, n = np.log(values), len(values)
        mean = float(np.mean(logs))
        figure.value = float(np.exp(mean))
        if machine.launches and n >= LEAST_LAUNCHES:
            half = float(stdtrit(n - 1, (1 + confidence) / 2) * np.std(logs, ddof=1) / np.sqrt(n))
            figure.low, figure.high = float(np.exp(mean - half)), float(np.exp(mean + half))
    return figure


def _money(machine: Machine, spec: Spec, figures: dict[Key, Figure]) -> list[Figure]:
    """The price, the power, and the costs of each model's tokens."""
    candidate, price, currency = machine.candidate, machine.candidate.price, machine.currency
    data_sheet_w = candidate.power_w or candidate.gpus * specs.gpu(candidate.gpu).tdp_w
    power_w = float(np.median(machine.power_w)) if machine.power_w else data_sheet_w
    money = [Figure("price", currency, value=price.amount, note=price.date.isoformat()),
             Figure("power of the GPUs", "W", value=power_w,
                    note="measured" if machine.power_w else "data sheet")]
    per_hour = None
    if spec.electricity.currency == currency:
        per_hour = (price.amount / (spec.hours_per_year * spec.lifetime_years)
                    + power_w / 1e3 * spec.electricity.price_per_kwh)
    for name in spec.models:
        speed = figures["tok/s", name]
        money += [_cost(f"per tok/s, {name}", currency, price.amount, speed),
                  _cost(f"{PER_MILLION}{name}", currency, per_hour and per_hour / 3600 * 1e6,
                        speed)]
    return money


def _cost(name: str, currency: str, amount: float | None, speed: Figure) -> Figure:
    """`amount` over a speed; the fastest speed gives the lowest cost."""
    if amount is None:
        return Figure(name, currency, note="electricity is in another currency")
    value, high, low = (amount / end if end else None
                        for end in (speed.value, speed.low, speed.high))
    return Figure(name, currency, speed.values, value, low, high, speed.note)


def judge(requirement: Requirement, figure: Figure, machine: Machine,
          confidence: float) -> Judgement:
    """PASS if the whole interval meets the requirement; FAIL if all of it misses it, or if a result
    was wrong."""
    verdict, reason, n = "UNDECIDED", "", len(figure.values)
    hardware = other_hardware(machine.launches, specs.gpu(machine.candidate.gpu))
    if machine.wrong:
        verdict, reason = "FAIL", "; ".join(machine.wrong)
    elif figure.note == DOES_NOT_FIT:
        verdict, reason = "FAIL", "the model does not fit into the GPUs' memory"
    elif figure.value is None:
        reason = figure.note
    elif not machine.launches:
        reason = "imported, never judged"
    elif hardware:
        reason = hardware.partition(":")[0].rstrip(".")
    elif figure.low is None or figure.high is None:
        reason = f"{n} launch{'es' * (n != 1)}; {LEAST_LAUNCHES} are needed"
    else:
        unit, limit = figure.unit, requirement.limit
        low_meets, high_meets = (end <= limit if unit == "us" else end >= limit
                                 for end in (figure.low, figure.high))
        reason = f"{number(figure.low)} to {number(figure.high)} {unit} over {n} launches"
        if low_meets and unit == "tok/s":
            reason += ", a ceiling by data sheets"
        if low_meets == high_meets:
            verdict = "PASS" if low_meets else "FAIL"
        else:
            needed = _launches_needed(figure.values, limit, confidence)
            reason += (f"; about {needed} would settle it" if needed
                       else f"; {MOST_LAUNCHES} would not settle it")
    return Judgement(requirement.text, verdict, reason)


def _launches_needed(values: Sequence[float], limit: float, confidence: float) -> int | None:
    """The least number of such launches with an interval that excludes `limit` four times in five;
    None above MOST_LAUNCHES."""
    logs = np.log(values)
    n = np.unique(np.geomspace(len(values) + 1, MOST_LAUNCHES, 300).astype(int))
    quantiles = stdtrit(n - 1, (1 + confidence) / 2) + stdtrit(n - 1, POWER)
    reach = quantiles * np.std(logs, ddof=1) / np.sqrt(n)
    enough = n[reach <= abs(np.mean(logs) - np.log(limit))]
    return int(enough[0]) if len(enough) else None


def _method(spec: Spec, n_verdicts: int, confidence: float) -> list[str]:
    """How the figures, the verdicts and the costs are computed."""
    sentences = [
        f"Figures are geometric means over launches, with Student's intervals at {confidence:.2%} "
        f"from {LEAST_LAUNCHES} launches on.",
        "us: an all-reduce, per call of a chain of dependent calls (isolated: a single call and "
        "the reading of its result). busbw: as in nccl-tests, of the collective alone; GB = 1e9 "
        "bytes."]
    if n_verdicts:
        sentences.append(
            "PASS: the whole interval meets the requirement; FAIL: all of it misses it. The chance "
            f"that any of the {n_verdicts} verdicts is wrong is at most {FAMILY_P:.1%} "
            "(Bonferroni).")
    if spec.models:
        sentences.append(
            f"Money: price over {spec.lifetime_years:g} years of {spec.hours_per_year:g} h, and "
            f"{spec.electricity.price_per_kwh:g} {spec.electricity.currency} a kWh for the power "
            "of the GPUs, without the host.")
    return sentences + [
        f"{name}: {model.model}, {model.weights}, one stream with {model.context} tokens cached, "
        "split by tensor over all GPUs: the arithmetic of advise from data sheets and the measured "
        "all-reduce." for name, model in spec.models.items()]


def _ranking(spec: Spec, machines: Sequence[Machine]) -> list[str]:
    """The order of costs within a currency; `or` joins candidates with overlapping intervals."""
    sentences = []
    currencies = sorted({machine.currency for machine in machines})
    if len(currencies) > 1:
        sentences.append(f"Prices are in {' and '.join(currencies)}: nothing is converted, and "
                         "candidates in different currencies are not ranked against each other.")
    for model, currency in product(spec.models, currencies):
        costs = [(figure.value or 0.0, figure.low or 0.0, figure.high, machine.name)
                 for machine in machines if machine.currency == currency
                 for figure in machine.figures
                 if figure.name == f"{PER_MILLION}{model}" and figure.high is not None]
        words, highest = "", 0.0
        for _, low, high, name in sorted(costs):
            joint = ", then " if low > highest else " or (intervals overlap) "
            words += joint * bool(words) + name
            highest = max(highest, high)
        if len(costs) > 1:
            sentences.append(f"Cheapest first, {PER_MILLION}{model} in {currency}: {words}.")
    return sentences
