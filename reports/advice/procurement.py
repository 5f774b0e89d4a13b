"""`procure`: candidate machines side by side, and their acceptance test against requirements.

With m verdicts each interval has a confidence of 1 - 0.05/m (Bonferroni). A verdict is wrong only
if one end of its interval is, so the chance of any wrong verdict is at most 2.5 %."""

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from reports.advice import candidates, costs, sign_off
from reports.advice.appraisal import SAID, WORST_LAST, Appraisal, Procurement, table_rows
from reports.advice.call_percentiles import FIELDS
from reports.advice.candidates import NODES, Figure, FigureKey, Offer, Requirement, Spec
from reports.advice.likely import reached_text
from reports.advice.procure_page import procure_page
from reports.advice.reduce_times import LEAST_LAUNCHES, other_hardware, read_launches
from reports.kit.page import to_html
from reports.tables.sentences import counted, exact, lay_out, number, plain_table, some
from reports.verdicts.verdict import FAMILY_P
from wiretax import __version__
from wiretax.common.grouped import grouped
from wiretax.common.program import answer
from wiretax.record.result import ResultError
from wiretax.record.writing import write_named

# All-reduces of one token and of a chunk of 2,048 tokens of a 70B model.
ALWAYS: list[FigureKey] = [("us", 16384), ("GB/s", 33554432)]


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
    table = plain_table(["", *(each.name for each in appraisals)], table_rows(appraisals))
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
        made=procurement.made,
        version=__version__,
        spec_sha256=procurement.spec_sha256,
        headline=procurement.headline,
        verdicts=procurement.verdicts,
        candidates=[
            {
                "name": each.name,
                "gpu": each.offer.gpu,
                "gpus": each.offer.gpus,
                "run_ids": each.run_ids,
                "figures": [*each.figures.values()],
                "files": each.files,
                "cards": each.cards,
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
    content = candidates.content_of_spec(path)
    spec, offers, requirements = candidates.read_spec(path, content)
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
        f"{name}: {work.model}, {work.weights}, {counted(work.users, 'user')} with {work.context} "
        "tokens cached each, by the split that is fastest; the arithmetic of advise."
        for name, work in spec.models.items()
    ]
    if spec.models:
        sentences.append(f"tok/s are upper limits: {reached_text()}.")
    if spec.electricity and spec.models:
        paid = spec.electricity
        sentences.append(
            f"A million tokens cost the price over {spec.lifetime_years:g} years of "
            f"{spec.hours_per_day:g} hours a day, and the electricity of the GPUs at "
            f"{paid.amount:g} {paid.currency} per kWh. They cost at least that: tok/s are upper "
            "limits, and the host draws power too."
        )
    sentences += [f"{each.name}: {note}" for each in appraisals for note in each.notes]
    headline, word, slower = _headline(appraisals)
    below = [*slower, *_prices(appraisals, spec)]
    made = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    return Procurement(headline, word, below, counts, appraisals, sentences, content, made)


def _headline(appraisals: Sequence[Appraisal]) -> tuple[str, str, list[str]]:
    """What a buyer repeats, and the verdict in it: of each currency the cheapest of the candidates
    that are nearest to meeting every requirement, and what it lacks; and a sentence on cheaper ones
    of the same verdict."""

    def distance(each: Appraisal) -> tuple[int, int, int, int]:
        """Of the same verdict the candidate is nearest that fails least, then that likely misses
        least, and then that lacks least; one of which nothing is required is farther than any."""
        words = [word for word, _ in each.verdicts.values()]
        rank = WORST_LAST.index(each.word)
        if each.word == "N/A":
            rank = len(WORST_LAST)
        misses = sum(likely_misses(each, requirement) for requirement in each.verdicts)
        return rank, words.count("FAIL"), misses, -words.count("PASS") - words.count("N/A")

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
        text = f"{best.name} for {exact(best.offer.price.amount)} {currency}"
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
            and distance(each)[2] > least[2]
        ]
        if slower:
            notes.append(
                f"Cheaper than {best.name}, but more likely than not too slow: {some(slower)}."
            )

    before = {"FAIL": "No candidate meets every requirement: ", "N/A": "No requirement applies: "}
    return before.get(word, "") + "; ".join(texts), word, notes


def _prices(appraisals: Sequence[Appraisal], spec: Spec) -> list[str]:
    """A sentence for each model and currency: the price of a token per second, the least first,
    where there are two to compare."""
    sentences = list[str]()
    for currency, own in grouped(appraisals, lambda each: each.offer.price.currency).items():
        for model in spec.models:
            key = costs.price_key(currency, model)
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
    of_nodes: list[FigureKey] = [
        (NODES, each.text)
        for each in requirements
        if each.figure[0] == "tok/s" and spec.models[str(each.figure[1])].users > 1
    ]
    required = (each.figure for each in requirements)
    keys = dict.fromkeys([*ALWAYS, *of_models, *required, *of_nodes])
    figures, notes = candidates.figures_of(offer, launches, spec, keys)
    hardware = other_hardware(launches, candidates.card_of(offer))
    verdicts = {}
    cards = sign_off.qualified_cards(offer)
    rejected, left_open = sign_off.rejected(cards), sign_off.left_open(cards)
    faults = [*launches.faults, *sign_off.doubtful_archives(launches)]
    faults += [left_open] if left_open else []

    for requirement in requirements:
        verdict = judge(requirement, figures[requirement.figure], hardware)
        nodes = figures.get((NODES, requirement.text))
        if verdict[0] == "FAIL" and nodes and nodes.value:
            verdict = "FAIL", f"{verdict[1]}; it takes {nodes.limit_text}"
        if launches.wrong:
            verdict = "FAIL", f"wrong results in {', '.join(launches.wrong)}"
        elif rejected:
            verdict = "FAIL", rejected
        elif faults and verdict[0] in ("PASS", "UNVERIFIED"):
            verdict = "UNDECIDED", faults[0]
        verdicts[requirement] = verdict

    money = costs.money(offer, spec, launches, figures)
    figures |= {(figure.unit, figure.name): figure for figure in money}
    return Appraisal(
        name,
        offer,
        launches,
        figures,
        sign_off.cost_rows(name, offer, figures, spec),
        sign_off.judged_files(name, offer, launches),
        sign_off.card_rows(name, cards, launches),
        verdicts,
        [*notes, *faults],
    )


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
