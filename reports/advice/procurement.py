"""`procure`: candidate machines side by side, and their acceptance test against requirements.

With m verdicts each interval has a confidence of 1 - 0.05/m (Bonferroni). A verdict is wrong only
if one end of its interval is, so the chance of any wrong verdict is at most 2.5 %."""

import argparse
import re
import shlex
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table
from scipy.special import stdtrit

from reports.advice import candidates
from reports.advice.candidates import Figure, Key, Machine, Spec
from reports.advice.reduce_times import other_hardware
from reports.advice.specs import GPUS
from reports.site.page import Page, Row, Section, to_html
from reports.store.report_json import write_json
from reports.store.result import ResultError
from reports.store.untrusted import printable
from reports.store.writing import write_named
from reports.tables.formats import as_csv_text
from reports.tables.sentences import lay_out, number, size_text
from reports.verdicts.verdict import FAMILY_P, POWER

LEAST_LAUNCHES = 5
MOST_LAUNCHES = 10_000  # the search for the number of launches needed ends here
MOST_COLUMNS = 4  # candidates in one table
# A figure of an imported log or of a data sheet is UNVERIFIED: nobody counted launches or checks.
WORDS = "PASS", "FAIL", "UNDECIDED", "UNVERIFIED", "N/A"


@dataclass
class Procurement:
    """The content of the table, the page and the spreadsheet; its strings are printable."""

    headline: str
    verdicts: Counter[str]
    machines: list[Machine]
    sentences: list[str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "spec",
        metavar="SPEC.toml",
        type=Path,
        help="candidates, prices and requirements; docs/buy.md has an example",
    )
    add(
        "runs",
        metavar="RUN",
        nargs="*",
        help="NAME=RUN: another run, folder or quoted glob of a candidate; RUN for the only one",
    )
    add("--candidate", metavar="NAME", help="show and judge only this one")
    add("--html", metavar="FILE", type=Path, help="also write a page")
    add("--csv", metavar="FILE", type=Path, help="also write a row for each candidate")
    parser.epilog = (
        f"{parser.epilog}; exit status: 0 every requirement passes, 1 one fails, 2 "
        "the command line, the spec or a run is unusable, 3 one is undecided or "
        "unverified"
    )


def procure(arguments: argparse.Namespace) -> int:
    """Prints the table and returns the exit status. Raises ResultError for an unusable file."""
    procurement = evaluate(arguments.spec, arguments.runs, arguments.candidate)
    if arguments.html:
        # The page may not disclose folders.
        runs = [re.sub("[^=]*/(?=.)", "", run) for run in arguments.runs]
        only = ["--candidate", arguments.candidate] if arguments.candidate else []
        command = "python -m reports " + printable(
            shlex.join(
                ["procure", arguments.spec.name, *runs, *only, "--html", arguments.html.name]
            )
        )
        write_named(arguments.html, to_html(procure_page(procurement, command)).encode())
    if arguments.csv:
        write_named(arguments.csv, as_csv(procurement).encode())
    if arguments.json:
        write_json(
            "procure",
            headline=procurement.headline,
            verdicts=procurement.verdicts,
            candidates=[_record(machine) for machine in procurement.machines],
            sentences=procurement.sentences,
        )
    else:
        sys.stdout.write(as_text(procurement))
    if procurement.verdicts["FAIL"]:
        return 1
    return 3 if set(procurement.verdicts) - {"PASS"} else 0


def _record(machine: Machine) -> dict[str, object]:
    """A candidate for `--json`."""
    return {
        "name": machine.name,
        "gpu": machine.candidate.gpu,
        "gpus": machine.candidate.gpus,
        "run_ids": machine.run_ids,
        "launches": len(machine.launches),
        "figures": list(map(vars, machine.figures)),
        "requirements": [
            {"requirement": requirement, "verdict": verdict, "reason": reason}
            for requirement, (verdict, reason) in machine.verdicts.items()
        ],
    }


def as_text(procurement: Procurement) -> str:
    """At most 80 columns, four candidates in a table."""
    tables, reasons = [], []
    for first in range(0, len(procurement.machines), MOST_COLUMNS):
        machines = procurement.machines[first : first + MOST_COLUMNS]
        table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
        table.add_column("", overflow="fold", max_width=20)
        for machine in machines:
            table.add_column(machine.name, justify="right", overflow="fold", max_width=14)
            reasons += [
                f"{machine.name}, {requirement}: {verdict}, {reason}"
                for requirement, (verdict, reason) in machine.verdicts.items()
            ]
        for requirement in machines[0].verdicts:
            table.add_row(requirement, *(machine.verdicts[requirement][0] for machine in machines))
        for row in _figure_rows(machines):
            table.add_row(*row.values())
        tables.append(("", table))
    return lay_out([procurement.headline], [], tables, [*reasons, *procurement.sentences])


