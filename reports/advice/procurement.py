"""`procure`: candidate machines side by side, and their acceptance test against requirements.

With m verdicts each interval has a confidence of 1 - 0.05/m (Bonferroni). A verdict is wrong only
if one end of its interval is, so the chance of any wrong verdict is at most 2.5 %."""

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from reports.advice import candidates
from reports.advice.call_percentiles import FIELDS
from reports.advice.candidates import Figure, FigureKey, Offer, Requirement, Spec
from reports.advice.likely import reached_text
from reports.advice.reduce_times import (
    LEAST_LAUNCHES,
    AllReduceLaunches,
    other_hardware,
    read_launches,
)
from reports.kit.chart import forest
from reports.kit.page import Banner, Page, Row, Section, role_of, to_html
from reports.tables.sentences import counted, lay_out, number, plain_table, some, start_time
from reports.verdicts.verdict import FAMILY_P
from wiretax.common.grouped import grouped
from wiretax.common.program import BENCH, REPORTS, RUN, answer, on_ranks
from wiretax.common.untrusted import printable
from wiretax.record.result import ResultError
from wiretax.record.writing import write_named

# All-reduces of one token and of a chunk of 2,048 tokens of a 70B model.
ALWAYS: list[FigureKey] = [("us", 16384), ("GB/s", 33554432)]
# UNVERIFIED is a figure of a data sheet or of other machines: nobody measured this one.
SAID = {
    "N/A": "",  # nothing is required of it
    "PASS": " meets every requirement",
    "UNVERIFIED": " may meet every requirement, but nobody measured {}",
    "UNDECIDED": " may meet every requirement, UNDECIDED: {}",
    "FAIL": " fails {}",
}
WORST_LAST = [*SAID]
# The heading of the first column; no candidate's name has a line break.
WHAT = "requirement,\nfigure"


@dataclass
class Appraisal:
    """A candidate with its all-reduces, its figures, of which all candidates have the same, a
    verdict and its reason for each requirement, and doubts about its figures."""

    name: str
    offer: Offer
    launches: AllReduceLaunches
    figures: dict[FigureKey, Figure]
    verdicts: dict[Requirement, tuple[str, str]]
    notes: list[str]

    @property
    def word(self) -> str:
        """The verdict on all requirements: the worst, where undecided is worse than a pass."""
        words = {word for word, _ in self.verdicts.values()}
        return max(words, key=WORST_LAST.index, default="N/A")

    @property
    def run_ids(self) -> list[str]:
        return [run.run.run_id for run in self.launches.runs]


@dataclass
class Procurement:
    """The content of the table and the page; its strings are printable. `prices` compares what
    speed costs."""

    headline: str
    word: str
    prices: list[str]
    verdicts: Counter[str]
    appraisals: list[Appraisal]
    sentences: list[str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "spec",
        metavar="SPEC.toml",
        type=Path,
        help="candidates, prices and requirements; docs/buy.md has an example",
    )
    add("--html", metavar="FILE", type=Path, help="also write a page")
    parser.epilog = (
        f"{parser.epilog}; exit status: 0 every requirement passes, 1 one fails, 2 the command "
        "line, the spec or a run is unusable, 3 one is undecided or unverified"
    )


def procure(arguments: argparse.Namespace) -> int:
    """Prints the table and returns the exit status. Raises ResultError for an unusable file."""
    procurement = evaluate(arguments.spec)
    if arguments.html:
        page = procure_page(procurement, arguments.spec)
        write_named(arguments.html, to_html(page).encode())

    appraisals = procurement.appraisals
    table = plain_table(["", *(each.name for each in appraisals)], _rows(appraisals))
    for column in table.columns:
        column.no_wrap, column.vertical = False, "top"
    answer(
        arguments,
        lay_out(
            [f"{procurement.headline}."],
            procurement.prices,
            [("", table)],
            procurement.sentences,
        ),
        headline=procurement.headline,
        verdicts=procurement.verdicts,
        candidates=[
            {
                "name": each.name,
                "gpu": each.offer.gpu,
                "gpus": each.offer.gpus,
                "run_ids": each.run_ids,
                "figures": [*each.figures.values()],
                "requirements": [
                    {"requirement": requirement.text, "verdict": verdict, "reason": reason}
                    for requirement, (verdict, reason) in each.verdicts.items()
                ],
            }
            for each in appraisals
        ],
        sentences=procurement.sentences,
    )
    if procurement.verdicts["FAIL"]:
        return 1

    return 3 if set(procurement.verdicts) - {"PASS"} else 0


