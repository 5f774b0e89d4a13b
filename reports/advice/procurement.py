"""`procure`: candidate machines side by side, and their acceptance test against requirements.

A launch gives one value of each figure; the interval is Student's over the logarithms. With m
verdicts each interval has a confidence of 1 - 0.05/m (Bonferroni). A verdict is wrong only if one
end of its interval is, so the chance of any wrong verdict is at most 2.5 %, independent or not.
"""

import argparse
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from rich.table import Table
from scipy.special import stdtrit

from reports.advice import candidates
from reports.advice.candidates import Figure, Judgement, Key, Machine, Requirement, Spec
from reports.advice.procure_page import procure_page
from reports.advice.reduce_times import other_hardware
from reports.advice.specs import GPUS
from reports.store.foreign import printable, spreadsheet_cell
from reports.store.result import ResultError
from reports.store.writing import write_named
from reports.tables.console import lay_out
from reports.tables.page import to_html
from reports.tables.sentences import number, size_text
from reports.verdicts.verdict import FAMILY_P, POWER

LEAST_LAUNCHES = 5
MOST_LAUNCHES = 10_000  # the search for the number of launches needed ends here
MOST_COLUMNS = 4  # candidates in one table
PER_MILLION = "per million tokens, "


@dataclass
class Procurement:
    """The content of the table, the page and the spreadsheet; its strings are printable."""

    title: str
    headline: str
    verdicts: Counter[str]
    machines: list[Machine]
    sentences: list[str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("spec", metavar="SPEC.toml", type=Path,
        help="candidates, prices and requirements; docs/buy.md has an example")
    add("runs", metavar="RUN", nargs="*",
        help="NAME=RUN: another run, folder or quoted glob of that candidate; RUN alone if there "
        "is one candidate")
    add("--candidate", metavar="NAME", help="show and judge only this one")
    add("--html", metavar="FILE", type=Path, help="also write a page")
    add("--csv", metavar="FILE", type=Path, help="also write a row for each candidate")
    parser.epilog = (f"{parser.epilog}; exit status: 0 every requirement passes, 1 one fails, 2 "
                     "the command line, the spec or a run is unusable, 3 one is undecided")


def procure(arguments: argparse.Namespace) -> int:
    """Prints the table and returns the exit status. Raises ResultError for an unusable spec or run,
    and for a file that cannot be written."""
    procurement = evaluate(arguments.spec, arguments.runs, arguments.candidate)
    if arguments.html:
        # The page may not disclose folders.
        words = ["python", "-m", "reports", "procure", arguments.spec.name]
        for name, equals, path in (run.rpartition("=") for run in arguments.runs):
            words.append(f"{name}{equals}{Path(path).name}")
        for option in ("candidate", "html", "csv"):
            value = getattr(arguments, option)
            words += [f"--{option}", getattr(value, "name", value)] if value else []
        command = printable(shlex.join(words))
        page = procure_page(procurement.headline, procurement.machines, procurement.sentences,
                            command)
        write_named(arguments.html, to_html(page).encode())
    if arguments.csv:
        write_named(arguments.csv, as_csv(procurement).encode())
    sys.stdout.write(as_text(procurement))
    return 1 if procurement.verdicts["FAIL"] else 3 if procurement.verdicts["UNDECIDED"] else 0


def as_text(procurement: Procurement) -> str:
    """At most 80 columns, four candidates in a table."""
    tables, reasons = [], []
    for first in range(0, len(procurement.machines), MOST_COLUMNS):
        machines = procurement.machines[first : first + MOST_COLUMNS]
        table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
        table.add_column("", overflow="fold", max_width=20)
        for machine in machines:
            table.add_column(machine.name, justify="right", overflow="fold", max_width=14)
            reasons += [f"{machine.name}, {requirement}: {verdict}, {reason}"
                        for requirement, verdict, reason in machine.judgements]
        table.add_row("launches", *(machine.runs_text for machine in machines))
        for judgements in zip(*(machine.judgements for machine in machines), strict=True):
            table.add_row(judgements[0].requirement, *(each.verdict for each in judgements))
        for figures in zip(*(machine.figures for machine in machines), strict=True):
            cells = ([each.text, each.interval, each.note] for each in figures)
            table.add_row(figures[0].label, *("\n".join(filter(None, cell)) for cell in cells))
        tables.append(("", table))
    return lay_out(None, [procurement.headline], tables, [*reasons, *procurement.sentences])


def as_csv(procurement: Procurement) -> str:
    """A row for each candidate with units in the names of columns; no cell is a formula."""
    rows = []
    for machine in procurement.machines:
        row: dict[str, object] = {
            "candidate": machine.name, "launches": len(machine.launches),
            "imported logs": len(machine.logs), "currency": machine.candidate.price.currency}
        for figure in machine.figures:
            name, unit = figure.name, figure.unit or "in currency"
            row |= {f"{name} {unit}": figure.value, f"{name} low {unit}": figure.low,
                    f"{name} high {unit}": figure.high, f"{name} from": figure.note}
        for requirement, verdict, reason in machine.judgements:
            row |= {requirement: verdict, f"{requirement} why": reason}
        rows.append(row)
    frame = pd.DataFrame(rows).map(spreadsheet_cell).rename(columns=spreadsheet_cell)
    return frame.to_csv(index=False, lineterminator="\n")


def evaluate(path: Path, runs: Sequence[str] = (), only: str | None = None) -> Procurement:
    """Judges the candidates of the spec at `path`, or `only` one. Each of `runs` is NAME=RUN, which
    adds a run, folder or glob to a candidate, or RUN if there is one candidate. Raises ResultError
    for an unusable spec or run."""
    spec, by_name, requirements = candidates.read_spec(path)
    if only is not None:
        if only not in by_name:
            raise ResultError(f"{path} has no candidate {only}: it has {', '.join(by_name)}")
        by_name = {only: by_name[only]}
    for run in runs:
        names = [name for name in by_name if run.startswith(f"{name}=")]
        if not names and len(by_name) > 1:
            raise ResultError(f"{run}: which candidate? Use NAME={run} with NAME one of "
                              f"{', '.join(by_name)}")
        name = max(names or by_name, key=len)
        by_name[name].candidate.runs.append(run.removeprefix(f"{name}="))
    # All-reduces of one token and of a chunk of 2,048 tokens of a 70B model come first.
    keys: list[Key] = [("us", 16384), ("GB/s", 33554432)]
    keys += [("tok/s", name) for name in spec.models]
    keys += [requirement.key for requirement in requirements]
    keys = sorted(dict.fromkeys(keys), key=lambda key: list(candidates.FORMS).index(key[0]))
    machines, n_verdicts = list(by_name.values()), len(requirements) * len(by_name)
    confidence, verdicts = 1 - 2 * FAMILY_P / max(n_verdicts, 1), Counter[str]()
    for machine in machines:
        candidates.measure(machine, spec)
        figures = {key: make_figure(key, machine, confidence) for key in keys}
        machine.judgements = [judge(requirement, figures[requirement.key], machine, confidence)
                              for requirement in requirements]
        verdicts.update(judgement.verdict for judgement in machine.judgements)
        machine.figures = [*figures.values(), *_money(machine, spec, figures)]
    name = machines[0].name if len(machines) == 1 else f"{len(machines)} candidates"
    counts = ", ".join(f"{verdicts[word]} {word}" for word in ("PASS", "FAIL", "UNDECIDED"))
    headline = f"{name}: {counts if verdicts else 'nothing is required'}"
    notes = [f"{machine.name}: {note}." for machine in machines for note in machine.notes]
    return Procurement(path.name, headline, verdicts, machines, [
        *_method(spec, n_verdicts, confidence), *_ranking(spec, machines), *notes])


def make_figure(key: Key, machine: Machine, confidence: float) -> Figure:
    """The geometric mean over launches, with Student's interval from five launches on."""
    unit, label = key
    name = label if isinstance(label, str) else size_text(label) + " busbw" * (unit == "GB/s")
    note, values = machine.samples.get(key, ("not in its runs", []))
    figure, n = Figure(name, unit, values=values, note=note), len(values)
    if values:
        logs = np.log(values)
        mean = float(np.mean(logs))
        figure.value = float(np.exp(mean))
        if machine.launches and n >= LEAST_LAUNCHES:
            half = float(stdtrit(n - 1, (1 + confidence) / 2) * np.std(logs, ddof=1) / np.sqrt(n))
            figure.low, figure.high = float(np.exp(mean - half)), float(np.exp(mean + half))
    return figure


def _money(machine: Machine, spec: Spec, figures: dict[Key, Figure]) -> list[Figure]:
    """The price, the power, and the costs of each model's tokens."""
    candidate, price = machine.candidate, machine.candidate.price
    # The median over the blocks with the power of all GPUs, then over launches.
    sums = [[sum(gpu["power_w"] for gpu in block.gpus) for block in launch.blocks if block.gpus
             and all(isinstance(gpu.get("power_w"), float) for gpu in block.gpus)]
            for launch in machine.launches]
    medians = [np.median(of_launch) for of_launch in sums if of_launch]
    data_sheet_w = candidate.power_w or candidate.gpus * GPUS.find(candidate.gpu).tdp_w
    power_w = float(np.median(medians)) if medians else data_sheet_w
    money = [Figure("price", "", price.currency, value=price.amount, note=price.date.isoformat()),
             Figure("power of the GPUs", "W", value=power_w,
                    note="measured" if medians else "data sheet")]
    hourly = (price.amount / (spec.hours_per_year * spec.lifetime_years)
              + power_w / 1e3 * spec.electricity.price_per_kwh)
    is_payable = spec.electricity.currency == price.currency
    amounts = {"per tok/s, ": price.amount,
               PER_MILLION: hourly / 3600 * 1e6 if is_payable else None}
    for model, (name, amount) in product(spec.models, amounts.items()):
        speed = figures["tok/s", model]  # the fastest speed gives the lowest cost
        value, high, low = (amount / end if amount and end else None
                            for end in (speed.value, speed.low, speed.high))
        note = speed.note if amount else "electricity is in another currency"
        money.append(Figure(name + model, "", price.currency, speed.values, value, low, high, note))
    return money


def judge(requirement: Requirement, figure: Figure, machine: Machine,
          confidence: float) -> Judgement:
    """PASS if the whole interval meets the requirement; FAIL if all of it misses it, or if a result
    was wrong."""
    verdict, n = "UNDECIDED", len(figure.values)
    hardware = other_hardware(machine.launches, GPUS.find(machine.candidate.gpu))
    if machine.wrong:
        verdict, reason = "FAIL", "; ".join(machine.wrong)
    elif figure.note == candidates.DOES_NOT_FIT:
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
            reason += f"; {_launches_needed(figure.values, limit, confidence)} settle it"
    return Judgement(requirement.text, verdict, reason)


def _launches_needed(values: Sequence[float], limit: float, confidence: float) -> str:
    """`about 12 would`: the least number of such launches with an interval that excludes `limit`
    four times in five."""
    logs = np.log(values)
    n = np.unique(np.geomspace(len(values) + 1, MOST_LAUNCHES, 300).astype(int))
    quantiles = stdtrit(n - 1, (1 + confidence) / 2) + stdtrit(n - 1, POWER)
    reach = quantiles * np.std(logs, ddof=1) / np.sqrt(n)
    enough = n[reach <= abs(np.mean(logs) - np.log(limit))]
    return f"about {enough[0]} would" if len(enough) else f"{MOST_LAUNCHES} would not"


def _method(spec: Spec, n_verdicts: int, confidence: float) -> list[str]:
    """How the figures, the verdicts and the costs are computed."""
    return [
        f"Figures are geometric means over launches, with Student's intervals at {confidence:.2%} "
        f"from {LEAST_LAUNCHES} launches on.",
        "us: an all-reduce, per call of a chain of dependent calls (isolated: a single call and "
        "the reading of its result). busbw: as in nccl-tests, of the collective alone; GB = 1e9 "
        "bytes.",
        *(["PASS: the whole interval meets the requirement; FAIL: all of it misses it. The chance "
           f"that any of the {n_verdicts} verdicts is wrong is at most {FAMILY_P:.1%} "
           "(Bonferroni)."] if n_verdicts else []),
        *([f"Money: price over {spec.lifetime_years:g} years of {spec.hours_per_year:g} h, and "
           f"{spec.electricity.price_per_kwh:g} {spec.electricity.currency} a kWh for the power "
           "of the GPUs, without the host."] if spec.models else []),
        *(f"{name}: {model.model}, {model.weights}, one stream with {model.context} tokens cached, "
          "split by tensor over all GPUs: the arithmetic of advise from data sheets and the "
          "measured all-reduce." for name, model in spec.models.items())]


def _ranking(spec: Spec, machines: Sequence[Machine]) -> list[str]:
    """The order of costs within a currency; `or` joins candidates with overlapping intervals."""
    sentences = []
    currencies = sorted({machine.candidate.price.currency for machine in machines})
    if len(currencies) > 1:
        sentences.append(f"Prices are in {' and '.join(currencies)}: nothing is converted, and "
                         "candidates in different currencies are not ranked against each other.")
    for model, currency in product(spec.models, currencies):
        costs = [(figure.value or 0.0, figure.low or 0.0, figure.high, machine.name)
                 for machine in machines for figure in machine.figures if figure.high is not None
                 and (figure.name, figure.currency) == (f"{PER_MILLION}{model}", currency)]
        words, highest = "", 0.0
        for _, low, high, name in sorted(costs):
            joint = ", then " if low > highest else " or (intervals overlap) "
            words += joint * bool(words) + name
            highest = max(highest, high)
        if len(costs) > 1:
            sentences.append(f"Cheapest first, {PER_MILLION}{model} in {currency}: {words}.")
    return sentences
