"""What a buyer signs with a procurement: the files that were judged with their SHA-256, the cards
by serial number, and all that the price of a million tokens rests on."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from reports.advice.archive_checks import contradictions
from reports.advice.archive_rows import DamagedArchive, read_sent
from reports.advice.candidates import PER_MILLION, Figure, FigureKey, Offer, Spec
from reports.advice.costs import POWER, work_s
from reports.advice.reduce_times import AllReduceLaunches
from reports.advice.specs import convert
from reports.tables.sentences import counted, exact, number, some
from wiretax.common.program import REPORTS, RUN
from wiretax.common.untrusted import printable, printable_in
from wiretax.record.archive import digest
from wiretax.record.packed import archive_of
from wiretax.record.result import NOT_JSON, ResultError, content_of

MOST_LINES_BYTES = 1 << 24
UNDECIDED = "UNDECIDED"
STATUSES = {0: "PASS", 1: "FAIL"}  # of bench.qualify; another one is UNDECIDED


class MachineName(msgspec.Struct):
    id: str


class QualifiedCard(msgspec.Struct):
    """A line of `bench.qualify`; without GPUs it is of the host, and has no `serial`."""

    date: str
    status: int
    archive: str
    serial: str | None
    gpu: str | None
    machine: MachineName | None

    @property
    def word(self) -> str:
        return STATUSES.get(self.status, UNDECIDED)


def judged_files(name: str, offer: Offer, launches: AllReduceLaunches) -> list[dict[str, str]]:
    """A row for each file that speaks for the candidate; an archive is one. Raises ResultError."""
    paths = [archive_of(run.path) or run.path for run in launches.runs]
    return [
        {"candidate": name, "file": printable(path.name), "SHA-256": digest(path)}
        for path in dict.fromkeys([*paths, *map(Path, offer.qualified)])
    ]


def doubtful_archives(launches: AllReduceLaunches) -> list[str]:
    """A sentence on each archive against which something speaks. Raises ResultError."""
    sentences = list[str]()
    for path in dict.fromkeys(filter(None, (archive_of(run.path) for run in launches.runs))):
        name = printable(path.name)
        try:
            reasons = contradictions(read_sent(path))
        except DamagedArchive as error:
            reasons = [printable(str(error))]
        if reasons:
            text = f"{name} is doubtful: {reasons[0]}"
            if more := len(reasons) - 1:
                text += (
                    f"; and {counted(more, 'more reason')} ({RUN}{REPORTS} references check {name})"
                )
            sentences.append(text)
    return sentences


def qualified_cards(offer: Offer) -> list[QualifiedCard]:
    """The cards that `bench.qualify` judged. Raises ResultError."""
    return [card for path in map(Path, offer.qualified) for card in _cards(path)]


def rejected(cards: Sequence[QualifiedCard]) -> str:
    """Which of the cards `bench.qualify` rejected; empty if none."""
    return _said_of(cards, "FAIL", "rejected")


def left_open(cards: Sequence[QualifiedCard]) -> str:
    """Which of the cards `bench.qualify` could not judge; empty if none."""
    return _said_of(cards, UNDECIDED, "could not judge")


def _said_of(cards: Sequence[QualifiedCard], word: str, verb: str) -> str:
    serials = [card.serial or "unknown" for card in cards if card.word == word]
    if not serials:
        return ""
    return f"bench.qualify {verb} {len(serials)} of {counted(len(cards), 'card')}: {some(serials)}"


def card_rows(
    name: str, cards: Sequence[QualifiedCard], launches: AllReduceLaunches
) -> list[dict[str, str]]:
    """A row for each card, by its serial number."""
    machines = {run.run.machine_id for run in launches.runs}
    return [
        {
            "serial number": card.serial or "unknown",
            "card": card.gpu or "-",
            "candidate": name,
            "bench.qualify": card.word,
            "when": card.date,
            "machine": "of the runs"
            if card.machine and card.machine.id in machines
            else "other than that of the runs",
            "SHA-256 of its archive": card.archive,
        }
        for card in cards
    ]


def _cards(path: Path) -> Iterator[QualifiedCard]:
    lines = content_of(path, MOST_LINES_BYTES).splitlines()
    if not lines:
        raise ResultError(f"{path} is empty: bench.qualify prints a line for each card")
    for at, line in enumerate(lines, start=1):
        place = f"{path}, line {at}, is not of bench.qualify"
        try:
            fields = printable_in(msgspec.json.decode(line))
        except NOT_JSON as error:
            raise ResultError(f"{place}: {error}") from error
        yield convert(fields, QualifiedCard, place)


def cost_rows(
    name: str, offer: Offer, figures: Mapping[FigureKey, Figure], spec: Spec
) -> list[dict[str, str]]:
    """A row for each model: the price of a million tokens with all that it rests on."""
    if not spec.electricity:
        return []
    currency, power = offer.price.currency, figures[POWER]
    paid, price = spec.electricity, offer.price.amount
    life = f"{spec.lifetime_years:g} years of {spec.hours_per_day:g} hours a day"
    rows = []
    for model in spec.models:
        cost = figures[currency + PER_MILLION, f"{model}, million tokens"]
        if cost.value is None:  # the model does not fit, or no speed is known
            continue
        energy = figures["kWh" + PER_MILLION, f"{model}, energy"]
        price_of_hour = number(3600 * price / work_s(spec))
        rows.append(
            {
                "model": model,
                "candidate": name,
                "tok/s, at most": number(figures["tok/s", model].value),
                f"{currency} an hour": f"{price_of_hour}\n{exact(price)} {currency} over {life}",
                "power": f"{number(power.value)} W\n{power.note}",
                "kWh a million tokens, at least": f"{number(energy.value)}\n{energy.likely_text}",
                f"{currency} a million tokens, at least": (
                    f"{number(cost.value)}\n{cost.likely_text}\n"
                    f"with electricity at {paid.amount:g} {paid.currency} per kWh"
                ),
            }
        )
    return rows