def evaluate(path: Path) -> Procurement:
    """Judges the candidates of the spec at `path`. Raises ResultError for an unusable spec or
    run."""
    spec, offers, requirements = candidates.read_spec(path)
    n_verdicts = len(requirements) * len(offers)
    confidence = 1 - 2 * FAMILY_P / max(n_verdicts, 1)
    appraisals = [
        _appraise(name, offer, spec, requirements, confidence) for name, offer in offers.items()
    ]
    counts = Counter(word for each in appraisals for word, _ in each.verdicts.values())
    sentences = [
        "Figures are medians over launches, with Student's intervals at "
        f"{confidence:.2%} from {LEAST_LAUNCHES} launches on; busbw = 2 (n-1)/n x bytes / time "
        "of the collective alone, us with reading the result."
    ]
    if any(requirement.figure[0] in FIELDS for requirement in requirements):
        sentences.append(
            "Percentiles are of single calls, each until its result is consumed, over all launches "
            "alike, in any state of the link."
        )
    if n_verdicts:
        sentences.append(
            "PASS: the whole interval meets the requirement; FAIL: all of it misses it. "
            f"The chance that any of the {n_verdicts} verdicts is wrong is at most "
            f"{FAMILY_P:.1%} (Bonferroni)."
        )

    sentences += [
        f"{name}: {work.model}, {work.weights}, one stream with {work.context} tokens "
        "cached, by the split that is fastest; the arithmetic of advise."
        for name, work in spec.models.items()
    ]
    if spec.models:
        sentences.append(f"tok/s are upper limits: {reached_text()}.")
    if spec.electricity and spec.models:
        paid = spec.electricity
        sentences.append(
            f"A million tokens of one stream cost the price over {spec.lifetime_years:g} years of "
            f"{spec.hours_per_day:g} hours a day, and the electricity of the GPUs at "
            f"{paid.amount:g} {paid.currency} per kWh. They cost at least that: tok/s are upper "
            "limits, and the host draws power too."
        )
    sentences += [f"{each.name}: {note}" for each in appraisals for note in each.notes]
    headline, word, slower = _headline(appraisals)
    below = [*slower, *_prices(appraisals, spec)]
    return Procurement(headline, word, below, counts, appraisals, sentences)


def _headline(appraisals: Sequence[Appraisal]) -> tuple[str, str, list[str]]:
    """What a buyer repeats, and the verdict in it: of each currency the cheapest of the candidates
    that are nearest to meeting every requirement, and what it lacks; and a sentence on cheaper ones
    of the same verdict."""

    def distance(each: Appraisal) -> tuple[int, int, int]:
        """Of the same verdict the candidate is nearest that likely misses least, and then that
        lacks least; one of which nothing is required is farther than any."""
        words = [word for word, _ in each.verdicts.values()]
        rank = WORST_LAST.index(each.word)
        if each.word == "N/A":
            rank = len(WORST_LAST)
        misses = sum(likely_misses(each, requirement) for requirement in each.verdicts)
        return rank, misses, -words.count("PASS") - words.count("N/A")

    def likely_misses(each: Appraisal, requirement: Requirement) -> bool:
        likely = each.figures[requirement.figure].likely
        return likely is not None and not requirement.is_met(likely.value)

    def lack(each: Appraisal, requirement: Requirement) -> str:
        likely = each.figures[requirement.figure].likely_text
        return f"{requirement.text} ({likely})" if likely else requirement.text

    least = min(map(distance, appraisals))
    nearest = [each for each in appraisals if distance(each) == least]
    word, texts, notes = nearest[0].word, list[str](), list[str]()
    for currency, own in grouped(nearest, lambda each: each.offer.price.currency).items():
        best = min(own, key=lambda each: each.offer.price.amount)
        text = f"{best.name} for {best.offer.price.amount:g} {currency}"
        if len(own) > 1:
            text += f", the cheapest of {len(own)} in {currency},"
        lacks = [
            lack(best, requirement)
            for requirement, verdict in best.verdicts.items()
            if verdict[0] == word
        ]
        said = SAID[word].format(some(lacks))
        texts.append(text + said if said else text.rstrip(","))
        slower = [
            each.name
            for each in appraisals
            if (each.word, each.offer.price.currency) == (word, currency)
            and each.offer.price.amount < best.offer.price.amount
            and distance(each)[1] > least[1]
        ]
        if slower:
            notes.append(
                f"Cheaper than {best.name}, but more likely than not too slow: {some(slower)}."
            )

    none = "No candidate meets every requirement: " if word == "FAIL" else ""
    return none + "; ".join(texts), word, notes