def _figure_rows(machines: Sequence[Machine]) -> list[dict[str, str]]:
    rows = [{"figure": "runs"} | {machine.name: str(len(machine.run_ids)) for machine in machines}]
    for place, figure in enumerate(machines[0].figures):
        cells = {machine.name: machine.figures[place] for machine in machines}
        rows.append(
            {"figure": figure.name}
            | {name: f"{each.text}\n{each.note}" for name, each in cells.items()}
        )
    return rows


def procure_page(procurement: Procurement, command: str) -> Page:
    """The page for `procure --html` and for the dashboard; `command` made it."""
    machines = procurement.machines
    requirements: list[Row] = [
        {"requirement": requirement}
        | {machine.name: "\n".join(machine.verdicts[requirement]) for machine in machines}
        for requirement in machines[0].verdicts
    ]
    runs = [f"{machine.name}: {run_id}" for machine in machines for run_id in machine.run_ids]
    return Page(
        f"Procurement: {procurement.headline}",
        sections=[
            Section("Requirements", table="requirements", rows=requirements),
            Section(
                "Figures, with their intervals over launches",
                table="figures",
                rows=_figure_rows(machines),
            ),
            Section("How to read this", procurement.sentences),
        ],
        reproduce={"command, without folders": command, "run ids": "\n".join(runs)},
    )


def as_csv(procurement: Procurement) -> str:
    """A row for each candidate with units in the names of columns; no cell is a formula."""
    rows = []
    for machine in procurement.machines:
        row: dict[str, object] = {
            "candidate": machine.name,
            "launches": len(machine.launches),
            "imported logs": len(machine.logs),
            "currency": machine.candidate.price.currency,
        }
        for figure in machine.figures:
            name, unit = figure.name, figure.unit
            unit = "in currency" if unit == row["currency"] else unit
            row |= {
                f"{name} {unit}": figure.value,
                f"{name} low {unit}": figure.low,
                f"{name} high {unit}": figure.high,
                f"{name} from": figure.note,
            }
        for requirement, (verdict, reason) in machine.verdicts.items():
            row |= {requirement: verdict, f"{requirement} why": reason}
        rows.append(row)
    return as_csv_text(rows)


def evaluate(path: Path, runs: Iterable[str] = (), only: str | None = None) -> Procurement:
    """Judges the candidates of the spec at `path`, or `only` one, with more `runs`, as on the
    command line. Raises ResultError for an unusable spec or run."""
    spec, by_name, requirements = candidates.read_spec(path)
    if only is not None:
        if only not in by_name:
            raise ResultError(f"{path} has no candidate {only}: it has {', '.join(by_name)}")
        by_name = {only: by_name[only]}
    for run in runs:
        names = [name for name in by_name if run.startswith(f"{name}=")]
        if not names and len(by_name) > 1:
            raise ResultError(
                f"{run}: which candidate? Use NAME={run} with NAME one of {', '.join(by_name)}"
            )
        name = max(names or by_name, key=len)
        by_name[name].candidate.runs.append(run.removeprefix(f"{name}="))
    # All-reduces of one token and of a chunk of 2,048 tokens of a 70B model come first.
    keys: list[Key] = [("us", 16384), ("GB/s", 33554432)]
    keys += [("tok/s", name) for name in spec.models] + [key for key, _ in requirements.values()]
    keys = sorted(dict.fromkeys(keys), key=lambda key: list(candidates.FORMS).index(key[0]))
    machines, n_verdicts = list(by_name.values()), len(requirements) * len(by_name)
    confidence, counts = 1 - 2 * FAMILY_P / max(n_verdicts, 1), Counter[str]()
    for machine in machines:
        candidates.measure(machine, spec)
        figures = {key: make_figure(key, machine, confidence) for key in keys}
        machine.verdicts = {
            text: judge(limit, figures[key], machine, confidence)
            for text, (key, limit) in requirements.items()
        }
        counts.update(verdict for verdict, _ in machine.verdicts.values())
        machine.figures = [*figures.values(), *candidates.money(machine, spec, figures)]
    name = machines[0].name if len(machines) == 1 else f"{len(machines)} candidates"
    words = ", ".join(
        f"{counts[word]} {word}" for word in WORDS if counts[word] or word in WORDS[:3]
    )
    headline = f"{name}: {words if requirements else 'nothing is required'}"
    return Procurement(
        headline, counts, machines, _sentences(spec, machines, n_verdicts, confidence)
    )


def make_figure(key: Key, machine: Machine, confidence: float) -> Figure:
    """The geometric mean over launches, with Student's interval from five launches on."""
    unit, label = key
    name = label if isinstance(label, str) else size_text(label) + " busbw" * (unit == "GB/s")
    missing = candidates.ONE_GPU if machine.candidate.gpus == 1 else "not in its runs"
    note, values = machine.samples.get(key, (missing, []))
    figure, logs, n = Figure(name, unit, note, values), np.log(values), len(values)
    if values:
        figure.value = float(np.exp(np.mean(logs)))
    if figure.value and machine.launches and n >= LEAST_LAUNCHES:
        reach = np.exp(stdtrit(n - 1, (1 + confidence) / 2) * np.std(logs, ddof=1) / np.sqrt(n))
        figure.low, figure.high = figure.value / float(reach), figure.value * float(reach)
    return figure