def _prices(appraisals: Sequence[Appraisal], spec: Spec) -> list[str]:
    """A sentence for each model and currency: the price of a token per second, the least first,
    where there are two to compare."""
    sentences = list[str]()
    for currency, own in grouped(appraisals, lambda each: each.offer.price.currency).items():
        for model in spec.models:
            key = candidates.price_key(currency, model)
            prices = {each.name: each.figures[key] for each in own if each.figures[key].value}
            if len(prices) > 1:
                ordered = sorted(prices.items(), key=lambda item: _likely_price(item[1]))
                texts = [
                    f"{name} {price.likely_text or f'at least {number(price.value)}'}"
                    for name, price in ordered
                ]
                sentences.append(f"{currency} per token/s of {model}: {'; '.join(texts)}.")

    return sentences


def _likely_price(price: Figure) -> float:
    """What it likely is, or its lower limit where nothing is known."""
    return price.likely.value if price.likely else price.value or 0.0


def _appraise(
    name: str, offer: Offer, spec: Spec, requirements: Sequence[Requirement], confidence: float
) -> Appraisal:
    launches = read_launches(offer.runs, offer.gpus, confidence)
    for run in launches.runs:
        if any(rank.get("device") == "cpu" for rank in run.run.ranks):
            raise ResultError(
                f"candidate {name} has gpu = {offer.gpu!r}, and {run.path} ran on CPU cores"
            )
    of_models: list[FigureKey] = [("tok/s", model) for model in spec.models]
    keys = dict.fromkeys([*ALWAYS, *of_models, *(each.figure for each in requirements)])
    figures, notes = candidates.figures_of(offer, launches, spec, keys)
    hardware = other_hardware(launches, candidates.card_of(offer))
    verdicts = {}

    for requirement in requirements:
        verdict = judge(requirement, figures[requirement.figure], hardware)
        if launches.wrong:
            verdict = "FAIL", f"wrong results in {', '.join(launches.wrong)}"
        elif launches.faults and verdict[0] in ("PASS", "UNVERIFIED"):
            verdict = "UNDECIDED", launches.faults[0]
        verdicts[requirement] = verdict

    money = candidates.money(offer, spec, launches, figures.values())
    figures |= {(figure.unit, figure.name): figure for figure in money}
    return Appraisal(name, offer, launches, figures, verdicts, [*notes, *launches.faults])


def judge(requirement: Requirement, figure: Figure, hardware: str | None) -> tuple[str, str]:
    """The verdict and its reason: PASS if the whole interval meets the limit; FAIL if all of it
    misses the limit, or if no split can meet it by the data sheet; UNVERIFIED for an upper limit of
    tokens that meets it, and for a published range of which some meets the limit. `hardware` tells
    why the launches are not of the candidate's GPUs."""
    likely = f"; {figure.likely_text}" if figure.likely else ""
    if speed := figure.speed:
        if not requirement.is_met(speed.most):
            free = " if communication took no time" if speed.gpus > 1 else ""
            return "FAIL", f"at most {number(speed.most)} tok/s{free}, by its data sheet"
        if speed.one_card and requirement.is_met(speed.one_card):
            one = f", one card of {speed.gpus}" if speed.gpus > 1 else ""
            text = f"at most {number(speed.one_card)} tok/s{one}, by its data sheet"
            return "UNVERIFIED", text + likely

    if figure.value is None:
        words = {candidates.ONE_GPU: "N/A", candidates.DOES_NOT_FIT: "FAIL"}
        return words.get(figure.note, "UNDECIDED"), figure.note
    if hardware:
        return "UNDECIDED", hardware.partition(":")[0].rstrip(".")

    n, text = figure.n_launches, " ".join(figure.limit_text.split())
    if speed:
        text += f", {speed.split},"
    has_upper = figure.high is not None
    if figure.low is None or (requirement.is_met(figure.low) and not has_upper):
        if n < LEAST_LAUNCHES:
            return "UNDECIDED", f"{counted(n, 'launch')}; {LEAST_LAUNCHES} are needed"
        return "UNDECIDED", figure.note

    ends = figure.value, figure.low, figure.high
    met = {requirement.is_met(end) for end in ends if end is not None}
    if figure.is_published:
        origin = " by the all-reduces" if speed else ""
        word = "UNVERIFIED" if any(met) else "UNDECIDED"
        return word, f"{text}{origin} of other machines{likely}"

    word = "UNVERIFIED" if figure.unit == "tok/s" else "PASS"
    if not all(met):
        word = "UNDECIDED" if any(met) else "FAIL"
    reason = f"{text} over {n} launches"
    # Calls over fewer ranks may take less.
    if word == "FAIL" and speed and requirement.is_met(speed.most_of_fewer or 0):
        return "UNDECIDED", f"{reason}; nobody measured fewer of its cards"
    return word, reason + likely