def judge(limit: float, figure: Figure, machine: Machine, confidence: float) -> tuple[str, str]:
    """The verdict and its reason: PASS if the whole interval meets the limit; FAIL if all of it
    misses the limit, if a result was wrong, or if one GPU's data sheet misses it; UNVERIFIED for
    other figures without launches."""
    n, unit = len(figure.values), figure.unit
    hardware = other_hardware(machine.launches or machine.logs, GPUS.find(machine.candidate.gpu))
    if machine.wrong:
        return "FAIL", "; ".join(machine.wrong)
    if figure.value is None:
        unknown = "N/A" if figure.note == candidates.ONE_GPU else "UNDECIDED"
        return "FAIL" if figure.note == candidates.DOES_NOT_FIT else unknown, figure.note
    if hardware:
        return "UNDECIDED", hardware.partition(":")[0].rstrip(".")
    if not machine.launches:
        is_ceiling = figure.note == candidates.DATA_SHEET
        meets = figure.value <= limit if unit == "us" else figure.value >= limit
        origin = "by its data sheet, a ceiling" if is_ceiling else "imported"
        return (
            "FAIL" if is_ceiling and not meets else "UNVERIFIED",
            f"{number(figure.value)} {unit} {'meets' if meets else 'misses'} it, {origin}",
        )
    if figure.low is None or figure.high is None:
        return "UNDECIDED", f"{n} launch{'es' * (n != 1)}; {LEAST_LAUNCHES} are needed"
    reason = f"{number(figure.low)} to {number(figure.high)} {unit} over {n} launches"
    low_meets, high_meets = (
        end <= limit if unit == "us" else end >= limit for end in (figure.low, figure.high)
    )
    if low_meets and unit == "tok/s":
        reason += ", a ceiling by data sheets"
    if low_meets == high_meets:
        return "PASS" if low_meets else "FAIL", reason
    # The least number of such launches with an interval that excludes the limit four times in five.
    logs = np.log(figure.values)
    numbers = np.unique(np.geomspace(n + 1, MOST_LAUNCHES, 300).astype(int))
    quantiles = stdtrit(numbers - 1, (1 + confidence) / 2) + stdtrit(numbers - 1, POWER)
    reach = quantiles * np.std(logs, ddof=1) / np.sqrt(numbers)
    enough = numbers[reach <= abs(np.mean(logs) - np.log(limit))]
    words = f"about {enough[0]} would" if len(enough) else f"{MOST_LAUNCHES} would not"
    return "UNDECIDED", f"{reason}; {words} settle it"


def _sentences(
    spec: Spec, machines: list[Machine], n_verdicts: int, confidence: float
) -> list[str]:
    lines = [
        "Figures are geometric means over launches, with Student's intervals at "
        f"{confidence:.2%} from {LEAST_LAUNCHES} launches on; busbw as in nccl-tests."
    ]
    if n_verdicts:
        lines.append(
            "PASS: the whole interval meets the requirement; FAIL: all of it misses it. "
            f"The chance that any of the {n_verdicts} verdicts is wrong is at most "
            f"{FAMILY_P:.1%} (Bonferroni)."
        )
        if any(not machine.launches for machine in machines):
            lines.append(
                "UNVERIFIED: the figure comes from an imported log or a data sheet. Only "
                "five launches of bench.allreduce on that machine can PASS."
            )
    lines.append(
        f"Money: price over {spec.lifetime_years:g} years of {spec.hours_per_year:g} h, "
        f"and {spec.electricity.price_per_kwh:g} {spec.electricity.currency} a kWh for "
        "the GPUs alone; nothing is converted or ranked across currencies."
    )
    lines += [
        f"{name}: {model.model}, {model.weights}, one stream with {model.context} tokens "
        "cached, split by tensor over all GPUs; the arithmetic of advise."
        for name, model in spec.models.items()
    ]
    costs: dict[str, list[tuple[float, float, float, str]]] = defaultdict(list)
    unranked: dict[str, list[str]] = defaultdict(list)
    for machine in machines:
        for figure in machine.figures:
            if figure.name.startswith(candidates.PER_MILLION) and figure.low and figure.high:
                costs[f"{figure.name} in {figure.unit}"].append(
                    (figure.value or 0.0, figure.low, figure.high, machine.name)
                )
            elif figure.name.startswith(candidates.PER_MILLION) and figure.value:
                unranked[f"{figure.name} in {figure.unit}"].append(machine.name)
    for title, ranked in costs.items():
        words, highest = "", 0.0
        for _, low, high, name in sorted(ranked):
            joint = ", then " if low > highest else " or (intervals overlap) "
            words += joint * bool(words) + name
            highest = max(highest, high)
        if len(ranked) > 1:
            lines.append(f"Cheapest first, {title}: {words}.")
    lines += [
        f"Not ranked, {title}, without five launches: {', '.join(names)}."
        for title, names in unranked.items()
        if len(machines) > 1
    ]
    return lines + [f"{machine.name}: {note}." for machine in machines for note in machine.notes]