def _rows(appraisals: Sequence[Appraisal]) -> list[dict[str, str]]:
    """A row for each requirement and for each figure, with a cell for each candidate."""
    rows = [
        {WHAT: requirement.text}
        | {each.name: "\n".join(each.verdicts[requirement]) for each in appraisals}
        for requirement in appraisals[0].verdicts
    ]
    runs = {}
    for each in appraisals:
        logs = [start_time(run.run) for run in each.launches.runs if run.run.imported_from]
        runs[each.name] = f"{len(each.run_ids)}\n{some(logs)}".rstrip()
    rows.append({WHAT: "runs"} | runs)

    for figures in zip(*(each.figures.values() for each in appraisals), strict=True):
        cells = [f"{figure.text}\n{figure.note}" for figure in figures]
        rows.append({WHAT: figures[0].name} | dict(zip(runs, cells, strict=True)))

    return rows


def procure_page(procurement: Procurement, spec: Path) -> Page:
    """The page for `procure --html`: the candidates side by side."""
    appraisals = procurement.appraisals
    counts = ", ".join(f"{n} {word}" for word, n in procurement.verdicts.items())
    runs = [f"{each.name}: {run_id}" for each in appraisals for run_id in each.run_ids]
    undecided = [each for each in appraisals if each.word == "UNDECIDED"]
    to_do = "Nothing: these launches decide every requirement."
    if undecided:
        command = f"{on_ranks(undecided[0].offer.gpus, 'allreduce')} --out {undecided[0].name}"
        names = some([each.name for each in undecided])
        to_do = f"On {names}, add launches until they decide: {command}"
    elif "UNVERIFIED" in procurement.verdicts:
        to_do = (
            "Measure tok/s with an engine, since these are upper limits, and what else nobody "
            f"measured on the machines themselves: {RUN}{BENCH}survey"
        )
    return Page(
        f"Procurement: {procurement.headline}",
        Banner(
            procurement.word if counts else counted(len(appraisals), "candidate"),
            f"{procurement.headline}.",
            [counts, *procurement.prices],
        ),
        [
            Section("What to do next", [to_do]),
            Section("Each figure beside its requirement", rows=_points(procurement)),
            Section(
                "Requirements, and figures with their intervals over launches",
                rows=_rows(appraisals),
            ),
            Section("How to read this", procurement.sentences),
        ],
        reproduce={
            "command, without folders": f"{RUN}{REPORTS} procure {quote(printable(spec.name))}",
            "run ids": "\n".join(runs),
        },
    )


def _points(procurement: Procurement) -> list[Row]:
    """Each candidate's figure with its interval as shares of each requirement's limit."""
    rows, shares = list[dict[str, str]](), list[Any]()
    for each in procurement.appraisals:
        for requirement, (word, _) in each.verdicts.items():
            figure = each.figures[requirement.figure]
            if figure.value is not None:
                ends = figure.value, figure.low, figure.high
                # An end at 0 has no place on a logarithmic scale.
                shares.append([end / requirement.limit - 1 if end else None for end in ends])
                rows.append(
                    {"requirement": requirement.text, "candidate": each.name, "verdict": word}
                )

    if not rows:
        return []
    roles = [role_of(row["verdict"]) for row in rows]
    heading, drawings = forest(shares, roles, words="below | above")
    return [row | {heading: drawing} for row, drawing in zip(rows, drawings, strict=True)]
